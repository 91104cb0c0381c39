"""Submitted entries whose outcome a caller waits for."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from raftflow.replication.log import Applied, Outcome, Rejected, Unknown
from raftflow.replication.raft.library_types import LibraryFailure

if TYPE_CHECKING:
    from collections.abc import Callable

REJECTIONS: Final = {
    LibraryFailure.QUEUE_FULL: "queue_full",
    LibraryFailure.MISSING_LEADER: "no_leader",
    LibraryFailure.NOT_LEADER: "not_leader",
    LibraryFailure.REQUEST_DENIED: "not_leader",
    LibraryFailure.DISCARDED: "discarded",
}
"""Reasons that mean: the entry is in no log and never will be. All others leave the outcome open."""


class PendingEntry:
    """One entry in flight. It counts against the limits until the library is done with it, even if nobody waits."""

    def __init__(self, owner: PendingEntries, entry_bytes: int, position: Callable[[], tuple[int, int]]) -> None:
        self._owner = owner
        self._entry_bytes = entry_bytes
        self._position = position
        self._open = True
        self.future: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()

    def on_result(self, reply: object, error: int) -> None:
        """Handle the library's answer. Called while the entry is being applied, so it must not raise."""
        if error == LibraryFailure.SUCCESS:
            index, term = self._position()
            self.end(Applied(index, term, reply))
        elif error in REJECTIONS:
            self.end(Rejected(REJECTIONS[LibraryFailure(error)]))
        else:
            self.end(Unknown("leader_changed"))

    def end(self, outcome: Outcome) -> None:
        """Resolve the future and stop counting. Later answers have no effect."""
        if self._open:
            self._open = False
            self._owner.discard(self, self._entry_bytes)
        self.resolve(outcome)

    def resolve(self, outcome: Outcome) -> None:
        """Resolve the future, but continue to count: the library still has the entry."""
        if not self.future.done():
            self.future.set_result(outcome)


class PendingEntries:
    """The open submissions of one replica, within limits of number and bytes."""

    def __init__(self, entries_max: int, bytes_max: int) -> None:
        self._entries_max = entries_max
        self._bytes_max = bytes_max
        self._open: dict[PendingEntry, None] = {}
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._open)

    def admit(self, entry_bytes: int, position: Callable[[], tuple[int, int]]) -> PendingEntry | None:
        """Count one more entry; None if the queue is full. `position` returns index and term of the applied entry."""
        full = len(self._open) >= self._entries_max or self._bytes + entry_bytes > self._bytes_max
        if full and self._open:
            return None
        submission = PendingEntry(self, entry_bytes, position)
        self._open[submission] = None
        self._bytes += entry_bytes
        return submission

    def discard(self, submission: PendingEntry, entry_bytes: int) -> None:
        """Stop counting an entry."""
        del self._open[submission]
        self._bytes -= entry_bytes

    def end_all(self, outcome: Outcome) -> None:
        """End every open entry with the same outcome."""
        for submission in list(self._open):
            submission.end(outcome)
