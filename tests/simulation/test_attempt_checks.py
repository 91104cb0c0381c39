"""The model of attempts: an orderly life is accepted, and each disorder is found."""

from __future__ import annotations

import asyncio

import pytest

from raftflow.domain.commands import (
    AttemptEnd,
    CommitPlacements,
    ControlWorkflow,
    FireTimers,
    OfferEnds,
    Placement,
    RegisterAgent,
    ReportAttempts,
)
from raftflow.domain.contract.views import AuditRecord, AuditTransition
from raftflow.domain.replies import AgentAccepted, Done, EndVerdict, Fired, Reported
from raftflow.domain.tasks.program import CommandLine
from raftflow.domain.tasks.states import AttemptOutcome
from raftflow.domain.tasks.workflow import TaskSpec
from tests.simulation.histories import kinds


def step(task, before, event, after, fence, agent="a1"):  # noqa: PLR0917 - the order of a line in the audit
    return AuditTransition("wf", task, before, event, after, 1, fence, agent)


def record(*transitions, outcome="ok"):
    return AuditRecord(
        index=1,
        position=0,
        term=1,
        at_ms=1,
        actor="",
        command="",
        subject="",
        request_id="",
        outcome=outcome,
        transitions=transitions,
    )


@pytest.fixture
def model(history):
    """One agent with one CPU and a workflow of three tasks that want one each."""
    attempts = history.attempts
    register = RegisterAgent(at_ms=1, actor="", name="a1", instance="i", capacity={"cpu": 1000}, prefetch=4)
    attempts.follow(register, AgentAccepted("a1", 1), record())
    attempts.capacity["a1"] = {"cpu": 1000}
    for task in "xyz":
        attempts.demands["wf", task] = {"cpu": 1000}
    return attempts


PLACE = CommitPlacements(at_ms=1, actor="", placements=(Placement("wf", 0, "a1", 1),))


def placed(model, *transitions):
    return model.follow(PLACE, Done(), record(*transitions))


def report(model, fence, *, incarnation=1, verdict="accepted"):
    end = AttemptEnd(fence, "wf", "x", AttemptOutcome.SUCCEEDED)
    command = ReportAttempts(at_ms=1, actor="", agent="a1", incarnation=incarnation, ends=(end,))
    done = step("x", "running", "succeeded", "succeeded", fence)
    transitions = (done,) if verdict == "accepted" else ()
    return model.follow(command, Reported((EndVerdict(fence, verdict),)), record(*transitions))


def test_an_orderly_life(model) -> None:
    assert placed(model, step("x", "ready", "started", "running", 1)) == []
    assert placed(model, step("y", "ready", "queued", "queued", 2)) == []
    assert report(model, 1) == []
    assert placed(model, step("y", "queued", "promoted", "running", 2)) == []


def test_a_backup_wins(model) -> None:
    model.capacity["a2"] = {"cpu": 1000}
    placed(model, step("x", "ready", "started", "running", 1))
    assert placed(model, step("x", "running", "backup_started", "running", 2, "a2")) == []
    over = step("x", "running", "backup_ended", "running", 1)
    won = step("x", "running", "succeeded", "succeeded", 2, "a2")
    assert placed(model, over, won) == []
    assert (model.live, model.running, model.backup_of) == ({}, {"a1": {}, "a2": {}}, {})


def test_a_backup_that_ends_leaves_the_first(model) -> None:
    placed(model, step("x", "ready", "started", "running", 1))
    placed(model, step("x", "running", "backup_started", "running", 2, "a2"))
    assert placed(model, step("x", "running", "backup_ended", "running", 2, "a2")) == []
    assert report(model, 1) == []


def test_backups_that_must_not_be(model) -> None:
    placed(model, step("x", "ready", "started", "running", 1))
    assert "beside" in placed(model, step("x", "running", "backup_started", "running", 2))[0]
    assert "after fence 1" in placed(model, step("x", "running", "backup_started", "running", 1, "a2"))[0]
    assert "ended as one of two" in placed(model, step("x", "running", "backup_ended", "running", 1))[0]
    placed(model, step("y", "ready", "queued", "queued", 3, "a2"))
    assert "although [3] wait" in placed(model, step("x", "running", "backup_started", "running", 4, "a2"))[0]
    assert placed(model, step("x", "running", "backup_started", "running", 5, "a3")) == []
    assert "beside" in placed(model, step("x", "running", "backup_started", "running", 6, "a4"))[0]


@pytest.fixture
def two(model):
    """The task x, which allows a backup and one retry, runs on a1 (fence 1) and a2 (fence 2)."""
    model._learn_task("wf", "x", TaskSpec(id="x", program=CommandLine(("x",)), retries=1, backup=True))
    placed(model, step("x", "ready", "started", "running", 1))
    assert placed(model, step("x", "running", "backup_started", "running", 2, "a2")) == []
    return model


def failed(model, fence=1, command=None):
    """One of the two ends without success, and the other goes on."""
    end = AttemptEnd(fence, "wf", "x", AttemptOutcome.FAILED)
    command = command or ReportAttempts(at_ms=1, actor="", agent="a1", incarnation=1, ends=(end,))
    reply = Reported((EndVerdict(fence, "accepted"),)) if isinstance(command, ReportAttempts) else Fired(1)
    return model.follow(command, reply, record(step("x", "running", "backup_ended", "running", fence)))


@pytest.mark.parametrize("command", [None, FireTimers(at_ms=1, actor="")])
@pytest.mark.parametrize(
    ("event", "after", "told"),
    [
        ("agent_lost", "ready", 1),
        ("released", "ready", 1),
        ("failed_retry", "delayed", 0),
        ("cancelled", "cancelled", 0),
    ],
)
def test_a_failure_that_is_forgotten(two, command, event, after, told) -> None:
    assert failed(two, command=command) == []
    problems = placed(two, step("x", "running", event, after, 2, "a2"))
    assert ["that was forgotten" in problem for problem in problems] == [True] * told


def test_a_failure_where_no_retry_is_left(two) -> None:
    two.failures["wf", "x"] = 1
    assert "no retry is left" in failed(two)[0]
    over, lost = (
        step("x", "running", "backup_ended", "running", 2, "a2"),
        step("x", "running", "failed_final", "failed", 1),
    )
    two.backup_of["wf", "x"], two.fence_of["wf", "x"] = 2, 1
    two.live[1] = two.live[2]
    assert placed(two, over, lost) == [], "the other one was ended for it"


def test_failures_are_counted_until_a_retry(two) -> None:
    assert failed(two) == []
    placed(two, step("x", "running", "failed_retry", "delayed", 2, "a2"))
    assert two.failures == {("wf", "x"): 1}
    two.follow(ControlWorkflow(at_ms=1, actor="", workflow_id="wf", action="cancel"), Done(), record())
    assert two.stopped == {"wf": None}
    two.follow(
        ControlWorkflow(at_ms=1, actor="", workflow_id="wf", action="retry"),
        Done(),
        record(
            step("x", "delayed", "cancelled", "cancelled", 0), step("x", "cancelled", "revived_ready", "ready", 0)
        ),
    )
    assert (two.failures, two.stopped) == ({}, {})


def test_backups_that_a_task_does_not_allow(model) -> None:
    model._learn_task("wf", "x", TaskSpec(id="x", program=CommandLine(("x",))))
    placed(model, step("x", "ready", "started", "running", 1))
    assert "allows none" in placed(model, step("x", "running", "backup_started", "running", 2, "a2"))[0]


def test_a_second_backup_of_an_attempt(two) -> None:
    placed(two, step("x", "running", "backup_ended", "running", 2, "a2"))
    assert "after another" in placed(two, step("x", "running", "backup_started", "running", 3, "a3"))[0]


def test_a_backup_beyond_the_limit(model) -> None:
    model.limits["wf"] = 1
    placed(model, step("x", "ready", "started", "running", 1))
    assert "one of 2 under way" in placed(model, step("x", "running", "backup_started", "running", 2, "a2"))[0]


def test_more_than_there_is(model) -> None:
    placed(model, step("x", "ready", "started", "running", 1))
    assert "2000 cpu" in placed(model, step("y", "ready", "started", "running", 2))[0]


def test_a_fence_that_does_not_grow(model) -> None:
    placed(model, step("x", "ready", "started", "running", 5))
    assert "after fence 5" in placed(model, step("y", "ready", "queued", "queued", 5))[0]


def test_a_queue_that_is_overtaken(model) -> None:
    placed(model, step("x", "ready", "queued", "queued", 1), step("y", "ready", "queued", "queued", 2))
    assert "before the head" in placed(model, step("y", "queued", "promoted", "running", 2))[0]
    assert "wait" in placed(model, step("z", "ready", "started", "running", 3))[0]


def test_a_task_that_jumps(model) -> None:
    placed(model, step("x", "ready", "started", "running", 1))
    assert "but was running" in placed(model, step("x", "ready", "started", "running", 2))[0]


def test_an_old_fence_that_ends_the_present_attempt(model) -> None:
    placed(model, step("x", "ready", "started", "running", 1))
    placed(model, step("x", "running", "agent_lost", "ready", 1), step("x", "ready", "started", "running", 2))
    problems = report(model, 1)
    assert any("accepted; it is not" in problem for problem in problems)


def test_an_end_that_counts_twice(model) -> None:
    placed(model, step("x", "ready", "started", "running", 1))
    assert report(model, 1) == []
    assert any("accepted twice" in problem for problem in report(model, 1))


def test_a_report_of_an_old_incarnation(model) -> None:
    assert "incarnation 7" in report(model, 1, incarnation=7, verdict="stale")[0]


def offer(model, fence, agent="a1", *, verdict="accepted", incarnation=1, before="ready"):
    end = AttemptEnd(fence, "wf", "x", AttemptOutcome.SUCCEEDED)
    command = OfferEnds(at_ms=1, actor="", agent=agent, incarnation=incarnation, ends=(end,))
    came = step("x", before, "offered", "succeeded", fence, agent)
    return model.follow(
        command, Reported((EndVerdict(fence, verdict),)), record(*((came,) if verdict == "accepted" else ()))
    )


def test_a_lost_agent_brings_its_result_back(model) -> None:
    placed(model, step("x", "ready", "started", "running", 1))
    placed(model, step("x", "running", "agent_lost", "ready", 1))
    assert offer(model, 1) == []
    assert any("accepted twice" in problem for problem in offer(model, 1))


def test_a_result_of_an_attempt_that_was_lost_after_its_backup_had_failed(two) -> None:
    """The failure of the backup counts when the agent of the other attempt is lost. The result may still come."""
    timeout = FireTimers(at_ms=1, actor="")
    assert two.follow(timeout, Fired(1), record(step("x", "running", "backup_ended", "running", 2, "a2"))) == []
    again = RegisterAgent(at_ms=2, actor="", name="a1", instance="j", capacity={"cpu": 1000}, prefetch=4)
    lost = step("x", "running", "failed_retry", "delayed", 1)
    assert two.follow(again, AgentAccepted("a1", 2), record(lost)) == []
    assert offer(two, 1, incarnation=2, before="delayed") == []


def test_a_result_of_an_attempt_that_failed(model) -> None:
    placed(model, step("x", "ready", "started", "running", 1))
    placed(model, step("x", "running", "failed_retry", "delayed", 1))
    assert any("its last was None" in problem for problem in offer(model, 1, before="delayed"))


def test_offers_that_must_not_count(model) -> None:
    """Of an attempt that is live, and of another task's."""
    model.capacity["a2"] = {"cpu": 1000}
    model.incarnation["a2"] = 1
    placed(model, step("x", "ready", "started", "running", 1))
    assert any("its last was None" in problem for problem in offer(model, 1))
    placed(
        model, step("y", "ready", "started", "running", 2, "a2"), step("y", "running", "agent_lost", "ready", 2, "a2")
    )
    assert any("its last was None" in problem for problem in offer(model, 2, "a2"))


def test_an_offer_of_a_superseded_attempt(model) -> None:
    model.capacity["a2"] = {"cpu": 1000}
    placed(model, step("x", "ready", "started", "running", 1))
    placed(model, step("x", "running", "agent_lost", "ready", 1), step("x", "ready", "started", "running", 2, "a2"))
    placed(model, step("x", "running", "agent_lost", "ready", 2, "a2"))
    assert any("its last was (2, 'a2')" in problem for problem in offer(model, 1))


def test_an_offer_under_an_old_incarnation(model) -> None:
    assert "incarnation 7" in offer(model, 1, incarnation=7, verdict="stale")[0]


def test_a_task_that_is_offered_by_another_command(model) -> None:
    placed(model, step("x", "ready", "started", "running", 1))
    placed(model, step("x", "running", "agent_lost", "ready", 1))
    assert "was offered by CommitPlacements" in placed(model, step("x", "ready", "offered", "succeeded", 1))[0]


def test_more_of_a_workflow_than_it_allows(model) -> None:
    model.limits["wf"] = 1
    placed(model, step("x", "ready", "queued", "queued", 1))
    assert "one of 2 under way" in placed(model, step("y", "ready", "queued", "queued", 2))[0]


def test_an_exclusive_task_that_is_not_alone(model) -> None:
    model.capacity["a1"] = {"cpu": 4000}
    model.exclusive["wf", "x"] = None
    assert placed(model, step("x", "ready", "started", "running", 1)) == []
    assert "one of them is exclusive" in placed(model, step("y", "ready", "started", "running", 2))[0]


@pytest.mark.parametrize(("wait_s", "wrong"), [(0.5, ["early deadline"]), (2.0, [])])
def test_a_deadline_that_passes_before_its_time(model, history, wait_s: float, wrong: list[str]) -> None:
    model.timeouts["wf", "x"] = 1000
    history.executions.check_deadlines(record(step("x", "ready", "started", "running", 1)), fired=False)
    history._trace._loop.run_until_complete(asyncio.sleep(wait_s))
    given_up = record(step("x", "running", "failed_retry", "delayed", 1))
    history.executions.check_deadlines(given_up, fired=False)
    assert kinds(history) == [], "the agent said so"
    history.executions.check_deadlines(given_up, fired=True)
    assert kinds(history) == wrong
