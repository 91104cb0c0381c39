"""Work that is too much for one command: it goes on the agenda, and later commands do it in bounded pieces.

A command has a budget of steps (`step_limits.py`). What fits is done at once. What does not becomes a *job*: a row of
the replicated table `agenda` that says what is to be done and where the next piece begins. `ContinueAgenda` does the
next piece. The leader proposes it while the agenda is not empty. Pieces are deterministic: they depend on the state
alone.

To everybody else the command stays atomic:

- The fields of the workflow change at once (cancelled, stopping, no longer finished). Only its tasks follow.
- A workflow of which a stop or a revival is pending is *blocked*. None of its tasks is placed, gets a backup, or
  becomes ready. A task that something happens to is stopped first (`stopping.reach`), so every attempt of it counts
  as ordered to stop from the first moment on. Commands that control it are refused as `pending`: the coordinator
  waits and proposes them again.
- A workflow does not finish while a job may still change a task's state, and is neither retried nor retired while it
  has any job. Only needs that its last success met may be counted after its end.
- An agent that is gone is gone at once: what it reports is stale. Its name is not given again before its attempts
  have ended.
- Reads of a workflow wait until it has no job (`raftflow/coordinator/commit/pending_jobs.py`). A list shows at once
  what a stop or a revival comes to.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from raftflow.domain.events import WorkflowNotReady, WorkflowReady
from raftflow.domain.rejections import Rejection, RejectionCode
from raftflow.domain.tasks.states import TaskState
from raftflow.machine.tables.agenda import AgendaJob, JobKind

if TYPE_CHECKING:
    from raftflow.machine.rules.context import ApplyContext
    from raftflow.machine.tables.workflows import Workflow

BLOCKING: Final = frozenset({JobKind.STOP, JobKind.REVIVE})
"""While such a job is pending its workflow is blocked."""


def begin_job(step: ApplyContext, workflow: Workflow, job: AgendaJob) -> None:
    """Put a job of a workflow on the agenda."""
    step.touch_workflow(workflow)
    step.state.agenda.put(job)
    workflow.jobs += 1
    if job.kind in BLOCKING:
        if workflow.counts[TaskState.READY] and not workflow.held:
            step.events.append(WorkflowNotReady(workflow.id))
        workflow.blocked = True
        workflow.hold()


def end_job(step: ApplyContext, workflow: Workflow, job: AgendaJob) -> None:
    """Take a job of a workflow that is done from the agenda, with what waited for it."""
    step.touch_workflow(workflow)
    step.state.agenda.remove(job)
    workflow.jobs -= 1
    if job.kind in BLOCKING:
        workflow.blocked = False
        workflow.hold()
        if workflow.counts[TaskState.READY]:
            step.events.append(WorkflowReady(workflow.id))
    step.finish_if_over(workflow)


def owe_needs(step: ApplyContext, workflow: Workflow, position: int) -> None:
    """Let later commands tell the dependents of a task that it has succeeded."""
    job = step.state.agenda.get(JobKind.MEET_NEEDS, workflow.id)
    if job is None:
        begin_job(step, workflow, AgendaJob(JobKind.MEET_NEEDS, workflow.id, positions=[position]))
    else:
        job.positions.append(position)


def refuse_pending(workflow: Workflow) -> Rejection:
    """Refuse a command until the workflow is no longer blocked."""
    return Rejection(
        RejectionCode.PENDING, f"an earlier change of workflow {workflow.id} is not done yet; try again in a moment"
    )
