"""What the scheduler asks: ready tasks, and room on agents."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from raftflow.domain.tasks.feasibility import AGE_STEP_MS, AgentRoom, ReadyTask, Urgency, fault_class
from raftflow.domain.tasks.states import AgentState, AttemptOutcome, TaskState
from raftflow.machine.read.preferences import avoided, near, taken_away
from raftflow.machine.tables.uploads import RANK_MAX

RESUMED_RANK = 2 * RANK_MAX
"""Of a task that was parked: it comes before what is fresh in its workflow, so that what was begun ends first."""

if TYPE_CHECKING:
    from raftflow.machine.machine import Machine
    from raftflow.machine.rows import WorkflowRow
    from raftflow.machine.tables.agents import Agent


def ready_tasks(machine: Machine) -> Iterator[tuple[str, int]]:
    """Yield every task that may be placed now: workflow id and position. Use it up before the next `apply`."""
    for workflow in machine.state.workflows.values():
        if workflow.counts[TaskState.READY] and not workflow.held:
            for task in workflow.tasks:
                if task.state is TaskState.READY:
                    yield workflow.id, task.position


def workflows_with_ready(machine: Machine) -> list[str]:
    """Return the workflows some of whose tasks may be placed now, oldest first."""
    return [
        workflow.id
        for workflow in machine.state.workflows.values()
        if workflow.counts[TaskState.READY] and not workflow.held
    ]


def ready_positions(machine: Machine, workflow_id: str, first: int, count: int) -> tuple[list[int], int]:
    """Look at up to `count` tasks of a workflow from position `first` on, for those that are ready.

    Returns their positions, and how many tasks were looked at: less than `count` at the end of the workflow, none if
    it is not known (any more).
    """
    workflow = machine.state.workflows.get(workflow_id)
    looked_at = [] if workflow is None else workflow.tasks[first : first + count]
    return [task.position for task in looked_at if task.state is TaskState.READY], len(looked_at)


def ready_task(machine: Machine, workflow_id: str, task: int) -> ReadyTask | None:
    """Return what the scheduler needs to know of a task, None if it may not be placed now."""
    workflow = machine.state.workflows.get(workflow_id)
    if workflow is None or workflow.held or not 0 <= task < len(workflow.tasks):
        return None
    found = workflow.tasks[task]
    if found.state is not TaskState.READY:
        return None
    avoid, avoid_hard = ((), ()) if found.last is None else avoided(machine, found)
    return ReadyTask(
        workflow_id=workflow_id,
        task=task,
        shape=workflow.profiles[found.profile].shape,
        priority=workflow.priority,
        rank=found.rank if found.last is None or found.last.outcome is not AttemptOutcome.PARKED else RESUMED_RANK,
        number=workflow.number,
        age=workflow.submitted_ms // AGE_STEP_MS,
        lost=found.last is not None and taken_away(found.last),
        near=near(workflow, found) if found.needs else (),
        avoid=avoid,
        avoid_hard=avoid_hard,
        limited=workflow.max_parallel is not None,
        rates=workflow.profiles[found.profile].rates,
    )


def agent_room(machine: Machine, name: str) -> AgentRoom | None:
    """Return what an agent has left, None if it takes no work."""
    agent = machine.state.agents.get(name)
    if agent is None or agent.state is not AgentState.UP:
        return None
    return AgentRoom(
        name=name,
        incarnation=agent.incarnation,
        capacity=agent.capacity,
        free=dict(agent.free),
        labels=agent.labels,
        queued=len(agent.queue),
        prefetch=agent.prefetch,
        tail=_tail_of(agent) if agent.queue else None,
        running=len(agent.live) - len(agent.queue),
        alone=agent.alone,
        faults=fault_class(agent.faults),
    )


def _tail_of(agent: Agent) -> Urgency:
    return urgency_of(agent.live[agent.queue[-1]][0])


def urgency_of(workflow: WorkflowRow) -> Urgency:
    """Return how urgent a workflow's tasks are."""
    return Urgency(workflow.priority, workflow.submitted_ms // AGE_STEP_MS)


def agent_rooms(machine: Machine) -> list[AgentRoom]:
    """Return what every agent that takes work has left, in order of the names."""
    rooms = [agent_room(machine, name) for name in sorted(machine.state.agents)]
    return [room for room in rooms if room is not None]
