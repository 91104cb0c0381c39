"""A fair queue: deficit round robin (Shreedhar and Varghese, 1995).

Each client has a queue of its own. Queues take turns. In its turn a queue may send as many bytes as its credit, and
its credit grows by a quantum each time that it is passed over. So what one client gets depends on the number of
clients and not on how much the others have waiting, and large items do not delay small ones.
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
    """Items with sizes, in one queue for each key. First in, first out within a queue.

    Args:
        quantum: bytes of credit that a queue gains with each round.
    """

    def __init__(self, quantum: int) -> None:
        self._quantum = quantum
        self._queues: dict[Hashable, _ClientQueue[T]] = {}
        """In the order of their turns. An empty queue is removed."""
        self._length = 0

    def __len__(self) -> int:
        """Return the number of items in all queues."""
        return self._length

    def add(self, key: Hashable, size: int, item: T) -> None:
        """Put an item at the end of the queue of a key."""
        found = self._queues.get(key)
        if found is None:
            found = self._queues[key] = _ClientQueue(self._quantum)
        found.items.append((size, item))
        self._length += 1

    def head_size(self) -> int:
        """Return the size of the item that `pop` would return. Raises `IndexError` without an item."""
        return self._next()[1].items[0][0]

    def pop(self) -> T:
        """Take the item whose turn it is. Raises `IndexError` without an item."""
        key, queue = self._next()
        size, item = queue.items.popleft()
        queue.credit -= size
        self._length -= 1
        if not queue.items:
            del self._queues[key]
        return item

    def _next(self) -> tuple[Hashable, _ClientQueue[T]]:
        """Return the queue whose turn it is. It has credit for its first item, and stays first as long as it has."""
        queues = self._queues
        if not queues:
            raise IndexError("the queue is empty")
        while True:
            for _ in range(len(queues)):
                key, queue = next(iter(queues.items()))
                if queue.credit >= queue.items[0][0]:
                    return key, queue
                del queues[key]
                queues[key] = queue
                queue.credit += self._quantum
            # All were passed over once. Skip the rounds in which no queue has enough credit.
            missing = min(queue.items[0][0] - queue.credit for queue in queues.values())
            rounds = max(0, missing // self._quantum)
            for queue in queues.values():
                queue.credit += rounds * self._quantum
