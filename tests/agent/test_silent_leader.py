"""A leader whose machine is silent answers nothing; another replica tells the agent that there is a new one."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

import pytest

from raftflow.agent.exchange import leader_watch
from raftflow.agent.exchange.leader_watch import LeaderWatch, NotHeldError
from raftflow.domain.contract.views import LeaderNotice

TRUE = ["/bin/true"]
SOON_S = 1.5
"""Far less than a held poll is given (6 s)."""


async def led_by(old: Any, other: Any) -> None:
    """The first replica leads in term 1, and the other one follows it."""
    other.no_leader = True
    for replica in (old, other):
        await replica.elect("n1", old.url, 1)


async def take_over(old: Any, new: Any, url: str | None = None) -> None:
    """The other replica is elected while the first one says nothing any more."""
    new.no_leader = False
    new.incarnation, new.live = old.incarnation, old.live
    await new.elect("n2", url or new.url, 2)


@pytest.fixture
async def pair(leader: Any, make_leader: Any) -> tuple[Any, Any]:
    """An old leader and the replica that will replace it."""
    old = await make_leader()
    await led_by(old, leader)
    return old, leader


async def test_a_held_poll_is_given_up_when_another_leads(pair: Any, start_agent: Any) -> None:
    old, new = pair
    start_agent(peers=[old.url, new.url])
    await old.until(lambda: old.in_flight == 1 and old.polls)
    await new.until(lambda: 1 in new.asked_terms)
    await take_over(old, new)
    poll = await new.until(lambda: new.polls and new.polls[0], SOON_S)
    assert poll.wait_ms == 0, "the first answer confirms the lease at once"
    assert (await new.run(command=TRUE)).outcome == "succeeded"
    assert not new.registrations


async def test_a_report_goes_to_the_new_leader(pair: Any, start_agent: Any) -> None:
    """Its answer never comes from the old one, and nothing is lost or done twice."""
    old, new = pair
    start_agent(peers=[old.url, new.url])
    await new.until(lambda: 1 in new.asked_terms)
    old.hold_reports = asyncio.Event()
    (fence,) = await old.assign({"command": TRUE})
    await old.until(lambda: any(end.fence == fence for end in old.reports))
    await take_over(old, new)
    assert (await new.end_of(fence, timeout_s=SOON_S)).outcome == "succeeded"
    assert not old.accepted


async def test_who_tells_of_an_address_that_is_not_known_is_asked_where_that_is(pair: Any, start_agent: Any) -> None:
    old, new = pair
    start_agent(peers=[old.url, new.url])
    await new.until(lambda: 1 in new.asked_terms)
    await take_over(old, new, url="http://10.9.9.9:1")
    await new.until(lambda: new.polls, SOON_S)


async def test_a_registration_at_a_silent_leader_is_repeated_elsewhere(pair: Any, start_agent: Any) -> None:
    old, new = pair
    old.silent = True
    start_agent(peers=[old.url, new.url])
    await new.until(lambda: 1 in new.asked_terms)
    await take_over(old, new)
    await new.until(lambda: new.polls, SOON_S)


async def test_the_leader_itself_is_not_asked(pair: Any, start_agent: Any) -> None:
    """It would say nothing of its own silence."""
    old, new = pair
    new.no_leader = False
    new.redirect_to = old.url
    start_agent(peers=[new.url, old.url])
    await old.until(lambda: old.polls)
    await new.until(lambda: 1 in new.asked_terms)
    assert 1 not in old.asked_terms


class Asked:
    """Replicas that answer the watch as a test says."""

    def __init__(self, *peers: str, leader: str | None = None) -> None:
        self.peers, self.leader = list(peers), leader
        self.asked: list[tuple[str, int]] = []
        self.moves: list[tuple[str, int]] = []
        self.answers: asyncio.Queue[LeaderNotice | Exception] = asyncio.Queue()
        self.watch = LeaderWatch(
            ask=self._ask, peers=lambda: self.peers, leader=lambda: self.leader, moved=self._moved
        )

    async def _ask(self, peer: str, term: int) -> LeaderNotice:
        self.asked.append((peer, term))
        answer = await self.answers.get()
        if isinstance(answer, Exception):
            raise answer
        return answer

    def _moved(self, peer: str, notice: LeaderNotice) -> None:
        self.moves.append((peer, notice.term))


async def until(true: Any) -> None:
    async with asyncio.timeout(5):
        while not true():  # noqa: ASYNC110 - nothing announces it
            await asyncio.sleep(0.001)


async def test_the_watch_asks_others_and_takes_news_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leader_watch, "_PAUSE_MIN_S", 0.002)
    monkeypatch.setattr(leader_watch, "UNKNOWN_S", 0.002)
    world = Asked("a", "b", leader="a")
    running = asyncio.ensure_future(world.watch.run())
    for answer in (
        LeaderNotice(leader="a", url="a", term=4),
        LeaderNotice(leader=None, url=None, term=5),
        LeaderNotice(leader="a", url="a", term=4),
        OSError("no connection"),
        TimeoutError(),
        NotHeldError(),
        LeaderNotice(leader="b", url="b", term=6),
    ):
        world.answers.put_nowait(answer)
    await until(lambda: len(world.asked) == 8)
    assert world.moves == [("b", 4), ("b", 6)]
    assert world.asked == [("b", 0), *[("b", 4)] * 6, ("b", 6)]
    world.peers.append("c")
    world.leader = "b"
    world.watch.leader_known()
    await until(lambda: len(world.asked) == 9)
    assert world.asked[-1][0] in {"a", "c"}, "the one that was asked leads now"
    world.watch.leader_known()
    await asyncio.sleep(0.02)
    assert len(world.asked) == 9
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_the_watch_goes_on_to_the_next_replica_when_one_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leader_watch, "_PAUSE_MIN_S", 0.002)
    world = Asked("a", "b", "c", leader="a")
    running = asyncio.ensure_future(world.watch.run())
    for _ in range(4):
        world.answers.put_nowait(OSError("no connection"))
    await until(lambda: len(world.asked) == 5)
    asked = [peer for peer, _ in world.asked]
    assert all(one != other for one, other in itertools.pairwise(asked))
    assert "a" not in asked
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
