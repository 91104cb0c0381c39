"""One short history for each rule of the sync gate, and for what must be durable before the log is trimmed.

Disks are slow where a history needs it; the power fails for everybody at once and takes whatever was not synced.
"""

from __future__ import annotations

import asyncio

import pytest
from virtual_cluster import Cluster, run_virtual

from raftflow.replication.log import Applied
from raftflow.replication.messages import wire
from raftflow.replication.raft.guard import GuardedTransport
from raftflow.replication.raft.library import Raft
from raftflow.replication.raft.rules import Rule
from raftflow.replication.storage.journal import Journal

SLOW_S = 0.25
FAST_S = 0.001
Rules = frozenset[Rule]


async def steady(off: Rules, replicas: int = 3) -> tuple[Cluster, str, list[str]]:
    """A cluster with a leader; returns it, the leader and the followers."""
    cluster = Cluster(7, replicas=replicas, disabled_rules=off, sync_s=lambda: FAST_S)
    await cluster.start()
    leader = await cluster.elect()
    await cluster.put(leader)
    assert await cluster.settle()
    return cluster, leader, [name for name in cluster.names if name != leader]


async def restart_without(cluster: Cluster, lost: str) -> None:
    """All lose power; all but one come back and elect."""
    for name in cluster.names:
        cluster.crash(name)
        cluster.disks[name].latency = lambda: FAST_S
    await cluster.start(*[name for name in cluster.names if name != lost])
    leader = await cluster.elect()
    await cluster.put(leader)
    assert await cluster.settle()
    cluster.check_end()


async def followers_acknowledge_early(off: Rules) -> list[str]:
    """G1: followers acknowledge what is not on their disks; then the power fails and the leader's disk is gone."""
    cluster, leader, followers = await steady(off)
    for name in followers:
        cluster.disks[name].latency = lambda: SLOW_S
    await cluster.put(leader, timeout_s=SLOW_S / 3)
    await restart_without(cluster, leader)
    await cluster.close()
    return cluster.violations


async def vote_is_forgotten(off: Rules) -> list[str]:
    """G2: a voter's vote counts before it is on its disk; after a power failure it votes again in the same term."""
    cluster = Cluster(7, disabled_rules=off, sync_s=lambda: FAST_S)
    cluster.network.cut("a", "b")
    cluster.disks["c"].latency = lambda: SLOW_S if cluster.network.links else FAST_S
    await cluster.start()
    assert await cluster.wait(lambda: len(cluster.network.connections) == 2)
    cluster.logs["a"]._raft.campaign_now()
    cluster.logs["a"].parts.driver.request_turn()
    await asyncio.sleep(SLOW_S / 3)
    led = {log._raft.term for log in cluster.logs.values() if log._raft.is_leader}
    cluster.crash("c")
    cluster.network.cut("a", "c")
    cluster.disks["c"].latency = lambda: FAST_S
    cluster.logs["b"].parts.postpone_election()
    await cluster.start("c")
    assert await cluster.wait(lambda: len(cluster.network.connections) == 1)
    cluster.logs["b"]._raft.campaign_now()
    cluster.logs["b"].parts.driver.request_turn()
    assert await cluster.wait(lambda: cluster.logs["b"].status().leader == "b")
    if cluster.logs["b"].status().term in led:
        cluster.violations.append("two replicas won the same term")
    await cluster.close()
    return cluster.violations


async def leader_counts_itself_early(off: Rules) -> list[str]:
    """G3: the leader counts its own log before its disk has it; a majority of disks then lacks the entry."""
    cluster, leader, followers = await steady(off)
    cluster.network.isolate(followers[0])
    cluster.disks[leader].latency = lambda: SLOW_S
    await cluster.put(leader, timeout_s=SLOW_S / 3)
    cluster.network.heal_all()
    await restart_without(cluster, followers[1])
    await cluster.close()
    return cluster.violations


HISTORIES = {
    Rule.SYNC_ACKS: followers_acknowledge_early,
    Rule.SYNC_VOTES: vote_is_forgotten,
    Rule.SYNC_LEADER: leader_counts_itself_early,
}


@pytest.mark.parametrize("rule", HISTORIES)
def test_history_ends_well_with_the_gate(rule: Rule) -> None:
    assert run_virtual(HISTORIES[rule](frozenset())) == []


@pytest.mark.parametrize("rule", HISTORIES)
def test_history_ends_badly_without_its_rule(rule: Rule) -> None:
    assert run_virtual(HISTORIES[rule](frozenset({rule}))) != []


def test_single_replica_acknowledges_only_what_is_on_its_disk() -> None:
    async def history() -> None:
        cluster = Cluster(1, replicas=1, sync_s=lambda: FAST_S)
        await cluster.start()
        await cluster.elect()
        await cluster.put("a")
        loop = asyncio.get_running_loop()
        for _ in range(5):
            cluster.disks["a"].latency = lambda: SLOW_S
            began = loop.time()
            assert isinstance(await cluster.put("a"), Applied)
            assert loop.time() - began >= SLOW_S
            await asyncio.gather(*(cluster.put("a", timeout_s=SLOW_S / 2) for _ in range(5)))
            cluster.crash("a")
            cluster.disks["a"].latency = lambda: FAST_S
            await cluster.start("a")
            await cluster.elect()
            cluster.check_end()
        assert cluster.violations == []
        await cluster.close()

    run_virtual(history())


async def power_fails_between_snapshot_and_trim() -> list[str]:
    """J3: the snapshot is durable, the log behind it is not trimmed yet, more is acknowledged, the power fails."""
    cluster, leader, _followers = await steady(frozenset())
    for name in cluster.names:
        cluster.logs[name].parts.writer._before_compaction = lambda: asyncio.sleep(3600)
        cluster.logs[name].request_snapshot()
    assert await cluster.wait(lambda: all(log.parts.data.store.newest() is not None for log in cluster.logs.values()))
    for _ in range(10):
        assert isinstance(await cluster.put(leader), Applied)
    for name in cluster.names:
        cluster.crash(name)
    await cluster.start()
    if not cluster.violations:
        await cluster.put(await cluster.elect())
        assert await cluster.settle()
        cluster.check_end()
    await cluster.close()
    return cluster.violations


def test_log_is_kept_if_the_power_fails_before_it_is_trimmed() -> None:
    assert run_virtual(power_fails_between_snapshot_and_trim()) == []


def test_log_that_is_not_aligned_is_not_handed_to_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Journal, "align", lambda self, previous, last: None)
    violations = run_virtual(power_fails_between_snapshot_and_trim())
    assert len(violations) == 3
    assert all("does not begin with the snapshot" in violation for violation in violations)


async def old_acknowledgement_comes_late() -> list[str]:
    """An acknowledgement of a term that is over shows more than the new leader has; what comes after it must count.

    The link held it back while others led and its entries were replaced. Waiting until this replica's disk has that
    many entries, it would hold back every later answer of its follower.
    """
    cluster, first, (second, third) = await steady(frozenset())
    old_term = cluster.logs[first].status().term
    cluster.logs[second]._raft.campaign_now()
    cluster.logs[second].parts.driver.request_turn()
    assert await cluster.wait(lambda: cluster.logs[second].status().leader == second)
    assert await cluster.settle()
    beyond = cluster.logs[second].status().last_index + 100
    late = {"type": "next_node_idx", "term": old_term, "next_node_idx": beyond, "reset": False, "success": True}
    cluster.logs[second].parts.traffic.on_frame(third, wire.encode(late))
    cluster.network.isolate(first)
    if not isinstance(await cluster.put(second, timeout_s=5.0), Applied):
        cluster.violations.append("the answers of a follower in the new term do not count")
    await cluster.close()
    return cluster.violations


def test_an_old_acknowledgement_does_not_hold_back_new_ones() -> None:
    assert run_virtual(old_acknowledgement_comes_late()) == []


def test_an_old_acknowledgement_that_waits_for_the_disk_blocks_its_follower(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(GuardedTransport, "is_outdated", lambda self, message: False)
    assert run_virtual(old_acknowledgement_comes_late()) == ["the answers of a follower in the new term do not count"]


class Anything:
    """Equal to everything: switches the check before the library's load off."""

    def __ne__(self, other: object) -> bool:
        return False

    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = None


def test_log_would_be_lost_without_aligning_it_to_the_snapshot(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Journal, "align", lambda self, previous, last: None)
    monkeypatch.setattr(Raft, "entries", lambda self, first, count: Anything())
    violations = run_virtual(power_fails_between_snapshot_and_trim())
    assert any("acknowledged entries are lost" in violation for violation in violations)
