"""The life of attempts: placing, ends, fencing, back-off, deadlines."""

from __future__ import annotations

import pytest

from raftflow.domain.contract.views import AuditTransition
from raftflow.domain.events import AgentChanged, TaskNotReady, TaskReady, TimerSet, WorkflowChanged, WorkflowFinished
from raftflow.domain.limits import AGENTS_LOST_MAX
from raftflow.domain.rejections import RejectionCode
from raftflow.domain.tasks.states import WorkflowState
from raftflow.machine.commands.attempts import LOSSES_MAX
from raftflow.machine.commands.timers import TIMERS_PER_COMMAND_MAX
from raftflow.machine.rules.ledger import DEADLINE_MARGIN_MS


def test_a_chain_runs_to_its_end(drive):
    drive.register()
    drive.submit(drive.chain(2))
    assert (drive.states(), drive.state()) == ("EW", "pending")
    assert drive.place(0, 1) == (1, 0)
    assert drive.events == [TaskNotReady("wf-1", 0), AgentChanged("a1"), WorkflowChanged("wf-1")]
    assert (drive.states(), drive.state(), drive.free()) == ("RW", "running", 0)
    drive.now_ms += 10
    assert drive.finish(1, result=b'{"n":1}') == "accepted"
    assert drive.events == [TaskReady("wf-1", 1), AgentChanged("a1"), WorkflowChanged("wf-1")]
    assert (drive.states(), drive.free()) == ("SE", 1000)
    assert drive.place(1) == (2,)
    assert drive.finish(2) == "accepted"
    assert drive.events == [
        WorkflowFinished("wf-1", WorkflowState.SUCCEEDED),
        AgentChanged("a1"),
        WorkflowChanged("wf-1"),
    ]
    assert drive.records[-1].transitions == (
        AuditTransition("wf-1", "t1", "running", "succeeded", "succeeded", 1, 2, "a1"),
    )


def test_what_does_not_fit_waits_in_the_queue_and_moves_up_in_order(drive):
    drive.register(cpu=2, prefetch=2)
    drive.submit(drive.bag(5))
    assert drive.place(0, 1, 2, 3, 4) == (1, 2, 3, 4, 0)
    assert (drive.states(), drive.queue(), drive.free()) == ("RRQQE", [3, 4], 0)
    drive.finish(2)
    assert drive.transitions() == ["t1 running succeeded succeeded", "t2 queued promoted running"]
    assert (drive.states(), drive.queue(), drive.free()) == ("RSRQE", [4], 0)
    assert drive.place(4) == (5,)
    assert drive.queue() == [4, 5]


def test_nothing_passes_a_head_that_does_not_fit(drive):
    drive.register(cpu=2, prefetch=3)
    drive.submit(drive.bag(2))
    drive.submit(drive.bag(1, resources={"cpu": 2000}), "wf-2")
    drive.place(0)
    assert drive.place(0, workflow_id="wf-2") == (2,)
    assert drive.place(1) == (3,)
    assert drive.queue() == [2, 3]
    drive.finish(1)
    assert (drive.queue(), drive.states("wf-2")) == ([3], "R")


def test_one_end_may_promote_several(drive):
    drive.register(cpu=2, prefetch=3)
    drive.submit(drive.bag(1, resources={"cpu": 2000}))
    drive.submit(drive.bag(3), "wf-2")
    drive.place(0)
    drive.place(0, 1, 2, workflow_id="wf-2")
    drive.finish(1)
    assert drive.states("wf-2") == "RRQ"


def test_a_queued_attempt_may_end_in_the_report_that_makes_room_for_it(drive):
    drive.register(prefetch=2)
    drive.submit(drive.bag(3))
    drive.place(0, 1, 2)
    assert drive.report(drive.end(1), drive.end(2), drive.end(3)) == ["accepted"] * 3
    assert (drive.states(), drive.free(), drive.state()) == ("SSS", 1000, "succeeded")


@pytest.mark.parametrize(("outcome", "states"), [("succeeded", "RS"), ("failed", "RF"), ("abandoned", "RE")])
def test_a_queued_attempt_may_end_by_itself(drive, outcome, states):
    """The replicas' view may be behind the agent's: the end counts whatever state they hold."""
    drive.register(prefetch=2)
    drive.submit(drive.tasks((), (), on_failure="continue"))
    drive.place(0, 1)
    drive.finish(2, outcome)
    assert drive.states() == states
    assert (drive.queue(), drive.free()) == ([], 0)


PLACEMENTS = {
    "an unknown workflow": lambda d: d.place(0, workflow_id="wf-9"),
    "a negative position": lambda d: d.place(-1),
    "a position behind the end": lambda d: d.place(9),
    "an old incarnation": lambda d: d.place(0, incarnation=7),
    "a task that runs already": lambda d: d.place(0, 0)[1:],
    "a paused workflow": lambda d: (d.control("pause"), d.place(0))[1],
    "a cancelled workflow": lambda d: (d.control("cancel"), d.place(0))[1],
    "a draining agent": lambda d: (d.drain_leaving(), d.place(0))[1],
    "a lost agent": lambda d: (d.remove(), d.place(0))[1],
    "labels that do not match": lambda d: d.place(0, workflow_id="labelled"),
    "labels that do not match, queued": lambda d: (d.place(0), d.place(0, workflow_id="labelled"))[1],
    "more than the agent has": lambda d: d.place(0, workflow_id="large"),
    "a resource that the agent has not": lambda d: d.place(0, workflow_id="gpu"),
    "no room in the queue": lambda d: d.place(0, 1, 2)[2:],
}


@pytest.mark.parametrize("case", PLACEMENTS)
def test_a_placement_that_does_not_hold_is_skipped(drive, case):
    drive.register(prefetch=1)
    drive.submit(drive.bag(3))
    drive.submit(drive.bag(1, labels={"zone": "b"}), "labelled")
    drive.submit(drive.bag(1, resources={"cpu": 2000}), "large")
    drive.submit(drive.bag(1, resources={"gpu": 1000}), "gpu")
    assert PLACEMENTS[case](drive) == (0,)


def test_an_unknown_agent_gets_nothing(drive):
    drive.submit()
    assert drive.place(0, agent="nobody", incarnation=1) == (0,)
    drive.register(labels={"zone": "b"})
    drive.submit(drive.bag(1, labels={"zone": "b"}), "labelled")
    assert drive.place(0, workflow_id="labelled") == (1,)


# --- reports


def test_a_repeated_report_is_a_duplicate_and_changes_nothing(drive):
    drive.register()
    drive.submit(drive.chain(2))
    drive.place(0)
    end = drive.end(1, result=b"1")
    assert drive.report(end) == ["accepted"]
    before = drive.facts()
    assert drive.report(end, end) == ["duplicate", "duplicate"]
    assert (drive.facts(), drive.transitions()) == (before, [])


def test_another_outcome_for_an_ended_attempt_is_stale(drive):
    drive.register()
    drive.submit()
    drive.place(0)
    drive.finish(1)
    assert drive.finish(1, "failed") == "stale"
    assert drive.records[-1].detail == "stale: 1"


def test_reports_about_what_is_not_there_are_stale(drive):
    drive.register()
    drive.submit()
    drive.place(0)
    assert drive.report(drive.end(9, workflow_id="wf-9", task_id="t0")) == ["stale"]
    assert drive.report(drive.end(9, task_id="t9")) == ["stale"]
    assert drive.report(drive.end(9, task_id="t0")) == ["stale"]
    assert drive.report(drive.end(1, task_id="t9")) == ["stale"]
    assert drive.report(drive.end(1, workflow_id="wf-9", task_id="t0")) == ["stale"]
    assert drive.states() == "R"


def test_an_agent_cannot_end_the_attempt_of_another(drive):
    drive.register()
    drive.register("a2")
    drive.submit()
    drive.place(0)
    assert drive.report(drive.end(1), agent="a2") == ["stale"]
    drive.finish(1)
    assert drive.report(drive.end(1), agent="a2") == ["stale"]


def test_a_returning_agent_s_report_is_refused_and_recorded(drive):
    """SIGSTOP longer than the lease: the task ran elsewhere, the old report changes nothing."""
    drive.register()
    drive.register("a2")
    drive.submit()
    drive.place(0)
    drive.remove("a1")
    assert drive.place(0, agent="a2") == (2,)
    before = drive.facts()
    reply = drive.report(drive.end(1), incarnation=1)
    assert reply.code is RejectionCode.STALE_INCARNATION
    assert drive.facts() == before
    record = drive.records[-1]
    assert (record.outcome, record.subject, "1" in record.detail) == ("stale_incarnation", "a1", True)
    assert drive.register("a1", "i1").incarnation == 3
    assert drive.report(drive.end(1)) == ["stale"]
    assert drive.finish(2, agent="a2") == "accepted"
    assert drive.report(incarnation=1).code is RejectionCode.STALE_INCARNATION
    assert drive.report(incarnation=1, agent="nobody").code is RejectionCode.STALE_INCARNATION


def test_attempts_that_the_agent_does_not_have_are_lost(drive):
    drive.register(cpu=2)
    drive.submit(drive.bag(2, retries=0))
    drive.place(0, 1)
    assert drive.report(missing=(1, 77)) == []
    assert drive.states() == "ER"
    assert drive.task(0).last.outcome == "lost"
    assert drive.finish(1, "succeeded") == "stale"


@pytest.mark.parametrize("outcome", ["abandoned", "lost", "released"])
def test_what_is_given_back_costs_no_retry(drive, outcome):
    drive.register()
    drive.submit()
    drive.place(0)
    assert drive.finish(1, outcome) == "accepted"
    assert (drive.states(), drive.task(0).failures) == ("E", 0)
    assert drive.place(0) == (2,)
    assert drive.task(0).attempts == 2


def test_a_task_that_is_given_back_for_ever_fails_in_the_end(drive):
    drive.checked = False
    drive.register()
    drive.submit()
    for _ in range(LOSSES_MAX):
        (fence,) = drive.place(0)
        drive.finish(fence, "abandoned")
        assert drive.states() == "E"
    (fence,) = drive.place(0)
    drive.finish(fence, "abandoned", error="lease over")
    assert (drive.states(), drive.state()) == ("F", "failed")
    assert drive.task(0).detail == (
        f"lost {LOSSES_MAX + 1} agents in a row: it may be what stops them; last: lease over"
    )
    assert len(drive.task(0).history) == 15


# --- agents that are lost


@pytest.fixture
def poison(drive):
    """A task, and how it loses the agent where it runs, a new one each time."""
    drive.submit(drive.bag(1, retries=1, retry_delay_ms=0))

    def lose(reason="lost"):
        name = f"victim-{drive.index}"
        drive.register(name, prefetch=2)
        drive.place(0, agent=name)
        if reason == "again":
            drive.register(name, "another")
        else:
            drive.remove(name, reason)

    return lose


def test_a_task_whose_agents_are_lost_is_given_up(drive, poison):
    for _ in range(AGENTS_LOST_MAX - 1):
        poison()
        assert (drive.states(), drive.task(0).failures) == ("E", 0)
    poison()
    assert drive.states() == "F"
    assert drive.task(0).detail == (
        f"its agents were lost {AGENTS_LOST_MAX} times while it ran: it may be what stops them; last: "
        "its agent was silent for longer than its lease"
    )
    drive.control("retry")
    for _ in range(AGENTS_LOST_MAX - 1):
        poison("again")
        assert drive.states() == "E"
    poison("again")
    assert drive.states() == "F"
    assert drive.task(0).detail.endswith("another agent registered under its name")


@pytest.mark.parametrize("reason", ["left", "lost_together"])
def test_goodbyes_and_mass_losses_count_against_no_task(drive, poison, reason):
    for _ in range(LOSSES_MAX + 2):
        poison(reason)
        assert (drive.states(), drive.task(0).mishaps) == ("E", None)


def test_waiting_on_a_lost_agent_counts_against_no_task(drive, poison):
    for number in range(AGENTS_LOST_MAX + 1):
        name = f"a{number}"
        drive.register(name, prefetch=2)
        drive.submit(drive.bag(1), f"busy-{number}")
        drive.place(0, agent=name, workflow_id=f"busy-{number}")
        drive.place(0, agent=name)
        assert drive.states() == "Q"
        drive.remove(name)
        assert (drive.states(), drive.task(0).mishaps) == ("E", None)


def test_a_failure_in_between_forgets_no_lost_agent(drive, poison):
    for _ in range(AGENTS_LOST_MAX - 1):
        poison()
    drive.register()
    (fence,) = drive.place(0)
    drive.finish(fence, "failed")
    drive.fire(1)
    poison()
    assert drive.states() == "F"


def test_who_meets_a_greater_suspect_is_not_blamed(drive, poison):
    """Of what runs on a lost agent that counts which lost most agents before."""
    poison()
    drive.register("a1", cpu=3)
    drive.submit(drive.bag(2), "others")
    drive.place(0, agent="a1")
    drive.place(0, 1, agent="a1", workflow_id="others")
    drive.remove("a1")
    assert drive.task(0).mishaps.agents_lost == 2
    assert [drive.task(position, "others").mishaps for position in (0, 1)] == [None, None]


# --- failures


def test_back_off_doubles_up_to_its_bound(drive):
    drive.register()
    drive.submit(drive.bag(1, retries=4, retry_delay_ms=100, retry_delay_max_ms=300))
    for fence, delay_ms in ((1, 100), (2, 200), (3, 300), (4, 300)):
        assert drive.place(0) == (fence,)
        drive.finish(fence, "failed", exit_code=3)
        assert drive.states() == "D"
        due_ms = drive.now_ms + delay_ms
        assert TimerSet(due_ms) in drive.events
        assert drive.machine.state.next_timer_ms == due_ms
        assert drive.fire(delay_ms - 1) == 0
        assert drive.fire(1) == 1
        assert (drive.states(), drive.machine.state.next_timer_ms) == ("E", None)
    drive.place(0)
    drive.finish(5, "timeout")
    assert (drive.states(), drive.state(), drive.task(0).detail) == ("F", "failed", "timeout")


def test_losses_in_between_do_not_count_as_failures(drive):
    drive.register()
    drive.submit(drive.bag(1, retries=1, retry_delay_ms=0))
    drive.place(0)
    drive.finish(1, "abandoned")
    drive.place(0)
    drive.finish(2, "failed")
    assert drive.states() == "D"
    assert drive.fire() == 1
    drive.place(0)
    drive.finish(3, "failed", error="boom" * 2_000)
    assert drive.states() == "F"
    assert len(drive.task(0).last.error) == 4_096


def test_stop_cancels_the_rest_and_stops_what_runs(drive):
    drive.register(cpu=2, prefetch=1)
    drive.submit(drive.tasks((), (), (), (), (0,)))
    drive.place(0, 1, 2)
    drive.finish(1, "failed", error="boom")
    assert drive.states() == "FRRCC"
    assert drive.orders() == ([2, 3], [])
    assert drive.events[0] == TaskNotReady("wf-1", 3)
    assert drive.state() == "running"
    assert drive.finish(2, "failed") == "accepted"
    assert drive.finish(3, "cancelled") == "accepted"
    assert (drive.states(), drive.state()) == ("FCCCC", "failed")
    assert drive.task(4).detail == "t0 failed"


def test_work_that_was_done_before_the_stop_arrived_counts(drive):
    drive.register(cpu=2)
    drive.submit(drive.tasks((), (), (1,)))
    drive.place(0, 1)
    drive.finish(1, "failed")
    drive.finish(2, "succeeded", result=b"[1]")
    assert (drive.states(), drive.state()) == ("FSC", "failed")


def test_a_second_failure_while_stopping_is_a_cancellation(drive):
    drive.register(cpu=2)
    drive.submit(drive.bag(2, retries=5))
    drive.submit(drive.bag(2), "wf-2")
    drive.place(0, 1, workflow_id="wf-2")
    drive.report(drive.end(1, "failed"), drive.end(2, "timeout"))
    assert drive.states("wf-2") == "FC"


def test_continue_cancels_only_what_needs_the_failed(drive):
    drive.register(cpu=2)
    drive.submit(drive.tasks((), (), (0,), (0, 1), (2, 3), (1,), on_failure="continue"))
    drive.place(0, 1)
    drive.finish(1, "failed")
    assert drive.states() == "FRCCCW"
    assert drive.task(4).detail == "needs t0, which failed"
    drive.finish(2)
    assert drive.states() == "FSCCCE"
    drive.place(5)
    drive.finish(3)
    assert (drive.states(), drive.state()) == ("FSCCCS", "failed")


@pytest.mark.parametrize("result", [b"{", b"x" * 70_000, b"[" * 70 + b"]" * 70])
def test_a_result_that_is_none_fails_the_attempt(drive, result):
    drive.register()
    drive.submit()
    drive.place(0)
    assert drive.finish(1, result=result) == "accepted"
    assert drive.states() == "F"
    assert "result" in drive.task(0).detail
    assert drive.task(0).result == b""


def test_a_cancellation_that_nobody_asked_for_is_a_failure(drive):
    drive.register()
    drive.submit()
    drive.place(0)
    drive.finish(1, "cancelled")
    assert (drive.states(), drive.task(0).detail) == ("F", "the agent cancelled it without having been told to")


# --- deadlines


def test_an_attempt_that_outlives_its_deadline_is_given_up(drive):
    drive.register(prefetch=1)
    drive.submit(drive.bag(2, timeout_ms=1_000, grace_ms=500, retries=1, retry_delay_ms=5, on_failure="continue"))
    drive.place(0, 1)
    due_ms = 1_500 + DEADLINE_MARGIN_MS
    assert drive.machine.state.next_timer_ms == drive.now_ms + due_ms
    assert drive.fire(due_ms - 1) == 0
    assert drive.fire(1) == 1
    assert drive.states() == "DR"
    assert drive.orders() == ([1], [])
    assert drive.task(0).last.outcome == "timeout"
    assert drive.finish(1, "timeout") == "duplicate"
    assert drive.orders() == ([], [])


def test_a_late_success_after_the_deadline_is_stale(drive):
    drive.register(cpu=2)
    drive.submit(drive.bag(2, timeout_ms=1_000, on_failure="continue"))
    drive.place(0, 1)
    assert drive.fire(10_000_000) == 2
    assert drive.orders() == ([1, 2], [])
    assert drive.finish(1) == "stale"
    drive.report(missing=(2,))
    assert drive.orders() == ([], [])


def test_timers_of_what_is_over_never_fire(drive):
    drive.register()
    drive.submit(drive.bag(1, timeout_ms=1_000))
    drive.place(0)
    drive.finish(1)
    assert drive.machine.state.next_timer_ms is None
    drive.submit(drive.bag(1, timeout_ms=1_000), "wf-2")
    drive.place(0, workflow_id="wf-2")
    drive.finish(2)
    drive.retire()
    assert drive.fire(10_000_000) == 0


def test_one_command_fires_a_bounded_number_of_timers(drive):
    drive.checked = False
    count = TIMERS_PER_COMMAND_MAX + 1
    drive.register(cpu=count)
    drive.submit(drive.bag(count, retries=1, on_failure="continue"))
    fences = drive.place(*range(count))
    drive.report(*[drive.end(fence, "failed", task_id=f"t{fence - 1}") for fence in fences])
    assert drive.fire(1_000) == TIMERS_PER_COMMAND_MAX
    assert drive.fire() == 1


def test_the_heap_is_swept_of_deadlines_long_met(drive):
    """A running attempt keeps its earlier deadline at the head; those behind it are met and retired unseen."""
    drive.checked = False
    drive.register()
    drive.register("a2")
    drive.submit(drive.bag(1, timeout_ms=1_000), "wf-head")
    drive.place(0, agent="a2", workflow_id="wf-head")
    drive.now_ms += 1
    for number in range(1_500):
        drive.submit(drive.bag(1, timeout_ms=1_000), f"wf-{number}")
        (fence,) = drive.place(0, workflow_id=f"wf-{number}")
        drive.finish(fence, workflow_id=f"wf-{number}", task_id="t0")
        drive.retire()
    assert len(drive.machine.state.timers) < 1_024
    assert drive.machine.state.next_timer_ms == drive.task(0, "wf-head").last.deadline_ms


def test_a_deadline_long_met_does_not_hide_the_earliest_timer(drive):
    """A restored machine has no such deadlines, and must tell its leader the same."""
    drive.register()
    drive.submit(drive.bag(1, timeout_ms=1_000))
    drive.submit(drive.bag(1, retries=1, retry_delay_ms=100_000, retry_delay_max_ms=100_000), "wf-2")
    drive.place(0)
    drive.finish(1)
    drive.place(0, workflow_id="wf-2")
    drive.finish(2, "failed")
    assert TimerSet(drive.now_ms + 100_000) in drive.events
