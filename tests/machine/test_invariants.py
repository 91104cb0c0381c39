"""Every invariant sees the fault that it is there for."""

from __future__ import annotations

import msgspec
import pytest

from raftflow.domain.commands import RegisterBundle
from raftflow.domain.tasks.states import AgentState, AttemptOutcome, TaskState
from raftflow.machine.read.invariants import PROBLEMS_MAX, check
from raftflow.machine.tables.agents import DRAIN_OVER
from raftflow.machine.tables.tasks import ORDER_MOVE, ORDER_RELEASE, Attempt, LossHistory


def _wf(drive):
    return drive.machine.state.workflows["wf-1"]


def _agent(drive):
    return drive.machine.state.agents["a1"]


def _set(target, name, value):
    def damage(drive):
        setattr(target(drive), name, value(drive) if callable(value) else value)

    return damage


def _task(position):
    return lambda drive: drive.task(position)


def _last(position):
    return lambda drive: drive.task(position).last


def _do(action):
    return action


def _everybody_in_quarantine(drive):
    drive.machine.state.kinds.clear()
    for agent in drive.machine.state.agents.values():
        agent.state, agent.quarantine_until_ms = AgentState.QUARANTINE, 7


def _swap_numbers(drive):
    state = drive.machine.state
    state.by_number = dict(reversed(list(state.by_number.items())))


def _swap_agents(drive):
    state = drive.machine.state
    state.agents = dict(reversed(list(state.agents.items())))


def _swap_live(drive):
    agent = _agent(drive)
    agent.live = dict(reversed(list(agent.live.items())))


def _only_a_backup(drive):
    task = drive.task(0)
    task.backup, task.last = task.last, None


def _an_unknown_backup(drive):
    workflow = _wf(drive)
    workflow.profiles = tuple([msgspec.structs.replace(profile, backup=True) for profile in workflow.profiles])
    drive.task(0).backup = drive.task(0).last


# t0 runs (fence 1), t1 is queued (2), t2 is delayed (3, on a2), t3 waits for t0, t4 is ready. wf-2 succeeded.
FAULTS = {
    "counts [": _set(_wf, "counts", [0] * len(TaskState)),
    "open tasks counted": _set(_wf, "open", 9),
    "2 tasks are queued or running, its limit is 1": _set(_wf, "max_parallel", 1),
    "tasks have not ended": _set(_wf, "finished_ms", 5),
    "paused although": _do(lambda d: (setattr(_wf(d), "paused", 1), setattr(_wf(d), "cancelled", 1))),
    "table of ids": _do(lambda d: _wf(d).by_id.pop("t0")),
    "table of dependents": _set(_wf, "dependents", []),
    "open needs counted": _set(_task(3), "open_needs", 0),
    "is READY although 1 of its needs": _set(_task(3), "state", TaskState.READY),
    "waits although all its needs": _set(_task(4), "state", TaskState.WAITING),
    "although its workflow is being stopped": _set(_wf, "stopping", value=True),
    "waits for a task that will not succeed": _set(_task(0), "state", TaskState.FAILED),
    "finished at 7": _set(_task(4), "finished_ms", 7),
    "remembers 16 attempts": _set(_task(0), "history", lambda d: (d.task(2).last,) * 16),
    "attempts are numbered [1], the last should be 3": _set(_task(0), "attempts", 3),
    "do not grow up to 0": _do(lambda d: setattr(d.machine.state, "fence", 0)),
    "has outcome": _set(_last(0), "outcome", AttemptOutcome.LOST),
    "starts after now": _set(_last(0), "assigned_ms", 2**50),
    "is over and has an order": _set(_last(2), "order", 2),
    "is live on a9, which is not present": _set(_last(0), "agent", "a9"),
    "is not in the table of a1": _do(lambda d: _agent(d).live.pop(1)),
    "started at 0": _set(_last(0), "started_ms", 0),
    "was not told to stop": _set(_wf, "cancelled", value=True),
    "runs and is asked back": _set(_last(0), "order", ORDER_RELEASE),
    "is to move and does not run": _set(_last(1), "order", ORDER_MOVE),
    "whose drain is over, and was not told to end": _set(_agent, "drain_deadline_ms", DRAIN_OVER),
    "is up and has a drain deadline": _set(_agent, "drain_deadline_ms", 7),
    "is up, although it was drained": _set(_agent, "drained", value=True),
    "is up, in quarantine until 7": _set(_agent, "quarantine_until_ms", 7),
    "tasks that failed there succeeded elsewhere, and none failed there": _set(_agent, "contradicted", 1),
    "agents are in quarantine while no agent is up": _do(_everybody_in_quarantine),
    "timers of agents are": _do(lambda d: d.machine.state.agent_timers.set("a1", 7)),
    "under another name": _set(_agent, "incarnation", 77),
    "is lost and still holds": _set(_agent, "state", AgentState.LOST),
    "which is not the live attempt of": _do(lambda d: _agent(d).live.update({9: (_wf(d), d.task(4))})),
    "out of order": _do(_swap_live),
    "its queue is []": _do(lambda d: _agent(d).queue.clear()),
    "fences to stop are too many, or live": _set(_agent, "void", [1]),
    "1 attempts run, 0 of them exclusive": _set(_agent, "alone", value=True),
    "its attempts need": _do(lambda d: _agent(d).free.update(cpu=500)),
    "its capacity is 500": _do(lambda d: _agent(d).capacity.update(cpu=500)),
    "names other resources": _do(lambda d: _agent(d).free.update(gpu=0)),
    "fits and was not started": _do(lambda d: _agent(d).free.update(cpu=1000)),
    "by number does not match": _do(lambda d: d.machine.state.by_number.pop(1)),
    "workflows are out of order": _do(_swap_numbers),
    "table of finished workflows": _do(lambda d: d.machine.state.finished.clear()),
    "a workflow finished as number 1": _do(lambda d: setattr(d.machine.state, "finished_number", 0)),
    "1 replies are remembered, in another order": _do(lambda d: d.machine.state.requests._order.clear()),
    "of results counted": _do(lambda d: setattr(d.machine.state, "result_bytes", 1)),
    "wf-1: 9 bytes of results counted": _do(lambda d: setattr(d.machine.state.workflows["wf-1"], "result_bytes", 9)),
    "live tasks counted": _do(lambda d: setattr(d.machine.state, "live_tasks", 0)),
    "table of kinds": _do(lambda d: d.machine.state.kinds.clear()),
    "order of their incarnations": _do(_swap_agents),
    "fence 1 belongs to": _set(_last(1), "fence", 1),
    "its timer for": _do(lambda d: setattr(d.task(2), "due_ms", 5)),
    "1 backup attempts counted, there are 0": _set(_wf, "backups", 1),
    "is READY, and something is left of a pair": _do(
        lambda d: setattr(d.task(4), "mishaps", LossHistory(paired=True))
    ),
    "is RUNNING, and something is left of a pair": _do(
        lambda d: setattr(d.task(0), "mishaps", LossHistory(1, failed=True))
    ),
    "left that says nothing": _do(lambda d: setattr(d.task(0), "mishaps", LossHistory())),
    "its next attempt is to have the profile 9, there are 1": _do(
        lambda d: setattr(d.task(0), "mishaps", LossHistory(paired=True, grown=9))
    ),
    "has a backup attempt and does not know it": _do(_an_unknown_backup),
    "is RUNNING and has a backup attempt": _do(_only_a_backup),
    "is QUEUED and has a backup attempt": _do(lambda d: setattr(d.task(1), "backup", d.task(0).last)),
    "its backup attempt 1 on a1 does not follow 1 on a1": _do(lambda d: setattr(d.task(0), "backup", d.task(0).last)),
    "its history [2, 1] is out of order": _set(
        _task(0), "history", (Attempt(2, 1, "a1", 1, 0), Attempt(1, 1, "a1", 1, 0))
    ),
    "t0: its timer for": _do(lambda d: setattr(d.task(0).last, "deadline_ms", 5)),
}


@pytest.fixture
def scene(drive):
    drive.register(prefetch=1)
    drive.register("a2")
    drive.submit(drive.tasks((), (), (), (0,), (), retries=1))
    drive.submit(workflow_id="wf-2", request_id="r")
    drive.place(0, 1)
    drive.place(2, agent="a2")
    drive.finish(3, "failed", agent="a2")
    drive.place(0, agent="a2", workflow_id="wf-2")
    drive.finish(4, agent="a2")
    assert (drive.states(), drive.states("wf-2")) == ("RQDWE", "S")
    kept = drive.encoding()
    yield drive
    drive.machine.restore([kept])


@pytest.mark.parametrize("told", FAULTS)
def test_fault(scene, told):
    FAULTS[told](scene)
    problems = check(scene.machine)
    assert any(told in problem for problem in problems), problems


def _upload(drive):
    return drive.machine.state.uploads["wf-3"]


UPLOAD_FAULTS = {
    "under another name": lambda d: setattr(_upload(d).workflow, "number", 3),
    "tasks have come": lambda d: setattr(_upload(d), "arrived", 1),
    "3 of 2 needs have come": lambda d: setattr(_upload(d), "needs_arrived", 3),
    "before what it needs": lambda d: setattr(_upload(d).tasks[1], "open_needs", 2),
    "dependents does not match": lambda d: _upload(d).dependents.pop(),
    "its tasks give [1, 0, 1,": lambda d: _upload(d).workflow.counts.reverse(),
    "7 tasks of 1 uploads counted, there are 3": lambda d: setattr(d.machine.state, "upload_tasks", 7),
}


@pytest.mark.parametrize("told", UPLOAD_FAULTS)
def test_fault_of_an_upload(drive, told):
    for command in drive.pieces(drive.chain(3), "wf-3")[:2]:
        drive.do(command)
    kept = drive.encoding()
    UPLOAD_FAULTS[told](drive)
    problems = check(drive.machine)
    assert any(told in problem for problem in problems), problems
    drive.machine.restore([kept])


def test_more_faults_of_attempts(scene):
    scene.task(0).last = None
    assert any("which is not the live attempt" in problem for problem in check(scene.machine))
    scene.task(1).last = Attempt(1, 2, "a2", 2, 0)
    assert any("live on" in problem or "not in the table of a2" in problem for problem in check(scene.machine))


def test_a_queue_of_unknown_fences_is_told_once(scene):
    _agent(scene).live.clear()
    assert any("its queue is [2]" in problem for problem in check(scene.machine))


def test_the_list_is_bounded(new_drive):
    drive = new_drive()
    drive.submit(drive.bag(200))
    for task in drive.machine.state.workflows["wf-1"].tasks:
        task.open_needs = 5
    assert len(check(drive.machine)) == PROBLEMS_MAX


CODE = "a" * 64


def _bundle(drive):
    return drive.machine.state.bundles[CODE]


BUNDLE_FAULTS = {
    "makes no sense": lambda d: setattr(_bundle(d), "digest", "x"),
    "was used in the future": lambda d: setattr(_bundle(d), "used_ms", 2**50),
    "2 workflows counted that refer to it, there are 1": lambda d: setattr(_bundle(d), "workflows", 2),
    "which is not known": lambda d: d.machine.state.bundles.forget(CODE),
    "the limit is 2147483648": lambda d: setattr(_bundle(d), "size", 2**32),
}


@pytest.mark.parametrize("told", BUNDLE_FAULTS)
def test_fault_of_a_bundle(drive, told):
    drive.do(RegisterBundle(at_ms=drive.now_ms, actor="client:test", digest=CODE, size=10))
    drive.submit(msgspec.structs.replace(drive.chain(1), code=CODE))
    kept = drive.encoding()
    BUNDLE_FAULTS[told](drive)
    problems = check(drive.machine)
    assert any(told in problem for problem in problems), problems
    drive.machine.restore([kept])
