"""The exchange as a pure core: an event goes in, and the whole list of instructions is compared."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from raftflow.agent.exchange.backoff import Backoff
from raftflow.agent.exchange.core import ExchangeCore
from raftflow.agent.exchange.instructions import (
    AttemptEnded,
    CancelPolls,
    EndLeaseAfter,
    Event,
    Finish,
    FitnessChanged,
    Gather,
    Gathered,
    GiveUpAsked,
    Instruction,
    KillOverdue,
    LeaseChecked,
    LeaseEnded,
    LeaveAsked,
    LogRead,
    MuteLoad,
    MuteUsage,
    Note,
    PollAnswered,
    PollCancelled,
    PollFailed,
    PollRefused,
    ReadLog,
    RenewLease,
    ReportAgentFault,
    SendPoll,
    StartAttempt,
    StopAll,
    StopAttempt,
    Wake,
    Woken,
)
from raftflow.domain.contract.views import (
    AgentLoad,
    Assignment,
    AttemptUsage,
    LogPiece,
    LogWanted,
    PollRequest,
    PollResponse,
    RegisterResponse,
    ReportedEnd,
    ReportVerdict,
)
from raftflow.domain.tasks.program import CommandLine

MS = 1_000_000
LEASE_MS = 10_000
STOP_MS = 9_500
"""When attempts are told to end, after the last renewal."""


def attempt(fence: int, cpu: int = 1000, **more: Any) -> Assignment:
    return Assignment(
        fence=fence,
        workflow_id="wf",
        workflow_name="w",
        task_id=f"t{fence}",
        attempt=1,
        resources={"cpu": cpu},
        program=CommandLine(("true",)),
        **more,
    )


def end(fence: int, outcome: Any = "succeeded", error: str = "") -> ReportedEnd:
    return ReportedEnd(fence=fence, workflow_id="wf", task_id=f"t{fence}", outcome=outcome, error=error)


def log_piece(request: str = "r", data: bytes = b"text") -> LogPiece:
    return LogPiece(request=request, data=data, size=len(data), truncated=False, complete=True)


class Driver:
    """A core, what time it is, and short ways to tell it something. `polls` are those in flight, the oldest first."""

    def __init__(self, capacity: int = 2000, **options: Any) -> None:
        self.now_ms = 0
        self.core = ExchangeCore(
            RegisterResponse(id="a1", incarnation=7, lease_ms=LEASE_MS, poll_wait_ms=3_000, result_bytes_max=1),
            {"cpu": capacity},
            sent_at_ns=0,
            attempts_max=10,
            poll_timeout_s=5.0,
            usage_every_s=2.0,
            backoff=Backoff(jitter=lambda _low, high: high),
            **options,
        )
        self.polls: list[PollRequest] = []

    def tell(self, event: Event, after_ms: int = 0) -> list[Instruction]:
        self.now_ms += after_ms
        return self.note(self.core.handle(event, self.now_ms * MS))

    def note(self, instructions: list[Instruction]) -> list[Instruction]:
        self.polls += [each.request for each in instructions if isinstance(each, SendPoll)]
        return instructions

    def wake(self, after_ms: int = 0) -> PollRequest:
        """Let the turn of the event loop end. Returns the poll that is sent then, and nothing else may be done."""
        (sent,) = self.tell(Woken(), after_ms)
        assert isinstance(sent, SendPoll), sent
        return sent.request

    def begin(self) -> PollRequest:
        assert self.note(self.core.begin()) == [RenewLease(LEASE_MS * MS), Wake()]
        return self.wake()

    def answer(self, request: PollRequest, sent_at_ms: int = 0, **response: Any) -> list[Instruction]:
        self.polls.remove(request)
        return self.tell(PollAnswered(request, PollResponse(lease_ms=LEASE_MS, **response), sent_at_ms * MS))

    def accept(self, request: PollRequest, **response: Any) -> list[Instruction]:
        verdicts = [ReportVerdict(fence=each.fence, verdict="accepted") for each in request.ends]
        return self.answer(request, verdicts=verdicts, **response)

    def refuse(self, request: PollRequest, *, about_content: bool = True) -> list[Instruction]:
        self.polls.remove(request)
        return self.tell(PollRefused(request, "because", about_content))


RENEWED = RenewLease(LEASE_MS * MS)


@pytest.fixture
def driver() -> Driver:
    return Driver()


def serving(driver: Driver, *attempts: Assignment) -> PollRequest:
    """Give a core attempts in the answer to its first poll. Returns the next poll, which is held."""
    driver.answer(driver.begin(), assign=list(attempts))
    return driver.wake()


# --- polls and attempts


def test_the_first_poll_is_empty_and_may_be_held(driver: Driver) -> None:
    assert driver.note(driver.core.begin()) == [RENEWED, Wake()]
    (sent,) = driver.tell(Woken())
    assert isinstance(sent, SendPoll)
    assert (sent.timeout_s, sent.measured) == (LEASE_MS / 3_000 + 3.0, True)
    assert sent.request == PollRequest(
        incarnation=7, seq=1, seen=0, running=[], queued=[], ends=[], logs=[], usage=[], wait_ms=3_000, fetches=True
    )


def test_attempts_start_in_order_as_far_as_they_fit(driver: Driver) -> None:
    attempts = [attempt(1), attempt(2, 2000), attempt(3)]
    assert driver.answer(driver.begin(), assign=attempts) == [RENEWED, StartAttempt(attempts[0]), Wake()]
    poll = driver.wake()
    assert (poll.seen, poll.running, poll.queued, poll.wait_ms) == (3, [1], [2, 3], 2_000)
    assert driver.tell(AttemptEnded(end(1))) == [StartAttempt(attempts[1]), Wake()]
    assert driver.tell(AttemptEnded(end(2))) == [StartAttempt(attempts[2])]
    poll = driver.wake()
    assert ([each.fence for each in poll.ends], poll.running, poll.queued) == ([1, 2], [3], [])


def test_what_can_never_fit_fails_and_the_next_one_starts(driver: Driver) -> None:
    large, small = attempt(1, 9000), attempt(2)
    assert driver.answer(driver.begin(), assign=[large, small]) == [
        RENEWED,
        Note(logging.ERROR, "attempt 1 demands {'cpu': 9000}: more than this agent has"),
        StartAttempt(small),
        Wake(),
    ]
    (failed,) = driver.wake().ends
    assert (failed.fence, failed.outcome, failed.error) == (1, "failed", "the agent has only {'cpu': 2000}")


def test_an_attempt_alone_starts_when_nothing_runs(driver: Driver) -> None:
    alone = attempt(2, exclusive=True)
    serving(driver, attempt(1, 500), alone, attempt(3, 500))
    assert driver.tell(AttemptEnded(end(1))) == [StartAttempt(alone), Wake()]


def test_no_more_attempts_run_than_the_agent_has_places_for() -> None:
    driver = Driver(capacity=100_000)
    attempts = [attempt(fence) for fence in range(1, 13)]
    started = driver.answer(driver.begin(), assign=attempts)
    assert started == [RENEWED, *map(StartAttempt, attempts[:10]), Wake()]


def test_an_end_is_sent_until_it_has_a_verdict(driver: Driver) -> None:
    held = serving(driver, attempt(1))
    driver.tell(AttemptEnded(end(1)))
    report = driver.wake()
    assert [each.fence for each in report.ends] == [1]
    assert driver.answer(report) == [RENEWED, Wake()]
    assert driver.tell(Woken()) == [Wake(0.05)], "the leader did not get to it: it is left a moment"
    again = driver.wake(after_ms=50)
    assert [each.fence for each in again.ends] == [1]
    assert driver.accept(again) == [RENEWED, Wake()]
    assert driver.tell(Woken()) == [], "the held poll is in flight, and nothing is left to say"
    assert driver.polls == [held]


def test_news_travel_one_poll_at_a_time_beside_a_held_one(driver: Driver) -> None:
    serving(driver, attempt(1), attempt(2))
    driver.tell(AttemptEnded(end(1)))
    report = driver.wake()
    assert driver.tell(AttemptEnded(end(2))) == [Wake()]
    assert driver.tell(Woken()) == []
    assert driver.accept(report) == [RENEWED, Wake()]
    assert [each.fence for each in driver.wake().ends] == [2]


def test_cancelled_attempts_are_stopped_and_queued_ones_given_back(driver: Driver) -> None:
    held = serving(driver, attempt(1, 2000), attempt(2), attempt(3), attempt(4))
    assert driver.answer(held, stop=[1, 3], release=[2]) == [RENEWED, StopAttempt(1), StopAttempt(3), Wake()]
    poll = driver.wake()
    assert [(each.fence, each.outcome) for each in poll.ends] == [(2, "released"), (3, "released")]
    assert (poll.running, poll.queued) == ([1], [4])


def test_a_wanted_log_is_read_and_goes_with_the_next_poll(driver: Driver) -> None:
    wanted = LogWanted(request="r", fence=1, stream="stdout", offset=0, bytes_max=9)
    assert driver.answer(driver.begin(), logs=[wanted]) == [RENEWED, ReadLog(wanted), Wake()]
    assert driver.tell(LogRead(log_piece())) == []
    poll = driver.wake()
    assert (poll.logs, poll.wait_ms) == ([log_piece()], 0)


# --- gathering


def gathering(driver: Driver) -> None:
    """Let a core report an end while forty attempts wait, and end another one 5 ms later."""
    serving(driver, *[attempt(fence, 2000) for fence in range(1, 43)])
    driver.tell(AttemptEnded(end(1)))
    report = driver.wake(after_ms=1_000)
    driver.accept(report)
    driver.tell(Woken())
    driver.tell(AttemptEnded(end(2)), after_ms=5)


def test_successes_are_gathered_while_enough_waits(driver: Driver) -> None:
    gathering(driver)
    assert driver.tell(Woken()) == [Gather(pytest.approx(0.015))]
    assert driver.tell(AttemptEnded(end(3)))[1:] == [Wake()]
    assert driver.tell(Woken()) == [], "one timer is enough"
    assert driver.tell(Gathered(), after_ms=15) == [Wake()]
    assert [each.fence for each in driver.wake().ends] == [2, 3]


def test_ends_go_at_once_when_they_are_a_quarter_of_what_waits(driver: Driver) -> None:
    gathering(driver)
    for fence in range(3, 10):
        driver.tell(AttemptEnded(end(fence)))
    assert len(driver.wake().ends) == 8


@pytest.mark.parametrize(
    "event",
    [
        AttemptEnded(end(3, "failed")),
        LogRead(log_piece()),
        LeaveAsked(),
        FitnessChanged("the disk is full"),
    ],
)
def test_what_is_urgent_takes_the_gathered_ends_along(driver: Driver, event: Event) -> None:
    gathering(driver)
    driver.tell(event)
    assert driver.wake().ends[0].fence == 2


# --- failures


def test_after_a_failure_all_polls_are_given_up_and_waits_double(driver: Driver) -> None:
    held = serving(driver, attempt(1))
    driver.tell(AttemptEnded(end(1)))
    report = driver.wake()
    driver.polls.remove(report)
    assert driver.tell(PollFailed(report, "no leader")) == [
        Note(logging.WARNING, "no leader"),
        CancelPolls(),
        Wake(),
    ]
    assert driver.tell(PollCancelled(held)) == []
    assert driver.tell(Woken()) == [Wake(0.05)]
    again = driver.wake(after_ms=50)
    assert ([each.fence for each in again.ends], again.wait_ms) == ([1], 0)
    assert driver.tell(PollFailed(again, "no leader")) == [Note(logging.DEBUG, "no leader"), Wake()]
    assert driver.tell(Woken()) == [Wake(0.1)]
    third = driver.wake(after_ms=100)
    assert driver.tell(PollFailed(third, "too busy", 2.0)) == [Note(logging.DEBUG, "too busy"), Wake()]
    assert driver.tell(Woken()) == [Wake(2.0)], "the leader asked for that"
    fourth = driver.wake(after_ms=2_000)
    assert driver.accept(fourth) == [Note(logging.INFO, "the leader answers again"), RENEWED, Wake()]


def test_a_log_of_a_poll_that_failed_is_sent_again(driver: Driver) -> None:
    held = driver.begin()
    driver.tell(LogRead(log_piece()))
    poll = driver.wake()
    driver.tell(PollFailed(poll, "no leader"))
    driver.tell(PollCancelled(held))
    driver.tell(Woken())
    assert driver.wake(after_ms=50).logs == [log_piece()]


def test_an_agent_that_gives_up_is_over_at_once(driver: Driver) -> None:
    driver.begin()
    assert driver.tell(GiveUpAsked()) == [Finish("given up")]
    assert driver.tell(GiveUpAsked()) == []


# --- refusals


def test_a_refused_poll_goes_in_parts_and_the_end_at_fault_fails(driver: Driver) -> None:
    driver = Driver(capacity=9000)
    held = serving(driver, attempt(1), attempt(2))
    driver.tell(AttemptEnded(end(1)))
    driver.tell(AttemptEnded(end(2)))
    report = driver.wake()
    assert driver.refuse(report) == [
        Note(logging.INFO, "the coordinator refuses a poll with 2 items; they go in parts: because"),
        Wake(),
    ]
    bare = driver.wake()
    assert (bare.ends, bare.running) == ([], [1, 2]), "what a poll does not tell of is still running"
    driver.answer(bare)
    first = driver.wake()
    assert [each.fence for each in first.ends] == [1]
    assert driver.refuse(first) == [
        Note(logging.WARNING, "the coordinator refuses the end of attempt 1 of task t1: because"),
        Wake(),
    ]
    second = driver.wake()
    assert [each.fence for each in second.ends] == [2]
    driver.accept(second)
    instead = driver.wake()
    (failed,) = instead.ends
    assert (failed.fence, failed.outcome) == (1, "failed")
    assert failed.error == "the coordinator refuses the result: because"
    driver.accept(instead)
    assert driver.polls == [held]


@pytest.mark.parametrize(
    ("items", "mute", "what"),
    [
        ({"load": AgentLoad()}, MuteLoad(), "the load of this machine"),
        ({"usage": [AttemptUsage(fence=1)]}, MuteUsage(1), "the usage of attempt 1"),
    ],
)
def test_measures_that_are_refused_are_muted(driver: Driver, items: dict[str, Any], mute: Any, what: str) -> None:
    poll = driver.begin()
    for name, item in items.items():
        setattr(poll, name, item)  # as the shell does
    driver.refuse(poll)
    instructions = driver.answer(driver.wake())
    assert instructions == [
        Note(logging.WARNING, f"the coordinator refuses {what}, which is not reported again: because"),
        mute,
        RENEWED,
        Wake(),
    ]


def test_nothing_is_blamed_while_empty_polls_are_refused(driver: Driver) -> None:
    poll = driver.begin()
    assert driver.refuse(poll) == [
        Note(
            logging.WARNING,
            "the coordinator refuses a poll without items; this agent cannot repair that: because",
        ),
        Wake(),
    ]
    assert driver.tell(Woken()) == [Wake(2.0)]


def test_a_refusal_that_is_not_about_the_content_is_a_failure(driver: Driver) -> None:
    serving(driver, attempt(1))
    driver.tell(AttemptEnded(end(1)))
    assert driver.refuse(driver.wake(), about_content=False) == [
        Note(logging.WARNING, "the coordinator refuses the poll: because"),
        CancelPolls(),
        Wake(),
    ]


# --- the lease


def test_the_lease_is_checked_before_what_came_in(driver: Driver) -> None:
    """A process that stood still finds an answer: first it ends its attempts, and then it takes new ones."""
    held = serving(driver, attempt(1))
    driver.now_ms = STOP_MS
    assert driver.answer(held, sent_at_ms=0, assign=[attempt(2)]) == [
        Note(logging.WARNING, "no leader for the lease time: stopping 1 attempts"),
        StopAll("no leader confirmed the agent's lease in time", 0.5),
        EndLeaseAfter(0.5),
        Wake(),
    ]
    assert driver.core.lapsed
    assert driver.tell(LeaseEnded(), after_ms=500) == [KillOverdue()]
    driver.tell(AttemptEnded(end(1, "abandoned")))
    assert driver.tell(LeaseEnded()) == [], "nothing runs any more"
    assert driver.answer(driver.wake(), sent_at_ms=driver.now_ms) == [
        RenewLease((driver.now_ms + LEASE_MS) * MS),
        StartAttempt(attempt(2)),
        Wake(),
    ]


def test_a_lease_that_ends_while_nothing_runs_stops_nothing(driver: Driver) -> None:
    driver.begin()
    assert not driver.core.is_lease_over((STOP_MS - 1) * MS)
    assert driver.core.is_lease_over(STOP_MS * MS)
    assert driver.tell(LeaseChecked(), after_ms=STOP_MS) == []
    assert not driver.core.is_lease_over(STOP_MS * MS), "it has been told so"


# --- fitness, and leaving


def test_an_unfit_agent_gives_its_queue_back_and_says_why(driver: Driver) -> None:
    serving(driver, attempt(1, 2000), attempt(2, 2000))
    assert driver.tell(AttemptEnded(end(1, "agent_fault", "no disk"))) == [ReportAgentFault("no disk"), Wake()]
    assert driver.tell(FitnessChanged("no disk")) == []
    poll = driver.wake()
    assert [(each.fence, each.outcome) for each in poll.ends] == [(1, "agent_fault"), (2, "released")]
    assert poll.trouble == "no disk"
    assert driver.accept(poll, assign=[attempt(3)]) == [RENEWED, Wake()]
    assert [(each.fence, each.outcome) for each in driver.wake().ends] == [(3, "released")]
    assert driver.tell(FitnessChanged("")) == [Wake()]


def test_an_agent_that_registers_unfit_says_so_at_once() -> None:
    poll = Driver(trouble="no disk").begin()
    assert (poll.trouble, poll.wait_ms) == ("no disk", 0)


def test_an_agent_that_leaves_says_goodbye_when_it_is_empty(driver: Driver) -> None:
    held = serving(driver, attempt(1, 2000), attempt(2))
    assert driver.tell(LeaveAsked()) == [Wake()]
    poll = driver.wake()
    assert [(each.fence, each.outcome) for each in poll.ends] == [(2, "released")]
    assert (poll.leaving, poll.goodbye, poll.wait_ms) == (True, False, 0)
    driver.accept(poll, assign=[attempt(3)])
    driver.accept(driver.wake())
    driver.answer(held)
    driver.tell(AttemptEnded(end(1)))
    report = driver.wake()
    assert ([each.fence for each in report.ends], report.goodbye) == ([1], False)
    driver.accept(report)
    goodbye = driver.wake()
    assert (goodbye.goodbye, goodbye.running, goodbye.queued) == (True, [], [])
    assert driver.answer(goodbye) == [RENEWED, Finish("goodbye")]
