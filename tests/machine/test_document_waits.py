"""Waits of documents: tasks that no agent runs, whose results are signals and decisions."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from raftflow.domain import commands as c
from raftflow.domain import limits
from raftflow.domain.rejections import Rejection, RejectionCode
from raftflow.domain.tasks.program import CommandLine, TaskWait
from raftflow.domain.tasks.workflow import TaskSpec, WorkflowSpec
from raftflow.machine.machine import Machine
from raftflow.machine.read import queries, waits
from raftflow.machine.read.invariants import check
from raftflow.machine.rules.step_limits import StepLimits

GO = TaskWait("signal", "go", 1_000, b'{"go":false}')
FOREVER = TaskWait("signal", "go")
ASK = TaskWait("approval", "Publish?", 1_000, b'"deny"', b'{"title":"Publish?","details":{"n":1}}')


def flow(*tasks: tuple[Any, tuple[int, ...]], on_failure: Any = "stop") -> WorkflowSpec:
    """A workflow of tasks t0, t1, ...: what each is (None for a command) and the positions that it needs."""
    made = []
    for position, (wait, needs) in enumerate(tasks):
        program = CommandLine(("true",)) if wait is None else wait
        more: Any = {} if wait is None else {"resources": {}, "expected_ms": 0}
        made.append(TaskSpec(id=f"t{position}", needs=tuple(f"t{need}" for need in needs), program=program, **more))
    return WorkflowSpec(name="test", on_failure=on_failure, tasks=tuple(made))


def send(drive: Any, payload: bytes = b"1", name: str = "go", workflow_id: str = "wf-1") -> Any:
    reply = drive.do(
        c.SendSignal(at_ms=drive.now_ms, actor="client:x", workflow_id=workflow_id, name=name, payload=payload)
    )
    return reply if isinstance(reply, Rejection) else (reply.state, reply.task_id)


def decide(drive: Any, choice: str = "approve", number: int = 1, **more: Any) -> Any:
    return drive.do(c.DecideApproval(at_ms=drive.now_ms, actor="client:eve", number=number, choice=choice, **more))


def approval(drive: Any, number: int = 1) -> Any:
    return waits.approval_view(drive.machine, number)


def explain(drive: Any, task: str = "t0") -> Any:
    return queries.explain(drive.machine, "wf-1", task)


def put_in(drive: Any, how: str, spec: WorkflowSpec) -> Any:
    return drive.submit(spec) if how == "whole" else drive.upload(spec)


@pytest.mark.parametrize("how", ["whole", "pieces"])
def test_a_graph_waits_for_a_signal_in_its_middle(drive: Any, how: str) -> None:
    drive.register(cpu=4)
    reply = put_in(drive, how, flow((None, ()), (FOREVER, (0,)), (None, (1,))))
    assert drive.states() == "EWW" and reply.warnings == ()
    (fence,) = drive.place(0)
    drive.finish(fence)
    assert drive.states() == "SPW" and drive.task(1).attempts == 0
    told = explain(drive, "t1")
    assert told.waiting == "signal" and told.reason.startswith("parked: waits for signal 'go' since")
    assert send(drive, b'{"a":[1]}') == ("delivered", "t1")
    assert drive.states() == "SSE" and drive.task(1).result == b'{"a":[1]}' and drive.task(1).parking is None
    assert drive.machine.state.workflows["wf-1"].steps is None
    (fence,) = drive.place(2)
    drive.finish(fence)
    assert drive.state() == "succeeded"


@pytest.mark.parametrize("how", ["whole", "pieces"])
def test_a_wait_without_needs_begins_at_once_and_needs_no_agent(drive: Any, how: str) -> None:
    reply = put_in(drive, how, flow((FOREVER, ())))
    assert drive.states() == "P" and reply.warnings == () and drive.state() == "running"
    send(drive)
    assert drive.states() == "S" and drive.state() == "succeeded"
    assert isinstance(send(drive), Rejection)
    drive.now_ms += 10
    assert drive.retire() == ("wf-1",)


def test_signals_that_came_before_are_taken_at_once_one_after_the_other(drive: Any) -> None:
    drive.register(cpu=4)
    drive.submit(flow((None, ()), (FOREVER, (0,)), (FOREVER, (1,)), (FOREVER, (2,))))
    (fence,) = drive.place(0)
    assert send(drive, b"1") == ("kept", "") and send(drive, b"2") == ("kept", "")
    drive.finish(fence)
    assert drive.states() == "SSSP" and [drive.task(n).result for n in (1, 2)] == [b"1", b"2"]
    assert drive.machine.state.signals.count == 0


def test_a_timeout_gives_the_value_of_the_document(drive: Any) -> None:
    drive.submit(flow((GO, ()), (GO, (0,))))
    assert drive.fire(999) == 0 and drive.fire(1) == 1
    assert drive.states() == "SP" and drive.task(0).result == b'{"go":false}'


def test_a_timeout_without_a_value_fails_the_task_and_a_retry_waits_again(drive: Any) -> None:
    drive.submit(flow((TaskWait("signal", "go", 1_000), ()), (FOREVER, (0,)), (FOREVER, ())))
    assert drive.fire(1_000) == 1
    assert drive.states() == "FCC" and drive.task(0).detail == "no signal 'go' came in time"
    assert drive.state() == "failed" and drive.machine.state.waits.open == 0
    drive.control("retry")
    assert drive.states() == "PWP"
    assert [send(drive) for _ in range(3)] == [("delivered", "t0"), ("delivered", "t2"), ("delivered", "t1")]
    assert drive.states() == "SSS"


def test_on_failure_continue_cancels_what_needs_the_wait(drive: Any) -> None:
    drive.submit(flow((TaskWait("signal", "go", 1_000), ()), (None, (0,)), (None, ()), on_failure="continue"))
    drive.fire(1_000)
    assert drive.states() == "FCE"


def test_cancel_ends_the_wait(drive: Any) -> None:
    drive.submit(flow((GO, ()), (ASK, ())))
    assert drive.states() == "PP"
    drive.control("cancel")
    assert drive.states() == "CC" and drive.machine.state.waits.open == 0
    assert approval(drive, 2).state == "withdrawn"
    assert drive.fire(2_000) == 0


def test_a_signal_counts_while_the_workflow_is_paused(drive: Any) -> None:
    drive.register(cpu=4)
    drive.submit(flow((FOREVER, ()), (None, (0,))))
    drive.control("pause")
    assert send(drive) == ("delivered", "t0") and drive.states() == "SE"
    assert drive.place(1) == (0,)
    drive.control("resume")
    assert drive.place(1) != (0,)


def test_of_two_waits_for_one_name_the_first_gets_the_first_signal(drive: Any) -> None:
    drive.submit(flow((FOREVER, ()), (FOREVER, ())))
    assert [send(drive, b"1"), send(drive, b"2")] == [("delivered", "t0"), ("delivered", "t1")]


def test_a_task_that_fails_in_the_command_that_met_the_needs_of_a_wait_cancels_it(drive: Any) -> None:
    drive.register(cpu=4)
    drive.submit(flow((None, ()), (FOREVER, (0,)), (None, ())))
    one, two = drive.place(0, 2)
    drive.report(drive.end(one), drive.end(two, "failed"))
    assert drive.states() == "SCF" and drive.machine.state.wait_number == 0


def test_a_decision_is_the_result(drive: Any) -> None:
    drive.submit(flow((ASK, ())))
    view = approval(drive)
    assert (view.task, view.title, view.details, view.on_timeout) == ("t0", "Publish?", {"n": 1}, "deny")
    assert explain(drive).waiting == "approval"
    assert decide(drive, comment="fine", payload=b"[2]").changed
    result = {"choice": "approve", "comment": "fine", "payload": [2], "by": "client:eve"}
    assert drive.states() == "S" and msgspec.json.decode(drive.task(0).result) == result
    assert decide(drive, "deny").code is RejectionCode.CONFLICT
    assert approval(drive).choice == "approve"


def test_after_the_timeout_of_an_approval_a_choice_counts(drive: Any) -> None:
    drive.submit(flow((ASK, ())))
    drive.fire(1_000)
    result = {"choice": "deny", "comment": "", "payload": None, "by": ""}
    assert drive.states() == "S" and msgspec.json.decode(drive.task(0).result) == result
    assert approval(drive).state == "timeout"


def test_an_approval_without_a_choice_for_the_timeout_fails(drive: Any) -> None:
    drive.submit(flow((msgspec.structs.replace(ASK, on_timeout=b""), ())))
    drive.fire(1_000)
    assert drive.states() == "F" and drive.task(0).detail == "no decision about 'Publish?' was made in time"


def test_results_that_pass_a_limit(drive: Any, monkeypatch: Any) -> None:
    drive.submit(flow((FOREVER, ()), (ASK, ()), (FOREVER, (0,))))
    long = b'"' + b"x" * 2_000 + b'"'
    monkeypatch.setattr(limits, "RESULTS_BYTES_MAX", 1_000)
    assert "no more than 1000 are kept" in send(drive, long).message and drive.states() == "PPW"
    monkeypatch.setattr(limits, "RESULT_BYTES_MAX", 2_040)
    assert "the limit is 2040: send less" in decide(drive, number=2, payload=long).message
    assert send(drive, b"1") == ("delivered", "t0")


def test_a_signal_that_came_before_and_passes_a_limit_fails_the_task(drive: Any, monkeypatch: Any) -> None:
    drive.register(cpu=4)
    drive.submit(flow((None, ()), (FOREVER, (0,))))
    send(drive, b'"' + b"x" * 2_000 + b'"')
    (fence,) = drive.place(0)
    monkeypatch.setattr(limits, "RESULTS_BYTES_MAX", 1_000)
    drive.finish(fence)
    assert drive.states() == "SF" and drive.task(1).detail.startswith("it cannot take the signal 'go': the results")
    assert drive.machine.state.signals.count == 1


def test_a_wait_that_passes_a_limit_fails_the_task(drive: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(limits, "WAITS_MAX", 1)
    drive.submit(flow((FOREVER, ()), (FOREVER, ()), on_failure="continue"))
    assert drive.states() == "PF" and drive.task(1).detail.startswith("it cannot wait: 1 waits of")


def test_a_wait_is_neither_cached_nor_backed_up(drive: Any) -> None:
    for more in ({"cache": ""}, {"backup": True}):
        task = msgspec.structs.replace(flow((GO, ())).tasks[0], **more)
        told = drive.submit(WorkflowSpec(name="test", tasks=(task,)))
        assert told.message == "tasks[0].wait: a task that waits is neither cached nor has backup attempts"
    bad = drive.submit(flow((TaskWait("signal", ""), ())))
    assert bad.message == "tasks[0].wait: the name of a wait must not be empty"


def test_children_may_wait(drive: Any) -> None:
    drive.register(cpu=4)
    drive.submit(drive.chain(1))
    (fence,) = drive.place(0)
    spec = flow((FOREVER, ())).tasks[0]
    drive.spawn(fence, "w", specs=(spec,))
    assert drive.states() == "RP"
    drive.park(fence)
    send(drive, b"7")
    assert drive.states() == "ES"


def test_equal_tasks_behind_a_wait_share_a_result(drive: Any) -> None:
    drive.register(cpu=4)
    cached = TaskSpec(id="t2", needs=("t1",), program=CommandLine(("true",)), cache="")
    spec = flow((None, ()), (FOREVER, (0,)))
    drive.submit(WorkflowSpec(name="test", tasks=(*spec.tasks, cached)))
    (fence,) = drive.place(0)
    drive.finish(fence)
    send(drive)
    assert drive.states() == "SSE" and drive.task(2).claim


def test_large_workflows_begin_their_waits_in_pieces(new_drive: Any) -> None:
    drive = new_drive(limits=StepLimits(inline_max=8, piece_max=8))
    drive.submit(flow(*[(FOREVER, ())] * 20))
    drive.work_off()
    assert drive.states() == "P" * 20
    drive.control("cancel")
    assert isinstance(decide(drive), Rejection)
    drive.work_off()
    assert drive.states() == "C" * 20
    drive.control("retry")
    drive.work_off()
    assert drive.states() == "P" * 20 and drive.machine.state.waits.open == 20


def test_timeouts_that_are_due_together_are_counted_alike_in_pieces_and_at_once(new_drive: Any) -> None:
    """The first one fails its task, and that stops the others: they do not time out, though their timers are due."""
    for step_limits in (StepLimits(), StepLimits(inline_max=8, piece_max=8)):
        drive = new_drive(limits=step_limits)
        drive.submit(flow(*[(TaskWait("signal", "go", 1_000), ())] * 20))
        drive.work_off()
        assert drive.fire(1_000) == 1, step_limits
        drive.work_off()
        assert drive.states() == "F" + "C" * 19


def test_a_decision_counts_while_a_large_workflow_is_being_cancelled(new_drive: Any) -> None:
    drive = new_drive(limits=StepLimits(inline_max=8, piece_max=8))
    drive.submit(flow(*[(ASK, ())] * 19, (FOREVER, (0,))))
    drive.work_off()
    drive.control("cancel")
    assert drive.machine.state.workflows["wf-1"].stop_pending
    assert decide(drive, number=1).changed
    drive.work_off()
    assert drive.states() == "S" + "C" * 19 and drive.state() == "cancelled"


def test_waits_survive_a_snapshot(drive: Any) -> None:
    drive.submit(flow((GO, ()), (ASK, ()), (FOREVER, (0,))))
    before = drive.encoding()
    drive.machine = Machine()
    drive.machine.restore([before])
    assert check(drive.machine) == [] and drive.encoding() == before
    assert drive.fire(1_000) == 2
    assert drive.states() == "SSP"


@pytest.mark.parametrize("tasks", [9, 40])
def test_a_wait_that_fails_while_the_rest_is_admitted_stops_the_workflow(new_drive: Any, tasks: int) -> None:
    """The end of the admission said that nothing was pending any more, and the stop was not done yet."""
    drive = new_drive(limits=StepLimits(inline_max=8, piece_max=8))
    waits = [(TaskWait("signal", "go", 1_000), ()), *[(FOREVER, (0,)) for _ in range(tasks - 1)]]
    drive.upload(flow(*waits))
    while drive.states()[0] == "W":
        drive.piece()
    assert "revive" in drive.jobs()
    drive.fire(1_000)
    drive.work_off()
    assert drive.states() == "F" + "C" * (tasks - 1)
    assert drive.state() == "failed"
