"""Why a task is where it is: one line for each way of waiting."""

from __future__ import annotations

import pytest

from raftflow.machine.queries import explain


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
        "an agent has room for it: it is placed with the next decision, in order of priority and rank",
    ),
    "paused": (
        _then(_up, _submitted, _pause),
        (
            "the workflow is paused; an agent has room for it: it is placed with the next decision, in order of "
            "priority and rank"
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
            "assigned to a1 ahead of time, 1 before it in the queue there; it starts when it fits; it is to be "
            "cancelled, the agent has yet to let go of it"
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
