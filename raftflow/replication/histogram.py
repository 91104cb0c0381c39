"""Durations as counts by bounds, for a metrics page. The size is fixed."""

from __future__ import annotations

from bisect import bisect_left
from typing import Final

DISK_BOUNDS_S: Final = (0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1.0, 5.0)


class Histogram:
    """Counts of durations.

    Args:
        bounds_s: upper bounds in seconds, ascending. Longer durations are counted beyond the last.
    """

    __slots__ = ("bounds_s", "counts", "sum_s")

    def __init__(self, bounds_s: tuple[float, ...]) -> None:
        self.bounds_s = bounds_s
        self.counts = [0] * (len(bounds_s) + 1)
        """By bound, not cumulated; the last is beyond all."""
        self.sum_s = 0.0

    def note(self, seconds: float) -> None:
        """Count one duration. Two threads at once may lose one count; nothing else can go wrong."""
        self.counts[bisect_left(self.bounds_s, seconds)] += 1
        self.sum_s += seconds
