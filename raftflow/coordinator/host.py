"""The state machine as the log drives it: every applied entry goes into the audit and is told to the replica."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator
from typing import Final

from raftflow.coordinator.audit.audit_file import AuditFile
from raftflow.coordinator.events.history import EventHistory
from raftflow.domain.features import FeatureLevelError
from raftflow.machine.machine import EntryResult, Machine
from raftflow.machine.rules.audit_chain import CHAIN_START
from raftflow.replication.errors import LogFailedError

SWEEP_EVERY_S: Final = 0.002
SWEPT_PER_TURN: Final = 2_000
"""About a millisecond of work."""


class HostedMachine:
    """The `StateMachine` that the log drives, around the real one.

    An applied entry goes to the machine, then to the audit, then to `on_applied` (`Replica._tell_listeners` fixes the
    order of its listeners). So nobody hears of an entry that is not in the audit's buffer.

    The first call opens the audit, since the log locks the data directory before it makes one. Exceptions reach the
    log, which stops the replica.
    """

    def __init__(
        self,
        machine: Machine,
        audit: AuditFile,
        on_applied: Callable[[EntryResult], None],
        events: EventHistory | None = None,
    ) -> None:
        self.machine = machine
        self._events = events
        self._audit = audit
        self._on_applied = on_applied
        self._opened = False
        self._sweeping: asyncio.TimerHandle | None = None

    def open_audit(self) -> None:
        """Open the audit unless it is open. Raises `AuditError`."""
        if not self._opened:
            self._audit.open()
            self._opened = True
            self._audit.restored(0, CHAIN_START)

    def apply(self, index: int, term: int, entry: bytes) -> EntryResult:
        """Apply one committed entry."""
        if not self._opened:
            self.open_audit()
        try:
            result = self.machine.apply(index, term, entry)
        except FeatureLevelError as error:
            raise LogFailedError(str(error)) from error  # with nothing around it: it says what to do
        self._audit.append(index, result.audit)
        if self._events is not None:
            self._events.add(result, entry)
        self._on_applied(result)
        self._sweep_soon()
        return result

    def snapshot(self) -> Iterator[bytes]:
        """Freeze the state and return its encoding in pieces."""
        return self.machine.snapshot()

    def prepare(self, pieces: Iterable[bytes]) -> Callable[[], None]:
        """Read a snapshot. When its state is taken, what the audit lacks up to there becomes a gap in it."""
        install = self.machine.prepare(pieces)

        def install_and_note() -> None:
            self.open_audit()
            install()
            self._audit.restored(self.machine.applied_index, self.machine.chain)
            if self._events is not None:
                self._events.restart(self.machine.applied_index)
            self._sweep_soon()

        return install_and_note

    def _sweep_soon(self) -> None:
        """Free what the state machine no longer uses in many turns of the event loop, with others in between."""
        if self._sweeping is None and self.machine.sweeping:
            self._sweeping = asyncio.get_running_loop().call_later(SWEEP_EVERY_S, self._sweep)

    def _sweep(self) -> None:
        self._sweeping = None
        self.machine.sweep(SWEPT_PER_TURN)
        self._sweep_soon()
