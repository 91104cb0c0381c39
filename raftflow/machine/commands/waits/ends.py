"""How a wait ends: its answer is recorded as a durable step of its task, and a task that is parked for it goes on.

The record and the end are one change. So an answer is neither lost nor counted twice, and every later attempt of the
task finds it. Signals, decisions and time-outs end waits here; effects and budgets end theirs by their own commands.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from raftflow.domain.tasks.states import TaskState
from raftflow.domain.tasks.waits import FUNCTIONS, WaitKind, timeout_record
from raftflow.machine.commands.steps import limit_passed
from raftflow.machine.commands.waits.results import finish_task, result_limit
from raftflow.machine.rules.context import close_wait, parking_of, wake
from raftflow.machine.rules.stopping import reach
from raftflow.machine.tables.steps import StepRow
from raftflow.machine.tables.waits.waits import WaitEnd, WaitRow

if TYPE_CHECKING:
    from raftflow.machine.rules.context import ApplyContext
    from raftflow.machine.tables.tasks import Task
    from raftflow.machine.tables.workflows import Workflow

_DECIDED: Final = "decided"


def open_wait(  # noqa: PLR0917 - the fields of a wait
    step: ApplyContext,
    workflow: Workflow,
    task: Task,
    kind: WaitKind,
    name: str,
    occurrence: int,
    fence: int,
    *,
    timeout_ms: int = 0,
    on_timeout: bytes = b"",
    request: bytes = b"",
) -> WaitRow:
    """Begin a wait of a task, and return it. The caller has looked that nothing is under its key."""
    step.touch_task(workflow, task)
    state = step.state
    state.wait_number += 1
    deadline_ms = step.clock_ms + timeout_ms if timeout_ms else 0
    row = WaitRow(
        state.wait_number,
        workflow.number,
        task.position,
        kind,
        name,
        occurrence,
        fence,
        step.clock_ms,
        deadline_ms,
        on_timeout,
        request,
    )
    workflow.waits = state.waits.add(row)
    parking = parking_of(task)
    parking.open = (*parking.open, row.number)
    parking.idle_parks = 0
    if deadline_ms:
        step.set_timer(workflow, task, deadline_ms, -row.number)
    step.notes.append(f"{workflow.id}/{task.id}: waits for {kind} {name!r}, wait {row.number}")
    return row


def end_wait(
    step: ApplyContext, workflow: Workflow, task: Task, row: WaitRow, record: bytes, *, end: WaitEnd | None = None
) -> None:
    """End an open wait: record its answer (empty for none), and wake the task if it is parked for it.

    If the document made the task a wait, the answer is its result.
    """
    close_wait(step, workflow, task, row, WaitEnd(_DECIDED, step.clock_ms) if end is None else end)
    if not row.fence:
        finish_task(step, workflow, task, record)
        return
    if record:
        record_answer(step, workflow, task, row, record)
    parking = task.parking
    if task.state is not TaskState.PARKED or parking is None or row.number not in parking.waits:
        return
    assert task.last is not None  # noqa: S101 - the attempt that parked
    parking.asked_ms += step.clock_ms - task.last.finished_ms
    wake(step, workflow, task)


def record_answer(step: ApplyContext, workflow: Workflow, task: Task, row: WaitRow, record: bytes) -> None:
    """Record the answer of a wait for all attempts of its task."""
    workflow.steps = step.state.steps.add(
        StepRow(
            workflow.number,
            task.position,
            row.name,
            row.occurrence,
            FUNCTIONS[row.kind],
            record,
            row.fence,
            step.clock_ms,
        )
    )


def answer_limit(step: ApplyContext, workflow: Workflow, task: Task, row: WaitRow, record: bytes) -> str | None:
    """Say which limit the answer of an open wait would pass, None if none."""
    if not row.fence:
        return result_limit(step, row.kind, record)
    return limit_passed(step, workflow, task, max(len(record) - len(row.on_timeout), 0), more=0)


def time_out(step: ApplyContext, workflow: Workflow, task: Task, number: int) -> bool:
    """End a wait for which nothing came in time. False if its workflow is being stopped, and the wait with it."""
    if workflow.blocked:
        reach(step, workflow, task)
    row = None if workflow.waits is None else workflow.waits.rows.get(number)
    if row is None or row.end is not None:
        return False
    record = timeout_record(row.on_timeout)
    step.notes.append(f"{workflow.id}/{task.id}: {row.kind} {row.name!r} timed out, wait {number}")
    end_wait(step, workflow, task, row, record, end=WaitEnd("timeout", step.clock_ms, record=record))
    return True
