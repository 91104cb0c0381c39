"""What must hold of effects."""

from __future__ import annotations

from typing import TYPE_CHECKING

from raftflow.domain import limits
from raftflow.domain.tasks.effects import RECORDED
from raftflow.machine.tables.effects.rows import Effect, WorkflowEffects

if TYPE_CHECKING:
    from collections.abc import Iterator

    from raftflow.machine.tables.state import State
    from raftflow.machine.tables.workflows import Workflow


def effect_problems(state: State, clock_ms: int) -> Iterator[str]:
    """Yield what is wrong with the effects."""
    table = state.effects
    held = {workflow.number: workflow for workflow in state.workflows.values() if workflow.effects is not None}
    if {number: id(workflow.effects) for number, workflow in held.items()} != {
        number: id(effects) for number, effects in table.workflows.items()
    }:
        yield "the table of effects does not match the workflows that have effects"
    for workflow in held.values():
        for problem in _workflow_problems(state, workflow, clock_ms):
            yield f"workflow {workflow.id}: {problem}"
    rows = [row for effects in table.workflows.values() for row in effects.rows.values()]
    if table.count != len(rows):
        yield f"{table.count} effects counted, there are {len(rows)}"
    if table.unrecorded != {row.number: row.workflow for row in rows if row.state not in RECORDED}:
        yield "the lookup of effects without a record does not match them"
    if len({row.number for row in rows}) != len(rows):
        yield "two effects have one number"


def _workflow_problems(state: State, workflow: Workflow, clock_ms: int) -> Iterator[str]:
    effects = workflow.effects
    assert effects is not None  # noqa: S101 - the caller looked
    index = WorkflowEffects()
    for number, row in effects.rows.items():
        yield from _row_problems(state, workflow, row, clock_ms)
        index.numbers[row.key] = number
        index.by_task.setdefault(row.task, []).append(number)
        if row.state not in RECORDED:
            index.count(row, 1)
    counted = {task: count for task, count in effects.unrecorded.items() if count}
    if (index.numbers, index.by_task) != (effects.numbers, effects.by_task):
        yield "the lookup of its effects does not match them"
    if (counted, effects.unrecorded_count) != (index.unrecorded, index.unrecorded_count):
        yield "the count of its effects without a record does not match them"
    if list(effects.rows) != sorted(effects.rows):
        yield "its effects are not in order"
    if max(map(len, effects.by_task.values()), default=0) > limits.EFFECTS_PER_TASK_MAX:
        yield f"one of its tasks has more than {limits.EFFECTS_PER_TASK_MAX} effects"


def _row_problems(state: State, workflow: Workflow, row: Effect, clock_ms: int) -> Iterator[str]:
    if row.workflow != workflow.number or not 0 <= row.task < len(workflow.tasks):
        yield f"the effect {row.name} is of another task"
    if row.number > state.effect_number or row.fence > state.fence or row.changed_ms > clock_ms:
        yield f"the effect {row.name} is from the future"
    steps = workflow.steps
    record = None if steps is None else steps.find(*row.key)
    if (record is not None) != (row.state in RECORDED):
        yield f"the effect {row.name} is {row.state.value}, and {'has a' if record else 'lacks its'} record"
    if record is not None and (record.function, record.fence) != (row.function, row.fence):
        yield f"the effect {row.name} does not match its record"
