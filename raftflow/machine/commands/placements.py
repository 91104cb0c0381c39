"""Placements: ready tasks get an attempt on an agent."""

from __future__ import annotations

from typing import TYPE_CHECKING

from raftflow.domain.replies import Placed
from raftflow.domain.tasks.feasibility import suits
from raftflow.domain.tasks.states import AgentState, TaskEvent, TaskState
from raftflow.machine.rules import ledger
from raftflow.machine.rules.backups import remember
from raftflow.machine.rules.context import move
from raftflow.machine.rules.stopping import at_limit
from raftflow.machine.tables.spending.rates import take_all
from raftflow.machine.tables.tasks import Attempt

if TYPE_CHECKING:
    from raftflow.domain.commands import CommitPlacements, Placement
    from raftflow.machine.rules.context import ApplyContext

# Looking up a member of an enum takes as long as a small call, and placements are many.
_UP, _READY = AgentState.UP, TaskState.READY
_STARTS, _QUEUES = TaskEvent.STARTED, TaskEvent.QUEUED


def commit_placements(step: ApplyContext, command: CommitPlacements) -> Placed:
    """Assign what still can be assigned."""
    return Placed(tuple([_place(step, placement) for placement in command.placements]))


def _place(step: ApplyContext, placement: Placement) -> int:
    """Assign one task and return the attempt's fence, or 0 if the placement no longer holds."""
    state = step.state
    workflow = state.workflows.get(placement.workflow_id)
    agent = state.agents.get(placement.agent)
    if (
        workflow is None
        or agent is None
        or not 0 <= placement.task < len(workflow.tasks)
        or workflow.held
        or agent.incarnation != placement.incarnation
        or agent.state is not _UP
    ):
        return 0
    task = workflow.tasks[placement.task]
    if task.state is not _READY or (workflow.max_parallel is not None and at_limit(workflow)):
        return 0
    profile = workflow.profiles[task.profile]
    shape = profile.shape
    if not agent.queue and ledger.fits(agent, shape):
        if shape.labels and not suits(shape, agent.capacity, agent.labels):
            return 0
        event = _STARTS
    elif len(agent.queue) < agent.prefetch and suits(shape, agent.capacity, agent.labels):
        event = _QUEUES
    else:
        return 0
    if profile.rates and not take_all(state.rates, profile.rates, step.clock_ms):
        return 0
    state.fence = fence = state.fence + 1
    now_ms = step.clock_ms
    attempt = Attempt(task.attempts + 1, fence, agent.name, agent.incarnation, now_ms)
    attempt.index = step.index
    move(step, workflow, task, event, attempt)
    if task.last is not None:
        remember(task, task.last)
    task.last = attempt
    task.attempts = attempt.number
    agent.live[fence] = (workflow, task)
    if event is _STARTS:
        ledger.allocate(agent, shape)
        ledger.start(step, workflow, task, attempt, profile)
    else:
        agent.queue.append(fence)
    step.agents_changed[agent.name] = None
    if not workflow.placed:
        step.touch_workflow(workflow)
        workflow.placed = True
    return fence
