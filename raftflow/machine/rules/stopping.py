"""Stopping work: both clients and failing tasks of a workflow can cause it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from raftflow.domain.tasks.states import TaskEvent, TaskState
from raftflow.machine.rules import cache
from raftflow.machine.rules.context import coalesce_events, move
from raftflow.machine.tables.agents import DRAIN_OVER, REVOKED_FENCES_MAX
from raftflow.machine.tables.tasks import ORDER_MOVE, ORDER_NONE, ORDER_RELEASE, ORDER_STOP, attempt_of

if TYPE_CHECKING:
    from raftflow.machine.rows import WorkflowRow
    from raftflow.machine.rules.context import ApplyContext
    from raftflow.machine.tables.agents import Agent
    from raftflow.machine.tables.tasks import Attempt, Task
    from raftflow.machine.tables.workflows import Workflow

_NOT_STARTED = frozenset({TaskState.WAITING, TaskState.DELAYED, TaskState.READY})
_LIVE = frozenset({TaskState.QUEUED, TaskState.RUNNING})


def at_limit(workflow: WorkflowRow) -> bool:
    """Tell whether a workflow that limits itself has as many attempts queued or running as it allows."""
    limit = workflow.max_parallel
    return limit is not None and under_way(workflow) >= limit


def under_way(workflow: WorkflowRow) -> int:
    """Return how many attempts of a workflow are queued or running, backup attempts included."""
    counts = workflow.counts
    return counts[TaskState.QUEUED] + counts[TaskState.RUNNING] + workflow.backups


def cancel_task(step: ApplyContext, workflow: Workflow, task: Task, why: str) -> None:
    """Cancel a task that has no live attempt."""
    move(step, workflow, task, TaskEvent.CANCELLED)
    task.finished_ms = step.clock_ms
    task.detail = why
    if task.claim:
        cache.release_claim(step, workflow, task)


def give_order(step: ApplyContext, workflow: Workflow, task: Task, order: int) -> None:
    """Have the agents of a task's live attempts stop them, give them back, or go on."""
    for attempt in (task.last, task.backup):
        if attempt is not None:
            order_attempt(step, workflow, task, attempt, order)


def order_attempt(step: ApplyContext, workflow: Workflow, task: Task, attempt: Attempt, order: int) -> None:
    """Give an order to the agent of one live attempt."""
    if attempt.order == order:
        return
    step.touch_task(workflow, task)
    attempt.order = order
    step.agents_changed[attempt.agent] = None
    step.workflows_changed[workflow.id] = None


def move_away(step: ApplyContext, agent: Agent) -> None:
    """The deadline of a draining agent has passed: tell it to end what runs there, so that it runs elsewhere."""
    step.touch_agent(agent)
    agent.drain_deadline_ms = DRAIN_OVER
    count = 0
    for fence, (workflow, task) in agent.live.items():
        attempt = attempt_of(task, fence)
        if task.state is TaskState.RUNNING and attempt.order == ORDER_NONE:
            order_attempt(step, workflow, task, attempt, ORDER_MOVE)
            count += 1
    step.notes.append(f"the drain of agent {agent.name} is over, attempts to move: {count}")


def void(step: ApplyContext, agent: Agent, fence: int) -> None:
    """Have an agent stop an attempt that is over here, or about to be."""
    step.touch_agent(agent)
    agent.void = [*agent.void, fence][-REVOKED_FENCES_MAX:]


def stop_workflow(step: ApplyContext, workflow: Workflow, why: str) -> None:
    """Cancel everything that has no live attempt and tell live attempts to stop."""
    with coalesce_events(step, workflow, workflow.counts[TaskState.READY], ready=False):
        for task in workflow.tasks:
            if task.state in _NOT_STARTED:
                cancel_task(step, workflow, task, why)
            elif task.state in _LIVE:
                give_order(step, workflow, task, ORDER_STOP)


def cancel_downstream(step: ApplyContext, workflow: Workflow, failed: Task) -> None:
    """Cancel everything that directly or indirectly needs a task that failed and has no retries left."""
    why = f"needs {failed.id}, which failed"
    reached = [failed.position]
    for position in reached:
        for below in workflow.dependents[position]:
            task = workflow.tasks[below]
            if task.state is TaskState.WAITING:
                cancel_task(step, workflow, task, why)
                reached.append(below)


def take_back_queued(step: ApplyContext, workflow: Workflow, order: int) -> None:
    """Ask for the workflow's queued attempts back (`ORDER_RELEASE`), or let them run (`ORDER_NONE`)."""
    expected = ORDER_NONE if order == ORDER_RELEASE else ORDER_RELEASE
    for task in workflow.tasks:
        if task.state is TaskState.QUEUED and task.last is not None and task.last.order == expected:
            give_order(step, workflow, task, order)
