"""Delays of links and disks."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from random import Random

    from raftflow.simulation.world.loop import VirtualLoop
    from raftflow.simulation.world.network import Direction


class Delays:
    """The present delays of links and disks."""

    def __init__(self, rng: Random, loop: VirtualLoop, slow: float) -> None:
        self._rng = rng
        self._loop = loop
        self.slow = slow
        """Share of frames and syncs that are slow."""
        self.steady = False
        """Frames that leave together arrive together."""
        self.slow_until: dict[Direction, tuple[float, float]] = {}
        """For each direction of a link: when it is fast again, and its delay until then."""
        self.disk_until: dict[str, tuple[float, float]] = {}

    def link_s(self, direction: Direction) -> float:
        """Return how long a frame takes."""
        until_s, extra_s = self.slow_until.get(direction, (0.0, 0.0))
        base_s = 0.001 if self.steady else self._rng.uniform(0.0003, 0.002)
        if self._loop.time() < until_s:
            return base_s + self._rng.uniform(0.2, 1.0) * extra_s
        return base_s + (self._rng.choice((0.02, 0.05, 0.15)) if self._rng.random() < self.slow else 0.0)

    def disk_s(self, name: str, operation: str) -> float:
        """Return how long a sync or other work takes."""
        del operation
        until_s, extra_s = self.disk_until.get(name, (0.0, 0.0))
        if self._loop.time() < until_s:
            return self._rng.uniform(0.0, extra_s)
        if self._rng.random() < self.slow / 4:
            return self._rng.uniform(0.01, 0.1)
        return self._rng.uniform(0.0002, 0.0015)

    def clear(self) -> None:
        """Make all links and disks fast again."""
        self.slow = 0.0
        self.slow_until.clear()
        self.disk_until.clear()
