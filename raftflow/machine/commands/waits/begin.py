"""Waits that running attempts begin."""

from __future__ import annotations

from typing import TYPE_CHECKING

from raftflow.domain import limits
from raftflow.domain.rejections import Rejection, RejectionCode
from raftflow.domain.replies import WaitBegun
from raftflow.domain.tasks.waits import FUNCTIONS, invalid_record, signal_record, wait_problem
from raftflow.machine.commands.children import find_caller
from raftflow.machine.commands.steps import effect_under, find_wait, limit_passed, mismatch, taken_by_wait
from raftflow.machine.commands.waits.ends import open_wait, record_answer
from raftflow.machine.tables.waits.waits import RECORD_OVERHEAD_BYTES, WAIT_OVERHEAD_BYTES, WaitRow

if TYPE_CHECKING:
    from raftflow.domain.commands import BeginWait
    from raftflow.machine.rules.context import ApplyContext
    from raftflow.machine.tables.tasks import Task
    from raftflow.machine.tables.waits.signals import SignalRow
    from raftflow.machine.tables.workflows import Workflow


def begin_wait(step: ApplyContext, command: BeginWait) -> WaitBegun | Rejection:
    """Find the wait of an attempt or its record, take a signal that came before, or begin the wait."""
    caller = find_caller(step, command)
    if isinstance(caller, Rejection):
        return caller
    problem = wait_problem(
        command.kind, command.name, command.occurrence, command.timeout_ms, command.on_timeout, command.request
    )
    if problem is not None:
        return Rejection(RejectionCode.INVALID, problem)
    workflow, task = caller
    found = _find(workflow, task, command)
    if found is not None:
        return found
    signal = None if workflow.signals is None else workflow.signals.first(command.name)
    if command.kind == "signal" and signal is not None:
        return _take_signal(step, workflow, task, command, signal)
    size = len(command.name) + len(command.on_timeout) + len(command.request) + WAIT_OVERHEAD_BYTES
    refusal = wait_limit(step, workflow, task, size)
    if refusal is not None:
        return refusal
    reserved = len(command.name) + len(command.on_timeout) + RECORD_OVERHEAD_BYTES
    full = limit_passed(step, workflow, task, reserved)
    if full is not None:
        return Rejection(RejectionCode.LIMIT, full)
    row = open_wait(
        step,
        workflow,
        task,
        command.kind,
        command.name,
        command.occurrence,
        command.fence,
        timeout_ms=command.timeout_ms,
        on_timeout=command.on_timeout,
        request=command.request,
    )
    return WaitBegun(row.number)


def _find(workflow: Workflow, task: Task, command: BeginWait) -> WaitBegun | Rejection | None:
    """Return what is under the key of a wait already."""
    steps = workflow.steps
    known = None if steps is None else steps.find(task.position, command.name, command.occurrence)
    if known is not None:
        function = FUNCTIONS[command.kind]
        if known.function != function:
            return Rejection(RejectionCode.REQUEST_MISMATCH, mismatch(known, function))
        return WaitBegun(0, known.result)
    effect = effect_under(workflow, task, command)
    if effect is not None:
        return Rejection(RejectionCode.REQUEST_MISMATCH, mismatch(effect, FUNCTIONS[command.kind]))
    row = find_wait(workflow, task, command.name, command.occurrence)
    if row is None:
        return None
    if row.kind != command.kind:
        return Rejection(RejectionCode.REQUEST_MISMATCH, taken_by_wait(row))
    return WaitBegun(row.number)


def _take_signal(
    step: ApplyContext, workflow: Workflow, task: Task, command: BeginWait, signal: SignalRow
) -> WaitBegun | Rejection:
    """Record a signal that came before the wait."""
    if command.request and command.checked != signal.number:
        return Rejection(RejectionCode.PENDING, "another signal came meanwhile: compare it with the schema")
    record = signal_record(signal.payload)
    if command.request and command.fault:
        record = invalid_record(signal.payload, command.fault)
    full = limit_passed(step, workflow, task, len(command.name) + len(record) + RECORD_OVERHEAD_BYTES)
    if full is not None:
        return Rejection(RejectionCode.LIMIT, full)
    step.state.signals.take(signal)
    row = WaitRow(
        0,
        workflow.number,
        task.position,
        command.kind,
        command.name,
        command.occurrence,
        command.fence,
        step.clock_ms,
    )
    record_answer(step, workflow, task, row, record)
    step.notes.append(f"{workflow.id}/{task.id}: takes the signal {command.name!r}, which had come before")
    return WaitBegun(0, record)


def wait_limit(step: ApplyContext, workflow: Workflow, task: Task, size: int) -> Rejection | None:
    """Refuse a wait that would pass a limit."""
    table, waits = step.state.waits, workflow.waits
    count = 0 if task.parking is None else len(task.parking.open)
    if count >= limits.WAITS_PER_TASK_MAX:
        told = f"{task.id} has {count} open waits, the limit is {limits.WAITS_PER_TASK_MAX}: wait in several tasks"
        return Rejection(RejectionCode.LIMIT, told, limit=limits.WAITS_PER_TASK_MAX)
    if waits is not None and waits.size_bytes + size > limits.WAITS_BYTES_PER_WORKFLOW_MAX:
        told = (
            f"the waits of workflow {workflow.id} have {waits.size_bytes} bytes, the limit is "
            f"{limits.WAITS_BYTES_PER_WORKFLOW_MAX}: leave large details in files"
        )
        return Rejection(RejectionCode.LIMIT, told, limit=limits.WAITS_BYTES_PER_WORKFLOW_MAX)
    if table.count >= limits.WAITS_MAX or table.size_bytes + size > limits.WAITS_BYTES_MAX:
        told = (
            f"{table.count} waits of {table.size_bytes} bytes are kept, the limits are {limits.WAITS_MAX} and "
            f"{limits.WAITS_BYTES_MAX}: wait until older workflows are forgotten"
        )
        return Rejection(RejectionCode.LIMIT, told, limit=limits.WAITS_MAX)
    return None
