"""Backup attempts: a second try on another agent; the first to succeed wins, and failures count as they should."""

from __future__ import annotations

import pytest

from raftflow.domain.events import AgentChanged, TaskReady, WorkflowChanged, WorkflowFinished
from raftflow.domain.limits import AGENTS_LOST_MAX, ATTEMPT_HISTORY_MAX
from raftflow.domain.tasks.states import TaskState, WorkflowState
from raftflow.machine.machine import Machine
from raftflow.machine.read import queries
from raftflow.machine.rules.ledger import DEADLINE_MARGIN_MS
from raftflow.machine.tables.tasks import Attempt, attempt_of
from raftflow.machine.tables.timers import is_current


@pytest.fixture
def pair(drive):
    """Two agents of two CPUs; t0 runs on a1 (fence 1), t1 needs it."""
    drive.register(cpu=2, prefetch=1)
    drive.register("a2", cpu=2, prefetch=1)
    drive.submit(drive.chain(2, retries=1, timeout_ms=1_000, backup=True))
    drive.place(0)
    return drive


def _outcomes(drive, position=0):
    view = queries.task_view(drive.machine, "wf-1", f"t{position}")
    return [(attempt.attempt, attempt.agent, attempt.outcome) for attempt in view.history]


def test_a_backup_starts_at_once_and_takes_its_share(pair):
    pair.now_ms += 5
    assert pair.back_up(0) == (2,)
    assert pair.events == [AgentChanged("a2"), WorkflowChanged("wf-1")]
    assert pair.transitions() == ["t0 running backup_started running"]
    assert (pair.records[-1].command, pair.records[-1].transitions[0].fence) == ("backups.commit", 2)
    assert (pair.free("a1"), pair.free("a2")) == (1000, 1000)
    assert [(a.fence, a.attempt, a.task_id) for a in queries.assignments(pair.machine, "a2", 0)] == [(2, 2, "t0")]
    assert [(a.fence, a.attempt) for a in queries.assignments(pair.machine, "a1", 0)] == [(1, 1)]
    backup = pair.task(0).backup
    assert (backup.number, backup.started_ms, backup.index) == (2, pair.now_ms, pair.index)
    view = queries.task_view(pair.machine, "wf-1", "t0")
    assert (view.attempt, view.agent, [line.index for line in view.history]) == (1, "a1", [4, 5])
    assert queries.attempt_location(pair.machine, "wf-1", "t0", None) == ("a1", 1, 1)
    assert queries.attempt_location(pair.machine, "wf-1", "t0", 2) == ("a2", 2, 2)
    assert "; backup attempt 2 runs on a2 since" in queries.explain(pair.machine, "wf-1", "t0").reason


REFUSED = {
    "an unknown workflow": lambda d: d.back_up(0, workflow_id="wf-9"),
    "a position behind the end": lambda d: d.back_up(2),
    "a negative position": lambda d: d.back_up(-1),
    "a task that waits": lambda d: d.back_up(1),
    "an old incarnation": lambda d: d.back_up(0, incarnation=9),
    "the agent where it runs": lambda d: d.back_up(0, agent="a1"),
    "a second backup": lambda d: (d.register("a3", cpu=2), d.back_up(0), d.back_up(0, agent="a3"))[2],
    "a paused workflow": lambda d: (d.control("pause"), d.back_up(0))[1],
    "a cancelled workflow": lambda d: (d.control("cancel"), d.back_up(0))[1],
    "a draining agent": lambda d: (d.drain_leaving("a2"), d.back_up(0))[1],
    "an agent without room": lambda d: (_fill(d, 2), d.back_up(0))[1],
    "an agent with a queue": lambda d: (_fill(d, 3), d.back_up(0))[1],
    "labels that do not match": lambda d: _elsewhere(d, labels={"zone": "a"}),
    "more than the agent has": lambda d: _elsewhere(d, resources={"cpu": 4000}),
    "a queued task": lambda d: (_fill(d, 3), d.back_up(2, agent="a1", workflow_id="fill"))[1],
    "a task that does not allow it": lambda d: (
        _fill(d, 1, backup=False),
        d.back_up(0, agent="a1", workflow_id="fill"),
    )[1],
    "the backup of a backup": lambda d: (d.back_up(0), d.remove(), d.register(cpu=2), d.back_up(0, agent="a1"))[3],
    "another one after a backup that failed": lambda d: (
        d.back_up(0),
        d.finish(2, "failed", agent="a2"),
        d.back_up(0),
    )[2],
    "another one after a backup that was lost": lambda d: (
        d.back_up(0),
        d.report(agent="a2", missing=(2,)),
        d.back_up(0),
    )[2],
}


def _fill(drive, count, **each):
    drive.submit(drive.bag(count, **{"backup": True, **each}), "fill")
    assert all(drive.place(*range(count), agent="a2", workflow_id="fill"))


def _elsewhere(drive, **each):
    drive.register("a3", cpu=4, labels={"zone": "a"})
    drive.submit(drive.bag(1, backup=True, **each), "else")
    assert drive.place(0, agent="a3", workflow_id="else") == (2,)
    return drive.back_up(0, workflow_id="else")


@pytest.mark.parametrize("case", REFUSED)
def test_a_backup_that_does_not_hold_is_skipped(pair, case):
    assert REFUSED[case](pair) == (0,)


def test_an_unknown_agent_gets_no_backup(pair):
    assert pair.back_up(0, agent="nobody", incarnation=1) == (0,)


def test_the_backup_wins(pair):
    pair.back_up(0)
    pair.now_ms += 7
    assert pair.finish(2, agent="a2", result=b"2") == "accepted"
    assert pair.transitions() == [
        "t0 running backup_ended running",
        "t0 running succeeded succeeded",
        "t1 waiting needs_met ready",
    ]
    assert pair.events == [TaskReady("wf-1", 1), AgentChanged("a1"), AgentChanged("a2"), WorkflowChanged("wf-1")]
    assert (pair.states(), pair.free("a1"), pair.free("a2")) == ("SE", 2000, 2000)
    assert pair.orders("a1") == ([1], [])
    assert _outcomes(pair) == [(1, "a1", "superseded"), (2, "a2", "succeeded")]
    view = queries.task_view(pair.machine, "wf-1", "t0")
    assert (view.attempt, view.agent, view.history[0].error) == (2, "a2", "attempt 2 succeeded first")
    assert pair.finish(1, result=b"1") == "stale"
    assert (pair.orders("a1"), pair.task(0).result) == (([], []), b"2")
    assert pair.finish(2, agent="a2", result=b"2") == "duplicate"


def test_the_first_attempt_wins(pair):
    pair.back_up(0)
    assert pair.finish(1) == "accepted"
    assert (pair.states(), pair.orders("a2"), pair.free("a2")) == ("SE", ([2], []), 2000)
    assert _outcomes(pair) == [(1, "a1", "succeeded"), (2, "a2", "superseded")]
    assert queries.task_view(pair.machine, "wf-1", "t0").attempt == 1
    assert pair.report(pair.end(2, "cancelled"), agent="a2") == ["stale"]
    assert pair.orders("a2") == ([], [])
    pair.place(1)
    assert pair.task(1).attempts == 1


def test_the_success_of_one_frees_the_other_agents_room(pair):
    _fill(pair, 1)
    pair.back_up(0)
    pair.submit(pair.bag(1), "next")
    pair.place(0, agent="a2", workflow_id="next")
    assert pair.states("next") == "Q"
    pair.finish(1)
    assert (pair.states("next"), pair.queue("a2")) == ("R", [])


@pytest.mark.parametrize("outcome", ["failed", "timeout", "abandoned", "cancelled", "released", "lost"])
@pytest.mark.parametrize("fence", [1, 2])
def test_an_end_without_success_leaves_the_task_to_the_other(pair, fence, outcome):
    pair.back_up(0)
    loser, winner = ("a1", "a2") if fence == 1 else ("a2", "a1")
    pair.finish(fence, outcome, agent=loser, error="broke", exit_code=3)
    assert pair.transitions() == ["t0 running backup_ended running"]
    assert (pair.states(), pair.free(loser), pair.free(winner), pair.orders(loser)) == ("RW", 2000, 1000, ([], []))
    task = pair.task(0)
    assert (task.backup, task.last.agent, task.failures, task.losses) == (None, winner, 0, 0)
    assert task.mishaps.failed == (outcome in {"failed", "timeout", "cancelled"})
    assert [(attempt.exit_code, attempt.error) for attempt in task.history] == [(3, "broke")]
    assert pair.finish(3 - fence, agent=winner) == "accepted"
    assert (pair.states(), task.failures, task.mishaps) == ("SE", 0, None)


def test_a_result_that_is_none_does_not_win(pair):
    pair.back_up(0)
    pair.finish(2, agent="a2", result=b"{")
    assert (pair.states(), _outcomes(pair)) == ("RW", [(1, "a1", None), (2, "a2", "failed")])


def test_after_both_have_failed_the_task_has_failed_once(pair):
    pair.back_up(0)
    pair.finish(1, "failed")
    pair.finish(2, "failed", agent="a2")
    assert (pair.states(), pair.task(0).failures) == ("DW", 1)
    pair.fire(1_000)
    assert pair.place(0) == (3,)
    assert (pair.task(0).last.number, _outcomes(pair)[-1]) == (3, (3, "a1", None))


@pytest.mark.parametrize("outcome", ["failed", "timeout", "cancelled"])
@pytest.mark.parametrize("fence", [1, 2])
def test_a_failure_counts_at_once_where_no_retry_is_left(pair, fence, outcome):
    pair.submit(pair.bag(1, backup=True), "wf-2")
    pair.place(0, workflow_id="wf-2")
    pair.back_up(0, workflow_id="wf-2")
    first, other = ("a1", "a2") if fence == 1 else ("a2", "a1")
    pair.finish(fence + 1, outcome, agent=first, error="broke")
    task = pair.task(0, "wf-2")
    assert (pair.states("wf-2"), task.detail, task.failures, task.mishaps) == ("F", "broke", 1, None)
    assert pair.orders(other) == ([4 - fence], []), "the other one is told to stop"
    assert (pair.free("a1"), pair.free("a2")) == (1000, 2000)
    view = queries.task_view(pair.machine, "wf-2", "t0")
    assert {line.outcome: line.error for line in view.history} == {
        outcome: "broke",
        "superseded": f"attempt {fence} failed, and no retry is left",
    }
    assert pair.report(pair.end(4 - fence), agent=other) == ["stale"]
    assert pair.states("wf-2") == "F"


@pytest.mark.parametrize("outcome", ["lost", "abandoned", "released", "moved", "gone", "left"])
@pytest.mark.parametrize("fence", [1, 2])
def test_a_failure_counts_whatever_becomes_of_the_other(pair, fence, outcome):
    """Nothing hides it, and it counts once, with the pause that follows a failure."""
    pair.back_up(0)
    failed, other = ("a1", "a2") if fence == 1 else ("a2", "a1")
    pair.finish(fence, "failed", agent=failed)
    assert (pair.states(), pair.task(0).failures) == ("RW", 0)
    if outcome in {"gone", "left"}:
        pair.remove(other, "lost" if outcome == "gone" else "left")
    elif outcome == "moved":
        pair.drain(1, other)
        pair.fire(1)
        pair.finish(3 - fence, "cancelled", agent=other)
    else:
        pair.finish(3 - fence, outcome, agent=other)
    task = pair.task(0)
    assert (pair.states(), task.failures, task.due_ms) == ("DW", 1, pair.now_ms + 1_000)
    assert (task.mishaps is None) == (outcome != "gone")


def test_however_it_fails_it_ends(drive):
    """Every attempt fails, and gets a backup that fails: the retries bound it."""
    drive.register()
    drive.register("a2")
    drive.submit(drive.bag(1, retries=3, retry_delay_ms=0, backup=True))
    runs = 0
    while drive.states() != "F":
        drive.fire(1)
        (fence,) = drive.place(0)
        (backup,) = drive.back_up(0)
        drive.finish(backup, "failed", agent="a2")
        runs += 1 + (backup > 0)
        if drive.states() == "R":
            drive.finish(fence, "failed")
    assert runs == 8, "two for each of the four"
    assert (drive.task(0).failures, drive.task(0).detail) == (4, "failed")


def test_the_next_attempt_may_have_a_backup_again(pair):
    pair.back_up(0)
    pair.finish(1, "failed")
    pair.finish(2, "failed", agent="a2")
    pair.fire(1_000)
    pair.place(0)
    assert pair.back_up(0) == (4,)


def test_a_retried_workflow_begins_anew(pair):
    pair.back_up(0)
    pair.remove("a2")
    pair.control("cancel")
    pair.finish(1, "cancelled")
    assert pair.task(0).mishaps.agents_lost == 1
    pair.control("retry")
    assert pair.task(0).mishaps is None


def test_the_audit_and_explain_say_why(pair):
    for number in range(4):
        workflow = f"learn-{number}"
        pair.submit(pair.bag(1, kind="short"), workflow)
        (fence,) = pair.place(0, agent="a2", workflow_id=workflow)
        pair.finish(fence, agent="a2", duration_ms=2_000)
    pair.submit(pair.bag(1, kind="short", backup=True), "late")
    (fence,) = pair.place(0, workflow_id="late")
    pair.now_ms += 12_340
    pair.back_up(0, workflow_id="late")
    why = "because attempt 1 on a1 had run for 12.3 s: it is late, tasks of the kind short take 2.0 s"
    assert pair.records[-1].detail == f"late/t0: backup attempt 2 on a2, {why}"
    assert queries.explain(pair.machine, "late", "t0").reason.endswith(why)


@pytest.mark.parametrize(
    ("ran_ms", "why"),
    [
        (2_500, "2.5 s: it is late, the document expects it to take 1.2 s"),
        (2_300, "2.3 s, and its agent is slow or its progress small: the document expects it to take 1.2 s"),
    ],
)
def test_the_document_s_expectation_is_a_reason_too(pair, ran_ms, why):
    pair.submit(pair.bag(1, expected_ms=1_200, backup=True), "told")
    pair.place(0, workflow_id="told")
    pair.now_ms += ran_ms
    pair.back_up(0, workflow_id="told")
    assert pair.records[-1].detail == f"told/t0: backup attempt 2 on a2, because attempt 1 on a1 had run for {why}"


def test_without_an_expectation_only_the_time_is_told(pair):
    pair.back_up(0)
    assert pair.records[-1].detail.endswith("because attempt 1 on a1 had run for 0.0 s")


@pytest.mark.parametrize("lost", [AGENTS_LOST_MAX, AGENTS_LOST_MAX + 1])
def test_losses_beside_another_attempt_count(pair, lost):
    """With both agents: when the first of the last pair is lost, its task still has a chance."""
    if lost > AGENTS_LOST_MAX:
        pair.place(0)
        pair.remove()
        pair.register(cpu=2)
    for _ in range(AGENTS_LOST_MAX // 2):
        for name in ("a1", "a2"):
            pair.resume(name)
        pair.place(0)
        pair.back_up(0)
        for name in ("a1", "a2"):
            assert pair.task(0).finished_ms == 0
            pair.remove(name)
            pair.register(name, cpu=2)
    assert pair.states()[0] == "F"
    assert f"its agents were lost {lost} times while it ran" in pair.task(0).detail


def test_the_history_is_in_order_of_the_numbers(pair):
    """The backup ends first, so the first attempt enters the history after it."""
    pair.back_up(0)
    pair.finish(2, "failed", agent="a2")
    pair.finish(1, "failed")
    pair.fire(1_000)
    pair.place(0)
    assert [attempt.number for attempt in pair.task(0).history] == [1, 2]


def test_the_history_of_pairs_is_bounded(pair):
    for fence in range(1, 2 * ATTEMPT_HISTORY_MAX, 2):
        assert (pair.place(0), pair.back_up(0)) == ((0 if fence == 1 else fence,), (fence + 1,))
        pair.finish(fence + 1, "abandoned", agent="a2")
        pair.finish(fence, "abandoned")
    task = pair.task(0)
    assert task.last.number == 2 * ATTEMPT_HISTORY_MAX - 1
    numbers = [*range(ATTEMPT_HISTORY_MAX + 1, 2 * ATTEMPT_HISTORY_MAX - 1), 2 * ATTEMPT_HISTORY_MAX]
    assert [attempt.number for attempt in task.history] == numbers


@pytest.mark.parametrize("first", ["a1", "a2"])
def test_the_loss_of_both_agents(pair, first):
    pair.back_up(0)
    pair.remove(first)
    assert (pair.states(), pair.task(0).mishaps.agents_lost) == ("RW", 1)
    pair.remove("a2" if first == "a1" else "a1")
    assert (pair.states(), pair.task(0).mishaps.agents_lost) == ("EW", 2)


def test_a_missing_backup_is_lost(pair):
    pair.back_up(0)
    pair.report(agent="a2", missing=(2,))
    assert _outcomes(pair) == [(1, "a1", None), (2, "a2", "lost")]


def test_orders_to_stop_go_to_both_and_the_last_end_cancels(pair):
    pair.back_up(0)
    pair.control("cancel")
    assert (pair.orders("a1"), pair.orders("a2")) == (([1], []), ([2], []))
    pair.finish(1, "cancelled")
    assert (pair.states(), pair.state()) == ("RC", "running")
    pair.finish(2, "cancelled", agent="a2")
    assert (pair.states(), pair.state()) == ("CC", "cancelled")
    assert pair.events[0] == WorkflowFinished("wf-1", WorkflowState.CANCELLED)


def test_a_success_counts_although_both_were_told_to_stop(pair):
    pair.back_up(0)
    pair.control("cancel")
    pair.finish(2, agent="a2")
    assert (pair.states(), pair.state(), pair.orders("a1")) == ("SC", "cancelled", ([1], []))


def test_each_has_a_deadline_of_its_own(pair):
    due_ms = 1_000 + 5_000 + DEADLINE_MARGIN_MS
    pair.now_ms += 100
    pair.back_up(0)
    assert pair.fire(due_ms - 100) == 1
    assert (pair.states(), _outcomes(pair)) == ("RW", [(1, "a1", "timeout"), (2, "a2", None)])
    assert pair.orders("a1") == ([1], [])
    assert pair.fire(100) == 1
    assert (pair.states(), pair.orders("a2"), pair.task(0).failures) == ("DW", ([2], []), 1)


def test_the_deadline_of_a_backup_that_is_over_never_fires(pair):
    pair.now_ms += 100
    pair.back_up(0)
    pair.finish(1, "abandoned")
    pair.finish(2, "abandoned", agent="a2")
    pair.now_ms += 100
    pair.place(0)
    pair.back_up(0)
    assert pair.fire(1_000 + 5_000 + DEADLINE_MARGIN_MS - 1) == 0
    assert pair.fire(1) == 2
    assert pair.task(0).failures == 1


def test_the_timer_of_a_backup_is_current_while_it_lives(pair):
    pair.back_up(0)
    task, workflow = pair.task(0), pair.machine.state.workflows["wf-1"]
    assert [is_current(workflow, task, 0, fence) for fence in (1, 2, 3)] == [True, True, False]
    pair.finish(1, "failed")
    assert [is_current(workflow, task, 0, fence) for fence in (1, 2, 3)] == [False, True, False]
    pair.finish(2, agent="a2")
    assert not is_current(workflow, task, 0, 2)


def test_a_snapshot_holds_both(pair):
    pair.back_up(0)
    copy = Machine()
    copy.restore(pair.machine.snapshot())
    task = copy.state.workflows["wf-1"].tasks[0]
    assert (task.last.fence, task.backup.fence) == (1, 2)
    assert [list(agent.live) for agent in copy.state.agents.values()] == [[1], [2]]
    assert [agent.free for agent in copy.state.agents.values()] == [{"cpu": 1000}, {"cpu": 1000}]
    assert copy.state.next_timer_ms == pair.machine.state.next_timer_ms
    assert len(copy.state.timers) == 2


def test_a_snapshot_with_a_backup_of_no_running_task_is_refused(pair):
    pair.checked = False
    pair.back_up(0)
    task = pair.task(0)
    task.state = TaskState.QUEUED
    pieces = [pair.encoding()]
    task.state = TaskState.RUNNING
    with pytest.raises(ValueError, match="queued with a backup attempt"):
        Machine().restore(pieces)


def test_a_fence_that_is_neither_is_a_bug(pair):
    task = pair.task(0)
    for backup in (None, Attempt(2, 2, "a2", 2, 0)):
        task.backup = backup
        with pytest.raises(AssertionError):
            attempt_of(task, 9)
    task.backup = None


def test_an_order_that_was_given_is_not_given_again(pair):
    pair.submit(pair.bag(2), "wf-2")
    pair.place(0, 1, agent="a2", workflow_id="wf-2")
    pair.finish(2, "failed", agent="a2")
    assert pair.orders("a2") == ([3], [])
    pair.control("cancel", "wf-2")
    assert (pair.orders("a2"), pair.events) == (([3], []), [WorkflowChanged("wf-2")])


def test_the_end_of_a_drain_moves_one_of_the_two(pair):
    pair.back_up(0)
    pair.drain(10)
    assert pair.fire(10) == 1
    assert (pair.orders("a1"), pair.orders("a2")) == (([1], []), ([], []))
    pair.finish(1, "cancelled")
    assert (pair.states(), _outcomes(pair)) == ("RW", [(1, "a1", "moved"), (2, "a2", None)])
    pair.finish(2, agent="a2")
    assert pair.states() == "SE"
