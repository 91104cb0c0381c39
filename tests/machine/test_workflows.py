"""Workflows: submission, control, retirement, request ids."""

from __future__ import annotations

import pytest

from raftflow.domain import commands as c
from raftflow.domain import limits
from raftflow.domain.events import AgentChanged, TaskReady, WorkflowChanged, WorkflowNotReady, WorkflowReady
from raftflow.domain.rejections import Rejection, RejectionCode
from raftflow.domain.replies import Done, WorkflowAccepted
from raftflow.domain.tasks.program import CommandLine
from raftflow.domain.tasks.workflow import TaskSpec, WorkflowSpec
from raftflow.machine.commands import attempts
from raftflow.machine.rules import cache, context


def test_a_submission_is_taken_whole(drive):
    drive.register()
    assert drive.submit(drive.tasks((), (), (0, 1))) == WorkflowAccepted("wf-1")
    assert drive.events == [TaskReady("wf-1", 0), TaskReady("wf-1", 1), WorkflowChanged("wf-1")]
    assert (drive.states(), drive.machine.state.live_tasks) == ("EEW", 3)
    assert drive.records[-1].subject == "wf-1"


def _spec(**task):
    return WorkflowSpec(name="w", tasks=(TaskSpec(**{"id": "t", "program": CommandLine(("true",)), **task}),))


REFUSED = {
    "no tasks": (WorkflowSpec(name="w", tasks=()), "tasks"),
    "a bad name": (WorkflowSpec(name="a b", tasks=(TaskSpec(id="t", program=CommandLine(("x",))),)), "name"),
    "a bad task": (_spec(program=CommandLine(())), "tasks[0].command"),
    "an unknown need": (_spec(needs=("u",)), "tasks[0].needs[0]"),
    "an expectation out of range in a later task of a kind": (
        WorkflowSpec(
            name="w",
            tasks=(
                TaskSpec(id="a", program=CommandLine(("x",)), expected_ms=1),
                TaskSpec(id="b", program=CommandLine(("x",)), expected_ms=-1),
            ),
        ),
        "tasks[1].expected",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_broken_submission_changes_nothing(drive, case):
    spec, path = REFUSED[case]
    before = drive.facts()
    reply = drive.submit(spec)
    assert (reply.code, reply.problems[0].path) == (RejectionCode.INVALID, path)
    assert drive.facts() == before
    assert drive.records[-1].outcome == "invalid"


def test_problems_are_bounded(drive):
    spec = WorkflowSpec(
        name="w", tasks=tuple(TaskSpec(id=f"{n} x", program=CommandLine((str(n), "\0"))) for n in range(300))
    )
    reply = drive.submit(spec)
    assert len(reply.problems) == 100
    assert reply.message.endswith("(and 99 more)")


def test_an_id_is_used_once_and_looks_like_one(drive):
    drive.submit()
    assert drive.submit().code is RejectionCode.CONFLICT
    assert drive.submit(workflow_id="a b").code is RejectionCode.INVALID


def test_limits_are_told(drive, monkeypatch):
    monkeypatch.setattr(limits, "LIVE_TASKS_MAX", 3)
    drive.submit(drive.bag(2))
    reply = drive.submit(drive.bag(2), "wf-2")
    assert (reply.code, reply.limit) == (RejectionCode.LIMIT, 3)
    drive.register(cpu=2)
    drive.place(0, 1)
    drive.report(drive.end(1, "failed"), drive.end(2, "failed"))
    assert drive.submit(drive.bag(2), "wf-3") == WorkflowAccepted("wf-3")
    assert drive.control("retry").code is RejectionCode.LIMIT
    monkeypatch.setattr(limits, "WORKFLOWS_MAX", 2)
    assert drive.submit(drive.bag(1), "wf-4").limit == 2


def test_demands_that_no_agent_can_meet_are_warned_of(drive):
    gpu = {"cpu": 1000, "gpu": 1000}
    assert drive.submit(_spec(resources=gpu)).warnings == ("t: no agent is up; it waits until one comes",)
    drive.register(cpu=4, labels={"zone": "a"})

    def warning(**task):
        drive.submit(_spec(**task), f"wf-{len(drive.machine.state.workflows) + 1}")
        return drive.machine.state.workflows[next(reversed(drive.machine.state.workflows))].warnings

    assert warning(resources={"cpu": 4000}) == ()
    assert warning(resources=gpu) == ("t: no agent that is up has as much gpu; it waits until one comes",)
    assert warning(labels={"zone": "b"}) == (
        "t: no agent that is up carries the labels zone=b; it waits until one comes",
    )
    assert warning(labels={"zone": "a"}, resources={"cpu": 5000}) == (
        "t: no agent that is up with its labels has as much cpu; it waits until one comes",
    )
    drive.register("a2", capacity={"gpu": 1000})
    assert warning(resources=gpu) == (
        "t: no agent that is up has all that it wants at once; it waits until one comes",
    )


def test_a_shape_is_warned_of_once(drive):
    spec = WorkflowSpec(name="w", tasks=tuple(TaskSpec(id=f"t{n}", program=CommandLine((str(n),))) for n in range(3)))
    assert len(drive.submit(spec).warnings) == 1


def test_warnings_are_bounded(drive):
    spec = WorkflowSpec(
        name="w",
        tasks=tuple(TaskSpec(id=f"t{n}", program=CommandLine(("x",)), resources={"gpu": n + 1}) for n in range(30)),
    )
    assert len(drive.submit(spec).warnings) == 20


# --- control


def test_pause_takes_queued_work_back_and_resume_gives_it_again(drive):
    drive.register(prefetch=2)
    drive.submit(drive.bag(4))
    drive.place(0, 1, 2)
    assert drive.control("pause") == Done()
    assert drive.events == [WorkflowNotReady("wf-1"), AgentChanged("a1"), WorkflowChanged("wf-1")]
    assert (drive.state(), drive.orders()) == ("paused", ([], [2, 3]))
    assert drive.control("pause") == Done(changed=False)
    assert drive.finish(3, "released") == "accepted"
    assert drive.events == [AgentChanged("a1"), WorkflowChanged("wf-1")]
    assert drive.control("resume") == Done()
    assert drive.events == [WorkflowReady("wf-1"), AgentChanged("a1"), WorkflowChanged("wf-1")]
    assert (drive.states(), drive.orders()) == ("RQEE", ([], []))
    assert drive.control("resume") == Done(changed=False)


def test_a_head_that_was_asked_back_may_have_started(drive):
    """The end ahead of it frees its room, so it counts as running, and is no longer asked back."""
    drive.register(prefetch=1)
    drive.submit(drive.bag(2))
    drive.place(0, 1)
    drive.control("pause")
    drive.finish(1)
    assert (drive.states(), drive.orders()) == ("SR", ([], []))
    assert drive.finish(2) == "accepted"


def test_an_attempt_given_back_behind_an_end_is_ready_again(drive):
    """The agent has stopped starting work: the end promotes the next here, but there it never ran."""
    drive.register(prefetch=1)
    drive.submit(drive.bag(2))
    drive.place(0, 1)
    drive.drain_leaving()
    assert drive.report(drive.end(1), drive.end(2, "released")) == ["accepted", "accepted"]
    assert (drive.states(), drive.free()) == ("SE", 1000)


def test_cancel_ends_what_has_not_started_and_stops_the_rest(drive):
    drive.register(prefetch=1)
    drive.submit(drive.tasks((), (), (), (0,)))
    drive.place(0, 1)
    assert drive.control("cancel") == Done()
    assert (drive.states(), drive.state(), drive.orders()) == ("RQCC", "running", ([1, 2], []))
    assert drive.control("cancel") == Done(changed=False)
    assert drive.control("pause").code is RejectionCode.CONFLICT
    drive.report(drive.end(2, "released"), drive.end(1, "cancelled"))
    assert (drive.states(), drive.state()) == ("CCCC", "cancelled")
    assert drive.control("cancel") == Done(changed=False)


def test_a_cancelled_workflow_stays_cancelled_though_its_task_was_done(drive):
    drive.register()
    drive.submit()
    drive.place(0)
    drive.control("cancel")
    drive.finish(1, "succeeded")
    assert (drive.states(), drive.state()) == ("S", "cancelled")


def test_cancel_while_paused_and_delayed(drive):
    drive.register(cpu=2)
    drive.submit(drive.bag(2, retries=1))
    drive.place(0)
    drive.finish(1, "failed")
    drive.control("pause")
    drive.control("cancel")
    assert (drive.states(), drive.state(), drive.fire(10_000)) == ("CC", "cancelled", 0)


def test_a_stopped_attempt_ends_cancelled_when_its_agent_is_lost(drive):
    drive.register()
    drive.submit()
    drive.place(0)
    drive.control("cancel")
    drive.remove()
    assert (drive.states(), drive.state()) == ("C", "cancelled")


def test_a_finished_workflow_takes_only_retry(drive):
    drive.register()
    drive.submit()
    assert drive.control("retry").code is RejectionCode.CONFLICT
    drive.place(0)
    drive.finish(1)
    for action in ("cancel", "pause", "resume", "retry"):
        assert drive.control(action).code is RejectionCode.CONFLICT
    assert drive.control("cancel", "wf-9").code is RejectionCode.NOT_FOUND


def test_retry_runs_what_did_not_succeed(drive):
    drive.register(cpu=2)
    drive.submit(drive.tasks((), (), (0, 1), (1,), retries=0))
    drive.place(0, 1)
    drive.report(drive.end(1, "succeeded"), drive.end(2, "failed"))
    assert (drive.states(), drive.state()) == ("SFCC", "failed")
    assert drive.control("retry") == Done()
    assert (drive.states(), drive.state(), drive.task(1).failures) == ("SEWW", "running", 0)
    assert TaskReady("wf-1", 1) in drive.events
    for position, fence in ((1, 3), (2, 4), (3, 5)):
        assert drive.place(position) == (fence,)
        drive.finish(fence)
    assert (drive.state(), drive.task(1).attempts) == ("succeeded", 2)


# --- retirement


def test_finished_workflows_are_forgotten_oldest_first(drive):
    drive.register()
    for number in (1, 2, 3, 4):
        drive.submit(workflow_id=f"wf-{number}")
    for fence, number in ((1, 2), (2, 1), (3, 3)):
        drive.place(0, workflow_id=f"wf-{number}")
        drive.now_ms += 10
        drive.finish(fence)
    drive.now_ms += 10
    assert drive.retire(drive.now_ms - 20, 1) == ("wf-2",)
    assert drive.retire(drive.now_ms - 20) == ("wf-1",)
    assert drive.retire(count_max=0) == ()
    assert drive.retire() == ("wf-3",)
    assert list(drive.machine.state.workflows) == ["wf-4"]


# --- request ids


def test_a_retried_submission_gets_the_first_answer(drive):
    first = drive.submit(request_id="r1")
    before = drive.facts()
    drive.now_ms += 1_000
    assert drive.submit(workflow_id="wf-other", request_id="r1") == first
    assert drive.facts() == before
    assert [record.outcome for record in drive.records] == ["ok", "repeated"]


def test_a_request_id_cannot_mean_two_things(drive):
    drive.submit(request_id="r1")
    for reply in (drive.submit(drive.bag(2), "wf-2", "r1"), drive.control("cancel", request_id="r1")):
        assert reply.code is RejectionCode.REQUEST_MISMATCH
    assert drive.state() == "pending"


def test_a_retried_control_changes_nothing_more(drive):
    drive.submit()
    assert drive.control("pause", request_id="r1") == Done()
    drive.control("resume")
    assert drive.control("pause", request_id="r1") == Done()
    assert drive.state() == "pending"


def test_refusals_are_not_remembered(drive):
    assert isinstance(drive.control("pause", request_id="r1"), Rejection)
    drive.submit()
    assert drive.control("pause", request_id="r1") == Done()


def test_a_request_id_is_bounded(drive):
    assert drive.submit(request_id="r" * 300).code is RejectionCode.INVALID


def test_the_oldest_answer_is_forgotten_first(new_drive):
    drive = new_drive(requests_max=2)
    drive.submit()
    for number, action in enumerate(("pause", "resume", "pause"), 1):
        drive.control(action, request_id=f"r{number}")
    assert [entry.request_id for entry in drive.machine.state.requests] == ["r2", "r3"]
    assert len(drive.machine.state.requests) == 2


# --- entries


def test_a_command_of_an_entry_fails_alone(drive):
    at = {"at_ms": drive.now_ms, "actor": "client:test"}
    result = drive.entry(
        c.ControlWorkflow(workflow_id="wf-1", action="pause", **at),
        c.SubmitWorkflow(workflow_id="wf-1", spec=drive.chain(1), **at),
        c.ControlWorkflow(workflow_id="wf-1", action="pause", **at),
    )
    assert [type(reply).__name__ for reply in result.replies] == ["Rejection", "WorkflowAccepted", "Done"]
    assert result.events == [TaskReady("wf-1", 0), WorkflowNotReady("wf-1"), WorkflowChanged("wf-1")]
    assert [record.position for record in drive.records] == [0, 1, 2]


def test_entries_that_cannot_be_are_loud(drive):
    with pytest.raises(c.EntryError):
        drive.machine.apply(1, 1, b"nonsense")
    drive.submit()
    with pytest.raises(ValueError, match="went back"):
        drive.machine.apply(1, 1, c.encode_entry(()))


def test_time_never_runs_back(drive):
    drive.submit()
    drive.now_ms -= 5_000
    drive.submit(workflow_id="wf-2")
    assert drive.machine.clock_ms == drive.now_ms + 5_000
    assert drive.task(0, "wf-2").finished_ms == 0
    assert drive.machine.state.workflows["wf-2"].submitted_ms == drive.now_ms + 5_000


def test_many_moves_are_one_event(drive, monkeypatch):
    """Of the tasks of one workflow: those of others are told of as ever."""
    for module in (context, attempts, cache):
        monkeypatch.setattr(module, "COALESCE_MIN", 3)
    drive.register(cpu=9)
    drive.submit(drive.tasks((), (0,), (0,), (0,), cache="k"), "wf-2")
    drive.submit(drive.tasks((), (0,), (0,), (0,), (), cache=None))
    drive.place(0)
    drive.finish(1)
    changed = [AgentChanged("a1"), WorkflowChanged("wf-1")]
    assert drive.events == [WorkflowReady("wf-1"), *changed]
    drive.control("cancel")
    assert WorkflowNotReady("wf-1") in drive.events and len(drive.events) == 3
    drive.control("retry")
    assert drive.events == [WorkflowReady("wf-1"), WorkflowChanged("wf-1")]
    assert drive.states() == "SEEEE"
    drive.control("pause")
    drive.control("cancel")
    assert [type(event).__name__ for event in drive.events] == ["WorkflowFinished", "WorkflowChanged"]
