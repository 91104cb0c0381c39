# ruff: noqa: D103 - the table in mutants.py says of each what it does
"""Planted faults of waits, signals and approvals."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from msgspec.structs import replace

from raftflow.domain.commands import DecideApproval, SendSignal
from raftflow.domain.rejections import Rejection, RejectionCode
from raftflow.domain.replies import Done
from raftflow.machine.commands.waits import approvals, begin, documents, ends, signals

if TYPE_CHECKING:
    from raftflow.domain.replies import SignalTaken
    from raftflow.machine.rules.context import ApplyContext
    from raftflow.machine.tables.tasks import Task
    from raftflow.machine.tables.waits.signals import SignalRow
    from raftflow.machine.tables.waits.waits import WaitRow
    from raftflow.machine.tables.workflows import Workflow
    from raftflow.simulation.mutation.patches.common import Patch


def keep_what_is_delivered() -> Patch:
    deliver = signals._deliver  # noqa: SLF001

    def twice(step: ApplyContext, workflow: Workflow, row: WaitRow, command: SendSignal) -> SignalTaken | Rejection:
        """Keep a signal for another wait, although one has received it."""
        taken = deliver(step, workflow, row, command)
        waits = workflow.waits
        if not isinstance(taken, Rejection) and waits is not None and waits.first(command.name) is None:
            signals._keep(step, workflow, command)  # noqa: SLF001
        return taken

    return patch.object(signals, "_deliver", twice)


def forget_keys_of_signals() -> Patch:
    def forgetful(step: ApplyContext, command: SendSignal) -> SignalTaken | Rejection:
        return signals.send_signal(step, replace(command, key=""))

    return patch.dict("raftflow.machine.apply.HANDLERS", {SendSignal: ("signals.send", forgetful, "workflow_id")})


def leave_timed_waits_open() -> Patch:
    """Record a signal and let the wait go on, so that it times out as well."""
    end_wait = ends.end_wait

    def half(step: ApplyContext, workflow: Workflow, task: Task, row: WaitRow, record: bytes) -> None:
        if row.deadline_ms:
            ends.record_answer(step, workflow, task, row, record)
        else:
            end_wait(step, workflow, task, row, record)

    return patch.object(signals, "end_wait", half)


def time_out_early() -> Patch:
    open_wait = ends.open_wait

    def hasty(*given: Any, timeout_ms: int, **named: Any) -> WaitRow:
        """Let a wait end when half of its time is over."""
        return open_wait(*given, timeout_ms=-(-timeout_ms // 2), **named)

    return patch.object(begin, "open_wait", hasty)


def accept_every_decision() -> Patch:
    def lenient(step: ApplyContext, command: DecideApproval) -> Done | Rejection:
        reply = approvals.decide_approval(step, command)
        return Done() if isinstance(reply, Rejection) and reply.code is RejectionCode.CONFLICT else reply

    return patch.dict("raftflow.machine.apply.HANDLERS", {DecideApproval: ("approvals.decide", lenient, "")})


def wake_nobody() -> Patch:
    return patch.object(ends, "wake", lambda *_: None)


def leave_taken_signals() -> Patch:
    """Let a task of a document take a signal from the mailbox, and leave it there."""
    take = documents._take_signal  # noqa: SLF001

    def forgetful(step: ApplyContext, workflow: Workflow, task: Task, signal: SignalRow) -> None:
        with patch.object(step.state.signals, "take", lambda _: None):
            take(step, workflow, task, signal)

    return patch.object(documents, "_take_signal", forgetful)


def overlook_kept_signals() -> Patch:
    """Let tasks of documents wait although a signal is in the mailbox."""
    begin_wait = documents._begin  # noqa: SLF001

    def blind(step: ApplyContext, workflow: Workflow, task: Task) -> None:
        kept, workflow.signals = workflow.signals, None
        begin_wait(step, workflow, task)
        workflow.signals = kept

    return patch.object(documents, "_begin", blind)
