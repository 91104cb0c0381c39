"""Durable steps: what an attempt has done is recorded, so that those after it find it.

A record is the attempt's own only while the attempt is live: its fence is in the table of its agent, in the present
incarnation. Whatever ends an attempt takes the fence out in the same command. So no record comes from an attempt that
was given up, and the records that a new attempt finds are complete when it is placed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from raftflow.domain import limits
from raftflow.domain.rejections import Rejection, RejectionCode
from raftflow.domain.replies import StepsRecorded, StepVerdict
from raftflow.domain.tasks.budgets import sorted_amounts, spent_problem
from raftflow.domain.tasks.checks import step_problem
from raftflow.machine.rules.context import NOTES_MAX
from raftflow.machine.rules.spending.budgets import note_spending, sum_problem
from raftflow.machine.tables.effects.rows import RESERVED_BYTES
from raftflow.machine.tables.steps import StepRow

if TYPE_CHECKING:
    from raftflow.domain.attempt_commands import RecordSteps, StepToRecord
    from raftflow.domain.spending_commands import RateToTake
    from raftflow.domain.wait_commands import BeginWait
    from raftflow.machine.rules.context import ApplyContext
    from raftflow.machine.tables.agents import Agent
    from raftflow.machine.tables.effects.rows import Effect
    from raftflow.machine.tables.tasks import Task
    from raftflow.machine.tables.waits.waits import WaitRow
    from raftflow.machine.tables.workflows import Workflow

_RECORDED, _KNOWN = StepVerdict("recorded"), StepVerdict("known")
_LAST = StepVerdict("recorded", used_up=True)


def record_steps(step: ApplyContext, command: RecordSteps) -> StepsRecorded | Rejection:
    """Record the steps of an agent's attempts, in order."""
    agent = find_agent(step, command.agent, command.incarnation)
    if isinstance(agent, Rejection):
        return agent
    return StepsRecorded(tuple([_record(step, agent, each) for each in command.steps]))


def find_agent(step: ApplyContext, name: str, incarnation: int) -> Agent | Rejection:
    """Return the agent whose attempts ask for records, or a refusal: its attempts are void."""
    agent = step.state.agents.get(name)
    if agent is None or agent.incarnation != incarnation or not agent.present:
        return Rejection(
            RejectionCode.STALE_INCARNATION,
            f"agent {name!r} is not present under incarnation {incarnation}: it was lost or has "
            "registered again, so its attempts record nothing",
        )
    return agent


def _record(step: ApplyContext, agent: Agent, told: StepToRecord) -> StepVerdict:
    """Record one step, unless it has a record already."""
    found = agent.live.get(told.fence)
    if found is None:
        return StepVerdict("stale", f"attempt {told.fence} is over: it records nothing any more")
    problem = step_problem(told.name, told.occurrence, told.function, told.result)
    if problem is not None:
        return StepVerdict("invalid", problem)
    workflow, task = found
    steps = workflow.steps
    known = None if steps is None else steps.find(task.position, told.name, told.occurrence)
    if known is not None:
        if known.function != told.function:
            return StepVerdict("mismatch", mismatch(known, told.function))
        return _KNOWN
    if (workflow.effects is not None or task.parking is not None) and (
        taken := taken_by_another(workflow, task, told, told.function)
    ) is not None:
        return StepVerdict("mismatch", taken)
    row = row_of(step, workflow, task, told, told.function, told.result)
    if told.spent:
        wrong = spent_problem(told.spent) or sum_problem(workflow, told.spent)
        if wrong is not None:
            return StepVerdict("invalid", wrong)
        row = msgspec.structs.replace(row, spent=sorted_amounts(dict(told.spent)))
    passed = limit_passed(step, workflow, task, row.size_bytes)
    if passed is not None:
        return StepVerdict("limit", passed)
    add_record(step, workflow, task, row)
    if row.spent:
        note_spending(step, workflow, row.spent)
    return _LAST if workflow.used_up else _RECORDED


def effect_under(workflow: Workflow, task: Task, key: StepToRecord | RateToTake | BeginWait) -> Effect | None:
    """Return the effect that has the key of a step; it may have no record yet."""
    effects = workflow.effects
    return None if effects is None else effects.find(task.position, key.name, key.occurrence)


def row_of(  # noqa: PLR0917 - of two callers
    step: ApplyContext, workflow: Workflow, task: Task, key: StepToRecord | RateToTake, function: str, result: bytes
) -> StepRow:
    """Return the record of a step of a task, not added yet."""
    return StepRow(
        workflow.number, task.position, key.name, key.occurrence, function, result, key.fence, step.clock_ms
    )


def add_record(step: ApplyContext, workflow: Workflow, task: Task, row: StepRow) -> None:
    """Add a record that passes no limit."""
    workflow.steps = step.state.steps.add(row)
    step.notes.append(f"{workflow.id}/{task.id}: {row.name} {row.occurrence}" if len(step.notes) < NOTES_MAX else "")


def mismatch(known: StepRow | Effect, function: str) -> str:
    """Say that a step has the record of another function."""
    before, now = known.function or "no named function", function or "no named function"
    return (
        f"step {known.name!r}, occurrence {known.occurrence}, was recorded by {before}, and is now run by {now}: "
        "give the new step another name, or call the function that was recorded"
    )


def taken_by_another(workflow: Workflow, task: Task, key: StepToRecord | RateToTake, function: str) -> str | None:
    """Say that an effect or an open wait has the key of a step, None if neither has."""
    if (effect := effect_under(workflow, task, key)) is not None:
        return mismatch(effect, function)
    if task.parking is not None and (wait := find_wait(workflow, task, key.name, key.occurrence)) is not None:
        return taken_by_wait(wait)
    return None


def find_wait(workflow: Workflow, task: Task, name: str, occurrence: int) -> WaitRow | None:
    """Return the open wait of a task under this key, None without one."""
    parking, waits = task.parking, workflow.waits
    if parking is None or waits is None:
        return None
    rows = (waits.rows[number] for number in parking.open)
    return next((row for row in rows if row.occurrence == occurrence and row.name == name), None)


def taken_by_wait(row: WaitRow) -> str:
    """Say that a key belongs to a wait."""
    return f"{row.name!r}, occurrence {row.occurrence}, is an open wait ({row.kind}): give one of them another name"


def limit_passed(step: ApplyContext, workflow: Workflow, task: Task, size: int, *, more: int = 1) -> str | None:
    """Say which limit more records of this size would pass, None if none.

    Effects and open waits keep room for the records that they get.
    """
    state, steps = step.state, workflow.steps
    count, size_bytes = (0, 0) if steps is None else (steps.count(task.position), steps.size_bytes)
    reserved = reserved_bytes = 0
    if task.parking is not None or workflow.waits is not None or workflow.effects is not None:
        reserved, reserved_bytes = _reserved(workflow, task)
    if count + reserved + more > limits.STEPS_PER_TASK_MAX:
        return (
            f"the task has {count} recorded steps, which is the limit: do more in one step, or divide the work "
            "among several tasks"
        )
    if size_bytes + reserved_bytes + size > limits.STEPS_BYTES_PER_WORKFLOW_MAX:
        return (
            f"the recorded steps of the workflow have {size_bytes} bytes, and no more than "
            f"{limits.STEPS_BYTES_PER_WORKFLOW_MAX} are kept: return small results, and leave large ones in files"
        )
    table, unrecorded = state.steps, len(state.effects.unrecorded)
    reserved = unrecorded + state.waits.open
    reserved_bytes = unrecorded * RESERVED_BYTES + state.waits.reserved_bytes
    if (
        table.count + reserved + more > limits.STEPS_MAX
        or table.size_bytes + reserved_bytes + size > limits.STEPS_BYTES_MAX
    ):
        return (
            f"{table.count} steps of {table.size_bytes} bytes are recorded, the limits are {limits.STEPS_MAX} and "
            f"{limits.STEPS_BYTES_MAX}: wait until older workflows are forgotten"
        )
    return None


def _reserved(workflow: Workflow, task: Task) -> tuple[int, int]:
    """Return how many records of a task, and how many bytes of its workflow, are kept free."""
    count = 0 if task.parking is None else len(task.parking.open)
    size_bytes = 0 if workflow.waits is None else workflow.waits.reserved_bytes
    effects = workflow.effects
    if effects is not None:
        count += effects.unrecorded.get(task.position, 0)
        size_bytes += effects.unrecorded_count * RESERVED_BYTES
    return count, size_bytes
