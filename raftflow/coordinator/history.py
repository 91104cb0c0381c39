"""What this replica applied, for introductions: replicas with different histories detect it before they talk."""

from __future__ import annotations

from typing import TYPE_CHECKING

from raftflow.replication.members.introductions import HistoryPosition

if TYPE_CHECKING:
    from raftflow.coordinator.audit.audit_file import AuditFile
    from raftflow.machine.machine import Machine


class AppliedHistory:
    """Implements `introductions.History` with the state machine and the audit file."""

    def __init__(self, machine: Machine, audit: AuditFile) -> None:
        self._machine = machine
        self._audit = audit

    def point(self) -> HistoryPosition | None:
        """See `History`."""
        machine = self._machine
        return HistoryPosition(machine.applied_index, machine.chain) if machine.applied_index else None

    async def chain_after(self, index: int) -> bytes | None:
        """See `History`."""
        machine = self._machine
        if index == machine.applied_index:
            return machine.chain
        return await self._audit.chain_after(index) if index < machine.applied_index else None
