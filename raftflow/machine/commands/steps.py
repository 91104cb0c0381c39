"""Durable steps: what an attempt has done is recorded, so that those after it find it.

A record is the attempt's own only while the attempt is live: its fence is in the table of its agent, in the present
incarnation. Whatever ends an attempt takes the fence out in the same command. So no record comes from an attempt that
was given up, and the records that a new attempt finds are complete when it is placed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from raftflow.domain import limits
from raftflow.domain.rejections import Rejection, RejectionCode
from raftflow.domain.replies import StepsRecorded, StepVerdict
from raftflow.domain.tasks.checks import step_problem
from raftflow.machine.tables.steps import StepRow

if TYPE_CHECKING:
    from raftflow.domain.commands import RecordSteps, StepToRecord
    from raftflow.machine.rules.context import ApplyContext
    from raftflow.machine.tables.agents import Agent
    from raftflow.machine.tables.tasks import Task
    from raftflow.machine.tables.workflows import Workflow

_RECORDED, _KNOWN = StepVerdict("recorded"), StepVerdict("known")


def record_steps(step: ApplyContext, command: RecordSteps) -> StepsRecorded | Rejection:
    """Record the steps of an agent's attempts, in order."""
    agent = step.state.agents.get(command.agent)
    if agent is None or agent.incarnation != command.incarnation or not agent.present:
        return Rejection(
            RejectionCode.STALE_INCARNATION,
            f"agent {command.agent!r} is not present under incarnation {command.incarnation}: it was lost or has "
            "registered again, so its attempts record nothing",
        )
    return StepsRecorded(tuple([_record(step, agent, each) for each in command.steps]))


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
    row = StepRow(
        workflow.number,
        task.position,
        told.name,
        told.occurrence,
        told.function,
        told.result,
        told.fence,
        step.clock_ms,
    )
    passed = _limit_passed(step, workflow, task, row.size_bytes)
    if passed is not None:
        return StepVerdict("limit", passed)
    workflow.steps = step.state.steps.add(row)
    step.notes.append(f"{workflow.id}/{task.id}: {row.name} {row.occurrence}")
    return _RECORDED


def mismatch(known: StepRow, function: str) -> str:
    """Say that a step has the record of another function."""
    before, now = known.function or "no named function", function or "no named function"
    return (
        f"step {known.name!r}, occurrence {known.occurrence}, was recorded by {before}, and is now run by {now}: "
        "give the new step another name, or call the function that was recorded"
    )


def _limit_passed(step: ApplyContext, workflow: Workflow, task: Task, size: int) -> str | None:
    """Say which limit one more record would pass, None if none."""
    table, steps = step.state.steps, workflow.steps
    if steps is not None:
        count = steps.count(task.position)
        if count >= limits.STEPS_PER_TASK_MAX:
            return (
                f"the task has {count} recorded steps, which is the limit: do more in one step, or divide the work "
                "among several tasks"
            )
        if steps.size_bytes + size > limits.STEPS_BYTES_PER_WORKFLOW_MAX:
            return (
                f"the recorded steps of the workflow have {steps.size_bytes} bytes, and no more than "
                f"{limits.STEPS_BYTES_PER_WORKFLOW_MAX} are kept: return small results, and leave large ones in files"
            )
    if table.count >= limits.STEPS_MAX or table.size_bytes + size > limits.STEPS_BYTES_MAX:
        return (
            f"{table.count} steps of {table.size_bytes} bytes are recorded, the limits are {limits.STEPS_MAX} and "
            f"{limits.STEPS_BYTES_MAX}: wait until older workflows are forgotten"
        )
    return None
