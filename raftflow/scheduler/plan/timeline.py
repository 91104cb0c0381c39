"""What is free on one agent over time. Plans look there for a gap that is long and large enough."""

from __future__ import annotations

from bisect import bisect_right

from raftflow.scheduler.plan.plan import Demand


class Timeline:
    """A step function from time to free amounts. The last step never ends and is all free."""

    def __init__(self, capacity: tuple[int, ...]) -> None:
        self._times = [0]
        self._free = [list(capacity)]

    def earliest(self, ready_ms: int, duration_ms: int, demand: Demand, end_max_ms: int | None = None) -> int | None:
        """Return the earliest start, not before `ready_ms`, from which the demand is free for the whole duration.

        None if it could not end by `end_max_ms`. The demand must fit the capacity.
        """
        times, free = self._times, self._free
        step = bisect_right(times, ready_ms) - 1
        start = ready_ms
        last = len(times) - 1
        while end_max_ms is None or start + duration_ms <= end_max_ms:
            amounts = free[step]
            for resource, amount in demand:
                if amount > amounts[resource]:
                    step += 1
                    start = times[step]
                    break
            else:
                if step == last or times[step + 1] >= start + duration_ms:
                    return start
                step += 1
        return None

    def reserve(self, start_ms: int, end_ms: int, demand: Demand) -> None:
        """Reserve a demand that is free from start to end."""
        first = self._split(start_ms)
        for step in range(first, self._split(end_ms)):
            amounts = self._free[step]
            for resource, amount in demand:
                amounts[resource] -= amount

    def _split(self, time_ms: int) -> int:
        """Return the step that begins at a time; it is added if it does not exist."""
        step = bisect_right(self._times, time_ms) - 1
        if self._times[step] == time_ms:
            return step
        self._times.insert(step + 1, time_ms)
        self._free.insert(step + 1, list(self._free[step]))
        return step + 1
