"""Election timeouts follow the delays that a replica measures, within bounds, and return when these are over."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

import pytest
from virtual_cluster import Cluster, run_virtual, running

from raftflow.coordinator.leader.leases import MARGIN, longest_fallback_s
from raftflow.replication.elections.timeouts import STRETCH_MAX, WINDOW_S, ElectionTimeouts
from raftflow.replication.log import Applied
from raftflow.replication.raft.library_types import RaftTiming
from raftflow.replication.raft.rules import Rule

TIMING = RaftTiming(
    election_min_s=0.3, election_max_s=0.6, silence_s=0.25, heartbeat_s=0.05, fallback_s=0.28, fallback_max_s=0.5
)


class Clock:
    """A clock that a test sets."""

    now_s = 50.0

    def __call__(self) -> float:
        return self.now_s


def values(timeouts: ElectionTimeouts) -> tuple[float, ...]:
    numbers = (timeouts.election_min_s, timeouts.election_max_s, timeouts.silence_s, timeouts.fallback_s)
    return tuple(round(number, 3) for number in numbers)


CONFIGURED = (0.3, 0.6, 0.25, 0.28)


@pytest.mark.parametrize(
    ("delay_s", "expected"),
    [
        (0.05, CONFIGURED),
        (0.1, CONFIGURED),  # a third of the least timeout
        (0.15, (0.45, 0.9, 0.375, 0.42)),
        (0.2, (0.6, 1.2, 0.5, 0.5)),  # a leader waits no longer than leases allow
        (0.4, (1.2, 2.4, 1.0, 0.5)),
        (1.2, (1.2, 2.4, 1.0, 0.5)),
        (1.3, CONFIGURED),  # an outage
        (60.0, CONFIGURED),
    ],
)
def test_timeouts_follow_the_longest_delay_within_bounds(delay_s: float, expected: tuple[float, ...]) -> None:
    timeouts = ElectionTimeouts(TIMING, Clock())
    timeouts.note_delay(delay_s)
    timeouts.note_delay(0.01)
    assert values(timeouts) == expected


def test_a_delay_counts_for_one_to_two_windows() -> None:
    clock = Clock()
    timeouts = ElectionTimeouts(TIMING, clock)
    timeouts.note_delay(0.2)
    clock.now_s += WINDOW_S
    timeouts.refresh()
    assert timeouts.stretch == pytest.approx(2.0)
    timeouts.note_delay(0.15)
    clock.now_s += WINDOW_S
    timeouts.refresh()
    assert timeouts.stretch == pytest.approx(1.5)
    clock.now_s += 5 * WINDOW_S
    timeouts.refresh()
    assert values(timeouts) == CONFIGURED


def test_a_late_timer_makes_heartbeats_late() -> None:
    timeouts = ElectionTimeouts(TIMING, Clock())
    timeouts.note_timer(0.1)
    assert timeouts.stretch == pytest.approx(1.5)


def test_a_leader_without_a_majority_adapts_only_when_it_hears_one_again() -> None:
    """Else one that is cut off would lead for longer, and longer."""
    timeouts = ElectionTimeouts(TIMING, Clock())
    for silent_s in (0.02, 0.07, 0.12, 0.17):
        timeouts.note_quorum(silent_s)
    assert values(timeouts) == CONFIGURED
    timeouts.note_quorum(0.01)
    assert timeouts.stretch == pytest.approx(1.7)


def test_a_lost_leadership_is_no_delay() -> None:
    timeouts = ElectionTimeouts(TIMING, Clock())
    timeouts.note_quorum(0.27)
    timeouts.end_leadership()
    timeouts.note_quorum(0.0)
    assert values(timeouts) == CONFIGURED


@pytest.mark.parametrize("lease_ms", [300, 2_000, 10_000, 60_000])
def test_what_an_old_leader_promises_is_covered_by_the_margin_of_leases(lease_ms: int) -> None:
    """E5. A leader whose timeouts have adapted leads on for half the margin at most, or as long as configured."""
    margin_s = lease_ms / 1000 * MARGIN
    timing = RaftTiming(
        election_min_s=0.3,
        election_max_s=0.6,
        silence_s=0.3,
        heartbeat_s=0.049,
        fallback_s=0.285,
        fallback_max_s=longest_fallback_s(lease_ms),
    )
    timeouts = ElectionTimeouts(timing, Clock())
    timeouts.note_delay(0.5)
    assert timeouts.stretch == STRETCH_MAX
    assert timeouts.fallback_s <= max(0.285, margin_s / 2)


# In a cluster.


async def _slow_leader(cluster: Cluster) -> int:
    """The messages of the leader come in bursts further and further apart. Returns the terms that it costs."""
    leader = await cluster.elect()
    assert await cluster.settle()
    before = cluster.logs[leader].status().term
    for pause_s in itertools.chain([0.15, 0.2, 0.25, 0.3], [0.4] * 20):
        cluster.network.drop = lambda source, _target, _frame: source == leader
        await asyncio.sleep(pause_s)
        cluster.network.drop = lambda *_: False
        await asyncio.sleep(0.06)
    assert await cluster.settle()
    return max(log.status().term for log in cluster.logs.values()) - before


@pytest.mark.parametrize("disabled", [frozenset(), frozenset({Rule.ADAPT_TIMEOUTS})])
def test_a_slow_leader_costs_no_term_only_with_timeouts_that_adapt(disabled: frozenset[Rule]) -> None:
    """E4."""

    async def history() -> int:
        async with running(seed=1, disabled_rules=disabled, fallback_max_s=0.5) as cluster:
            return await _slow_leader(cluster)

    assert (run_virtual(history(), 1) == 0) is not bool(disabled)


def test_timeouts_are_as_configured_when_the_delays_are_over() -> None:
    async def history() -> None:
        async with running(seed=1) as cluster:
            await _slow_leader(cluster)
            assert await cluster.wait(lambda: max(_shown(cluster)) > 0.6)
            await asyncio.sleep(2 * WINDOW_S + 1)
            assert set(_shown(cluster)) == {0.3}
            began_s = asyncio.get_running_loop().time()
            leader = await cluster.elect()
            cluster.crash(leader)
            assert await cluster.wait(lambda: cluster.leader() not in {None, leader})
            assert asyncio.get_running_loop().time() - began_s < 1.2

    run_virtual(history(), 1)


def _shown(cluster: Cluster) -> list[float]:
    return [log.status().election_min_s for log in cluster.logs.values()]


def test_a_leader_that_is_cut_off_steps_down_as_soon_as_before() -> None:
    async def history() -> float:
        async with running(seed=1, fallback_max_s=10.0) as cluster:
            leader = await cluster.elect()
            assert await cluster.settle()
            began_s = asyncio.get_running_loop().time()
            cluster.network.drop = lambda source, target, _frame: leader in {source, target}
            assert await cluster.wait(lambda: not cluster.logs[leader].parts.raft.is_leader)
            return asyncio.get_running_loop().time() - began_s

    assert run_virtual(history(), 1) < 0.4


async def _impatient(told_s: float) -> tuple[bool, int]:
    """Two replicas with short timeouts beside a leader with long ones, whose messages stop for a while."""
    cluster = Cluster(1)
    short: dict[str, Any] = {"election_min_s": 0.2, "election_max_s": 0.4}
    for name in cluster.names:
        cluster.settings = {"election_min_s": 1.0, "election_max_s": 2.0} if name == cluster.names[0] else short
        await cluster.start(name)
    leader = cluster.names[0]
    for name in cluster.names[1:]:
        cluster.logs[name].parts.pre_votes.note_peer(leader, aware=True, election_min_s=told_s)
    while cluster.leader() != leader:
        assert await cluster.wait(lambda: cluster.leader() is not None)
        await cluster.logs[cluster.leader()].transfer_leadership(leader, 2.0)
    assert isinstance(await cluster.put(leader), Applied)
    before = cluster.logs[leader].status().term
    cluster.network.drop = lambda source, target, _frame: leader in {source, target}
    await asyncio.sleep(0.8)
    still = cluster.logs[leader].parts.raft.is_leader
    terms = max(log.status().term for log in cluster.logs.values()) - before
    await cluster.close()
    return still, terms


def test_a_replica_with_short_timeouts_waits_for_a_leader_with_long_ones() -> None:
    """E2: the leader leads on for up to a second. Nobody else is elected while it may still promise something."""
    assert run_virtual(_impatient(1.0), 1) == (True, 0)
    still, terms = run_virtual(_impatient(0.0), 1)
    assert still and terms > 0, "without the leader's word it is not waited for"
