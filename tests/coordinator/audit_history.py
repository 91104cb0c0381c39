"""An audit file that tests write: records of a state machine, and ways to write and read them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from raftflow.coordinator.audit import audit_file as audit_module
from raftflow.coordinator.audit.audit_file import AuditFile
from raftflow.domain.contract.views import AuditRecord
from raftflow.machine.rules.audit_chain import CHAIN_START, seal


class History:
    """Records as a state machine would make them: two for every entry."""

    def __init__(self, *, salt: str = "") -> None:
        self.applied_index = 0
        self.chain = CHAIN_START
        self.entries: dict[int, list[bytes]] = {}
        self.chains = {0: CHAIN_START}
        self._salt = salt

    def grow(self, last: int) -> None:
        for index in range(self.applied_index + 1, last + 1):
            records = []
            for position in range(2):
                record = AuditRecord(
                    index=index,
                    position=position,
                    term=1,
                    at_ms=index,
                    actor="client:x" + self._salt,
                    command="timers.fire",
                    subject="",
                    request_id="",
                    outcome="ok",
                )
                self.chain, encoded = seal(self.chain, record)
                records.append(encoded)
            self.entries[index] = records
            self.chains[index] = self.chain
            self.applied_index = index


def open_audit(
    fs: Any, directory: Path, failures: list[Exception] | None = None, bytes_max: int = audit_module.BYTES_MAX
) -> AuditFile:
    audit = AuditFile(fs, directory, (failures if failures is not None else []).append, bytes_max=bytes_max)
    audit.open()
    return audit


def feed(audit: AuditFile, history: History, first: int, last: int) -> None:
    for index in range(first, last + 1):
        audit.append(index, history.entries[index])


async def indexes(audit: AuditFile, first: int = 0, limit: int = 1000) -> list[int]:
    frames, _ = await audit.read(first, limit)
    return [frame.index for frame in frames]


async def write_raw(audit: AuditFile, *frames: tuple[int, int, bytes]) -> None:
    for kind, index, payload in frames:
        audit._write_frame(kind, index, payload)
    audit.flush()
