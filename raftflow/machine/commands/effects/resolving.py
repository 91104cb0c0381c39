"""What people decide about effects without an outcome."""

from __future__ import annotations

from typing import TYPE_CHECKING

from raftflow.domain import limits
from raftflow.domain.rejections import Rejection, RejectionCode
from raftflow.domain.replies import Done
from raftflow.domain.tasks.effects import RECORDED, EffectState, done_record, failed_record
from raftflow.domain.values.times import iso_utc
from raftflow.machine.commands.effects.changes import (
    AGAIN,
    ENDED,
    change_effect,
    is_held,
    result_problem,
    words,
    words_of,
)
from raftflow.machine.commands.steps import find_wait
from raftflow.machine.commands.waits.ends import end_wait
from raftflow.machine.rules.stopping import reach

if TYPE_CHECKING:
    from raftflow.domain.commands import ResolveEffect
    from raftflow.machine.rules.context import ApplyContext


def resolve_effect(step: ApplyContext, command: ResolveEffect) -> Done | Rejection:
    """Note what a person decides about an effect that has no outcome."""
    row = step.state.effects.find(command.number)
    if row is None:
        return Rejection(RejectionCode.NOT_FOUND, f"there is no effect {command.number}")
    workflow = step.state.by_number[row.workflow]
    task = workflow.tasks[row.task]
    if row.state is EffectState.BEGUN and is_held(task, row):
        return Rejection(
            RejectionCode.CONFLICT,
            f"a running attempt of {workflow.id}/{task.id} holds effect {row.number}: wait for its outcome",
        )
    if row.state in RECORDED or row.state in AGAIN:
        by = f" by {row.actor}" if row.actor else ""
        return Rejection(
            RejectionCode.CONFLICT, f"effect {row.number} is {words(row)}{by} since {iso_utc(row.changed_ms)}"
        )
    detail = command.detail[: limits.EFFECT_DETAIL_CHARS_MAX]
    after = ENDED[command.resolution]
    record = b""
    if after is EffectState.DONE:
        problem = result_problem(command.result)
        if problem is not None:
            return Rejection(RejectionCode.INVALID, problem)
        record = done_record(command.result)
    elif after is EffectState.FAILED:
        record = failed_record(detail or f"{command.actor} resolved it as failed")
    told = {"state": after, "detail": detail, "actor": command.actor}
    change_effect(step, workflow, row, f"resolved: {words_of(after)}", record, **told)
    if workflow.blocked:
        reach(step, workflow, task)
    wait = find_wait(workflow, task, row.name, row.occurrence)
    if wait is not None:
        end_wait(step, workflow, task, wait, b"")
    return Done()
