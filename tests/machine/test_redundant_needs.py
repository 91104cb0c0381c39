"""Graphs are prepared at submission: redundant needs are not waited for, and are needed all the same."""

from __future__ import annotations

import msgspec
import pytest

from raftflow.domain.tasks.preparation import GraphFacts
from raftflow.machine.machine import Machine
from raftflow.machine.read import queries
from raftflow.machine.read.invariants import check
from raftflow.machine.schema.declaration import SnapshotError

SHORTCUTS = ((), (0,), (0, 1), (0, 1, 2))


@pytest.fixture
def online(drive):
    drive.register(cpu=8)
    return drive


def run(drive, position):
    (fence,) = drive.place(position)
    drive.finish(fence, result=b"%d" % position)


def test_redundant_needs_are_not_waited_for(online):
    online.submit(online.tasks(*SHORTCUTS))
    tasks = online.machine.state.workflows["wf-1"].tasks
    assert [task.waited for task in tasks] == [(), (0,), (1,), (2,)]
    assert [task.needs for task in tasks] == list(SHORTCUTS)
    assert [task.open_needs for task in tasks] == [0, 1, 1, 1]
    assert online.machine.state.workflows["wf-1"].dependents == ((1,), (2,), (3,), ())
    for position in range(3):
        explained = queries.explain(online.machine, "wf-1", "t3")
        assert explained.reason == f"waits for {3 - position} of the 3 tasks that it needs"
        assert explained.waits_for == [f"t{n}" for n in range(position, 3)]
        run(online, position)
    (fence,) = online.place(3)
    (assignment,) = queries.assignments(online.machine, "a1", fence - 1)
    assert list(assignment.inputs) == ["t0", "t1", "t2"], "what it needs it gets"


def test_they_are_restored_and_retried(online):
    online.submit(online.tasks(*SHORTCUTS, on_failure="continue"))
    run(online, 0)
    (fence,) = online.place(1)
    online.finish(fence, "failed")
    assert online.states() == "SFCC"
    copy = Machine()
    copy.restore(online.machine.snapshot())
    assert check(copy) == []
    assert copy.state.workflows["wf-1"].dependents == online.machine.state.workflows["wf-1"].dependents
    online.control("retry")
    for position in (1, 2, 3):
        run(online, position)
    assert online.state() == "succeeded"


def test_levels_and_critical_path_are_shown(online):
    spec = online.tasks((), (0,), (0,), (1, 2), ())
    expected = (10, 50, 20, 5, 60)
    tasks = tuple(
        msgspec.structs.replace(task, expected_ms=ms) for task, ms in zip(spec.tasks, expected, strict=True)
    )
    online.submit(msgspec.structs.replace(spec, tasks=tasks))
    copy = Machine()
    copy.restore(online.machine.snapshot())
    for machine in (online.machine, copy):
        view = queries.workflow_view(machine, "wf-1")
        assert (view.levels, view.critical_path, view.critical_path_s) == (3, ["t0", "t1", "t3"], 0.065)
    (listed,) = queries.workflow_page(online.machine, None, 10, None).workflows
    assert (listed.levels, listed.critical_path) == (None, [])


def test_a_path_along_tasks_that_are_not_there(online):
    online.submit(online.chain(2))
    workflow = online.machine.state.workflows["wf-1"]
    good = workflow.facts
    workflow.facts = GraphFacts(2, (0, 7), 5)
    with pytest.raises(SnapshotError, match="its critical path"):
        Machine().restore(online.machine.snapshot())
    workflow.facts = good


def test_a_need_that_nobody_waits_for_is_found(online):
    online.submit(online.tasks((), (), (0, 1)))
    good = online.encoding()
    online.checked = False
    task = online.task(2)
    task.waits = (1,)
    task.open_needs = 1
    online.machine.state.workflows["wf-1"].index_tasks()
    run(online, 1)
    assert "task wf-1/t2: does not wait for one of its needs" in check(online.machine)
    online.machine.restore([good])
    online.records.clear()
    online.machine.chain = bytes(32)
    online.records = []
