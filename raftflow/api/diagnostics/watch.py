"""What happened to a replica lately: late timers, syncs of the disk, elections, agents that stay drained.

A timer looks once a second. It costs a few microseconds, and everything that it keeps is bounded.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Final, NamedTuple

from raftflow.domain.contract.cluster import DrainedAgent, LoopLag, SyncTimes, TermCount

if TYPE_CHECKING:
    from raftflow.coordinator.replica import Replica
    from raftflow.replication.histogram import Histogram

TICK_S: Final = 1.0
LAG_WINDOW: Final = 60
"""Ticks that the lag of the loop is of."""
SAMPLE_TICKS: Final = 10
"""A sample of terms and syncs is taken every so many ticks."""
SYNC_SAMPLES: Final = 30
"""Syncs are those since this many samples: five minutes."""
TERM_SAMPLES: Final = 360
"""Terms are those since this many samples: one hour."""
DRAINED_MAX: Final = 1_000
"""Drained agents that are named."""


class _CounterSample(NamedTuple):
    """The state of the counters at one moment."""

    at_s: float
    term: int
    sync_counts: tuple[int, ...]
    sync_sum_s: float


class ReplicaWatch:
    """Looks at one replica once a second.

    Args:
        replica: the replica.
        syncs: how long its syncs took.
    """

    def __init__(self, replica: Replica, syncs: Histogram) -> None:
        self._replica = replica
        self._syncs = syncs
        self._lags_s: deque[float] = deque(maxlen=LAG_WINDOW)
        self._samples: deque[_CounterSample] = deque(maxlen=TERM_SAMPLES)
        self._drained_since_s: dict[str, float] = {}
        self._ticks = 0
        self._due_s = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begin."""
        self._take_sample(self._now_s())
        self._wait()

    def stop(self) -> None:
        """End. Safe to call twice, and before `start`."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def loop_lag(self) -> LoopLag:
        """Return how late the loop was in the last minute."""
        return LoopLag(window_s=len(self._lags_s) * TICK_S, max_ms=round(max(self._lags_s, default=0.0) * 1000, 1))

    def sync_times(self) -> SyncTimes:
        """Return how long the syncs of the last five minutes took."""
        now_s = self._now_s()
        since = self._samples[-min(SYNC_SAMPLES, len(self._samples))] if self._samples else None
        if since is None:
            return SyncTimes(window_s=0.0, count=0)
        counts = [now - then for now, then in zip(self._syncs.counts, since.sync_counts, strict=True)]
        count = sum(counts)
        window_s = round(now_s - since.at_s, 1)
        if not count:
            return SyncTimes(window_s=window_s, count=0)
        mean_s = (self._syncs.sum_s - since.sync_sum_s) / count
        p99_s = _percentile(counts, self._syncs.bounds_s, 0.99)
        return SyncTimes(
            window_s=window_s, count=count, mean_ms=round(mean_s * 1000, 3), p99_ms=round(p99_s * 1000, 3)
        )

    def terms(self) -> TermCount:
        """Return by how much the term grew in the last hour, or since the start."""
        if not self._samples:
            return TermCount(window_s=0.0, terms=0)
        first = self._samples[0]
        return TermCount(
            window_s=round(self._now_s() - first.at_s, 1), terms=self._replica.log.stamp().term - first.term
        )

    def drained_agents(self) -> list[DrainedAgent]:
        """Return the agents that are drained, and for how long at least."""
        now_s = self._now_s()
        return [
            DrainedAgent(name=name, for_s=round(now_s - since_s, 1))
            for name, since_s in list(self._drained_since_s.items())[:DRAINED_MAX]
        ]

    def _now_s(self) -> float:
        return asyncio.get_running_loop().time()

    def _wait(self) -> None:
        loop = asyncio.get_running_loop()
        self._due_s = loop.time() + TICK_S
        self._timer = loop.call_at(self._due_s, self._tick)

    def _tick(self) -> None:
        now_s = self._now_s()
        self._lags_s.append(max(0.0, now_s - self._due_s))
        self._ticks += 1
        if self._ticks % SAMPLE_TICKS == 0:
            self._take_sample(now_s)
        self._wait()

    def _take_sample(self, now_s: float) -> None:
        syncs = self._syncs
        self._samples.append(_CounterSample(now_s, self._replica.log.stamp().term, tuple(syncs.counts), syncs.sum_s))
        drained = [agent.name for agent in self._replica.machine.tables.agents.values() if agent.drained]
        self._drained_since_s = {name: self._drained_since_s.get(name, now_s) for name in drained}


def _percentile(counts: list[int], bounds_s: tuple[float, ...], share: float) -> float:
    """Return the upper bound of the class in which this share of the durations is reached; the last for more."""
    wanted = share * sum(counts)
    seen = 0
    for count, bound_s in zip(counts, bounds_s, strict=False):
        seen += count
        if seen >= wanted:
            return bound_s
    return bounds_s[-1]
