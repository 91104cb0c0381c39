"""One short history for each rule about changes of the members: with the rule it ends well, without it badly.

Messages are delivered by hand, as in `test_histories_guard.py`. Each history returns what went wrong.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from bare_cluster import Bare, Node
from member_cluster import MemberCluster
from virtual_cluster import run_virtual

from raftflow.replication.errors import RemovedError
from raftflow.replication.members.membership import ChangeRefusedError, MemberInfo, Membership, NotReadyError
from raftflow.replication.raft.library_types import LibraryFailure
from raftflow.replication.raft.rules import Rule
from raftflow.simulation.world.disk import Loss

if TYPE_CHECKING:
    from collections.abc import Callable

Rules = frozenset[Rule]


def list_of(names: str, removed: str = "") -> Membership:
    return Membership(tuple(MemberInfo(name) for name in names), (), tuple(removed))


async def two_changes(off: Rules) -> list[str]:
    """M1: the leader of five, cut off, logs two removals at once: two of three and three of five need not meet."""
    cluster = MemberCluster(1, replicas=5, disabled_rules=off | {Rule.LEARN_FIRST})
    await cluster.start()
    leader = await cluster.elect()
    others = [name for name in cluster.names if name != leader]
    cluster.network.isolate(leader)
    log = cluster.logs[leader]
    tasks = [asyncio.ensure_future(cluster.remove(name, 0.2)) for name in others[:2]]
    await asyncio.sleep(0.02)
    logged = len(log._raft.members.base.voters) - len(log._raft.members.current.voters)
    await asyncio.gather(*tasks)
    await cluster.close()
    return [f"{logged} changes are under way at once"] if logged > 1 else []


def stale_list(off: Rules) -> list[str]:
    """M2: A logs that D is a member. C and D are away, and A and B, two of four, count as a majority still."""
    c = Bare("ABCD", disabled_rules=off, founders="ABC")
    c.elect("A", among="BC")
    c.run(5, among="ABC")
    for peer in "CD":
        c.cut(peer)
    c["A"].raft.append_membership(list_of("ABCD"), lambda _result, error: c.outcomes.setdefault("D joins", error))
    c.run(6, among="AB")
    return [f"{word}: committed by two of four" for word in c.acked]


def uncommitted_list_in_snapshot(off: Rules) -> list[str]:
    """M3: A logs a removal that is never committed, writes a snapshot, and starts from it."""
    c = Bare("ABCD", disabled_rules=off)
    c.elect("A")
    c.put("A", "one", "two", "three")
    c.run(6)
    c.cut("A")
    c["A"].raft.append_membership(list_of("ABC", "D"), lambda _result, _error: None)
    c["A"].compact()
    c.elect("B", among="CD")
    c.put("B", "four")
    c.run(6, among="BCD")
    c.connect("A", "B")
    c.run(8, among="AB")
    c.restart("A")
    voters = "".join(sorted(c["A"].raft.voters))
    return [] if voters == "ABCD" else [f"A counts {voters}; everybody else ABCD"]


def removed_replica(off: Rules) -> list[str]:
    """M4: D is removed while it is away. When it is back it stands for election and deposes the leader."""
    c = Bare("ABCD", disabled_rules=off)
    c.elect("A")
    c.run(6)
    c.cut("D")
    c["A"].raft.append_membership(list_of("ABC", "D"), lambda _result, _error: None)
    c.run(6, among="ABC")
    term = c["A"].raft.term
    for peer in "ABC":
        c.connect("D", peer)
    told = False
    try:
        c.campaign("D")
        c.run(2)
    except RemovedError:
        told = True
    wrong = [] if told else ["D does not know that it is removed"]
    if c["A"].raft.term > term:
        wrong.append("the leader was deposed by a stranger")
    return wrong


def lonely_newcomer(off: Rules) -> list[str]:
    """M5: a replica with an empty list has a majority of itself, and leads."""
    c = Bare("ABCD", disabled_rules=off, founders="ABC")
    c.elect("A", among="BC")
    c.run(6, among="ABC")
    c.cut("D")
    c.campaign("D")
    c.put("D", "mine")
    c.tick("D", 3)
    return [f"D alone acknowledged {word}" for word in c.acked]


async def dead_newcomer(off: Rules) -> list[str]:
    """M6: a replica that never runs is added while another one is away: two of four can commit nothing any more."""
    cluster = MemberCluster(1, replicas=3, disabled_rules=off)
    await cluster.start()
    leader = await cluster.elect()
    cluster.crash(next(name for name in cluster.names if name != leader))
    await cluster.wait(lambda: cluster.leader() == leader)
    task = asyncio.ensure_future(cluster.logs[leader].add_member(MemberInfo("ghost"), 1.0))
    await asyncio.sleep(0.5)
    outcome = await cluster.put(leader, timeout_s=1.0)
    with pytest.raises((ChangeRefusedError, NotReadyError)):
        await task
    acked = dict(cluster.acked)
    await cluster.close()
    return [] if acked else [f"nothing can be committed: {outcome}"]


BARE: dict[Rule, Callable[[Rules], list[str]]] = {
    Rule.LOGGED_MEMBERS: stale_list,
    Rule.SNAPSHOT_MEMBERS: uncommitted_list_in_snapshot,
    Rule.MEMBERS_COUNT: removed_replica,
    Rule.OUTSIDERS_PASSIVE: lonely_newcomer,
}
VIRTUAL: dict[Rule, Callable] = {Rule.ONE_CHANGE: two_changes, Rule.LEARN_FIRST: dead_newcomer}


@pytest.mark.parametrize("rule", BARE)
def test_history_of_messages(rule: Rule) -> None:
    assert BARE[rule](frozenset()) == []
    assert BARE[rule](frozenset({rule})) != []


@pytest.mark.parametrize("rule", VIRTUAL)
def test_history_of_replicas(rule: Rule) -> None:
    assert run_virtual(VIRTUAL[rule](frozenset())) == []
    assert run_virtual(VIRTUAL[rule](frozenset({rule}))) != []


def test_a_list_that_is_cut_off_is_in_force_no_more() -> None:
    c = Bare("ABCD", founders="ABC")
    c.elect("A", among="BC")
    c.run(5, among="ABC")
    c.cut("A")
    c["A"].raft.append_membership(list_of("ABCD"), lambda _result, error: c.outcomes.setdefault("change", error))
    assert c["A"].raft.voters == set("ABCD")
    c.elect("B", among="C")
    c.put("B", "word")
    c.run(5, among="BC")
    c.connect("A", "B")
    c.run(6, among="AB")
    assert c["A"].raft.voters == set("ABC")
    assert c.outcomes.get("change") != LibraryFailure.SUCCESS


def test_a_learner_gets_entries_and_does_not_count() -> None:
    c = Bare("ABCD", founders="ABC")
    c.elect("A", among="BC")
    c.run(5, among="ABC")
    learner = Membership(list_of("ABC").voters, (MemberInfo("D"),))
    c["A"].raft.append_membership(learner, lambda _result, _error: None)
    c.run(6)
    node: Node = c["D"]
    assert node.raft.members.current == learner
    c.cut("A", "B", "C")
    c.put("A", "word")
    c.run(6, among="AD")
    assert c["D"].raft.last_index == c["A"].raft.last_index
    assert c.acked == []
    assert not c["D"].raft.is_voter


def test_a_learner_hears_a_leader_of_an_older_term_than_its_own() -> None:
    """By a list that is never committed E is a voter, and asked for its vote in a term to which nobody else comes."""
    c = Bare("ABCDE", founders="ABCD")
    c.elect("B", among="ACD")
    learner = Membership(list_of("ABCD").voters, (MemberInfo("E"),))
    c["B"].raft.append_membership(learner, lambda _result, _error: None)
    c.run(6)
    c.cut("B", "A", "C", "D")
    c["B"].raft.append_membership(list_of("ABCDE"), lambda _result, _error: None)
    c.elect("A", among="CD")
    c.run(6, among="ACDE")
    c.restart("B")
    c.connect("B", "E")
    for _ in range(3):
        c.campaign("B")
        c.deliver("B", "E")
    c.cut("B")
    assert not c["E"].raft.is_voter
    assert c["E"].raft.term > c["A"].raft.term
    c.put("A", "word")
    c.run(4, among="ACDE")
    assert not c["A"].raft.is_leader, "nobody told it of the newer term"
    c.elect("A", among="CD")
    c.put("A", "another")
    c.run(6, among="ACDE")
    assert c["E"].applied[-2:] == ["word", "another"]


async def empty_list_in_snapshot() -> list[str]:
    """j1 joins and writes a snapshot before it comes to the entry with its first list; a, left behind, gets it."""
    cluster = MemberCluster(5, replicas=3, strangers=True, append_bytes_max=2000)
    await cluster.start()
    await cluster.elect()
    assert await cluster.settle()
    cluster.crash("a", Loss.NONE)
    assert await cluster.wait(lambda: cluster.leader() in {"b", "c"})
    leader = await cluster.elect()
    for _ in range(200):
        await cluster.put(leader)
    joiner = cluster.new_disk()
    await cluster.start(joiner)
    adding = asyncio.ensure_future(cluster.add(joiner, 20.0))
    log = cluster.logs[joiner]
    assert await cluster.wait(lambda: log.status().applied_index > 1, every_s=0.0001)
    log.request_snapshot()
    assert await cluster.wait(lambda: log.status().snapshot_index > 0, every_s=0.0001)
    assert log.status().snapshot_index < 200, "it knows its list already, so this shows nothing"
    assert await adding
    assert await cluster.logs[leader].transfer_leadership(joiner, 5.0)
    assert await cluster.wait(lambda: cluster.leader() == joiner)
    await cluster.start("a")
    assert await cluster.settle_members()
    assert cluster.logs["a"].status().snapshot_index > 0, "a needed no snapshot"
    lists = cluster.links["a"].lists
    await cluster.close()
    return ["a founder counts nobody"] if any(not each.voters for each in lists) else []


def test_a_joining_replica_puts_no_empty_list_into_a_snapshot() -> None:
    assert run_virtual(empty_list_in_snapshot()) == []
