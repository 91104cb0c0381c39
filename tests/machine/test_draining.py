"""A drain with a deadline: what runs may end until then, and is moved to other agents after it."""

from __future__ import annotations

import pytest

from raftflow.domain import limits
from raftflow.domain.events import TimerSet
from raftflow.domain.rejections import RejectionCode
from raftflow.domain.replies import Done
from raftflow.machine.machine import Machine
from raftflow.machine.read import queries
from raftflow.machine.tables.agents import DRAIN_OVER
from raftflow.machine.tables.tasks import ORDER_MOVE, ORDER_NONE
from raftflow.machine.tables.timers import AgentTimers


@pytest.fixture
def online(drive):
    """A machine at the level that knows deadlines, with an agent of two places and a queue."""
    drive.register(cpu=2, prefetch=2)
    return drive


def test_what_runs_is_moved_at_the_deadline(online):
    online.submit(online.bag(3, retries=1))
    online.place(0, 1)
    assert online.drain(1_000) == Done()
    assert TimerSet(online.now_ms + 1_000) in online.events
    assert online.place(2) == (0,)
    assert online.fire(999) == 0
    assert online.orders() == ([], [])
    assert online.fire(1) == 1
    assert online.orders() == ([1, 2], [])
    assert queries.task_view(online.machine, "wf-1", "t0").detail == "moving to another agent"
    assert "the task runs elsewhere" in queries.explain(online.machine, "wf-1", "t0").reason
    assert online.finish(1, "cancelled", error="cancelled by the coordinator") == "accepted"
    assert online.transitions() == ["t0 running moved ready"]
    assert queries.ready_task(online.machine, "wf-1", 0).lost, "it goes before fresh work"
    assert (online.task(0).failures, online.task(0).losses, online.task(0).last.error) == (0, 0, "")
    assert online.finish(2) == "accepted"
    assert online.states() == "ESE"
    assert online.fire(60_000) == 0
    assert online.machine.state.agents["a1"].state == "draining"


@pytest.mark.parametrize(
    ("outcome", "state"),
    [("failed", "D"), ("timeout", "D"), ("abandoned", "E"), ("released", "E"), ("succeeded", "S")],
)
def test_an_end_of_its_own_counts_as_what_it_is(online, outcome, state):
    online.submit(online.bag(1, retries=1))
    online.place(0)
    online.drain(1)
    online.fire(1)
    online.finish(1, outcome)
    assert online.states() == state


def test_a_workflow_that_is_cancelled_stops_what_was_to_move(online):
    online.submit(online.bag(1))
    online.place(0)
    online.drain(1)
    online.fire(1)
    online.control("cancel")
    online.finish(1, "cancelled")
    assert (online.states(), online.state()) == ("C", "cancelled")


def test_what_was_told_to_stop_is_not_told_to_move(online):
    online.submit(online.bag(1))
    online.place(0)
    online.control("cancel")
    online.drain(1)
    online.fire(1)
    online.finish(1, "cancelled")
    assert online.states() == "C"


def test_what_the_agent_starts_after_the_deadline_is_moved_too(online):
    """It may have started the head of its queue before it heard that it should give it back."""
    online.submit(online.bag(4))
    online.place(0, 1, 2, 3)
    online.drain(1)
    online.fire(1)
    assert online.orders() == ([1, 2], [3, 4])
    online.finish(1)
    assert (online.states(), online.orders()) == ("SRRQ", ([2, 3], [4]))
    online.finish(3, "cancelled")
    assert online.states() == "SRER"
    assert online.task(3).last.order == ORDER_MOVE


def test_the_deadline_can_be_changed_until_it_has_passed(online):
    online.submit(online.bag(1))
    online.place(0)
    online.drain(100)
    assert online.drain(100) == Done(changed=False)
    assert online.drain(500) == Done()
    assert online.fire(100) == 0
    assert online.drain(0) == Done()
    assert online.machine.state.next_timer_ms is None
    assert online.drain(50) == Done()
    assert queries.agent_view(online.machine, "a1").drain_deadline == "2023-11-14T22:13:20.150Z"
    assert online.fire(50) == 1
    assert online.drain(50) == Done(changed=False)
    assert queries.agent_view(online.machine, "a1").drain_deadline is None


def test_a_plain_drain_leaves_the_deadline(online):
    online.drain(100)
    assert online.drain_leaving() == Done(changed=False)
    assert online.fire(100) == 1


def test_resume_forgets_the_deadline_but_calls_nothing_back(online):
    online.submit(online.bag(2))
    online.place(0)
    online.drain(100)
    online.resume()
    assert online.fire(100) == 0
    online.drain(1)
    online.fire(1)
    online.resume()
    assert online.orders() == ([1], [])
    online.place(1)
    assert online.task(1).last.order == ORDER_NONE
    online.finish(1, "cancelled")
    assert online.states() == "ER"


def test_an_agent_that_goes_has_no_deadline(online):
    online.drain(100)
    online.remove(reason="left")
    assert online.machine.state.next_timer_ms is None
    online.register(instance="i2")
    online.drain(100)
    online.register(instance="i3")
    assert (online.machine.state.agents["a1"].state, online.machine.state.next_timer_ms) == ("draining", None)


def test_the_earliest_of_all_timers_is_told(online):
    online.submit(online.bag(1, retries=1, retry_delay_ms=500, retry_delay_max_ms=500))
    online.place(0)
    online.finish(1, "failed")
    online.drain(1_000)
    assert online.events == [event for event in online.events if not isinstance(event, TimerSet)]
    assert online.machine.state.next_timer_ms == online.now_ms + 500
    assert online.fire(500) == 1
    assert online.machine.state.next_timer_ms == online.now_ms + 500


def test_many_deadlines_fire_over_several_commands(online, monkeypatch):
    monkeypatch.setattr("raftflow.machine.commands.timers.TIMERS_PER_COMMAND_MAX", 2)
    for name in ("a1", "a2", "a3"):
        online.register(name)
        online.drain(1, name)
    assert (online.fire(1), online.fire(), online.fire()) == (2, 1, 0)


@pytest.mark.parametrize("deadline_ms", [-1, limits.DURATION_MS_MAX + 1])
def test_a_deadline_out_of_range(online, deadline_ms):
    assert online.drain(deadline_ms).code is RejectionCode.INVALID


def test_agents_that_cannot_be_drained(online):
    assert online.drain(1, "a9").code is RejectionCode.NOT_FOUND
    online.remove()
    assert online.drain_leaving().code is RejectionCode.CONFLICT


@pytest.mark.parametrize("passed", [False, True])
def test_a_restored_machine_has_the_deadline(online, passed):
    online.submit(online.bag(1))
    online.place(0)
    online.drain(100)
    online.fire(100 if passed else 0)
    copy = Machine()
    copy.restore(online.machine.snapshot())
    assert copy.state.next_timer_ms == online.machine.state.next_timer_ms
    assert copy.state.agents["a1"].drain_deadline_ms == (DRAIN_OVER if passed else online.now_ms + 100)
    assert queries.orders(copy, "a1") == online.orders()


def test_timers_of_agents_are_bounded():
    timers = AgentTimers()
    for due_ms in range(1_000, 0, -1):
        timers.set("a", due_ms)
        timers.set("b", due_ms)
    assert len(timers._heap) < 100
    timers.clear("b")
    timers.clear("c")
    assert (timers.pop_due(0), timers.pop_due(1), timers.pop_due(1_000)) == (None, "a", None)


def test_an_attempt_that_was_told_to_move_ends_as_moved(online):
    """Whatever its agent says. A repeated report is known again, and the task goes first."""
    online.submit(online.bag(1))
    online.place(0)
    online.drain(100)
    online.fire(100)
    assert online.finish(1, "cancelled", error="signal 15") == "accepted"
    task = online.task(0)
    assert (online.states(), task.last.outcome, task.last.error, task.failures) == ("E", "moved", "", 0)
    assert online.finish(1, "cancelled", error="signal 15") == "duplicate"
    assert queries.ready_task(online.machine, "wf-1", 0).lost
    assert queries.task_view(online.machine, "wf-1", "t0").history[0].outcome == "moved"


def test_a_task_of_a_cancelled_workflow_is_not_taken_for_moved(online):
    online.submit(online.bag(1))
    online.place(0)
    online.control("cancel")
    online.finish(1, "cancelled")
    online.control("retry")
    assert not queries.ready_task(online.machine, "wf-1", 0).lost


def test_an_agent_cannot_say_that_an_attempt_moved(online):
    online.submit(online.bag(1))
    online.place(0)
    assert online.finish(1, "moved") == "accepted"
    assert online.task(0).last.outcome == "abandoned"
