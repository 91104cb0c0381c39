"""Decisions of people about approvals: the first one counts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from raftflow.domain import limits
from raftflow.domain.rejections import Rejection, RejectionCode
from raftflow.domain.replies import Done
from raftflow.domain.tasks.waits import ApprovalDecision, decision_record, read_approval
from raftflow.domain.values.results import result_problem
from raftflow.domain.values.times import iso_utc
from raftflow.machine.commands.waits.ends import answer_limit, end_wait
from raftflow.machine.tables.waits.waits import WaitEnd

if TYPE_CHECKING:
    from raftflow.domain.commands import DecideApproval
    from raftflow.machine.rules.context import ApplyContext
    from raftflow.machine.tables.waits.waits import WaitRow


def decide_approval(step: ApplyContext, command: DecideApproval) -> Done | Rejection:
    """Decide an approval that is open."""
    state = step.state
    number = state.waits.asked.get(command.number)
    if number is None:
        return Rejection(RejectionCode.NOT_FOUND, f"no approval has the id {command.number}")
    workflow = state.by_number[number]
    assert workflow.waits is not None  # noqa: S101 - it has this one
    row = workflow.waits.rows[command.number]
    if row.end is not None:
        return Rejection(RejectionCode.CONFLICT, _told(row, row.end))
    problem = _problem(row, command)
    if problem is not None:
        return Rejection(RejectionCode.INVALID, problem)
    task = workflow.tasks[row.task]
    decision = ApprovalDecision(
        command.choice, command.comment, msgspec.Raw(command.payload), command.actor, step.clock_ms
    )
    record = decision_record(decision)
    full = answer_limit(step, workflow, task, row, record)
    if full is not None:
        return Rejection(RejectionCode.LIMIT, full)
    step.notes.append(f"{workflow.id}/{task.id}: approval {row.number} ({row.name!r}) decided: {command.choice}")
    end_wait(step, workflow, task, row, record, end=WaitEnd("decided", step.clock_ms, command.actor, record))
    return Done()


def _problem(row: WaitRow, command: DecideApproval) -> str | None:
    """Say why nobody can decide this, None if somebody can."""
    choices = read_approval(row.request).choices
    if command.choice not in choices:
        return f"{command.choice[:80]!r} is none of the choices of approval {row.number}: {', '.join(choices)}"
    if len(command.comment) > limits.COMMENT_CHARS_MAX:
        return f"a comment has at most {limits.COMMENT_CHARS_MAX} characters"
    if len(command.payload) > limits.SIGNAL_BYTES_MAX - limits.COMMENT_CHARS_MAX:
        return (
            f"the payload has {len(command.payload)} bytes, which is too much: write it to a file and send its path"
        )
    return "the payload is not JSON" if not command.payload or result_problem(command.payload) else None


def _told(row: WaitRow, end: WaitEnd) -> str:
    """Say how an approval ended."""
    when = iso_utc(end.at_ms)
    if end.outcome == "decided":
        decision = msgspec.json.decode(end.record, type=ApprovalDecision)
        return f"approval {row.number} was decided before: {decision.choice!r}, by {end.by} at {when}"
    if end.outcome == "timeout":
        return f"approval {row.number} timed out at {when}: nobody had decided"
    return f"the task that asked for approval {row.number} ended at {when}: nobody waits for it any more"
