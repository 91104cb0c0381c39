"""What is learnt from attempts that succeeded, and who uses it."""

from __future__ import annotations

from types import SimpleNamespace

import msgspec
import pytest

from raftflow.domain import commands as c
from raftflow.domain.tasks.program import CommandLine, PythonCall
from raftflow.domain.tasks.workflow import TaskSpec, WorkflowSpec
from raftflow.machine.machine import Machine
from raftflow.machine.read import queries
from raftflow.machine.read.invariants import check
from raftflow.machine.rules import learning
from raftflow.machine.rules.learning import Estimate
from raftflow.machine.tables.state import State


@pytest.fixture
def online(drive):
    drive.register(cpu=4)
    return drive


def run(drive, duration_ms, workflow_id, **task):
    """Run one task to its success."""
    task.setdefault("program", CommandLine(("python3", "/srv/fit.py")))
    drive.submit(WorkflowSpec(name="w", tasks=(TaskSpec(id="t", **task),)), workflow_id)
    (fence,) = drive.place(0, workflow_id=workflow_id)
    assert drive.finish(fence, duration_ms=duration_ms) == "accepted"


def test_times_are_learnt_by_kind(online):
    run(online, 1_000, "wf-1")
    assert queries.kind_estimate(online.machine, "wf-1", 0) == Estimate("fit.py", 1, 1_000, 500, 0, 0)
    run(online, 1_800, "wf-2")
    assert queries.kind_estimate(online.machine, "wf-2", 0) == Estimate("fit.py", 2, 1_100, 575, 0, 0)
    run(online, 300, "wf-3")
    assert queries.kind_estimate(online.machine, "wf-3", 0) == Estimate("fit.py", 3, 1_000, 631, 0, 0)
    run(online, 70, "wf-4", kind="other")
    run(online, 40, "wf-5", program=PythonCall("a.b:c"))
    assert [(view.kind, view.mean_s) for view in queries.kinds(online.machine).kinds] == [
        ("a.b:c", 0.04),
        ("fit.py", 1.0),
        ("other", 0.07),
    ]


def test_what_has_no_kind_teaches_nothing(online):
    run(online, 1_000, "wf-1", program=CommandLine(("sh", "-c", "x")))
    assert queries.kinds(online.machine).kinds == []
    assert queries.expected_times(online.machine) == {}
    run(online, 0, "wf-2", kind="fast")
    assert queries.expected_times(online.machine) == {"fast": 1}


def test_only_success_teaches(online):
    online.submit(online.bag(2, retries=1))
    first, second = online.place(0, 1)
    online.finish(first, "failed", duration_ms=5)
    online.finish(second, "succeeded", result=b"{", duration_ms=5)
    assert queries.kinds(online.machine).kinds == []
    assert queries.kind_estimate(online.machine, "wf-1", 0) is None
    assert queries.kind_estimate(online.machine, "wf-1", 2) is None
    assert queries.kind_estimate(online.machine, "wf-2", 0) is None


def test_ranks_use_what_was_learnt_where_nothing_is_said(online):
    run(online, 250, "wf-1", program=CommandLine(("a",)))
    run(online, 0, "wf-2", program=CommandLine(("b",)))
    tasks = (
        TaskSpec(id="a", program=CommandLine(("a",))),
        TaskSpec(id="b", program=CommandLine(("b",)), needs=("a",)),
        TaskSpec(id="c", program=CommandLine(("c",)), needs=("b",)),
        TaskSpec(id="d", program=CommandLine(("a",)), needs=("c",), expected_ms=7),
    )
    online.submit(WorkflowSpec(name="w", tasks=tasks), "wf-3")
    ranks = [task.rank for task in online.machine.state.workflows["wf-3"].tasks]
    assert ranks == [250 + 1 + 1_000 + 7, 1 + 1_000 + 7, 1_000 + 7, 7]


def test_use_is_learnt_where_it_is_told():
    state, clock = State(), SimpleNamespace(clock_ms=5)
    state.feature_level = 3
    step = SimpleNamespace(state=state, **vars(clock))
    profile = SimpleNamespace(kind="k")
    for cpu_ms, peak_mib in ((0, 0), (800, 100), (0, 0), (1_600, 20), (0, 300), (-1, -1)):
        learning.learn(step, profile, 10, cpu_ms, peak_mib)
    assert learning.estimate(state, "k") == Estimate("k", 6, 10, 1, 900, 300)
    learning.learn(step, profile, -5, 0, 20)
    assert learning.estimate(state, "k").peak_mib == 265
    learning.learn(step, profile, 2**62, 2**62, 2**62)
    known = state.kinds_learnt["k"]
    assert max(known.mean_us, known.deviation_us, known.cpu_ms, known.peak_mib) < 2**60, "numbers stay small"


def test_kinds_that_were_not_learnt_for_longest_go(online, monkeypatch):
    monkeypatch.setattr(learning, "KINDS_MAX", 4)
    monkeypatch.setattr(learning, "FORGOTTEN", 2)
    for number, kind in enumerate("abcdac"):
        online.now_ms += 1
        run(online, 10, f"wf-{number}", kind=kind)
    online.now_ms += 1
    run(online, 10, "wf-9", kind="e")
    assert list(online.machine.state.kinds_learnt) == ["a", "c", "e"]


def test_it_is_in_the_snapshot(online):
    run(online, 10, "wf-1")
    copy = Machine()
    copy.restore(online.machine.snapshot())
    assert copy.state.kinds_learnt == online.machine.state.kinds_learnt
    assert queries.kinds(copy) == queries.kinds(online.machine)


def test_a_snapshot_shows_what_was_learnt_when_it_was_opened(online):
    run(online, 10, "wf-1")
    before = online.encoding()
    pieces = online.machine.snapshot()
    online.submit(online.chain(1), "wf-2")
    (fence,) = online.place(0, workflow_id="wf-2")
    online.finish(fence, duration_ms=70)
    assert b"".join(pieces) == before


def test_invariants(online, monkeypatch):
    run(online, 10, "wf-1")
    learnt = online.machine.state.kinds_learnt
    good = learnt["fit.py"]
    for bad in ({"count": 0}, {"mean_us": -1}, {"last_ms": online.now_ms + 1}, {"kind": "x"}):
        learnt["fit.py"] = msgspec.structs.replace(good, **bad)
        assert check(online.machine) == ["what was learnt of the kind 'fit.py' makes no sense"]
    learnt["fit.py"] = good
    monkeypatch.setattr("raftflow.domain.limits.KINDS_MAX", 0)
    assert check(online.machine) == ["kinds_learnt: 1, the limit KINDS_MAX is 0"]
    monkeypatch.undo()


# --- tasks with children


def with_children(drive, workflow_id, park_s, **task):
    """Run a task that spawns a child after 1 s, is parked for a time, and runs for 2 s then."""
    task.setdefault("program", PythonCall("m:grow"))
    drive.submit(WorkflowSpec(name="w", tasks=(TaskSpec(id="t", **task),)), workflow_id)
    (fence,) = drive.place(0, workflow_id=workflow_id)
    drive.spawn(fence, "c")
    drive.now_ms += 1_000
    drive.park(fence)
    (child,) = drive.place(1, workflow_id=workflow_id)
    drive.now_ms += park_s * 1_000
    drive.finish(child)
    (fence,) = drive.place(0, workflow_id=workflow_id)
    drive.now_ms += 2_000
    assert drive.finish(fence, duration_ms=2_000) == "accepted"
    return drive.machine


def test_a_task_with_children_is_expected_to_take_as_long_as_it_and_they_took(online):
    machine = with_children(online, "wf-1", 17)
    (kind,) = [kind for kind in queries.kinds(machine).kinds if kind.kind == "m:grow"]
    assert (kind.mean_s, kind.span_s) == (2.0, 20.0)
    assert queries.expected_times(machine)["m:grow"] == 20_000
    with_children(online, "wf-2", 25)
    assert queries.expected_times(machine)["m:grow"] == 21_000
    assert queries.kind_estimate(machine, "wf-1", 0).mean_ms == 2_000, "of one attempt"


def wait_for_somebody(drive, fence, wait_s):
    """An attempt of t asks and parks, the answer comes later, and the next attempt starts. Returns its fence."""
    reply = drive.do(
        c.BeginWait(
            at_ms=drive.now_ms,
            actor="agent:a1",
            agent="a1",
            incarnation=1,
            fence=fence,
            kind="signal",
            name="go",
            occurrence=drive.task(0).attempts,
        )
    )
    drive.finish(fence, "parked", result=b'{"waits":[%d]}' % reply.number)
    drive.now_ms += wait_s * 1_000
    drive.do(c.SendSignal(at_ms=drive.now_ms, actor="x", workflow_id="wf-1", name="go", payload=b"1"))
    (fence,) = drive.place(0)
    return fence


def test_time_in_which_a_task_waits_for_people_is_not_learnt(online):
    online.submit(WorkflowSpec(name="w", tasks=(TaskSpec(id="t", program=PythonCall("m:grow")),)))
    (fence,) = online.place(0)
    online.now_ms += 1_000
    fence = wait_for_somebody(online, fence, 86_400)
    online.spawn(fence, "c")
    online.park(fence)
    (child,) = online.place(1)
    online.now_ms += 4_000
    online.finish(child)
    (fence,) = online.place(0)
    fence = wait_for_somebody(online, fence, 7_200)
    online.now_ms += 2_000
    assert online.finish(fence, duration_ms=2_000) == "accepted"
    (kind,) = [kind for kind in queries.kinds(online.machine).kinds if kind.kind == "m:grow"]
    assert (kind.mean_s, kind.span_s) == (2.0, 7.0)


def test_waits_before_a_failure_are_not_taken_from_what_came_after_it(online):
    online.submit(WorkflowSpec(name="w", tasks=(TaskSpec(id="t", program=PythonCall("m:grow"), retries=1),)))
    (fence,) = online.place(0)
    fence = wait_for_somebody(online, fence, 86_400)
    online.finish(fence, "failed")
    online.fire(50_000)
    (fence,) = online.place(0)
    online.spawn(fence, "c")
    online.park(fence)
    (child,) = online.place(1)
    online.now_ms += 9_000
    online.finish(child)
    (fence,) = online.place(0)
    online.now_ms += 1_000
    online.finish(fence, duration_ms=1_000)
    assert queries.expected_times(online.machine)["m:grow"] == 10_000


def test_what_came_before_a_failure_does_not_count(online):
    online.submit(WorkflowSpec(name="w", tasks=(TaskSpec(id="t", program=PythonCall("m:grow"), retries=1),)))
    (fence,) = online.place(0)
    online.spawn(fence, "c")
    online.now_ms += 50_000
    online.finish(fence, "failed")
    online.fire(50_000)
    (fence,) = online.place(0)
    online.now_ms += 3_000
    assert online.finish(fence, duration_ms=3_000) == "accepted"
    assert queries.expected_times(online.machine)["m:grow"] == 3_000


def test_a_task_with_children_and_without_a_kind_teaches_nothing(online):
    machine = with_children(online, "wf-1", 1, program=CommandLine(("sh", "-c", "x")))
    assert queries.expected_times(machine).keys() == {"true"}, "that of the child alone"
