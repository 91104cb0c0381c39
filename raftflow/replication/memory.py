"""`MemoryLog`: one replica that commits at once, for tests of everything above the log.

Nothing is written and nothing is sent, but it keeps the rules of the interface: outcomes, announcements, the bound on
entries in flight. Entries are applied in the loop's thread, one at a time, never inside the caller's `submit`.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from raftflow.replication.errors import LogFailedError, NoQuorumError
from raftflow.replication.log import Applied, LogStatus, Outcome, Rejected, Role, Stamp, Unknown

if TYPE_CHECKING:
    from collections.abc import Callable

    from raftflow.replication.log import StateMachine

_log = logging.getLogger(__name__)


class MemoryLog:
    """A `ReplicatedLog` of one member.

    Args:
        machine: the state machine to drive.
        name: what `status` calls this replica.
        leads: False makes it a follower without a leader until `gain_leadership` is called.
        entry_bytes_max: longer entries are rejected as `too_large`.
        queue_entries_max: more entries in flight are rejected as `queue_full`.
    """

    def __init__(
        self,
        machine: StateMachine,
        *,
        name: str = "memory",
        leads: bool = True,
        entry_bytes_max: int = 16 * 1024 * 1024,
        queue_entries_max: int = 4096,
    ) -> None:
        self._machine = machine
        self._name = name
        self._leads_at_start = leads
        self._entry_bytes_max = entry_bytes_max
        self._queue_entries_max = queue_entries_max
        self._queue: list[tuple[bytes, asyncio.Future[Outcome]]] = []
        self._callbacks: list[Callable[[Role, int], None]] = []
        self._role = Role.FOLLOWER
        self._term = 0
        self._index = 1
        self._snapshot_index = 0
        self._started = False
        self._closed = False
        self._failure: LogFailedError | None = None
        self._failed = asyncio.Event()

    async def start(self) -> None:
        """Begin to serve, as leader unless told otherwise."""
        if self._started:
            raise RuntimeError("a log is started once")
        self._started = True
        if self._leads_at_start:
            self.gain_leadership()

    async def close(self) -> None:
        """Stop; submissions in flight end as `Unknown("closed")`."""
        self._closed = True
        self._end_queue(Unknown("closed"))

    async def submit(self, entry: bytes, timeout_s: float) -> Outcome:
        """Apply one entry in a later turn of the loop."""
        if self._stopped:
            return Rejected("closed")
        if len(entry) > self._entry_bytes_max:
            return Rejected("too_large")
        if self._role is not Role.LEADER:
            return Rejected("no_leader")
        if len(self._queue) >= self._queue_entries_max:
            return Rejected("queue_full")
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Outcome] = loop.create_future()
        if not self._queue:
            loop.call_soon(self._apply_queue)
        self._queue.append((entry, future))
        try:
            async with asyncio.timeout(timeout_s):
                return await future
        except TimeoutError:
            return Unknown("timeout")

    async def read_index(self, timeout_s: float) -> int:  # noqa: ARG002 - one replica never waits for another
        """Return the applied index. Raises `NoQuorumError` unless this replica leads."""
        await asyncio.sleep(0)
        if self._stopped or self._role is not Role.LEADER:
            raise NoQuorumError("closed" if self._stopped else "no_leader")
        return self._index

    async def transfer_leadership(self, target: str | None, timeout_s: float) -> bool:  # noqa: ARG002 - nobody is there
        """Return False: there is no other replica."""
        return False

    @property
    def founding_levels(self) -> dict[str, int]:
        """Return nothing: a log in memory has no founders."""
        return {}

    def status(self) -> LogStatus:
        """Return the present view."""
        leads = self._role is Role.LEADER
        return LogStatus(
            name=self._name,
            role=self._role,
            leader=self._name if leads else None,
            term=self._term,
            last_index=self._index,
            durable_index=self._index,
            commit_index=self._index,
            applied_index=self._index,
            snapshot_index=self._snapshot_index,
            ready=leads and not self._stopped,
        )

    def stamp(self) -> Stamp:
        """Return the part of the status that every answer carries."""
        return Stamp(self._index, self._term, self._name if self._role is Role.LEADER else None)

    def on_role_change(self, callback: Callable[[Role, int], None]) -> None:
        """Call `callback(role, term)` on each change."""
        self._callbacks.append(callback)

    def on_leader_change(self, callback: Callable[[], None]) -> None:
        """Call `callback()` when this replica is announced as the leader."""
        self._callbacks.append(lambda role, _term: callback() if role is Role.LEADER else None)

    def request_snapshot(self) -> None:
        """Take a snapshot of the machine and restore it at once, so that tests meet a machine that cannot."""
        if not self._stopped:
            self._machine.prepare(list(self._machine.snapshot()))()
            self._snapshot_index = self._index

    async def wait_failed(self) -> LogFailedError:
        """Return when the log has stopped for ever, with the reason."""
        await self._failed.wait()
        if self._failure is None:
            raise RuntimeError("failed without a reason")
        return self._failure

    def lose_leadership(self) -> None:
        """For tests: step down. Entries in flight are applied even so, but their outcome is unknown."""
        if self._role is Role.LEADER:
            waiting, self._queue = self._queue, []
            for entry, future in waiting:
                self._apply(entry)
                if not future.done():
                    future.set_result(Unknown("leader_changed"))
            self._announce(Role.FOLLOWER)

    def gain_leadership(self) -> None:
        """For tests: lead a new term."""
        if self._role is not Role.LEADER:
            self._term += 1
            self._index += 1  # the no-op of the new term
            self._announce(Role.LEADER)

    @property
    def _stopped(self) -> bool:
        return self._closed or not self._started or self._failure is not None

    def _announce(self, role: Role) -> None:
        self._role = role
        for callback in self._callbacks:
            callback(role, self._term)

    def _apply_queue(self) -> None:
        waiting, self._queue = self._queue, []
        for entry, future in waiting:
            if self._failure is not None:
                outcome: Outcome = Unknown("closed")
            else:
                outcome = self._apply(entry)
            if not future.done():
                future.set_result(outcome)

    def _apply(self, entry: bytes) -> Outcome:
        index = self._index + 1
        try:
            reply = self._machine.apply(index, self._term, entry)
        except Exception as error:  # noqa: BLE001 - `apply` is total; whatever it raises is a bug that stops the log
            self._failure = LogFailedError(f"applying entry {index} failed: {type(error).__name__}: {error}")
            self._failure.__cause__ = error
            _log.critical("%s", self._failure, exc_info=error)
            self._failed.set()
            if self._role is Role.LEADER:
                self._announce(Role.FOLLOWER)
            return Unknown("closed")
        self._index = index
        return Applied(index, self._term, reply)

    def _end_queue(self, outcome: Outcome) -> None:
        waiting, self._queue = self._queue, []
        for _entry, future in waiting:
            if not future.done():
                future.set_result(outcome)
