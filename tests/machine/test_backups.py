"""Backup attempts: a second try on another agent; the first to succeed wins, and nothing else costs anything."""

from __future__ import annotations

import pytest

from raftflow.domain.events import AgentChanged, TaskReady, WorkflowChanged, WorkflowFinished
from raftflow.domain.limits import ATTEMPT_HISTORY_MAX
from raftflow.domain.rejections import RejectionCode
from raftflow.domain.task import TaskState, WorkflowState
from raftflow.machine import queries
from raftflow.machine.ledger import DEADLINE_MARGIN_MS
from raftflow.machine.machine import Machine
from raftflow.machine.state import Attempt, attempt_of
from raftflow.machine.timers import is_current


@pytest.fixture
def pair(drive):
    """Two agents of two CPUs; t0 runs on a1 (fence 1), t1 needs it."""
    drive.raise_level()
    drive.register(cpu=2, prefetch=1)
    drive.register("a2", cpu=2, prefetch=1)
    drive.submit(drive.chain(2, retries=1, timeout_ms=1_000))
    drive.place(0)
    return drive


def _outcomes(drive, position=0):
    view = queries.task_view(drive.machine, "wf-1", f"t{position}")
    return [(attempt.attempt, attempt.agent, attempt.outcome) for attempt in view.history]


def test_below_its_level_it_is_refused(drive):
    drive.register()
    drive.register("a2")
    drive.submit()
    drive.place(0)
    with pytest.raises(AttributeError):
        drive.back_up(0)
    assert drive.records[-1].outcome == RejectionCode.FEATURE_LEVEL


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
    assert (view.attempt, view.agent, [line.index for line in view.history]) == (1, "a1", [5, 6])
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
    "a draining agent": lambda d: (d.control_agent("drain", "a2"), d.back_up(0))[1],
    "an agent without room": lambda d: (_fill(d, 2), d.back_up(0))[1],
    "an agent with a queue": lambda d: (_fill(d, 3), d.back_up(0))[1],
    "labels that do not match": lambda d: _elsewhere(d, labels={"zone": "a"}),
    "more than the agent has": lambda d: _elsewhere(d, resources={"cpu": 4000}),
    "a queued task": lambda d: (_fill(d, 3), d.back_up(2, agent="a1", workflow_id="fill"))[1],
}


def _fill(drive, count):
    drive.submit(drive.bag(count), "fill")
    assert all(drive.place(*range(count), agent="a2", workflow_id="fill"))


def _elsewhere(drive, **each):
    drive.register("a3", cpu=4, labels={"zone": "a"})
    drive.submit(drive.bag(1, **each), "else")
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
    assert [(attempt.exit_code, attempt.error) for attempt in task.history] == [(3, "broke")]
    assert pair.finish(3 - fence, agent=winner) == "accepted"
    assert pair.states() == "SE"


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


def test_the_history_is_in_order_of_the_numbers(pair):
    """The backup ends first, so the first attempt enters the history after it."""
    pair.back_up(0)
    pair.finish(2, "failed", agent="a2")
    pair.finish(1, "failed")
    pair.fire(1_000)
    pair.place(0)
    assert [attempt.number for attempt in pair.task(0).history] == [1, 2]


def test_the_history_is_bounded_while_the_first_attempt_goes_on(pair):
    for fence in range(2, ATTEMPT_HISTORY_MAX + 6):
        assert pair.back_up(0) == (fence,)
        pair.finish(fence, "abandoned", agent="a2")
    task = pair.task(0)
    assert [attempt.number for attempt in task.history] == list(range(7, ATTEMPT_HISTORY_MAX + 6))
    assert task.last.number == 1
    pair.finish(1, "abandoned")
    pair.place(0)
    assert [attempt.number for attempt in task.history] == list(range(7, ATTEMPT_HISTORY_MAX + 6))


@pytest.mark.parametrize("first", ["a1", "a2"])
def test_the_loss_of_both_agents(pair, first):
    pair.back_up(0)
    pair.remove(first)
    assert (pair.states(), pair.task(0).losses) == ("RW", 0)
    pair.remove("a2" if first == "a1" else "a1")
    assert (pair.states(), pair.task(0).losses) == ("EW", 1)


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
    pair.back_up(0)
    pair.now_ms += 100
    pair.finish(2, "failed", agent="a2")
    pair.back_up(0)
    assert pair.fire(1_000 + 5_000 + DEADLINE_MARGIN_MS - 100) == 1
    assert pair.task(0).backup is None and pair.task(0).last.fence == 3


def test_the_timer_of_a_backup_is_current_while_it_lives(pair):
    pair.back_up(0)
    task = pair.task(0)
    assert [is_current(task, 0, fence) for fence in (1, 2, 3)] == [True, True, False]
    pair.finish(1, "failed")
    assert [is_current(task, 0, fence) for fence in (1, 2, 3)] == [False, True, False]
    pair.finish(2, agent="a2")
    assert not is_current(task, 0, 2)


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
    assert (pair.states(), _outcomes(pair)) == ("RW", [(1, "a1", "cancelled"), (2, "a2", None)])
    pair.finish(2, agent="a2")
    assert pair.states() == "SE"
