"""Rate limits: a token bucket for each name, refilled by the cluster's time.

The level of a bucket is counted in parts of a unit: a unit has as many parts as the period has milliseconds. So every
millisecond adds exactly `amount` parts, and nothing is rounded away.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from raftflow.domain.values.rates import Rates


class RateBucket(msgspec.Struct, array_like=True, gc=False, eq=False):
    """A rate limit, and how full its bucket is. All attempts of all workflows share it."""

    name: str
    amount: int
    """Units that come in a period."""
    period_ms: int
    burst: int
    """Units that the bucket holds at most."""
    parts: int
    """How full it was at `at_ms`, in parts of a unit."""
    at_ms: int
    removed: bool = False
    """Somebody has removed the limit. Only its bucket is kept, so that the limit is not full if it is set again."""

    def parts_at(self, now_ms: int) -> int:
        """Return how full the bucket is at a time, in parts of a unit."""
        come = max(now_ms - self.at_ms, 0) * self.amount
        return min(self.parts + come, self.burst * self.period_ms)

    def units_at(self, now_ms: int) -> int:
        """Return how many whole units the bucket has at a time."""
        return self.parts_at(now_ms) // self.period_ms

    def wait_ms(self, count: int, now_ms: int) -> int:
        """Return after how many ms the bucket has so many units, 0 if it has them. `count` is at most the burst."""
        missing = count * self.period_ms - self.parts_at(now_ms)
        return max(-(-missing // self.amount), 0)

    def take(self, count: int, now_ms: int) -> None:
        """Take units that the bucket has."""
        self.parts = self.parts_at(now_ms) - count * self.period_ms
        self.at_ms = max(self.at_ms, now_ms)

    def change(self, amount: int, period_ms: int, burst: int, now_ms: int) -> None:
        """Change the limit. The bucket stays as full as it is, as far as the new burst allows."""
        parts = self.parts_at(now_ms) * period_ms // self.period_ms
        self.amount, self.period_ms, self.burst = amount, period_ms, burst
        self.parts = min(parts, burst * period_ms)
        self.at_ms = max(self.at_ms, now_ms)


class RateTable:
    """The rate limits, and buckets of removed ones until they are full: then nothing is left to remember."""

    def __init__(self) -> None:
        self.present: dict[str, RateBucket] = {}
        """Limits by name, in the order in which they were set."""
        self.removed: dict[str, RateBucket] = {}
        """Removed limits, oldest removal first."""

    def __len__(self) -> int:
        """Count the limits, removed ones included."""
        return len(self.present) + len(self.removed)

    def get(self, name: str) -> RateBucket | None:
        """Return a limit, None if it is not set."""
        return self.present.get(name)

    def add(self, limit: RateBucket) -> None:
        """Set a limit that is not set."""
        self.present[limit.name] = limit

    def remove(self, name: str, now_ms: int) -> bool:
        """Remove a limit and keep its bucket. False without such a limit."""
        limit = self.present.pop(name, None)
        if limit is None:
            return False
        limit.removed = True
        self.removed[name] = limit
        self.forget_full(now_ms)
        return True

    def bring_back(self, name: str) -> RateBucket | None:
        """Set a removed limit again, as full as its bucket is. None if there is nothing to remember of it."""
        limit = self.removed.pop(name, None)
        if limit is not None:
            limit.removed = False
            self.add(limit)
        return limit

    def forget_full(self, now_ms: int) -> None:
        """Forget removed limits whose buckets are full."""
        for name in [name for name, limit in self.removed.items() if not limit.wait_ms(limit.burst, now_ms)]:
            del self.removed[name]


def take_all(table: RateTable, wanted: Rates, now_ms: int) -> bool:
    """Take what a task wants of each limit, all or nothing. False if one is not set, or has too little."""
    for name, count in wanted:
        limit = table.get(name)
        if limit is None or limit.units_at(now_ms) < count:
            return False
    for name, count in wanted:
        table.present[name].take(count, now_ms)
    return True
