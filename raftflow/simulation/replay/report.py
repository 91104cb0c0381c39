"""The figures of a simulated trace."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

import msgspec

from raftflow.simulation.replay.load import LoadBounds


class Balance(msgspec.Struct, kw_only=True):
    """How evenly work was spread: run times summed for each agent."""

    busy_s_min: float
    busy_s_mean: float
    busy_s_max: float
    variation: float
    """Standard deviation over mean; 0 for perfectly even."""


class WaitingTimes(msgspec.Struct, kw_only=True):
    """How long tasks were ready before they started, in seconds; every attempt counts."""

    mean: float
    p50: float
    p95: float
    p99: float
    max: float


class Failures(msgspec.Struct, kw_only=True):
    """What failing agents cost."""

    agents: int
    """Failures of agents."""
    attempts_lost: int
    wasted_s: float
    """Run time of lost attempts."""
    tasks_failed: int
    """Tasks that did not succeed: lost with too many agents, or in a workflow that was stopped because of that."""


class TraceReport(msgspec.Struct, kw_only=True):
    """What `simulate trace -o json` prints for a policy."""

    policy: str
    workflows: int
    tasks: int
    agents: int
    makespan_s: float
    cost: float
    lower_bounds: LoadBounds
    gap: float
    """Makespan over the larger lower bound, less one."""
    utilisation: dict[str, float]
    """Part of the capacity of all agents that succeeding attempts used, over the whole makespan."""
    balance: Balance
    waiting: WaitingTimes
    failures: Failures
    placements: int
    skipped: int
    """Placements that no longer held when they were applied."""
    decisions: int
    entries: int
    tick_ms: int
    sealed: bool
    """Whether commands went through encoded entries and the audit chain."""
    problems: list[str]
    """What the check of all tables found at the end, where it was made (`sealed`)."""
    real_s: float
    tasks_per_s: float
    memory_mib: int
    """Largest resident memory of this process."""


def balance_of(busy_ms: Sequence[int]) -> Balance:
    """Summarise the agents' busy times."""
    mean = statistics.fmean(busy_ms)
    return Balance(
        busy_s_min=min(busy_ms) / 1_000,
        busy_s_mean=mean / 1_000,
        busy_s_max=max(busy_ms) / 1_000,
        variation=statistics.pstdev(busy_ms, mean) / mean if mean else 0.0,
    )


def waiting_of(waits_ms: Sequence[int]) -> WaitingTimes:
    """Summarise the waiting times."""
    ordered = sorted(waits_ms)

    def part(share: float) -> float:
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))] / 1_000

    return WaitingTimes(
        mean=statistics.fmean(ordered) / 1_000, p50=part(0.5), p95=part(0.95), p99=part(0.99), max=ordered[-1] / 1_000
    )
