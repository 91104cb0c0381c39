"""The newest applied entries, kept in memory within a limit, from which events are derived when somebody asks.

An entry that nobody asks about costs one append. The events of an entry are derived once, for all readers. Readers
hold no events: each has an id, and reads a bounded page behind it.

A reader that has seen all events of entry 7 stands at `8.0`, not at the last event of 7. So a replica whose state
came as a snapshot of entry 7 can tell that nothing is missing, although it does not know how many events 7 has.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from collections import Counter
from typing import TYPE_CHECKING, Final, NamedTuple

from raftflow.coordinator.events.deriving import derive
from raftflow.domain.contract.events.events import ClusterEvent

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from raftflow.domain.events import Event
    from raftflow.machine.machine import EntryResult

    _Pending = tuple[int, int, bytes, Sequence[bytes], Sequence[Event]]
    """An entry that nobody asked about: index, bytes, the entry, audit records, news."""

BYTES_MAX: Final = 32 * 1024 * 1024
ENTRIES_MAX: Final = 50_000
WAKE_EVERY_S: Final = 0.03
"""Readers are woken together, and no more often than this."""
_OVERHEAD_BYTES: Final = 400
_NEWS_BYTES: Final = 200
"""What one piece of news for the leader takes, about."""
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


class _Derived(NamedTuple):
    entry: int
    size: int
    events: list[ClusterEvent]


class EventHistory:
    """The newest entries of one replica, and those who wait for more."""

    def __init__(self, bytes_max: int = BYTES_MAX, entries_max: int = ENTRIES_MAX) -> None:
        self._bytes_max, self._entries_max = bytes_max, entries_max
        self._kept: list[_Pending | _Derived] = []
        self._first = 0
        """Place in `_kept` of the oldest entry. Those before it are gone."""
        self._bytes = 0
        self._before = 0
        """All entries behind this index are kept."""
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
        audit, news = result.audit, result.events
        size = _OVERHEAD_BYTES + len(entry) + sum(map(len, audit)) + _NEWS_BYTES * len(news)
        self._kept.append((result.index, size, entry, audit, news))
        self._bytes += size
        if self._bytes > self._bytes_max or len(self._kept) - self._first > self._entries_max:
            self._drop_oldest()
        if self._waiting and self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(WAKE_EVERY_S, self._wake)

    def _drop_oldest(self) -> None:
        while (count := len(self._kept) - self._first) > 1 and (
            self._bytes > self._bytes_max or count > self._entries_max
        ):
            oldest = self._kept[self._first]
            self._before = oldest[0]
            self._bytes -= oldest[1]
            self._first += 1
        if self._first * 2 > len(self._kept):
            del self._kept[: self._first]
            self._first = 0

    def restart(self, index: int) -> None:
        """Begin behind `index`: the state there came as a snapshot."""
        self._kept, self._first, self._bytes = [], 0, 0
        self._before = index

    # --- readers

    def end(self) -> EventId:
        """Return the id behind which nothing has happened yet."""
        last = self._kept[-1][0] if len(self._kept) > self._first else self._before
        return EventId(last + 1, 0)

    def read(self, after: EventId, limit: int, wanted: Callable[[ClusterEvent], bool]) -> EventsFound:
        """Return at most `limit` events behind `after`. Raises `GoneError`."""
        if after < self.oldest:
            raise GoneError(self.oldest)
        found: list[ClusterEvent] = []
        place = bisect_left(self._kept, after.entry, self._first, key=lambda kept: kept[0])
        looked_at = 0
        end = min(place + _ENTRIES_PER_PAGE, len(self._kept))
        for each in range(place, end):
            index, events = self._events_at(each)
            looked_at += len(events)
            start = after.position if index == after.entry else 0
            for position, event in enumerate(events[start:], start + 1):
                if wanted(event):
                    found.append(event)
                    if len(found) == limit and position < len(events):
                        return EventsFound(found, EventId(index, position), at_end=False)
            after = EventId(index + 1, 0)
            if len(found) == limit or looked_at >= _EVENTS_PER_PAGE:
                return EventsFound(found, after, at_end=False)
        return EventsFound(found, after, at_end=end == len(self._kept))

    def _events_at(self, place: int) -> tuple[int, list[ClusterEvent]]:
        kept = self._kept[place]
        if isinstance(kept, _Derived):
            return kept.entry, kept.events
        index, before, entry, audit, news = kept
        events = derive(index, entry, audit, news)
        size = _OVERHEAD_BYTES + _DERIVED_TIMES * sum(map(len, audit))
        self._kept[place] = _Derived(index, size, events)
        self._bytes += size - before
        return index, events

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
