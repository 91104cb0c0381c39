"""What attempts say of effects: they begin one, and end one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from raftflow.domain import limits
from raftflow.domain.rejections import Rejection, RejectionCode
from raftflow.domain.replies import EffectBegun, EffectEnded
from raftflow.domain.tasks.checks import step_problem
from raftflow.domain.tasks.effects import RECORDED, EffectState, done_record, effect_function, failed_record
from raftflow.machine.commands.children import find_caller, find_live
from raftflow.machine.commands.effects.changes import (
    AGAIN,
    ENDED,
    change_effect,
    is_held,
    note_effect,
    result_problem,
    wait_for_decision,
    words,
    words_of,
)
from raftflow.machine.commands.steps import find_wait, limit_passed, mismatch, taken_by_wait
from raftflow.machine.tables.effects.rows import RESERVED_BYTES, Effect
from raftflow.machine.tables.tasks import ORDER_MOVE, attempt_of

if TYPE_CHECKING:
    from raftflow.domain.commands import BeginEffect, EndEffect
    from raftflow.machine.rules.context import ApplyContext
    from raftflow.machine.tables.tasks import Task
    from raftflow.machine.tables.workflows import Workflow


def begin_effect(step: ApplyContext, command: BeginEffect) -> EffectBegun | Rejection:
    """Put the intent of an effect into the table, or say what is known of it."""
    caller = find_caller(step, command)
    if isinstance(caller, Rejection):
        return caller
    workflow, task = caller
    if attempt_of(task, command.fence).order == ORDER_MOVE:
        return _stale(f"the attempt with fence {command.fence} was told to stop")
    function = effect_function(command.function)
    problem = step_problem(command.name, command.occurrence, function, b"null")
    if problem is not None:
        return Rejection(RejectionCode.INVALID, problem)
    row = _find(workflow, task, command)
    taken = _taken(workflow, task, row, command, function)
    if taken is not None:
        return Rejection(RejectionCode.REQUEST_MISMATCH, taken)
    if row is None:
        return _add(step, workflow, task, command, function)
    return _begin_again(step, workflow, task, row, command)


def _taken(workflow: Workflow, task: Task, row: Effect | None, command: BeginEffect, function: str) -> str | None:
    """Say that something else has the key of an effect, None if nothing has."""
    if row is not None:
        return None if row.function == function else mismatch(row, function)
    steps = workflow.steps
    record = None if steps is None else steps.find(task.position, command.name, command.occurrence)
    if record is not None:
        return mismatch(record, function)
    wait = find_wait(workflow, task, command.name, command.occurrence)
    return None if wait is None else taken_by_wait(wait)


def _begin_again(
    step: ApplyContext, workflow: Workflow, task: Task, row: Effect, command: BeginEffect
) -> EffectBegun | Rejection:
    """Begin an effect that was begun before, or say what became of it."""
    if row.state in RECORDED:
        return EffectBegun("known", row.number)
    if row.fence == command.fence and row.begin >= command.begin:
        return _repeated(step, workflow, task, row, command)
    if row.state is EffectState.UNCERTAIN:
        return _uncertain(step, workflow, task, row)
    if row.fence != command.fence and is_held(task, row):
        return EffectBegun("busy", row.number)
    first = row.state in AGAIN
    held: dict[str, Any] = {"fence": command.fence, "begin": command.begin, "first": first}
    change_effect(step, workflow, row, "taken over", state=EffectState.BEGUN, **held)
    return EffectBegun("begun" if first else "open", row.number)


def _find(workflow: Workflow, task: Task, command: BeginEffect | EndEffect) -> Effect | None:
    effects = workflow.effects
    return None if effects is None else effects.find(task.position, command.name, command.occurrence)


def _repeated(
    step: ApplyContext, workflow: Workflow, task: Task, row: Effect, command: BeginEffect
) -> EffectBegun | Rejection:
    """Answer a command that came before. If the effect has ended since, or was begun again, nobody waits for it."""
    if row.begin == command.begin and row.state is EffectState.BEGUN:
        return EffectBegun("begun" if row.first else "open", row.number)
    if row.begin == command.begin and row.state is EffectState.UNCERTAIN:
        return _uncertain(step, workflow, task, row)
    return _stale(f"effect {row.name!r} was begun again, or has ended, since this was asked")


def _uncertain(step: ApplyContext, workflow: Workflow, task: Task, row: Effect) -> EffectBegun | Rejection:
    """Say for which wait the task parks. That of an earlier attempt has gone if the task had ended since."""
    wait = wait_for_decision(step, workflow, task, row)
    return wait if isinstance(wait, Rejection) else EffectBegun("uncertain", row.number, wait)


def _add(
    step: ApplyContext, workflow: Workflow, task: Task, command: BeginEffect, function: str
) -> EffectBegun | Rejection:
    """Add an effect."""
    state, effects = step.state, workflow.effects
    count = 0 if effects is None else len(effects.by_task.get(task.position, ()))
    if count >= limits.EFFECTS_PER_TASK_MAX:
        return Rejection(
            RejectionCode.LIMIT,
            f"the task has begun {count} effects, which is the limit: divide the work among several tasks",
            limit=limits.EFFECTS_PER_TASK_MAX,
        )
    if len(state.effects) >= limits.EFFECTS_MAX:
        return Rejection(
            RejectionCode.LIMIT,
            f"{limits.EFFECTS_MAX} effects are kept, which is the limit: wait until older workflows are forgotten",
            limit=limits.EFFECTS_MAX,
        )
    passed = limit_passed(step, workflow, task, RESERVED_BYTES)
    if passed is not None:
        return Rejection(RejectionCode.LIMIT, passed)
    state.effect_number += 1
    row = Effect(
        number=state.effect_number,
        workflow=workflow.number,
        task=task.position,
        name=command.name,
        occurrence=command.occurrence,
        function=function,
        state=EffectState.BEGUN,
        fence=command.fence,
        begin=command.begin,
        first=True,
        begun_ms=step.clock_ms,
        changed_ms=step.clock_ms,
    )
    workflow.effects = state.effects.add(row)
    note_effect(step, workflow, row, "begun")
    return EffectBegun("begun", row.number)


def end_effect(step: ApplyContext, command: EndEffect) -> EffectEnded | Rejection:
    """Note the outcome of an effect."""
    caller = find_live(step, command)
    if isinstance(caller, Rejection):
        return caller
    workflow, task = caller
    row = _find(workflow, task, command)
    if row is None:
        return Rejection(
            RejectionCode.INVALID, f"effect {command.name!r}, occurrence {command.occurrence}, was not begun"
        )
    if row.fence != command.fence or row.begin != command.begin:
        return _stale(f"effect {row.name!r} is held by another attempt, or was begun again")
    after = ENDED[command.outcome]
    if row.state is EffectState.BEGUN:
        return _end(step, workflow, task, row, command)
    if after is EffectState.UNCERTAIN:  # a person may have resolved it since
        wait = find_wait(workflow, task, row.name, row.occurrence)
        return EffectEnded(changed=False, wait=0 if wait is None else wait.number)
    return (
        EffectEnded(changed=False) if row.state is after else _stale(f"effect {row.name!r} is {words(row)} already")
    )


def _end(
    step: ApplyContext, workflow: Workflow, task: Task, row: Effect, command: EndEffect
) -> EffectEnded | Rejection:
    """End an effect that is begun."""
    after, record, wait = ENDED[command.outcome], b"", 0
    detail = command.detail[: limits.EFFECT_DETAIL_CHARS_MAX]
    if after is EffectState.DONE:
        problem = None if detail else result_problem(command.result)
        if problem is not None:
            return Rejection(RejectionCode.INVALID, problem)
        record = failed_record(detail) if detail else done_record(command.result)
    elif after is EffectState.UNCERTAIN:
        found = wait_for_decision(step, workflow, task, row)
        if isinstance(found, Rejection):
            return found
        wait = found
    change_effect(step, workflow, row, words_of(after), record, state=after, detail=detail)
    return EffectEnded(wait=wait)


def _stale(message: str) -> Rejection:
    return Rejection(RejectionCode.STALE_FENCE, message)
