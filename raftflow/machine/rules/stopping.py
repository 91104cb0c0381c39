"""Stopping work: both clients and failing tasks of a workflow can cause it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from raftflow.domain.tasks.states import TaskEvent, TaskState
from raftflow.machine.rules import cache
from raftflow.machine.rules.agenda import begin_job, end_job
from raftflow.machine.rules.context import clear_awaits, coalesce_events, move
from raftflow.machine.tables.agenda import AgendaJob, JobKind
from raftflow.machine.tables.agents import DRAIN_OVER, REVOKED_FENCES_MAX
from raftflow.machine.tables.tasks import ORDER_MOVE, ORDER_NONE, ORDER_RELEASE, ORDER_STOP, attempt_of

if TYPE_CHECKING:
    from raftflow.machine.rows import WorkflowRow
    from raftflow.machine.rules.context import ApplyContext
    from raftflow.machine.tables.agents import Agent
    from raftflow.machine.tables.tasks import Attempt, Task
    from raftflow.machine.tables.workflows import Workflow

_NOT_STARTED = frozenset({TaskState.WAITING, TaskState.DELAYED, TaskState.READY, TaskState.PARKED})
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
    parked = task.state is TaskState.PARKED
    move(step, workflow, task, TaskEvent.CANCELLED)
    task.finished_ms = step.clock_ms
    task.detail = why
    if parked:
        clear_awaits(task)
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
    """Have an agent stop an attempt that is over here, or about to be. One that is gone is told nothing."""
    if not agent.present:
        return
    step.touch_agent(agent)
    agent.void = [*agent.void, fence][-REVOKED_FENCES_MAX:]


def stop_workflow(step: ApplyContext, workflow: Workflow, why: str) -> None:
    """Cancel everything that has no live attempt and tell live attempts to stop. A large workflow is blocked first.

    The caller has set the field that says so. What is stopped is neither asked back nor admitted any more, so those
    jobs end. A wait of a document can fail while the rest of its workflow is still being admitted.
    """
    for kind in (JobKind.REQUEUE, JobKind.REVIVE):
        job = step.state.agenda.get(kind, workflow.id)
        if job is not None:
            end_job(step, workflow, job)
    if not step.spend(len(workflow.tasks)):
        begin_job(step, workflow, AgendaJob(JobKind.STOP, workflow.id, why=why))
        return
    with coalesce_events(step, workflow, workflow.counts[TaskState.READY], ready=False):
        for task in workflow.tasks:
            stop_task(step, workflow, task, why)


def continue_stop(step: ApplyContext, workflow: Workflow, job: AgendaJob) -> bool:
    """Stop the next tasks of a workflow. Returns True when all are."""
    piece = workflow.tasks[job.cursor : job.cursor + step.budget]
    step.budget -= len(piece)
    job.cursor += len(piece)
    for task in piece:
        stop_task(step, workflow, task, job.why)
    return job.cursor == len(workflow.tasks)


def stop_task(step: ApplyContext, workflow: Workflow, task: Task, why: str) -> None:
    """Cancel a task that has no live attempt, or tell its attempts to stop. One that has ended stays as it is."""
    if task.state in _NOT_STARTED:
        cancel_task(step, workflow, task, why)
    elif task.state in _LIVE:
        give_order(step, workflow, task, ORDER_STOP)


def reach(step: ApplyContext, workflow: Workflow, task: Task) -> None:
    """Stop a task of a blocked workflow now if a stop is pending: something else is about to happen to the task."""
    job = step.state.agenda.get(JobKind.STOP, workflow.id)
    if job is not None:
        stop_task(step, workflow, task, job.why)


def cancel_downstream(step: ApplyContext, workflow: Workflow, failed: Task) -> None:
    """Cancel everything that directly or indirectly needs a task that failed and has no retries left."""
    why = f"needs {failed.id}, which failed"
    job = AgendaJob(JobKind.CANCEL_DOWNSTREAM, workflow.id, failed.position, why=why, positions=[failed.position])
    if not continue_downstream(step, workflow, job):
        begin_job(step, workflow, job)


def continue_downstream(step: ApplyContext, workflow: Workflow, job: AgendaJob) -> bool:
    """Cancel the next tasks below one that failed. Returns True when all are."""
    positions = job.positions
    while job.cursor < len(positions):
        if step.budget <= 0:
            return False
        dependents = workflow.dependents[positions[job.cursor]]
        piece = dependents[job.offset : job.offset + step.budget]
        step.budget -= 1 + len(piece)
        for below in piece:
            task = workflow.tasks[below]
            if task.state is TaskState.WAITING:
                cancel_task(step, workflow, task, job.why)
                positions.append(below)
        job.offset += len(piece)
        if job.offset == len(dependents):
            job.cursor, job.offset = job.cursor + 1, 0
    return True


def requeue(step: ApplyContext, workflow: Workflow, order: int) -> None:
    """Ask for the workflow's queued attempts back (`ORDER_RELEASE`), or let them run (`ORDER_NONE`).

    Among equal tasks it is decided again which one runs.
    """
    if not (workflow.counts[TaskState.QUEUED] or workflow.caches):
        return
    old = step.state.agenda.get(JobKind.REQUEUE, workflow.id)
    if old is not None:
        end_job(step, workflow, old)
    job = AgendaJob(JobKind.REQUEUE, workflow.id, order=order, fence=step.state.fence)
    if not continue_requeue(step, workflow, job):
        begin_job(step, workflow, job)


def continue_requeue(step: ApplyContext, workflow: Workflow, job: AgendaJob) -> bool:
    """Give the next queued attempts of a workflow their order. Returns True when all have it."""
    piece = workflow.tasks[job.cursor : job.cursor + max(step.budget, 0)]
    step.budget -= len(piece)
    job.cursor += len(piece)
    expected = ORDER_NONE if job.order == ORDER_RELEASE else ORDER_RELEASE
    for task in piece:
        last = task.last
        if task.state is TaskState.QUEUED and last is not None and last.order == expected and last.fence <= job.fence:
            give_order(step, workflow, task, job.order)
    if workflow.caches:
        cache.reconsider(step, piece)
    return job.cursor == len(workflow.tasks)
