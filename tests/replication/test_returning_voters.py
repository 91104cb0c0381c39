"""A voter that knows nobody any more: all were replaced while it was away, or while it repaired its log."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from member_cluster import MemberCluster
from virtual_cluster import run_virtual

from raftflow.replication.members.introductions import Introduction, is_welcome
from raftflow.simulation.world.disk import Loss


async def returns_to_strangers(*, strangers: bool, damaged: bool = False, ahead: bool = False) -> list[str]:
    """Of a, b and c, a is away. j1 and j2 take the places of b and c, which are gone when a comes back.

    Returns what went wrong.
    """
    cluster = MemberCluster(1, replicas=3, strangers=strangers)
    await cluster.start()
    watching = asyncio.ensure_future(cluster.watch())
    assert await cluster.wait(lambda: cluster.leader() and len(cluster.links["a"].network.connections) == 3)
    leader = await cluster.elect()
    for _ in range(20):
        await cluster.put(leader)
    assert await cluster.settle()
    cluster.crash("a", Loss.NONE)
    for old in "bc":
        new = cluster.new_disk()
        await cluster.start(new)
        assert await cluster.wait(cluster.leader)
        assert await cluster.add(new, 5.0)
        while not await cluster.remove(old, 5.0):
            assert await cluster.wait(cluster.leader)  # it leads itself and hands over
            await asyncio.sleep(0.1)
        assert await cluster.wait(lambda old=old: old not in cluster.names), f"{old} is not told that it is removed"
    assert cluster.membership().voter_names == {"a", "j1", "j2"}
    for _ in range(5):
        await cluster.put(await cluster.elect())
    if damaged:
        disk = cluster.disks["a"]
        journal = Path("/a/journal")
        disk.flip(journal / min(disk.list_dir(journal)), 200, 4)
    if ahead:
        # It stood for election alone for a while, and is in a later term than those who lead now.
        await cluster.start("a")
        cluster.network.drop = lambda source, target, _frame: "a" in {source, target}
        term = max(log.status().term for log in cluster.logs.values())
        await cluster.stand_alone("a", term + 2)
        cluster.network.drop = lambda _source, _target, _frame: False
    else:
        await cluster.start("a")
    wrong = [] if await cluster.settle_members(10.0) else ["a does not catch up"]
    if not wrong and cluster.logs["a"].repairing:
        wrong.append("a is not whole again")
    if not wrong:
        assert (cluster.damaged_files("a") > 0) is damaged
    wrong += cluster.violations
    watching.cancel()
    await cluster.close()
    return wrong


@pytest.mark.parametrize("damaged", [False, True])
def test_a_voter_that_knows_nobody_is_found_by_the_members(*, damaged: bool) -> None:
    assert run_virtual(returns_to_strangers(strangers=True, damaged=damaged)) == []
    assert run_virtual(returns_to_strangers(strangers=False, damaged=damaged)) == ["a does not catch up"]


def test_a_voter_that_knows_nobody_and_is_in_a_later_term_is_found_by_the_members() -> None:
    assert run_virtual(returns_to_strangers(strangers=True, ahead=True)) == []


@pytest.mark.parametrize(
    ("members", "index", "certain_index", "welcome"),
    [
        (("a", "d", "e"), 7, 6, True),
        (("a", "d", "e"), 7, 7, False),
        (("d", "e"), 7, 0, False),
        (("a", "e"), 7, 0, False),
        (("a", "d", "e"), 0, 0, False),
        ((), 0, 0, False),
    ],
    ids=["newer", "known already", "without this one", "without the stranger", "first start", "old version"],
)
def test_a_stranger_is_welcome_with_a_newer_list_of_both(
    members: tuple[str, ...], index: int, certain_index: int, *, welcome: bool
) -> None:
    told = Introduction(format=1, disk="-", level=1, members=members, members_index=index)
    assert is_welcome("a", "d", told, certain_index) is welcome
