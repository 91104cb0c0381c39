"""Why a task is where it is: one line for each way of waiting."""

from __future__ import annotations

from typing import get_args

import msgspec
import pytest

from raftflow.domain import commands as c
from raftflow.domain.contract.views import WaitingKind
from raftflow.domain.tasks.budgets import Budget
from raftflow.domain.tasks.feasibility import shape_of
from raftflow.machine.commands.waits.ends import open_wait
from raftflow.machine.read.explain import LeaderKnowledge
from raftflow.machine.read.queries import explain


def _gpu(drive):
    drive.register(cpu=4)
    drive.submit(drive.bag(1, resources={"gpu": 1000}))


def _full(drive):
    drive.register(cpu=2)
    drive.submit(drive.bag(2, resources={"cpu": 1500}))
    drive.place(1)


def _fragmented(drive):
    drive.register(capacity={"cpu": 1000, "memory": 100})
    drive.register("a2", capacity={"cpu": 1000, "memory": 100})
    drive.submit(drive.bag(1, resources={"cpu": 1000, "memory": 100}))
    drive.submit(drive.bag(1, resources={"cpu": 1000}), "wf-2")
    drive.submit(drive.bag(1, resources={"memory": 100}), "wf-3")
    drive.place(0, workflow_id="wf-2")
    drive.place(0, workflow_id="wf-3", agent="a2")


def _queued(drive):
    drive.register(prefetch=2)
    drive.submit(drive.bag(3))
    drive.place(1, 2, 0)


def _delayed(drive):
    drive.register()
    drive.submit(drive.bag(1, retries=1))
    drive.place(0)
    drive.finish(1, "failed", error="boom")


def _timed_out(drive):
    drive.register()
    drive.submit(drive.bag(1, retries=1))
    drive.place(0)
    drive.finish(1, "timeout")


def _running(drive):
    drive.register()
    drive.submit()
    drive.place(0)


def _ended(outcome):
    def end(drive):
        _running(drive)
        drive.finish(1, outcome, error="boom")

    return end


def _then(before, *actions):
    def both(drive):
        before(drive)
        for action in actions:
            action(drive)

    return both


def _submitted(drive):
    drive.submit()


def _up(drive):
    drive.register()


def _pause(drive):
    drive.control("pause")


def _cancel(drive):
    drive.control("cancel")


AT = "2023-11-14T22:13:20.000Z"
CASES = {
    "nobody is up": (_submitted, "no agent is up; it holds nothing and waits until one comes"),
    "nobody has it": (_gpu, "no agent that is up has as much gpu; it holds nothing and waits until one comes"),
    "nobody has room": (
        _full,
        "1 agent could run it, and none has room now: it wants 1.5 cpu, at most 0.5 is free on one",
    ),
    "nobody has room for all of it": (_fragmented, "2 agents could run it, and none has room now"),
    "about to be placed": (
        _then(_submitted, _up),
        "an agent has room for it: it is placed with the next decision, in order of priority, turn and rank",
    ),
    "paused": (
        _then(_up, _submitted, _pause),
        (
            "the workflow is paused; an agent has room for it: it is placed with the next decision, in order of "
            "priority, turn and rank"
        ),
    ),
    "queued": (_queued, "assigned to a1 ahead of time, 1 before it in the queue there; it starts when it fits"),
    "queued, paused": (
        _then(_queued, _pause),
        (
            "the workflow is paused; assigned to a1 ahead of time, 1 before it in the queue there; it starts when it "
            "fits; the agent was asked to give it back"
        ),
    ),
    "queued, cancelled": (
        _then(_queued, _cancel),
        (
            "assigned to a1 ahead of time, 1 before it in the queue there; it starts when it fits; "
            "the agent was told to stop it and has not confirmed that yet"
        ),
    ),
    "delayed": (
        _delayed,
        "attempt 1 ended as failed (boom); the next may start at 2023-11-14T22:13:21.000Z",
    ),
    "delayed, no error": (
        _timed_out,
        "attempt 1 ended as timeout; the next may start at 2023-11-14T22:13:21.000Z",
    ),
    "running": (_running, f"attempt 1 runs on a1 since {AT}"),
    "running, cancelled": (
        _then(_running, _cancel),
        f"attempt 1 runs on a1 since {AT}; the agent was told to stop it",
    ),
    "succeeded": (_ended("succeeded"), f"attempt 1 on a1 succeeded at {AT}"),
    "failed": (_ended("failed"), "attempt 1 on a1 failed and none is left: boom"),
    "cancelled": (_then(_submitted, _cancel), "the workflow was cancelled"),
}


@pytest.mark.parametrize("case", CASES)
def test_reason(drive, case):
    arrange, reason = CASES[case]
    arrange(drive)
    assert explain(drive.machine, "wf-1", "t0").reason == reason


def test_needs_are_named(drive):
    drive.submit(drive.tasks((), (), (0, 1)))
    found = explain(drive.machine, "wf-1", "t2")
    assert (found.state, found.reason, found.waits_for) == (
        "waiting",
        "waits for 2 of the 2 tasks that it needs",
        ["t0", "t1"],
    )


def test_what_is_unknown_is_none(drive):
    drive.submit()
    assert explain(drive.machine, "wf-1", "t9") is None
    assert explain(drive.machine, "wf-9", "t0") is None


# --- the kinds of waiting


def _needs(drive):
    drive.register()
    drive.submit(drive.tasks((1,), ()))


def _equal(drive):
    drive.submit(drive.bag(1, cache=""), "wf-2")
    drive.submit(drive.bag(1, cache=""))


def _limited(drive):
    drive.register(cpu=4)
    drive.submit(msgspec.structs.replace(drive.bag(3), max_parallel=2))
    drive.place(1, 2)


def _labels(drive):
    drive.register()
    drive.submit(drive.bag(1, labels={"zone": "b", "disk": "ssd"}))


def _at_once(drive):
    drive.register("a1", cpu=4)
    drive.register("a2", capacity={"cpu": 1000, "gpu": 1000})
    drive.submit(drive.bag(1, resources={"cpu": 4000, "gpu": 1000}))


def _draining(drive):
    for name in ("a1", "a2", "a3", "a4", "a5", "a6", "a7"):
        drive.register(name, cpu=2)
        drive.drain_leaving(name)
    drive.register("small")
    drive.submit(drive.bag(1, resources={"cpu": 2000}))


def _alone(drive):
    drive.register("a1", cpu=2)
    drive.submit(drive.bag(1), "wf-2")
    drive.place(0, workflow_id="wf-2")
    drive.submit(drive.bag(1, exclusive=True))


def _large(drive):
    drive.register("a1", cpu=2)
    drive.submit(drive.bag(1), "wf-2")
    drive.place(0, workflow_id="wf-2")
    drive.submit(drive.bag(1, resources={"cpu": 2000}))


def _small(drive):
    drive.register("a1", cpu=2)
    drive.submit()


def _lost(drive):
    """Its only other agent is full, and the one with which it was lost is back."""
    drive.register("a1")
    drive.register("a2")
    drive.submit(drive.bag(1))
    drive.submit(drive.bag(1), "wf-2")
    drive.place(0)
    drive.place(0, agent="a2", workflow_id="wf-2")
    drive.remove("a1")
    drive.register("a1", instance="i2")


def _used_up(drive):
    drive.register(cpu=2)
    spec = msgspec.structs.replace(drive.bag(2), budgets=(Budget("usd", 10**6, 10**6),))
    drive.submit(spec)
    (fence,) = drive.place(1)
    step = c.StepToRecord(fence, "x", 1, "", b"1", (("usd", 2 * 10**6),))
    drive.do(c.RecordSteps(at_ms=drive.now_ms, actor="x", agent="a1", incarnation=1, steps=(step,)))


def _rated(drive):
    drive.register()
    drive.submit(drive.bag(1, rates={"llm": 1}))


def _parked(drive):
    drive.register("a1")
    drive.submit()
    (fence,) = drive.place(0)
    drive.spawn(fence, "a", "b")
    drive.park(fence)


def _waiting_for(kind):
    def arrange(drive):
        drive.register("a1")
        drive.submit()
        (fence,) = drive.place(0)
        workflow = drive.machine.state.workflows["wf-1"]
        row = open_wait(drive.machine._step, workflow, workflow.tasks[0], kind, "go", 1, fence)
        drive.finish(fence, "parked", result=b'{"waits":[%d]}' % row.number)

    return arrange


def _uncertain(drive):
    drive.register("a1")
    drive.submit()
    drive.place(0)
    own = {"at_ms": 1, "actor": "agent:a1", "agent": "a1", "incarnation": 1, "fence": 1}
    key = {"begin": 1, "name": "pay", "occurrence": 1}
    drive.do(c.BeginEffect(**own, **key, function="shop:pay"))
    wait = drive.do(c.EndEffect(**own, **key, outcome="uncertain")).wait
    drive.finish(1, "parked", result=b'{"waits":[%d]}' % wait)


def _lost_alone(drive):
    _lost(drive)
    drive.remove("a2")


LARGE = shape_of({"cpu": 2000}, {})
KINDS = {
    "needs": (_needs, {}, "needs", "waits for 1 of the 1 tasks that it needs"),
    "an equal task": (_equal, {}, "equal-task", "an equal task is under way: this one takes its result"),
    "back-off": (_delayed, {}, "back-off", "the next may start at"),
    "paused": (_then(_needs, _pause), {}, "paused", "the workflow is paused; waits for 1"),
    "no agent": (_submitted, {}, "no-agent", "no agent is up"),
    "never: a resource": (_gpu, {}, "never-fits", "no agent that is up has as much gpu"),
    "never: labels": (_labels, {}, "never-fits", "no agent that is up carries the labels disk=ssd, zone=b"),
    "never: all at once": (_at_once, {}, "never-fits", "no agent that is up has all that it wants at once"),
    "draining": (
        _draining,
        {},
        "agents-away",
        (
            "7 agents could run it and take no new work now: a1 (draining), a2 (draining), a3 (draining), "
            "a4 (draining), a5 (draining) and 2 more"
        ),
    ),
    "suspect": (
        _small,
        {"suspect": frozenset({"a1"})},
        "agents-away",
        "1 agent could run it and take no new work now: a1 (suspect)",
    ),
    "unfit": (
        _small,
        {"suspect": frozenset({"a1"}), "unfit": {"a1": "its disk is full"}},
        "agents-away",
        "1 agent could run it and take no new work now: a1 (unfit: its disk is full)",
    ),
    "max_parallel": (_limited, {}, "max-parallel", "may have 2 of its tasks under way at a time, and has"),
    "exclusive": (_alone, {}, "exclusive", "it must run alone on an agent: 1 agent could run it"),
    "kept for it": (
        _large,
        {"reserved": {"a9": 1, "a1": LARGE}},
        "reserved",
        "overtaken for long: a1 is kept for it",
    ),
    "kept for another": (
        _small,
        {"reserved": {"a1": LARGE}},
        "reserved",
        "1 agent with room, a1 first, is kept for a",
    ),
    "lost there": (
        _lost,
        {},
        "avoids",
        "an attempt of it failed on a1, was lost with it or could not run there: it waits for another agent",
    ),
    "lost on the only one": (_lost_alone, {}, "next", "an agent has room for it"),
    "no room": (_full, {}, "no-room", "none has room now: it wants 1.5 cpu, at most 0.5 is free on one"),
    "next": (_small, {}, "next", "an agent has room for it: it is placed with the next decision"),
    "queued": (_queued, {}, "queued", "assigned to a1 ahead of time, 1 before it in the queue there"),
    "children": (_parked, {}, "children", "parked: waits for 2 of 2 children"),
    "budget": (_used_up, {}, "budget", "budget used up: 2.00 usd of 1.00 usd; an agent has room for it"),
    "rate": (_rated, {}, "rate", "waits for rate 'llm': there is no rate limit 'llm'"),
    "signal": (_waiting_for("signal"), {}, "signal", "parked: waits for signal 'go' since 2023"),
    "approval": (_waiting_for("approval"), {}, "approval", "parked: waits for approval 'go' (id 1) since 2023"),
    "effect": (_uncertain, {}, "effect", "parked: effect 'pay' is uncertain since 2023"),
    "nothing": (_running, {}, "", "attempt 1 runs on a1"),
}


@pytest.mark.parametrize("case", KINDS)
def test_kind_of_waiting(drive, case):
    arrange, memory, kind, reason = KINDS[case]
    arrange(drive)
    found = explain(drive.machine, "wf-1", "t0", LeaderKnowledge(**memory))
    assert reason in found.reason
    assert found.waiting == kind


def test_every_kind_of_waiting_is_in_the_table():
    assert {kind for _, _, kind, _ in KINDS.values()} == set(get_args(WaitingKind))


def test_a_placed_task_names_its_agent_and_the_decision(drive):
    drive.register()
    drive.submit()
    before = explain(drive.machine, "wf-1", "t0")
    assert (before.agent, before.index) == (None, None)
    drive.place(0)
    decided_at = drive.index
    for outcome in (None, "succeeded"):
        if outcome is not None:
            drive.finish(1, outcome)
        found = explain(drive.machine, "wf-1", "t0")
        assert (found.agent, found.index) == ("a1", decided_at)


# --- tasks that run too long


@pytest.fixture
def late(drive):
    """Run a task for 60 s of which 2 s are expected; return what is said of it at a later time."""
    drive.register(cpu=2)
    drive.register("a2", cpu=2)

    def explained(*before, ran_ms=60_000, **each):
        each = {"expected_ms": 2_000, **each}
        limit = each.pop("max_parallel", None)
        drive.submit(msgspec.structs.replace(drive.bag(1, retries=1, **each), max_parallel=limit))
        drive.place(0)
        for step in before:
            step(drive)
        return explain(drive.machine, "wf-1", "t0", LeaderKnowledge(now_ms=drive.now_ms + ran_ms)).reason

    return explained


def test_a_late_task_is_told_how_to_allow_a_backup(late):
    told = late()
    assert "it has run for 60.0 s and is late, the document expects it to take 2.0 s" in told
    assert "gets no backup attempt" in told and "`backup = true`" in told


def test_a_late_task_that_allows_a_backup_waits_for_room(late):
    assert late(backup=True).endswith("starts when another agent has room for it and nothing else to do")


def test_a_late_task_that_had_a_backup_gets_no_other(late):
    fail = lambda drive: drive.finish(2, "failed", agent="a2")  # noqa: E731
    assert late(lambda drive: drive.back_up(0), fail, backup=True).endswith("had a backup attempt, and gets no other")


def test_a_late_task_of_a_workflow_at_its_limit(late):
    assert late(backup=True, max_parallel=1).endswith("would pass the max_parallel of its workflow, 1")


@pytest.mark.parametrize("each", [{"ran_ms": 3_999}, {"expected_ms": None}])
def test_who_is_in_time_is_told_nothing_of_backups(late, each):
    assert "late" not in late(**each)


def test_who_was_told_to_stop_is_told_nothing_of_backups(late):
    assert "late" not in late(_cancel)


# --- code that an attempt waits for, or did not get


def test_an_attempt_that_fetches_its_files_is_told_and_what_to_do_about_missing_code(drive):
    drive.register()
    digest = "ab" * 32
    drive.do(c.RegisterBundle(at_ms=drive.now_ms, actor="client:test", digest=digest, size=9))
    drive.submit(msgspec.structs.replace(drive.bag(1, retries=1), code=digest))
    drive.place(0)
    fetching = LeaderKnowledge(fetching=lambda agent, fence: (agent, fence) == ("a1", 1))
    told = explain(drive.machine, "wf-1", "t0", fetching).reason
    assert told.endswith(f"; it has not started: its agent fetches its code bundle {digest}")
    lacking = msgspec.structs.replace(fetching, missing_code=lambda name: name == digest)
    told = explain(drive.machine, "wf-1", "t0", lacking).reason
    assert "missing on this replica: `raftflow bundle send FOLDER`" in told
    assert "fetches" not in explain(drive.machine, "wf-1", "t0").reason
    drive.finish(1, "abandoned", error="no replica gave its code bundle")
    told = explain(drive.machine, "wf-1", "t0", lacking).reason
    assert "; attempt 1 was given back by a1: no replica gave its code bundle, which is missing on this" in told


def test_an_attempt_that_fetches_its_inputs_is_told(drive):
    drive.register()
    drive.submit(drive.bag(1))
    drive.place(0)
    told = explain(drive.machine, "wf-1", "t0", LeaderKnowledge(fetching=lambda _agent, _fence: True)).reason
    assert told.endswith("; it has not started: its agent fetches its inputs")
