"""Waits that documents have: a task whose needs are met is parked, without an attempt, until the answer comes.

They begin at the end of the command that met the needs, so that what follows from an answer that is there already is
worked off in a list, and not by recursion.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from raftflow.domain.tasks.program import TaskWait
from raftflow.domain.tasks.states import TaskEvent, TaskState
from raftflow.domain.tasks.waits import signal_record
from raftflow.machine.commands.waits.begin import wait_limit
from raftflow.machine.commands.waits.ends import open_wait
from raftflow.machine.commands.waits.results import fail_task, finish_task, result_limit
from raftflow.machine.rules.context import move
from raftflow.machine.tables.waits.waits import WAIT_OVERHEAD_BYTES

if TYPE_CHECKING:
    from raftflow.machine.rules.context import ApplyContext
    from raftflow.machine.tables.tasks import Task
    from raftflow.machine.tables.waits.signals import SignalRow
    from raftflow.machine.tables.workflows import Workflow


def begin_document_waits(step: ApplyContext) -> None:
    """Begin the waits of tasks whose needs were met by the current command."""
    due = step.waits_due
    for workflow, task in due:  # grows meanwhile
        # What the command did later may have cancelled it, or is about to.
        if task.state is TaskState.WAITING and not workflow.stop_pending:
            _begin(step, workflow, task)
    due.clear()


def _begin(step: ApplyContext, workflow: Workflow, task: Task) -> None:
    wait = workflow.profiles[task.profile].program
    assert type(wait) is TaskWait  # noqa: S101 - only such tasks are due
    if not workflow.placed:
        step.touch_workflow(workflow)
        workflow.placed = True
    move(step, workflow, task, TaskEvent.WAIT_BEGUN)
    signal = None
    if wait.event == "signal" and workflow.signals is not None:
        signal = workflow.signals.first(wait.name)
    if signal is not None:
        _take_signal(step, workflow, task, signal)
        return
    size = len(wait.name) + len(wait.on_timeout) + len(wait.request) + WAIT_OVERHEAD_BYTES
    refusal = wait_limit(step, workflow, task, size)
    if refusal is not None:
        fail_task(step, workflow, task, f"it cannot wait: {refusal.message}")
        return
    row = open_wait(
        step,
        workflow,
        task,
        wait.event,
        wait.name,
        1,
        0,
        timeout_ms=wait.timeout_ms,
        on_timeout=wait.on_timeout,
        request=wait.request,
    )
    assert task.parking is not None  # noqa: S101 - it has the wait
    task.parking.waits = (row.number,)


def _take_signal(step: ApplyContext, workflow: Workflow, task: Task, signal: SignalRow) -> None:
    """End the task with a signal that came before."""
    record = signal_record(signal.payload)
    full = result_limit(step, "signal", record)
    if full is not None:
        fail_task(step, workflow, task, f"it cannot take the signal {signal.name!r}: {full}")
        return
    step.state.signals.take(signal)
    step.notes.append(f"{workflow.id}/{task.id}: takes the signal {signal.name!r}, which had come before")
    finish_task(step, workflow, task, record)
