"""The answer of a wait that a document has: it is the result of the task, or the task fails."""

from __future__ import annotations

from typing import TYPE_CHECKING

from raftflow.domain import limits
from raftflow.domain.tasks.program import TaskWait
from raftflow.domain.tasks.states import TaskEvent
from raftflow.domain.tasks.waits import document_result
from raftflow.machine.commands.attempts import fall_back
from raftflow.machine.rules import cache
from raftflow.machine.rules.context import clear_awaits, move, set_result

if TYPE_CHECKING:
    from raftflow.domain.tasks.waits import WaitKind
    from raftflow.machine.rules.context import ApplyContext
    from raftflow.machine.tables.tasks import Task
    from raftflow.machine.tables.workflows import Workflow


def result_limit(step: ApplyContext, kind: WaitKind, record: bytes) -> str | None:
    """Say which limit the answer would pass as the result of a task, None if none."""
    size, kept = len(document_result(kind, record)), step.state.result_bytes
    if size > limits.RESULT_BYTES_MAX:
        return f"the result would have {size} bytes, the limit is {limits.RESULT_BYTES_MAX}: send less"
    if size > limits.RESULT_SMALL_BYTES and kept + size > limits.RESULTS_BYTES_MAX:
        return (
            f"the results of all workflows have {kept} bytes, and no more than {limits.RESULTS_BYTES_MAX} are kept; "
            "send less, or wait until older workflows are forgotten"
        )
    return None


def finish_task(step: ApplyContext, workflow: Workflow, task: Task, record: bytes) -> None:
    """Let a task succeed with the answer for which it waited, or fail without one."""
    wait = workflow.profiles[task.profile].program
    assert type(wait) is TaskWait  # noqa: S101 - only such tasks are parked without an attempt
    result = document_result(wait.event, record)
    if not result:
        what = f"signal {wait.name!r} came" if wait.event == "signal" else f"decision about {wait.name!r} was made"
        fail_task(step, workflow, task, f"no {what} in time")
        return
    move(step, workflow, task, TaskEvent.SUCCEEDED)
    task.finished_ms = step.clock_ms
    set_result(step, workflow, task, result)
    clear_awaits(task)
    cache.succeeded(step, workflow, task)


def fail_task(step: ApplyContext, workflow: Workflow, task: Task, why: str) -> None:
    """Let a task fail that is parked without an attempt. There is no retry but that of the workflow."""
    move(step, workflow, task, TaskEvent.FAILED_FINAL)
    task.finished_ms = step.clock_ms
    task.detail = why
    clear_awaits(task)
    fall_back(step, workflow, task)
