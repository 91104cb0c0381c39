"""A queue that is fair to those who fill it: deficit round robin (Shreedhar and Varghese, 1995).

Everybody who waits has a lane. Lanes take turns, and each turn a lane may send on as many bytes as it has saved up,
to which a quantum is added every time that it is passed over. So what one lane gets depends on how many lanes there
are, not on how much waits in the others, and small items are not held up by large ones.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Hashable

T = TypeVar("T")


class _ClientQueue(Generic[T]):
    __slots__ = ("credit", "items")

    def __init__(self, credit: int) -> None:
        self.items: deque[tuple[int, T]] = deque()
        self.credit = credit


class FairQueue(Generic[T]):
    """Items with sizes, in lanes. First in, first out within a lane.

    Args:
        quantum: bytes that a lane gains with each round.
    """

    def __init__(self, quantum: int) -> None:
        self._quantum = quantum
        self._lanes: dict[Hashable, _ClientQueue[T]] = {}
        """In the order of their turns. A lane that is empty is not there."""
        self._length = 0

    def __len__(self) -> int:
        """Count the items of all lanes."""
        return self._length

    def add(self, lane: Hashable, size: int, item: T) -> None:
        """Put an item at the end of a lane."""
        found = self._lanes.get(lane)
        if found is None:
            found = self._lanes[lane] = _ClientQueue(self._quantum)
        found.items.append((size, item))
        self._length += 1

    def head_size(self) -> int:
        """Return the size of the item that `pop` would return. Raises `IndexError` if there is none."""
        return self._next()[1].items[0][0]

    def pop(self) -> T:
        """Take the item whose turn it is. Raises `IndexError` if there is none."""
        key, lane = self._next()
        size, item = lane.items.popleft()
        lane.credit -= size
        self._length -= 1
        if not lane.items:
            del self._lanes[key]
        return item

    def _next(self) -> tuple[Hashable, _ClientQueue[T]]:
        """Return the lane whose turn it is, which can afford its first item and stays first until it cannot."""
        lanes = self._lanes
        if not lanes:
            raise IndexError("the queue is empty")
        while True:
            for _ in range(len(lanes)):
                key, lane = next(iter(lanes.items()))
                if lane.credit >= lane.items[0][0]:
                    return key, lane
                del lanes[key]
                lanes[key] = lane
                lane.credit += self._quantum
            # All were passed over once. Spare them the rounds in which nobody could afford anything.
            lacking = min(lane.items[0][0] - lane.credit for lane in lanes.values())
            rounds = max(0, lacking // self._quantum)
            for lane in lanes.values():
                lane.credit += rounds * self._quantum
