"""Cancelling children: of a task that failed or was cancelled, and on request of their parent.

    the parent                   its children
    fails, with retries left     go on; the next attempt finds them
    fails, with none left        are cancelled
    is cancelled                 are cancelled
    succeeds                     go on; the workflow ends when they have ended
    asks for it                  those that it names are cancelled

What a child has spawned is cancelled with it. A child that fails while its parent is open is the parent's matter
(`SpawnOrigin.handled`): it does not stop the workflow, nor make it a failed one. A child that fails after its parent
has ended counts as any other task.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from raftflow.domain import limits
from raftflow.domain.rejections import Rejection, RejectionCode
from raftflow.domain.replies import Done
from raftflow.domain.tasks.states import FINAL, TaskState
from raftflow.machine.rules.agenda import begin_job
from raftflow.machine.rules.stopping import stop_task
from raftflow.machine.tables.agenda import AgendaJob, JobKind
from raftflow.machine.tables.tasks import ORDER_STOP, attempt_of

if TYPE_CHECKING:
    from raftflow.domain.commands import BeginEffect, BeginWait, CancelChildren, EndEffect, SpawnTasks
    from raftflow.machine.rules.context import ApplyContext
    from raftflow.machine.tables.tasks import SpawnOrigin, Task
    from raftflow.machine.tables.workflows import Workflow


def find_caller(
    step: ApplyContext, command: SpawnTasks | CancelChildren | BeginEffect | BeginWait
) -> tuple[Workflow, Task] | Rejection:
    """Return the task whose running attempt asks for something, or a refusal: its attempt is over, or is to stop."""
    found = find_live(step, command)
    if isinstance(found, Rejection):
        return found
    workflow, task = found
    if workflow.stop_pending or attempt_of(task, command.fence).order == ORDER_STOP:
        return Rejection(RejectionCode.STALE_FENCE, f"the attempt with fence {command.fence} was told to stop")
    return found


def find_live(
    step: ApplyContext, command: SpawnTasks | CancelChildren | BeginEffect | BeginWait | EndEffect
) -> tuple[Workflow, Task] | Rejection:
    """Return the task whose live attempt says something, or a refusal: its attempt is over."""
    agent = step.state.agents.get(command.agent)
    if agent is None or agent.incarnation != command.incarnation or not agent.present:
        return Rejection(
            RejectionCode.STALE_INCARNATION,
            f"agent {command.agent!r} is not present under incarnation {command.incarnation}, so its attempts "
            "are void",
        )
    found = agent.live.get(command.fence)
    if found is None:
        return Rejection(
            RejectionCode.STALE_FENCE, f"the attempt with fence {command.fence} is over: stop, another one may run"
        )
    return found


def cancel_named(step: ApplyContext, command: CancelChildren) -> Done | Rejection:
    """Cancel the children that their parent names."""
    caller = find_caller(step, command)
    if isinstance(caller, Rejection):
        return caller
    if len(command.children) > limits.SPAWN_TASKS_MAX:
        return Rejection(
            RejectionCode.LIMIT,
            f"{len(command.children)} children in one command, the limit is {limits.SPAWN_TASKS_MAX}: name "
            "them in parts",
            limit=limits.SPAWN_TASKS_MAX,
        )
    workflow, parent = caller
    why = f"{parent.id} cancelled it"
    below: list[int] = []
    changed = False
    for position in command.children:
        child = workflow.tasks[position] if 0 <= position < len(workflow.tasks) else parent
        origin = child.origin
        if origin is None or origin.parent != parent.position or child.state in FINAL or origin.handled:
            continue
        step.touch_task(workflow, child)
        origin.handled = changed = True
        stop_task(step, workflow, child, why)
        if child.family is not None:
            below.append(position)
    _cancel_below(step, workflow, parent.position, below, why)
    return Done(changed=changed)


def cancel_children(step: ApplyContext, workflow: Workflow, task: Task) -> None:
    """Cancel what a task that has failed or was cancelled has spawned."""
    if task.family is None or not workflow.open:
        return
    word = "failed" if task.state is TaskState.FAILED else "was cancelled"
    _cancel_below(step, workflow, task.position, [task.position], f"{task.id}, which spawned it, {word}")


def _cancel_below(step: ApplyContext, workflow: Workflow, position: int, parents: list[int], why: str) -> None:
    """Cancel the children of tasks now, or begin a job under the task at `position` that does."""
    if not parents:
        return
    pending = step.state.agenda.get(JobKind.CANCEL_CHILDREN, workflow.id, position)
    if pending is not None:
        pending.positions += parents
        return
    job = AgendaJob(JobKind.CANCEL_CHILDREN, workflow.id, position, why=why, positions=parents)
    if not continue_children(step, workflow, job):
        begin_job(step, workflow, job)


def continue_children(step: ApplyContext, workflow: Workflow, job: AgendaJob) -> bool:
    """Cancel the next children, newest first. Returns True when all are."""
    tasks, positions = workflow.tasks, job.positions
    while job.cursor < len(positions):
        family = tasks[positions[job.cursor]].family
        assert family is not None  # noqa: S101 - only tasks with children are listed
        child = job.offset - 1 if job.offset else family.last
        while child >= 0:
            if step.budget <= 0:
                job.offset = child + 1
                return False
            step.budget -= 1
            task = tasks[child]
            stop_task(step, workflow, task, job.why)
            if task.family is not None:
                positions.append(child)
            child = _origin_of(task).previous
        job.cursor, job.offset = job.cursor + 1, 0
    return True


def _origin_of(task: Task) -> SpawnOrigin:
    assert task.origin is not None  # noqa: S101 - a child has one
    return task.origin
