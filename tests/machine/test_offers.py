"""An agent that was lost and returns brings the results of what it had finished."""

from __future__ import annotations

import pytest

from raftflow.domain.events import TaskNotReady, TaskReady
from raftflow.domain.rejections import RejectionCode
from raftflow.domain.tasks.program import CommandLine
from raftflow.domain.tasks.states import AttemptOutcome
from raftflow.machine.read import queries


@pytest.fixture
def returned(drive):
    """a1 ran t0 (fence 1), which t1 needs, and t2 (fence 2); it was lost, and is back under incarnation 2."""
    drive.register(cpu=2)
    drive.submit(drive.tasks((), (0,), (), retries=1, program=CommandLine(("train",))))
    drive.place(0, 2)
    drive.remove()
    drive.register(cpu=2, instance="i2")
    assert drive.states() == "EWE"
    return drive


def test_a_result_that_nobody_made_anew_is_taken(returned):
    returned.now_ms += 9
    end = returned.end(1, result=b"7", exit_code=0, duration_ms=40, cpu_ms=30, peak_mib=20)
    assert returned.offer(end) == ["accepted"]
    assert returned.transitions() == ["t0 ready offered succeeded", "t1 waiting needs_met ready"]
    assert returned.events[:2] == [TaskNotReady("wf-1", 0), TaskReady("wf-1", 1)]
    record = returned.records[-1]
    assert (record.command, record.subject, record.outcome) == ("attempts.offer", "a1", "ok")
    task = returned.task(0)
    assert (returned.states(), task.result, task.losses, task.finished_ms) == ("SEE", b"7", 0, returned.now_ms)
    assert (task.last.outcome, task.last.error, task.last.exit_code) == (AttemptOutcome.SUCCEEDED, "", 0)
    assert queries.kind_estimate(returned.machine, "wf-1", 0).mean_ms == 40
    assert returned.offer(end) == ["duplicate"]
    assert returned.states() == "SEE"


STALE = {
    "an unknown workflow": lambda d: d.end(1, workflow_id="wf-9", task_id="t0"),
    "an unknown task": lambda d: d.end(1, task_id="t9"),
    "another fence": lambda d: d.end(2, task_id="t0"),
    "a task that never ran": lambda d: d.end(1, task_id="t1"),
    "a failure": lambda d: d.end(1, "failed"),
    "a result that is none": lambda d: d.end(1, result=b"{"),
}


@pytest.mark.parametrize("case", STALE)
def test_what_does_not_hold_is_stale(returned, case):
    before = returned.facts()
    assert returned.offer(STALE[case](returned)) == ["stale"]
    assert (returned.facts(), returned.transitions()) == (before, [])


def test_of_another_agent_it_is_stale(returned):
    returned.register("a2")
    assert returned.offer(returned.end(1), agent="a2") == ["stale"]


def test_while_another_attempt_has_the_task_it_is_stale(returned):
    end = returned.end(1)
    returned.place(0)
    assert returned.offer(end) == ["stale"]
    assert returned.report(returned.end(3)) == ["accepted"]
    assert returned.offer(end) == ["stale"]


def test_of_an_attempt_that_ended_otherwise_it_is_stale(drive):
    drive.register()
    drive.submit(drive.bag(1, retries=1))
    drive.place(0)
    drive.finish(1, "failed")
    assert drive.offer(drive.end(1)) == ["stale"]
    drive.fire(1_000)
    assert (drive.states(), drive.offer(drive.end(1))) == ("E", ["stale"])


def test_of_a_cancelled_task_it_is_stale(returned):
    returned.control("cancel")
    assert returned.offer(returned.end(1)) == ["stale"]
    assert returned.states() == "CCC"


def test_in_a_paused_workflow_it_is_taken(returned):
    returned.control("pause")
    assert returned.offer(returned.end(1)) == ["accepted"]
    assert (returned.states(), returned.state()) == ("SEE", "paused")


@pytest.mark.parametrize("case", [{"incarnation": 1}, {"agent": "nobody", "incarnation": 2}])
def test_only_the_present_incarnation_may_offer(returned, case):
    refused = returned.offer(returned.end(1), **case)
    assert (refused.code, returned.states()) == (RejectionCode.STALE_INCARNATION, "EWE")


def test_an_agent_that_is_gone_may_not_offer(returned):
    end = returned.end(1)
    returned.remove()
    assert returned.offer(end).code is RejectionCode.STALE_INCARNATION
