"""What the commands of effects share: changing one, and words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import replace

from raftflow.domain import limits
from raftflow.domain.rejections import Rejection
from raftflow.domain.tasks.effects import EffectState
from raftflow.domain.values.json_text import is_json
from raftflow.machine.commands.steps import find_wait
from raftflow.machine.commands.waits.begin import wait_limit
from raftflow.machine.commands.waits.ends import open_wait
from raftflow.machine.tables.effects.rows import Effect
from raftflow.machine.tables.steps import StepRow
from raftflow.machine.tables.waits.waits import WAIT_OVERHEAD_BYTES

if TYPE_CHECKING:
    from raftflow.machine.rules.context import ApplyContext
    from raftflow.machine.tables.tasks import Task
    from raftflow.machine.tables.workflows import Workflow

AGAIN = frozenset({EffectState.NOT_DONE, EffectState.RETRY})
ENDED = {
    "done": EffectState.DONE,
    "not_done": EffectState.NOT_DONE,
    "uncertain": EffectState.UNCERTAIN,
    "retry": EffectState.RETRY,
    "fail": EffectState.FAILED,
}


def is_held(task: Task, row: Effect) -> bool:
    """Tell whether the attempt that holds the intent of an effect is live."""
    return any(
        attempt is not None and attempt.fence == row.fence and attempt.outcome is None
        for attempt in (task.last, task.backup)
    )


def result_problem(result: bytes) -> str | None:
    """Say why these bytes cannot be the result of an effect, or None if they can."""
    if len(result) > limits.EFFECT_RESULT_BYTES_MAX:
        return (
            f"the result of the effect has {len(result)} bytes, the limit is {limits.EFFECT_RESULT_BYTES_MAX}: write "
            "the data to a place that later attempts read, and return its name"
        )
    return None if is_json(result) else "the result of the effect is not JSON"


def words(row: Effect) -> str:
    """Return the state of an effect in words."""
    return words_of(row.state)


def words_of(state: EffectState) -> str:
    """Return a state in words."""
    return {EffectState.NOT_DONE: "not done", EffectState.RETRY: "to be called again"}.get(state, state.value)


def change_effect(
    step: ApplyContext, workflow: Workflow, row: Effect, note: str, record: bytes = b"", **fields: object
) -> None:
    """Change an effect, and record what it came to."""
    changed: Effect = replace(row, changed_ms=step.clock_ms, **fields)
    step.state.effects.replace(changed)
    step.workflows_changed[workflow.id] = None
    if record:
        workflow.steps = step.state.steps.add(
            StepRow(
                row.workflow, row.task, row.name, row.occurrence, row.function, record, changed.fence, step.clock_ms
            )
        )
    note_effect(step, workflow, changed, note)


def note_effect(step: ApplyContext, workflow: Workflow, row: Effect, what: str) -> None:
    """Tell the audit what became of an effect."""
    task = workflow.tasks[row.task]
    step.notes.append(f"{workflow.id}/{task.id}: effect {row.name} {row.occurrence} ({row.number}) {what}")


def wait_for_decision(step: ApplyContext, workflow: Workflow, task: Task, row: Effect) -> int | Rejection:
    """Return the number of the wait that the decision about an effect ends. It is opened if it is not there."""
    known = find_wait(workflow, task, row.name, row.occurrence)
    if known is not None:
        return known.number
    refusal = wait_limit(step, workflow, task, len(row.name) + WAIT_OVERHEAD_BYTES)
    if refusal is not None:
        return refusal
    return open_wait(step, workflow, task, "effect", row.name, row.occurrence, row.fence).number
