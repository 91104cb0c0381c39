"""An agent that was declared lost says how each of its attempts ended, whatever it hears of first."""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
from pathlib import Path
from typing import Any

import pytest

from raftflow.agent.exchange.instructions import (
    AttemptEnded,
    CancelPolls,
    EndLeaseAfter,
    Finish,
    GiveUpAsked,
    KillOverdue,
    LeaseChecked,
    LeaseEnded,
    LeaveAsked,
    Note,
    PollAnswered,
    PollCancelled,
    PollFailed,
    PollRefused,
    PollStale,
    StopAll,
    Wake,
    Woken,
)
from raftflow.domain.contract.views import PollRequest, PollResponse, ReportVerdict
from tests.agent.test_exchange_core import LEASE_MS, MS, STOP_MS, Driver, attempt, end, serving

STOP = StopAll("the agent was declared lost", 0.5)


def stale_note(counts: str) -> list[Note]:
    return [
        Note(logging.WARNING, "incarnation 7 is stale: lost"),
        Note(logging.WARNING, f"all its attempts end: {counts}"),
    ]


@pytest.fixture
def driver() -> Driver:
    return Driver()


def ends_of(poll: PollRequest) -> list[tuple[int, str]]:
    return [(each.fence, each.outcome) for each in poll.ends]


def stale(driver: Driver, poll: PollRequest) -> list[Any]:
    driver.polls.remove(poll)
    return driver.tell(PollStale(poll, "lost"))


def test_a_stale_incarnation_is_over_when_nothing_runs_and_every_end_is_on_record(driver: Driver) -> None:
    held = serving(driver, attempt(1), attempt(2), attempt(3))
    driver.tell(AttemptEnded(end(1)))
    report = driver.wake()
    assert stale(driver, report) == [*stale_note("2 run, 0 wait, 0 have ended"), STOP]
    assert driver.tell(AttemptEnded(end(2))) == [], "the third one still runs"
    assert driver.tell(AttemptEnded(end(3, "abandoned"))) == [Wake()]
    last = driver.wake()
    assert (ends_of(last), last.running, last.queued) == ([(2, "succeeded"), (3, "abandoned")], [], [])
    assert stale(driver, last) == [Finish("stale")]
    assert driver.polls == [held], "nobody waits for its answer"
    assert [each.fence for each in driver.core.table.unheard()] == [1, 2]


def test_a_stale_incarnation_without_attempts_is_over_at_once(driver: Driver) -> None:
    assert stale(driver, driver.begin()) == [*stale_note("0 run, 0 wait, 0 have ended"), Finish("stale")]


def test_attempts_that_wait_are_given_back(driver: Driver) -> None:
    held = serving(driver, attempt(1, 2000), attempt(2), attempt(3))
    assert stale(driver, held) == [*stale_note("1 run, 2 wait, 0 have ended"), STOP]
    driver.tell(AttemptEnded(end(1, "abandoned")))
    assert ends_of(driver.wake()) == [(2, "released"), (3, "released"), (1, "abandoned")]


def test_attempts_that_came_after_the_lease_are_given_back(driver: Driver) -> None:
    """The process stood still before it read the answer with the attempts in it."""
    first = driver.begin()
    driver.now_ms = STOP_MS
    assert driver.answer(first, assign=[attempt(1), attempt(2)])[-1:] == [Wake()]
    assert stale(driver, driver.wake()) == [*stale_note("0 run, 2 wait, 0 have ended"), Wake()]
    last = driver.wake()
    assert ends_of(last) == [(1, "released"), (2, "released")]
    assert stale(driver, last) == [Finish("stale")]


def test_attempts_in_an_answer_that_comes_after_a_stale_one_are_given_back(driver: Driver) -> None:
    held = serving(driver, attempt(1))
    driver.tell(AttemptEnded(end(1)))
    report = driver.wake()
    assert driver.answer(held, assign=[attempt(2, 2000), attempt(3)])[-1:] == [Wake()]
    assert stale(driver, report)[-1:] == [STOP]
    driver.tell(AttemptEnded(end(2, "abandoned")))
    last = driver.wake()
    driver.polls.remove(last)
    late = PollResponse(lease_ms=LEASE_MS, assign=[attempt(4)], verdicts=[ReportVerdict(fence=3, verdict="accepted")])
    assert driver.tell(PollAnswered(last, late, driver.now_ms * MS)) == [Wake()]
    assert ends_of(driver.wake()) == [(2, "abandoned"), (4, "released")]


def test_the_last_ends_are_sent_until_an_answer_comes(driver: Driver) -> None:
    held = serving(driver, attempt(1))
    stale(driver, held)
    driver.tell(AttemptEnded(end(1, "abandoned")))
    for wait_s in (0.05, 0.1, 0.2, 0.4, 0.5, 0.5):
        last = driver.wake()
        driver.polls.remove(last)
        assert driver.tell(PollFailed(last, "no leader"))[-1:] == [Wake()]
        assert driver.tell(Woken()) == [Wake(wait_s)]
        driver.now_ms += int(wait_s * 1000)
    last = driver.wake()
    driver.polls.remove(last)
    assert driver.tell(PollCancelled(last)) == [Wake()], "a new leader was found meanwhile"
    last = driver.wake()
    assert ends_of(last) == [(1, "abandoned")]
    assert stale(driver, last) == [Finish("stale")]


def test_a_report_that_is_under_way_is_not_sent_twice(driver: Driver) -> None:
    held = serving(driver, attempt(1))
    driver.tell(AttemptEnded(end(1)))
    report = driver.wake()
    assert stale(driver, held) == [*stale_note("0 run, 0 wait, 1 have ended"), Wake()]
    assert driver.tell(Woken()) == [], "its answer is waited for"
    assert stale(driver, report) == [Finish("stale")]


def test_no_lease_is_kept_and_nothing_is_gathered_at_the_end(driver: Driver) -> None:
    held = serving(driver, *[attempt(fence, 2000) for fence in range(1, 43)])
    driver.tell(AttemptEnded(end(1)))
    driver.accept(driver.wake(after_ms=1_000))
    stale(driver, held)
    driver.tell(AttemptEnded(end(2)))
    (sent,) = driver.tell(Woken())
    assert sent.timeout_s == 5.0
    assert len(sent.request.ends) == 41


def test_many_last_ends_go_in_several_polls() -> None:
    driver = Driver()
    held = serving(driver, *[attempt(fence) for fence in range(1, 1_503)])
    stale(driver, held)
    for fence in (1, 2):
        driver.tell(AttemptEnded(end(fence, "abandoned")))
    first = driver.wake()
    assert (len(first.ends), len(first.running)) == (1_000, 502)
    assert stale(driver, first) == [Wake()]
    second = driver.wake()
    assert len(second.ends) == 502
    assert stale(driver, second) == [Finish("stale")]


@pytest.mark.parametrize("about_content", [True, False])
def test_last_ends_that_are_refused_are_offered_only(driver: Driver, about_content: bool) -> None:  # noqa: FBT001
    """Registration says whether the agent is refused, and divides what it offers."""
    held = serving(driver, attempt(1))
    stale(driver, held)
    driver.tell(AttemptEnded(end(1)))
    last = driver.wake()
    assert driver.tell(PollRefused(last, "because", about_content)) == [
        Note(logging.WARNING, "1 ends of a stale incarnation are not recorded: because"),
        Finish("stale"),
    ]
    assert [each.fence for each in driver.core.table.unheard()] == [1]


def test_a_search_for_a_refused_item_ends_with_the_incarnation(driver: Driver) -> None:
    held = serving(driver, attempt(1), attempt(2))
    driver.tell(AttemptEnded(end(1)))
    driver.tell(AttemptEnded(end(2)))
    driver.refuse(driver.wake())
    bare = driver.wake()
    assert bare.ends == []
    assert stale(driver, bare)[-1:] == [Wake()]
    assert ends_of(driver.wake()) == [(1, "succeeded"), (2, "succeeded")]
    assert held in driver.polls


def test_the_lease_of_a_stale_incarnation_is_kept(driver: Driver) -> None:
    """A launcher that stands still must not keep attempts alive that another agent runs."""
    held = serving(driver, attempt(1))
    stale(driver, held)
    assert driver.tell(LeaseChecked(), after_ms=STOP_MS) == [
        Note(logging.WARNING, "no leader for the lease time: stopping 1 attempts"),
        StopAll("no leader confirmed the agent's lease in time", 0.5),
        EndLeaseAfter(0.5),
    ]
    assert driver.tell(LeaseEnded(), after_ms=500) == [KillOverdue()]
    assert driver.tell(AttemptEnded(end(1, "abandoned"))) == [Wake()]


def test_an_agent_that_leaves_meanwhile_gives_up_in_time(driver: Driver) -> None:
    held = serving(driver, attempt(1))
    stale(driver, held)
    assert driver.tell(LeaveAsked()) == [Wake()]
    assert driver.tell(Woken()) == [], "no goodbye"
    driver.tell(AttemptEnded(end(1, "abandoned")))
    last = driver.wake()
    assert (last.goodbye, ends_of(last)) == (False, [(1, "abandoned")])
    driver.polls.remove(last)
    driver.tell(PollFailed(last, "no leader"))
    assert driver.tell(GiveUpAsked()) == [Finish("given up")]


class Scene:
    """A core with two attempts that run, and a held poll. `said` are fences whose ends came to a coordinator."""

    def __init__(self) -> None:
        self.driver = driver = Driver()
        self.held = serving(driver, attempt(1), attempt(2))
        self.report: PollRequest | None = None
        self.said: list[int] = []
        self.failures = 1
        """So many polls with ends fail after the events."""

    def tell(self, word: str) -> None:
        """Let something happen, if it still can."""
        driver = self.driver
        if word == "lease":
            driver.tell(LeaseChecked(), after_ms=STOP_MS)
        elif word == "1 succeeded":
            driver.tell(AttemptEnded(end(1)))
            if not driver.core.over:
                driver.tell(Woken())
                self.report = next((poll for poll in driver.polls if poll.ends), None)
        elif word == "2 abandoned":
            driver.tell(AttemptEnded(end(2, "abandoned")))
        elif word == "held: new attempt":
            if self.held in driver.polls:
                driver.answer(self.held, assign=[attempt(3, 2000)])
        else:
            poll = self.held if word == "held: stale" else self.report
            if poll in driver.polls:
                self.answer_stale(poll)

    def answer_stale(self, poll: PollRequest) -> None:
        self.said += [each.fence for each in poll.ends]
        stale(self.driver, poll)

    def finish(self) -> None:
        """Let attempts end, and answer polls, until the incarnation is over."""
        driver = self.driver
        for _ in range(10):
            if driver.core.over:
                return
            for fence in list(driver.core.table.running):
                driver.tell(AttemptEnded(end(fence, "abandoned")))
            driver.tell(Woken(), after_ms=1_000)
            for poll in list(driver.polls):
                if self.failures and poll.ends:
                    self.failures -= 1
                    driver.polls.remove(poll)
                    if CancelPolls() in driver.tell(PollFailed(poll, "no leader")):
                        for other in driver.polls:
                            driver.tell(PollCancelled(other))
                        driver.polls.clear()
                elif poll in driver.polls and not driver.core.over:
                    self.answer_stale(poll)


HEARD = ("held: stale", "held: new attempt", "report: stale", "1 succeeded", "2 abandoned", "lease")


@pytest.mark.parametrize("first", HEARD)
def test_every_end_is_said_once_in_every_order(first: str) -> None:
    """What an agent that stood still finds when it wakes up: answers, ends and the time, in each order."""
    for rest in itertools.permutations([word for word in HEARD if word != first]):
        scene = Scene()
        for word in (first, *rest):
            scene.tell(word)
        scene.finish()
        core = scene.driver.core
        assert core.over, rest
        assert sorted(scene.said) == list(range(1, core.table.seen + 1)), rest
        assert [each.fence for each in core.table.unheard()] == [1], rest


# --- a whole agent


async def test_ends_of_a_lost_incarnation_are_reported_until_the_leader_answers(
    leader: Any, start_agent: Any, tmp_path: Path
) -> None:
    leader.poll_wait_ms = 300
    start_agent(resources={"cpu": 1})
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    (fence, queued) = await leader.assign(
        {"command": ["sh", "-c", f"echo > {fifo}; exec sleep 300"]}, {"command": ["/bin/true"]}
    )
    await asyncio.to_thread(fifo.read_text)
    leader.deaf_polls = 3
    leader.lose_agent()
    await leader.notify()
    await leader.until(lambda: len(leader.registrations) == 2)
    last = [poll for poll in leader.polls if poll.incarnation == 1 and poll.ends]
    assert [ends_of(poll) for poll in last] == [[(queued, "released"), (fence, "abandoned")]] * 4
    assert leader.registrations[1].offers == []
    assert (await leader.run(command=["/bin/true"])).outcome == "succeeded"
