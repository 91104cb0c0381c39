"""Running attempts that wait for a rate limit, in the order in which they came.

Only the leader keeps them, in memory: a new leader begins without any, and they come again. An attempt that waits
asks again when it was told to. It may take when the bucket has enough for it and for all before it: nobody overtakes.
Tasks that are placed take what these attempts leave. One that did not come back in time has lost its place.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from raftflow.machine.read.spending import rates

if TYPE_CHECKING:
    from raftflow.machine.machine import Machine

WAIT_MIN_MS: Final = 10
WAIT_MAX_MS: Final = 15_000
"""An attempt asks again after this time at most, so that it notices a limit that was raised."""
LATE_MS: Final = 10_000
"""How much later than it was told an attempt may ask again and still have its place."""
WAITERS_MAX: Final = 2_000
"""Attempts that wait at one time. Those beyond it are told to ask again, and have no place."""

WaiterKey = tuple[int, str, int]
"""Fence of the attempt, name and occurrence of the step."""


class _Waiter(NamedTuple):
    units: int
    due_ms: int
    """When it should ask again."""


class RateWaiters:
    """The attempts that wait, by rate limit."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._waiting: dict[str, dict[WaiterKey, _Waiter]] = {}
        self._count = 0

    def __len__(self) -> int:
        """Count them."""
        return self._count

    def reset(self) -> None:
        """Forget all: this replica begins to lead."""
        self._waiting.clear()
        self._count = 0

    def ahead_of(self, limit: str, now_ms: int, key: WaiterKey | None = None) -> int:
        """Return how many units those take that came before `key`, or all if it does not wait."""
        waiting = self._waiting.get(limit)
        if waiting is None:
            return 0
        ahead = 0
        for other, waiter in tuple(waiting.items()):
            if other == key:
                break
            if waiter.due_ms + LATE_MS < now_ms:
                self.leave(limit, other)
            else:
                ahead += waiter.units
        return ahead

    def wait(self, limit: str, key: WaiterKey, count: int, wait_ms: int, now_ms: int) -> int:
        """Give an attempt its place, or keep it there. Returns after how many ms it should ask again."""
        told_ms = min(max(wait_ms, WAIT_MIN_MS), WAIT_MAX_MS)
        waiting = self._waiting.setdefault(limit, {})
        if key not in waiting:
            if self._count >= WAITERS_MAX:
                return WAIT_MAX_MS
            self._count += 1
        waiting[key] = _Waiter(count, now_ms + told_ms)
        return told_ms

    def leave(self, limit: str, key: WaiterKey) -> None:
        """Forget an attempt that waits no longer, if it did."""
        waiting = self._waiting.get(limit)
        if waiting is None or waiting.pop(key, None) is None:
            return
        self._count -= 1
        if not waiting:
            del self._waiting[limit]

    def all_ahead(self, now_ms: int) -> dict[str, int]:
        """Return for each rate limit how many units those take that wait for it."""
        return {limit: self.ahead_of(limit, now_ms) for limit in tuple(self._waiting)}

    def units_left(self, limit: str, now_ms: int) -> int:
        """Return how many units of a rate limit those who wait leave to others."""
        return max(rates.units_at(self._machine, limit, now_ms) - self.ahead_of(limit, now_ms), 0)
