"""Signals: to the wait of that name that began first, else into the mailbox of the workflow."""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING

from raftflow.domain import limits
from raftflow.domain.rejections import Rejection, RejectionCode
from raftflow.domain.replies import SignalTaken
from raftflow.domain.tasks.waits import signal_problem, signal_record
from raftflow.machine.commands.waits.ends import answer_limit, end_wait
from raftflow.machine.tables.waits.signals import SIGNAL_OVERHEAD_BYTES, SignalKey, SignalRow

if TYPE_CHECKING:
    from raftflow.domain.commands import SendSignal
    from raftflow.machine.rules.context import ApplyContext
    from raftflow.machine.tables.waits.waits import WaitRow
    from raftflow.machine.tables.workflows import Workflow

_FINGERPRINT_BYTES = 12


def send_signal(step: ApplyContext, command: SendSignal) -> SignalTaken | Rejection:
    """Take a signal, once for its key."""
    workflow = step.state.workflows.get(command.workflow_id)
    if workflow is None:
        return Rejection(RejectionCode.NOT_FOUND, f"no workflow has the id {command.workflow_id[:80]!r}")
    problem = signal_problem(command.name, command.key, command.payload)
    if problem is not None:
        return Rejection(RejectionCode.INVALID, problem)
    told = sha256(command.name.encode() + b"\0" + command.payload).digest()[:_FINGERPRINT_BYTES]
    known = None if workflow.signals is None or not command.key else workflow.signals.keys.get(command.key)
    if known is not None:
        if known.fingerprint == told:
            return SignalTaken("repeated")
        return Rejection(
            RejectionCode.REQUEST_MISMATCH,
            f"another signal was sent under the key {command.key!r} before: make a new key for a new signal",
        )
    if workflow.finished_ms or workflow.cancelled or workflow.stopping:
        return Rejection(
            RejectionCode.CONFLICT,
            f"workflow {workflow.id} has ended, or is about to: nothing of it waits for signals any more",
        )
    if command.key and step.state.signals.keys >= limits.SIGNAL_KEYS_MAX:
        detail = f"{limits.SIGNAL_KEYS_MAX} keys of signals are remembered, which is the limit"
        return Rejection(RejectionCode.LIMIT, f"{detail}: wait until older workflows are forgotten")
    row = None if workflow.waits is None else workflow.waits.first(command.name)
    taken = _keep(step, workflow, command) if row is None else _deliver(step, workflow, row, command)
    if command.key and not isinstance(taken, Rejection):
        key = SignalKey(workflow.number, command.key, told)
        workflow.signals = step.state.signals.remember(key, limits.SIGNAL_KEYS_PER_WORKFLOW_MAX)
    return taken


def _deliver(step: ApplyContext, workflow: Workflow, row: WaitRow, command: SendSignal) -> SignalTaken | Rejection:
    """Give a signal to a wait."""
    if row.request and command.checked != row.number:
        return Rejection(RejectionCode.PENDING, "another wait began meanwhile: compare the payload with its schema")
    task = workflow.tasks[row.task]
    record = signal_record(command.payload)
    full = answer_limit(step, workflow, task, row, record)
    if full is not None:
        return Rejection(RejectionCode.LIMIT, full)
    step.notes.append(f"{workflow.id}/{task.id}: signal {row.name!r}, wait {row.number}")
    end_wait(step, workflow, task, row, record)
    return SignalTaken("delivered", task.id)


def _keep(step: ApplyContext, workflow: Workflow, command: SendSignal) -> SignalTaken | Rejection:
    """Keep a signal for a wait that will begin."""
    table, signals = step.state.signals, workflow.signals
    size = len(command.name) + len(command.payload) + SIGNAL_OVERHEAD_BYTES
    count, size_bytes = (0, 0) if signals is None else (signals.count, signals.size_bytes)
    most, bytes_most = limits.SIGNALS_PER_WORKFLOW_MAX, limits.SIGNALS_BYTES_PER_WORKFLOW_MAX
    if count >= most or size_bytes + size > bytes_most:
        return Rejection(
            RejectionCode.LIMIT,
            f"{count} signals of {size_bytes} bytes wait in workflow {workflow.id} for tasks to take them, the "
            f"limits are {most} and {bytes_most}: send more when its tasks have taken some",
            limit=most,
        )
    if table.count >= limits.SIGNALS_MAX or table.size_bytes + size > limits.SIGNALS_BYTES_MAX:
        return Rejection(
            RejectionCode.LIMIT,
            f"{table.count} signals of {table.size_bytes} bytes wait for tasks to take them, the limits are "
            f"{limits.SIGNALS_MAX} and {limits.SIGNALS_BYTES_MAX}: send more when tasks have taken some",
            limit=limits.SIGNALS_MAX,
        )
    step.state.signal_number += 1
    row = SignalRow(step.state.signal_number, workflow.number, command.name, command.payload, step.clock_ms)
    workflow.signals = table.add(row)
    step.notes.append(f"signal {command.name!r} is kept until a task waits for it")
    return SignalTaken("kept")
