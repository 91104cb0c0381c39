"""The newest applied entries, kept in memory within a limit, from which events are derived when somebody asks.

An entry that nobody asks about costs one append. The events of an entry are derived once, for all readers. Readers
hold no events: each has an id, and reads a bounded page behind it.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from collections import Counter
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from raftflow.coordinator.events.deriving import derive
from raftflow.domain.contract.events.events import ClusterEvent
from raftflow.domain.events import BudgetReached, WorkflowFinished

if TYPE_CHECKING:
    from collections.abc import Callable

    from raftflow.domain.events import Event
    from raftflow.machine.machine import EntryResult

BYTES_MAX: Final = 32 * 1024 * 1024
ENTRIES_MAX: Final = 50_000
WAKE_EVERY_S: Final = 0.03
"""Readers are woken together, and no more often than this."""
_OVERHEAD_BYTES: Final = 400
_DERIVED_TIMES: Final = 4
"""Derived events take so many times the bytes of the records that they come from, about."""
_ENTRIES_PER_PAGE: Final = 500
"""Entries that one page looks at. A reader whose filter finds nothing in them goes on behind them."""

_EVENTS_PER_PAGE: Final = 5_000
"""Events that one page looks at, about."""


class EventId(NamedTuple):
    """A place in the order of events."""

    entry: int
    """Index of the entry in the log."""
    position: int

    def __str__(self) -> str:
        return f"{self.entry}.{self.position}"


class GoneError(Exception):
    """Events behind an id are not kept any more. Says which is the oldest place to go on from."""

    def __init__(self, oldest: EventId) -> None:
        super().__init__(str(oldest))
        self.oldest = oldest


class EventsFound(NamedTuple):
    """A page of events."""

    events: list[ClusterEvent]
    following: EventId
    """All events up to it were looked at."""
    at_end: bool
    """Nothing more was applied."""


class _Kept(msgspec.Struct, gc=False):
    index: int
    entry: bytes
    audit: list[bytes]
    news: list[Event]
    size: int
    events: list[ClusterEvent] | None = None


class EventHistory:
    """The newest entries of one replica, and those who wait for more."""

    def __init__(self, bytes_max: int = BYTES_MAX, entries_max: int = ENTRIES_MAX) -> None:
        self._bytes_max, self._entries_max = bytes_max, entries_max
        self._kept: list[_Kept] = []
        self._first = 0
        """Place in `_kept` of the oldest entry. Those before it are gone."""
        self._bytes = 0
        self._before = 0
        """All entries behind this index are kept."""
        self._last = 0
        self._waiting: set[asyncio.Future[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self.readers: Counter[str] = Counter()
        """How many readers each identity has."""
        self.closed = False

    @property
    def oldest(self) -> EventId:
        """The oldest place from which a reader can go on."""
        return EventId(self._before, 0) if not self._before else EventId(self._before + 1, 0)

    @property
    def kept_bytes(self) -> int:
        """About how much memory is in use."""
        return self._bytes

    # --- what is applied

    def add(self, result: EntryResult, entry: bytes) -> None:
        """Keep an applied entry."""
        size = len(entry) + _OVERHEAD_BYTES + sum(map(len, result.audit))
        news: list[Event] = [each for each in result.events if isinstance(each, (WorkflowFinished, BudgetReached))]
        self._kept.append(_Kept(result.index, entry, result.audit, news, size))
        self._last = result.index
        self._bytes += size
        while (self._bytes > self._bytes_max and len(self._kept) - self._first > 1) or len(
            self._kept
        ) - self._first > self._entries_max:
            self._drop_oldest()
        if self._waiting and self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(WAKE_EVERY_S, self._wake)

    def _drop_oldest(self) -> None:
        oldest = self._kept[self._first]
        self._before = oldest.index
        self._bytes -= oldest.size
        self._first += 1
        if self._first * 2 > len(self._kept):
            del self._kept[: self._first]
            self._first = 0

    def restart(self, index: int) -> None:
        """Begin behind `index`: the state there came as a snapshot."""
        self._kept, self._first, self._bytes = [], 0, 0
        self._before = self._last = index

    # --- readers

    def end(self) -> EventId:
        """Return the id behind which nothing has happened yet."""
        if len(self._kept) == self._first:
            return EventId(self._last + 1, 0)
        newest = self._kept[-1]
        return EventId(newest.index, len(self._events_of(newest)))

    def read(self, after: EventId, limit: int, wanted: Callable[[ClusterEvent], bool]) -> EventsFound:
        """Return at most `limit` events behind `after`. Raises `GoneError`."""
        if after < self.oldest:
            raise GoneError(self.oldest)
        found: list[ClusterEvent] = []
        place = bisect_left(self._kept, after.entry, self._first, key=lambda kept: kept.index)
        looked_at = 0
        for kept in self._kept[place : place + _ENTRIES_PER_PAGE]:
            events = self._events_of(kept)
            looked_at += len(events)
            start = after.position if kept.index == after.entry else 0
            for position, event in enumerate(events[start:], start + 1):
                if wanted(event):
                    found.append(event)
                    if len(found) == limit:
                        return EventsFound(found, EventId(kept.index, position), at_end=False)
            after = max(after, EventId(kept.index, len(events)))
            if looked_at >= _EVENTS_PER_PAGE:
                return EventsFound(found, after, at_end=False)
        return EventsFound(found, after, at_end=place + _ENTRIES_PER_PAGE >= len(self._kept))

    def _events_of(self, kept: _Kept) -> list[ClusterEvent]:
        if kept.events is None:
            kept.events = derive(kept.index, kept.entry, kept.audit, kept.news)
            size = _OVERHEAD_BYTES + _DERIVED_TIMES * sum(map(len, kept.audit))
            kept.entry, kept.audit, kept.news = b"", [], []
            self._bytes += size - kept.size
            kept.size = size
        return kept.events

    async def wait(self, timeout_s: float) -> None:
        """Wait until something more is applied, or until the replica stops."""
        if self.closed:
            return
        waiting: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.add(waiting)
        try:
            await asyncio.wait((waiting,), timeout=timeout_s)
        finally:
            self._waiting.discard(waiting)

    def _wake(self) -> None:
        self._timer = None
        for waiting in self._waiting:
            if not waiting.done():
                waiting.set_result(None)

    def close(self) -> None:
        """End all readers: the replica stops."""
        self.closed = True
        if self._timer is not None:
            self._timer.cancel()
        self._wake()
