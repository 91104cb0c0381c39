"""A replica that cannot win costs no term: one that returns, a half-cut pair, a flapping link, a pause.

Each history runs with rule E1 on and off, so each shows that the rule is needed.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from virtual_cluster import Cluster, run_virtual, running

from raftflow.replication.log import Applied
from raftflow.replication.messages import wire
from raftflow.replication.raft.rules import Rule
from raftflow.simulation.world.disk import Loss


async def _returns(cluster: Cluster, leader: str, away: str, _other: str) -> None:
    """A follower is cut off from both others, with connections that do not break, and comes back."""
    cluster.network.drop = lambda source, target, _frame: away in {source, target}
    await asyncio.sleep(4)
    cluster.network.drop = lambda *_: False


async def _half_cut(cluster: Cluster, leader: str, away: str, _other: str) -> None:
    """A follower is cut off from the leader alone: it still reaches the other follower."""
    cluster.network.cut(leader, away)
    await asyncio.sleep(4)
    cluster.network.heal_all()


async def _flaps(cluster: Cluster, leader: str, away: str, _other: str) -> None:
    """The link between a follower and the leader breaks again and again, each time for longer than a timeout."""
    for _ in range(6):
        cluster.network.cut(leader, away)
        await asyncio.sleep(0.7)
        cluster.network.heal(leader, away)
        await asyncio.sleep(0.2)


async def _cannot_hear(cluster: Cluster, leader: str, away: str, _other: str) -> None:
    """Nothing reaches a follower, and what it sends arrives."""
    cluster.network.drop = lambda _source, target, _frame: target == away
    await asyncio.sleep(4)
    cluster.network.drop = lambda *_: False


HISTORIES = [_returns, _half_cut, _flaps, _cannot_hear]


async def _terms_lost(history: Any, disabled: frozenset[Rule], seed: int) -> int:
    async with running(seed=seed, disabled_rules=disabled) as cluster:
        leader = await cluster.elect()
        away, other = [name for name in cluster.names if name != leader]
        assert await cluster.settle()
        before = cluster.logs[leader].status().term
        await history(cluster, leader, away, other)
        assert await cluster.settle()
        now = await cluster.elect()
        assert isinstance(await cluster.put(now), Applied)
        return cluster.logs[now].status().term - before


@pytest.mark.parametrize("history", HISTORIES)
def test_a_replica_that_cannot_win_costs_no_term(history: Any) -> None:
    assert run_virtual(_terms_lost(history, frozenset(), 1), 1) == 0


@pytest.mark.parametrize("history", HISTORIES)
def test_without_the_question_it_costs_terms(history: Any) -> None:
    assert run_virtual(_terms_lost(history, frozenset({Rule.PRE_VOTE}), 1), 1) > 0


def test_a_yes_though_a_leader_is_heard_costs_terms() -> None:
    """E2."""
    assert run_virtual(_terms_lost(_half_cut, frozenset({Rule.PRE_VOTE_SILENCE}), 1), 1) > 0


@pytest.mark.parametrize("disabled", [frozenset(), frozenset({Rule.PRE_VOTE_LOG})])
def test_a_replica_with_an_old_log_does_not_stand(disabled: frozenset[Rule]) -> None:
    """E3: of two that are left only one can win, and the other leaves the term to it."""
    terms = run_virtual(_old_log_left(disabled), 1)
    assert (terms == 0) is not bool(disabled)


async def _old_log_left(disabled: frozenset[Rule]) -> int:
    cluster = Cluster(1, disabled_rules=disabled)
    await cluster.start()
    leader = await cluster.elect()
    old, other = [name for name in cluster.names if name != leader]
    assert await cluster.settle()
    cluster.network.isolate(old)
    assert isinstance(await cluster.put(leader), Applied)
    before = cluster.logs[leader].status().term
    cluster.crash(leader, Loss.NONE)
    cluster.logs[other].parts.raft.election_deadline = float("inf")  # it never stands by itself here
    cluster.network.heal_all()
    await asyncio.sleep(3)
    lost = cluster.logs[old].status().term - before
    await cluster.close()
    return lost


def test_a_dead_leader_is_replaced() -> None:
    assert run_virtual(_dead_leader(), 1) < 1.2


async def _dead_leader() -> float:
    async with running(seed=5) as cluster:
        loop = asyncio.get_running_loop()
        leader = await cluster.elect()
        began = loop.time()
        cluster.crash(leader)
        assert await cluster.wait(lambda: cluster.leader() not in {None, leader})
        return loop.time() - began


def test_a_replica_behind_in_its_term_is_elected() -> None:
    """The only one that can win is in an older term than the other: a refusal tells it the term."""
    run_virtual(_behind_in_term(), 1)


async def _behind_in_term() -> None:
    async with running(seed=3) as cluster:
        leader = await cluster.elect()
        ahead, best = [name for name in cluster.names if name != leader]
        assert await cluster.settle()
        cluster.network.isolate(ahead)
        assert isinstance(await cluster.put(leader), Applied)
        assert await cluster.wait(
            lambda: cluster.logs[best].status().last_index == cluster.logs[leader].status().last_index
        )
        cluster.network.drop = lambda source, target, _frame: ahead in {source, target}
        cluster.network.heal_all()
        await cluster.stand_alone(ahead, cluster.logs[best].status().term + 3)
        cluster.crash(leader)
        cluster.network.drop = lambda *_: False
        assert await cluster.wait(lambda: cluster.leader() == best)


@pytest.mark.parametrize("older", range(1, 4))
def test_older_versions_elect_with_newer_ones(older: int) -> None:
    """So many of three know no questions. They reset the link of one that asks, so it does not ask them."""
    run_virtual(_mixed(older), 1)


async def _mixed(older: int) -> None:
    cluster = Cluster(2)
    old = cluster.names[:older]
    for name in cluster.names:
        cluster.disabled_rules = frozenset({Rule.PRE_VOTE}) if name in old else frozenset()
        await cluster.start(name)
        for peer in old:
            cluster.logs[name].parts.pre_votes.note_peer(peer, aware=False)  # its introduction says so
    for _ in range(3):
        leader = await cluster.elect()
        assert isinstance(await cluster.put(leader), Applied)
        cluster.crash(leader)
        assert await cluster.wait(lambda leader=leader: cluster.leader() not in {None, leader})
        cluster.disabled_rules = frozenset({Rule.PRE_VOTE}) if leader in old else frozenset()
        await cluster.start(leader)
        for peer in old:
            cluster.logs[leader].parts.pre_votes.note_peer(peer, aware=False)
    assert await cluster.settle()
    assert cluster.violations == []
    await cluster.close()


def test_an_older_version_refuses_the_frame() -> None:
    run_virtual(_refused(), 1)


async def _refused() -> None:
    cluster = Cluster(2, disabled_rules=frozenset({Rule.PRE_VOTE}))
    await cluster.start()
    leader = await cluster.elect()
    follower = next(name for name in cluster.names if name != leader)
    question = {"type": "pre_vote", "term": 9, "last_log_index": 9, "last_log_term": 8, "seq": 1}
    connections = dict(cluster.network.connections)
    cluster.links[leader].on_frame(follower, wire.encode(question))
    assert frozenset((leader, follower)) in connections
    assert frozenset((leader, follower)) not in cluster.network.connections
    await cluster.close()


def test_a_late_answer_does_not_count() -> None:
    """A yes to a question of before this replica heard a leader again, or of an earlier term, starts nothing."""
    run_virtual(_late_answer(), 1)


async def _late_answer() -> None:
    async with running(seed=1) as cluster:
        leader = await cluster.elect()
        away, other = [name for name in cluster.names if name != leader]
        assert await cluster.settle()
        cluster.network.cut(leader, away)
        asked: list[dict[str, Any]] = []

        def keep(source: str, target: str, frame: bytes) -> bool:
            message = wire.decode(frame)
            if source == away and message["type"] == "pre_vote":
                asked.append(message)
            return False

        cluster.network.drop = keep
        assert await cluster.wait(lambda: asked)
        cluster.network.heal_all()
        term = cluster.logs[away].status().term
        assert await cluster.wait(lambda: cluster.logs[away].parts.pre_votes.silent_s() < 0.1)
        for message in asked:
            answer = {"type": "pre_vote_granted", "term": message["term"], "seq": message["seq"]}
            for peer in (leader, other):
                cluster.links[away].on_frame(peer, wire.encode(answer))
        await asyncio.sleep(1)
        assert cluster.logs[away].status().term == term
