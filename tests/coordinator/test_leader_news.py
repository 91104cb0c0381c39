"""Who leads: told at once, or held until a leader of a later term is known."""

from __future__ import annotations

import asyncio

import pytest

from raftflow.agent.exchange import leader_watch
from raftflow.coordinator.leader import leader_news
from raftflow.coordinator.leader.leader_news import ANSWERS_PER_TURN, BEHIND_S, LeaderNews
from raftflow.domain.contract.views import LeaderNotice


class World:
    """What the replica knows, and the news made of it."""

    def __init__(self, held_max: int = 10_000) -> None:
        self.notice = LeaderNotice(leader="n1", url="http://n1", term=3)
        self.news = LeaderNews(lambda: self.notice, held_max)

    def elect(self, leader: str | None, term: int) -> None:
        self.notice = LeaderNotice(leader=leader, url=None, term=term)
        self.news.changed()

    def hold(self, term: int = 3, wait_s: float = 5.0) -> asyncio.Task[LeaderNotice]:
        return asyncio.ensure_future(self.news.wait(term, wait_s))


async def turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_an_earlier_term_is_answered_at_once() -> None:
    world = World()
    assert (await world.news.wait(2, 5.0)).leader == "n1"
    assert (await world.news.wait(3, 0.0)).term == 3
    assert (world.news.count, world.news.term) == (0, 3)


async def test_it_is_held_until_a_later_term_has_a_leader() -> None:
    world = World()
    asked = [world.hold(), world.hold(9)]
    await turns()
    assert world.news.count == 2
    world.elect(None, 4)
    await turns()
    assert not asked[0].done(), "an election is no news"
    world.elect("n2", 4)
    assert (await asked[0]).leader == "n2"
    await turns()
    assert not asked[1].done(), "who knows a later term than this replica is not told an earlier one"
    world.news.close()
    assert (await asked[1]).term == 4
    assert (await world.news.wait(9, 5.0)).term == 4, "after the close nothing is held"


async def test_a_replica_that_is_behind_the_asker_holds_its_question_for_a_short_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It may have no contact with the cluster: the asker should ask another one."""
    monkeypatch.setattr(leader_news, "BEHIND_S", 0.02)
    world = World()
    world.elect(None, 3)
    ahead, level = world.hold(4, wait_s=60.0), world.hold(3, wait_s=60.0)
    assert (await asyncio.wait_for(ahead, 5.0)).term == 3
    assert not level.done()
    assert BEHIND_S < leader_watch._EARLY_S, "agents ask another replica after such an answer"
    world.elect("n2", 4)
    assert (await level).leader == "n2"


async def test_it_ends_after_its_time_and_when_nobody_waits() -> None:
    world = World()
    assert (await world.news.wait(3, 0.01)).leader == "n1"
    asked = world.hold()
    await turns()
    asked.cancel()
    await turns()
    assert world.news.count == 0


async def test_no_more_are_held_than_there_is_room_for() -> None:
    world = World(held_max=1)
    asked = world.hold()
    await turns()
    assert (await world.news.wait(3, 5.0)).term == 3
    world.elect("n2", 4)
    assert (await asked).term == 4


async def test_thousands_are_told_in_several_turns_and_of_the_last_leader() -> None:
    """Leadership moves again while they are being told; who asks meanwhile is told as well."""
    world = World()
    asked = [world.hold() for _ in range(3 * ANSWERS_PER_TURN)]
    await turns()
    world.elect("n2", 4)
    await turns(2)
    told = sum(one.done() for one in asked)
    assert 0 < told <= 2 * ANSWERS_PER_TURN
    late = world.hold(4)
    await turns(1)
    world.elect("n3", 5)
    async with asyncio.timeout(5):
        found = [await one for one in (*asked, late)]
    assert {notice.term for notice in found} == {4, 5}
    assert found[-1].term == 5
