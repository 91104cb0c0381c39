"""What an agent has to do: its assignments, and the orders for what it holds."""

from __future__ import annotations

from typing import TYPE_CHECKING

from raftflow.domain.contract.views import (
    Assignment,
)
from raftflow.domain.limits import ENTRY_BYTES_MAX
from raftflow.domain.tasks.program import assigned
from raftflow.machine.read import inputs
from raftflow.machine.read.steps import count_of
from raftflow.machine.rules.ledger import held_by
from raftflow.machine.tables.tasks import ORDER_MOVE, ORDER_RELEASE, ORDER_STOP, attempt_of

if TYPE_CHECKING:
    from raftflow.machine.machine import Machine
    from raftflow.machine.tables.agents import Agent
    from raftflow.machine.tables.tasks import Task
    from raftflow.machine.tables.workflows import Workflow

_NEED_BYTES = 64
"""What a need counts for in an answer."""


def assignments(
    machine: Machine, agent: str, after_fence: int, *, apart: bool = False, bytes_max: int = ENTRY_BYTES_MAX
) -> list[Assignment]:
    """Return the live attempts of an agent with a larger fence than `after_fence`, in the order of the fences.

    With `apart` large inputs are left out, for the agent to fetch. As many from the first on as have about
    `bytes_max` together, at least one.
    """
    known = machine.state.agents.get(agent)
    if known is None:
        return []
    fresh = []
    for fence in reversed(known.live):
        if fence <= after_fence:
            break
        fresh.append(fence)
    if len(fresh) == 1:
        return [_assignment(known, *known.live[fresh[0]], fresh[0], apart=apart)]
    found: list[Assignment] = []
    size = 0
    for fence in reversed(fresh):
        assignment = _assignment(known, *known.live[fence], fence, apart=apart)
        size += _size_of(assignment)
        if size > bytes_max and found:
            break
        found.append(assignment)
    return found


def _size_of(assignment: Assignment) -> int:
    """Return about how many bytes an assignment has, or stands for: to look at what is left apart costs time too."""
    size = assignment.program.size_bytes()
    if assignment.inputs:
        size += sum(map(len, assignment.inputs.values()))
    if assignment.inputs_apart is not None:
        size += assignment.inputs_apart.count * _NEED_BYTES
    if assignment.env:
        size += sum(len(key) + len(value) for key, value in assignment.env.items())
    return size


def _assignment(agent: Agent, workflow: Workflow, task: Task, fence: int, *, apart: bool) -> Assignment:
    profile = workflow.profiles[task.profile]
    left = inputs.apart(workflow, task) if apart and task.needs else None
    return Assignment(
        fence=fence,
        workflow_id=workflow.id,
        workflow_name=workflow.name,
        task_id=task.id,
        attempt=attempt_of(task, fence).number,
        resources=dict(held_by(agent, profile.shape)),
        exclusive=profile.shape.exclusive,
        program=assigned(profile.program),
        env=profile.env,
        cwd=profile.cwd,
        timeout_ms=profile.timeout_ms,
        grace_ms=profile.grace_ms,
        inputs=inputs.all_inputs(workflow, task) if left is None else {},
        inputs_apart=left,
        steps=-1 if profile.backup else count_of(workflow, task),
        code=workflow.code,
    )


def orders(machine: Machine, agent: str) -> tuple[list[int], list[int]]:
    """Return the fences that an agent has to stop, and those that it should give back if they have not started."""
    known = machine.state.agents.get(agent)
    if known is None:
        return [], []
    stop = list(known.void)
    release = []
    for fence, (workflow, task) in known.live.items():
        order = attempt_of(task, fence).order
        if order in {ORDER_STOP, ORDER_MOVE} or workflow.stop_pending:
            stop.append(fence)
        elif order == ORDER_RELEASE:
            release.append(fence)
    return stop, release


def live_fences(machine: Machine, agent: str) -> list[int]:
    """Return the fences of an agent's live attempts, in the order in which they were assigned."""
    known = machine.state.agents.get(agent)
    return [] if known is None else list(known.live)
