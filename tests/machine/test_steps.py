"""Durable steps: one record per key over all attempts, by live attempts only, bounded, saved, freed."""

from __future__ import annotations

from typing import Any

import pytest

from raftflow.domain import commands as c
from raftflow.domain import limits
from raftflow.domain.rejections import RejectionCode
from raftflow.machine.machine import Machine
from raftflow.machine.read import queries
from raftflow.machine.read.invariants import check
from raftflow.machine.read.queries import assignments
from raftflow.machine.read.steps import is_live, is_shared, known_steps, recorded_keys
from raftflow.machine.snapshot.stream import SnapshotError
from raftflow.machine.tables.steps import STEP_OVERHEAD_BYTES, StepRow


def told(fence: int, name: str = "ask", occurrence: int = 1, function: str = "m:ask", result: bytes = b"1") -> Any:
    return c.StepToRecord(fence, name, occurrence, function, result)


def record(drive: Any, *steps: Any, agent: str = "a1", incarnation: int | None = None) -> Any:
    """Record steps and return the verdicts."""
    if incarnation is None:
        incarnation = drive.machine.state.agents[agent].incarnation
    reply = drive.do(
        c.RecordSteps(
            at_ms=drive.now_ms, actor=f"agent:{agent}", agent=agent, incarnation=incarnation, steps=tuple(steps)
        )
    )
    return [verdict.verdict for verdict in reply.verdicts] if hasattr(reply, "verdicts") else reply


def found(
    drive: Any, fence: int, name: str = "ask", occurrence: int = 1, *, agent: str = "a1", ahead: bool = False
) -> Any:
    """Names, occurrences and results that an attempt finds."""
    incarnation = drive.machine.state.agents[agent].incarnation
    known = known_steps(drive.machine, agent, incarnation, fence, (name, occurrence), ahead=ahead)
    return None if known is None else [(each.name, each.occurrence, bytes(each.result)) for each in known]


@pytest.fixture
def running(drive: Any) -> Any:
    """Tasks t0 and t1 run on a1 under the fences 1 and 2."""
    drive.register(cpu=4)
    drive.submit(drive.bag(2, retries=5))
    assert drive.place(0, 1) == (1, 2)
    return drive


def test_a_step_has_one_record_over_all_attempts(running: Any) -> None:
    assert record(running, told(1), told(1, occurrence=2, result=b'"b"'), told(2)) == ["recorded"] * 3
    assert running.records[-1].detail == "wf-1/t0: ask 1; wf-1/t0: ask 2; wf-1/t1: ask 1"
    assert record(running, told(1, result=b"9")) == ["known"]
    running.finish(1, "failed")
    running.fire(60_000)
    (fence,) = running.place(0)
    assert record(running, told(1, "late")) == ["stale"]
    assert found(running, 1) is None and found(running, fence) == [("ask", 1, b"1")]
    assert found(running, fence, ahead=True) == [("ask", 1, b"1"), ("ask", 2, b'"b"')]
    assert found(running, fence, "other") == [] and found(running, 2) == [("ask", 1, b"1")]
    assert record(running, told(fence, result=b"9"), told(fence, "more")) == ["known", "recorded"]
    (assignment,) = assignments(running.machine, "a1", fence - 1)
    assert assignment.steps == 3


def test_the_audit_shows_the_first_steps_of_a_large_request_and_how_many_there_are(running: Any) -> None:
    assert record(running, *[told(1, occurrence=number) for number in range(1, 31)]) == ["recorded"] * 30
    shown = "; ".join(f"wf-1/t0: ask {number}" for number in range(1, 21))
    assert running.records[-1].detail == f"{shown}; and 10 more"


def test_a_step_of_another_function_is_refused(running: Any) -> None:
    record(running, told(1))
    reply = running.do(
        c.RecordSteps(at_ms=1, actor="agent:a1", agent="a1", incarnation=1, steps=(told(1, function=""),))
    )
    (verdict,) = reply.verdicts
    assert verdict.verdict == "mismatch"
    assert "was recorded by m:ask, and is now run by no named function: give the new step" in verdict.detail


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        (told(1, ""), "must not be empty"),
        (told(1, "x" * 201), "201 characters long"),
        (told(1, "a\nb"), "control characters"),
        (told(1, occurrence=0), "from 1 to"),
        (told(1, function="f" * 501), "at most 500"),
        (told(1, result=b""), "needs a result"),
        (told(1, result=b"{"), "not JSON"),
        (told(1, result=b'"' + b"x" * limits.RESULT_BYTES_MAX + b'"'), "the limit is 65536"),
    ],
)
def test_what_cannot_be_recorded_is_refused(running: Any, wrong: Any, why: str) -> None:
    reply = running.do(c.RecordSteps(at_ms=1, actor="agent:a1", agent="a1", incarnation=1, steps=(wrong, told(1))))
    assert [verdict.verdict for verdict in reply.verdicts] == ["invalid", "recorded"]
    assert why in reply.verdicts[0].detail


def test_a_given_up_incarnation_records_nothing(running: Any) -> None:
    assert record(running, told(1), incarnation=9).code is RejectionCode.STALE_INCARNATION
    assert record(running, told(1), agent="a1", incarnation=0).code is RejectionCode.STALE_INCARNATION
    running.remove()
    refused = record(running, told(1))
    assert refused.code is RejectionCode.STALE_INCARNATION and "record nothing" in refused.message
    unknown = running.do(c.RecordSteps(at_ms=1, actor="agent:x", agent="x", incarnation=1, steps=(told(1),)))
    assert unknown.code is RejectionCode.STALE_INCARNATION
    assert len(running.machine.state.steps) == 0


def test_a_queued_attempt_records_too(drive: Any) -> None:
    """Its agent may have started it already: no start is ever reported."""
    drive.register(cpu=1, prefetch=2)
    drive.submit(drive.bag(2))
    drive.place(0, 1)
    assert drive.states() == "RQ" and record(drive, told(2)) == ["recorded"]


@pytest.mark.parametrize(
    ("limit", "value", "why"),
    [
        ("STEPS_PER_TASK_MAX", 2, "the task has 2 recorded steps"),
        ("STEPS_BYTES_PER_WORKFLOW_MAX", 600, "the recorded steps of the workflow have"),
        ("STEPS_MAX", 2, "wait until older workflows"),
        ("STEPS_BYTES_MAX", 600, "wait until older workflows"),
    ],
)
def test_limits(running: Any, monkeypatch: Any, limit: str, value: int, why: str) -> None:
    monkeypatch.setattr(limits, limit, value)
    assert record(running, told(1), told(1, "b")) == ["recorded"] * 2
    reply = running.do(c.RecordSteps(at_ms=1, actor="agent:a1", agent="a1", incarnation=1, steps=(told(1, "c"),)))
    assert reply.verdicts[0].verdict == "limit" and why in reply.verdicts[0].detail
    assert record(running, told(1)) == ["known"]


def test_two_attempts_at_once_share_the_records(drive: Any) -> None:
    drive.register()
    drive.register("a2")
    drive.submit(drive.bag(1, backup=True))
    drive.place(0)
    (second,) = drive.back_up(0)
    assert record(drive, told(1, result=b'"first"')) == ["recorded"]
    assert record(drive, told(second, result=b'"second"'), agent="a2") == ["known"]
    assert found(drive, second, agent="a2") == [("ask", 1, b'"first"')]
    assert is_shared(drive.machine, "a2", 2, second) and not is_shared(drive.machine, "a2", 2, 77)
    assert not is_live(drive.machine, "a2", 1, second) and not is_live(drive.machine, "nobody", 1, second)
    (assignment,) = assignments(drive.machine, "a1", 0)
    assert assignment.steps == -1


def test_what_comes_ahead_is_bounded(running: Any) -> None:
    large = b'"' + b"x" * 20_000 + b'"'
    record(running, *[told(1, occurrence=n, result=large) for n in (1, 2, 3)])
    record(running, *[told(2, occurrence=n) for n in range(1, 301)])
    assert len(found(running, 1, ahead=True)) == 1
    assert len(found(running, 1, occurrence=2)) == 1
    assert 100 < len(found(running, 2, ahead=True)) <= limits.CALL_STEPS_MAX


def test_records_outlive_a_retry_and_go_with_the_workflow(running: Any) -> None:
    record(running, told(1), told(2))
    running.control("cancel")
    running.finish(1, "cancelled")
    running.finish(2, "cancelled")
    running.control("retry")
    (fence,) = running.place(0)
    assert found(running, fence) == [("ask", 1, b"1")]
    running.finish(fence)
    running.control("cancel")
    running.now_ms += 1
    steps = running.machine.state.workflows["wf-1"].steps
    running.retire()
    assert len(running.machine.state.steps) == running.machine.state.steps.size_bytes == 0
    running.machine.sweep(100)
    assert (steps.rows, steps.places, steps.by_task) == ([], {}, {})


def test_a_snapshot_holds_the_records_of_the_moment_when_it_was_opened(running: Any) -> None:
    large = b'"' + b"x" * 60_000 + b'"'
    record(running, told(1, "a"), told(2, "b", result=large), told(2, "c", result=large))
    pieces = running.machine.snapshot()
    first = next(pieces)
    record(running, told(1, "later"))
    machine = Machine()
    machine.restore([first, *pieces])
    assert check(machine) == []
    assert [row.name for row in machine.state.workflows["wf-1"].steps.rows] == ["a", "b", "c"]
    assert machine.state.steps.size_bytes == 3 * (STEP_OVERHEAD_BYTES + 6) + 1 + 2 * len(large)


@pytest.mark.parametrize(
    "row",
    [
        StepRow(7, 0, "ask", 1, "", b"1", 1, 5),
        StepRow(1, 9, "ask", 1, "", b"1", 1, 5),
        StepRow(1, 0, "ask", 1, "m:ask", b"1", 1, 5),
    ],
)
def test_records_that_do_not_fit_are_not_restored(running: Any, row: Any) -> None:
    record(running, told(1))
    running.machine.state.steps.workflows[1].rows.append(row)
    running.machine.state.steps.count += 1
    if row.workflow == 7:
        running.machine.state.steps.workflows[7] = running.machine.state.steps.workflows[1]
    with pytest.raises(SnapshotError, match=r"recorded twice|has records of steps, and not the tasks"):
        Machine().restore(running.machine.snapshot())
    running.machine.state.steps.workflows.pop(7, None)
    running.machine.state.steps.workflows[1].rows.pop()
    running.machine.state.steps.count -= 1


def _table(drive: Any) -> Any:
    return drive.machine.state.steps


def _steps(drive: Any) -> Any:
    return drive.machine.state.workflows["wf-1"].steps


def _replace_row(**fields: Any) -> Any:
    def damage(drive: Any) -> None:
        row = _steps(drive).rows[0]
        values = {name: getattr(row, name) for name in row.__struct_fields__} | fields
        _steps(drive).rows[0] = StepRow(**values)

    return damage


FAULTS = {
    "does not match the workflows that have steps": lambda d: _table(d).workflows.clear(),
    "is of another task": _replace_row(task=9),
    "which is in the future": _replace_row(fence=99),
    "the lookup of its steps does not match": lambda d: _steps(d).places.clear(),
    "a step is recorded twice": lambda d: _steps(d).rows.append(_steps(d).rows[0]),
    "bytes of steps counted, there are": lambda d: setattr(_steps(d), "size_bytes", 5),
    "steps of 4 bytes counted, there are": lambda d: setattr(_table(d), "size_bytes", 4),
}


@pytest.mark.parametrize("problem", FAULTS)
def test_invariants(running: Any, problem: str) -> None:
    record(running, told(1), told(2))
    running.checked = False
    whole = running.encoding()
    FAULTS[problem](running)
    assert any(problem in each for each in check(running.machine))
    running.machine.restore([whole])


def test_the_keys_of_a_task(running: Any) -> None:
    assert recorded_keys(running.machine, "wf-1", "t0") == []
    record(running, told(1), told(2, "other"), told(1, occurrence=2))
    assert recorded_keys(running.machine, "wf-1", "t0") == [("ask", 1), ("ask", 2)]
    assert recorded_keys(running.machine, "wf-1", "none") is None
    assert recorded_keys(running.machine, "none", "t0") is None


def test_steps_are_shown(running: Any) -> None:
    assert queries.task_view(running.machine, "wf-1", "t0").steps == 0
    record(running, told(1))
    assert queries.explain(running.machine, "wf-1", "t0").reason.endswith("; 1 of its steps is recorded")
    record(running, told(1, "b"))
    assert queries.task_view(running.machine, "wf-1", "t0").steps == 2
    assert queries.explain(running.machine, "wf-1", "t0").reason.endswith("; 2 of its steps are recorded")
    running.finish(1)
    assert queries.task_view(running.machine, "wf-1", "t0").steps == 2
    assert "recorded" not in queries.explain(running.machine, "wf-1", "t0").reason


@pytest.mark.parametrize(
    ("limit", "problem"),
    [
        ("STEPS_PER_TASK_MAX", "one of its tasks has more than 1 steps"),
        ("STEPS_BYTES_PER_WORKFLOW_MAX", "the limit is 1"),
        ("STEPS_BYTES_MAX", "the steps have"),
    ],
)
def test_limits_are_invariants(running: Any, monkeypatch: Any, limit: str, problem: str) -> None:
    record(running, told(1), told(1, "b"))
    with monkeypatch.context() as patch:
        patch.setattr(limits, limit, 1)
        assert any(problem in each for each in check(running.machine))
