"""What a poll carries besides its account of fences, and what is left to say when a coordinator refuses a poll.

A refused poll is never sent again as it is. Its items are halved and sent one half after the other until an item is
refused alone: that one is the reason, and everything else has gone through. Before anything is blamed, a poll without
items must have been answered: if that is refused too, the items are not the reason. Such polls also keep the lease
while many are refused. No I/O, no clock.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import msgspec

from raftflow.domain.contract.views import AgentLoad, AttemptUsage, LogPiece, PollRequest, ReportedEnd

ENDS_BYTES_MAX = 512 << 10
"""Results and errors in one request; a coordinator takes 1 MiB by default."""
_END_BYTES = 256
"""About what an end costs beside its result and its error."""

_encode = msgspec.json.Encoder().encode

Item = ReportedEnd | LogPiece | AttemptUsage | AgentLoad


class PollItems(NamedTuple):
    """The items of one poll."""

    ends: list[ReportedEnd]
    logs: list[LogPiece]
    usage: list[AttemptUsage]
    load: AgentLoad | None

    def items(self) -> list[Item]:
        """Return all of them, ends first and in order."""
        return [*self.ends, *self.logs, *self.usage, *(() if self.load is None else (self.load,))]

    @classmethod
    def of(cls, items: list[Item]) -> PollItems:
        """Return a portion of these items."""
        return cls(
            [item for item in items if isinstance(item, ReportedEnd)],
            [item for item in items if isinstance(item, LogPiece)],
            [item for item in items if isinstance(item, AttemptUsage)],
            next((item for item in items if isinstance(item, AgentLoad)), None),
        )


def items_of(request: PollRequest) -> PollItems:
    """Return the items of a poll."""
    return PollItems(request.ends, request.logs, request.usage, request.load)


def first_of(ends: Iterable[ReportedEnd], count_max: int) -> list[ReportedEnd]:
    """Return the first ends, as many as one request should carry; at least one."""
    first: list[ReportedEnd] = []
    size = 0
    for end in ends:
        size += len(bytes(end.result)) + (len(_encode(end.error)) if end.error else 0) + _END_BYTES
        if first and (size > ENDS_BYTES_MAX or len(first) >= count_max):
            break
        first.append(end)
    return first


class RefusedItem(NamedTuple):
    """An item that the coordinator refuses, and why."""

    item: Item
    why: str


class RefusalSearch:
    """The search for the items for which polls were refused."""

    def __init__(self) -> None:
        self._parts: list[list[Item]] = []
        """What is still to be sent, the first part last; none is larger than half a refused poll, or it is alone."""
        self._accused: RefusedItem | None = None
        """Refused alone, before a poll without items was answered."""
        self._bare_answered = False
        """A poll without items was answered since the search began: refusals are about the items."""

    @property
    def going_on(self) -> bool:
        """Whether something that was refused is still to be sent, or to be judged."""
        return bool(self._parts) or self._accused is not None

    @property
    def active(self) -> bool:
        """Whether the search goes on, or its last part is on its way."""
        return self.going_on or self._bare_answered

    def next(self, *, bare: bool) -> PollItems:
        """Take what the next poll carries: a part, or nothing if a bare poll is due or has to come first."""
        if bare or not self._bare_answered or not self._parts:
            return PollItems.of([])
        return PollItems.of(self._parts.pop())

    def answered(self, portion: PollItems) -> RefusedItem | None:
        """Note a poll that was answered. Returns the item that the coordinator refuses, if that shows it."""
        guilty = None
        if self.going_on and not portion.items():
            self._bare_answered = True
            guilty, self._accused = self._accused, None
        self._rest()
        return guilty

    def refused(self, portion: PollItems, why: str) -> RefusedItem | None:
        """Note a poll that was refused. Returns the item that is the reason, if that shows it.

        A poll without items that is refused shows that the items are not the reason, or not the only one.
        """
        items = portion.items()
        if not items:
            self._bare_answered = False
            if self._accused is not None:
                self._parts.append([self._accused.item])
                self._accused = None
        elif len(items) > 1:
            half = (len(items) + 1) // 2
            self._parts += [items[half:], items[:half]]
        elif self._bare_answered:
            self._rest()
            return RefusedItem(items[0], why)
        elif self._accused is None:
            self._accused = RefusedItem(items[0], why)
        else:
            self._parts.append(items)
        return None

    def clear(self) -> None:
        """Forget everything."""
        self._parts.clear()
        self._accused = None
        self._rest()

    def _rest(self) -> None:
        if not self.going_on:
            self._bare_answered = False
