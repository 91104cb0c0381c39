"""The agenda, and what follows from it in workflows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from raftflow.machine.rules.agenda import BLOCKING
from raftflow.machine.schema.declaration import Limit, Reason, Restoring, SnapshotError, Table, saved_rows
from raftflow.machine.tables.agenda import AgendaJob, JobKind

if TYPE_CHECKING:
    from collections.abc import Iterator

    from raftflow.machine.tables.state import State
    from raftflow.machine.tables.tasks import Task
    from raftflow.machine.tables.workflows import Workflow


def _derive(restoring: Restoring) -> None:
    """Block the workflows that have such a job, and count the jobs of each."""
    state = restoring.state
    for job in state.agenda:
        if job.kind is JobKind.REMOVE_AGENT:
            continue
        workflow = state.workflows.get(job.subject)
        if workflow is None:
            raise SnapshotError(f"the agenda has a job for workflow {job.subject}, which is not there")
        workflow.jobs += 1
        workflow.blocked |= job.kind in BLOCKING
        workflow.hold()


def needs_owed(state: State, workflow: Workflow, task: Task) -> int:
    """Return how many of a task's needs have succeeded without it knowing."""
    job = state.agenda.get(JobKind.MEET_NEEDS, workflow.id) if workflow.jobs else None
    if job is None:
        return 0
    owed = 0
    for number, position in enumerate(job.positions[job.cursor :]):
        dependents = workflow.dependents[position]
        owed += task.position in (dependents[job.offset :] if number == 0 else dependents)
    return owed


def _problems(state: State, _: int) -> Iterator[str]:
    jobs: dict[str, int] = {}
    blocked: dict[str, None] = {}
    for key, job in state.agenda.items():
        if key != job.key:
            yield f"the job {job.key} is in the agenda under another key"
        if job.kind is JobKind.REMOVE_AGENT:
            agent = state.agents.get(job.subject)
            if agent is None or agent.present:
                yield f"the agenda ends the attempts of agent {job.subject}, which is present or unknown"
            continue
        jobs[job.subject] = jobs.get(job.subject, 0) + 1
        if job.kind in BLOCKING:
            blocked[job.subject] = None
    for workflow in state.workflows.values():
        counted = jobs.pop(workflow.id, 0)
        if workflow.jobs != counted:
            yield f"workflow {workflow.id}: {workflow.jobs} jobs counted, the agenda has {counted}"
        if workflow.blocked != (workflow.id in blocked):
            yield f"workflow {workflow.id}: does not match the agenda, which blocks it or not"
    for name in jobs:
        yield f"the agenda has a job for workflow {name}, which is not there"


AGENDA = Table(
    name="agenda",
    about="work that commands have begun and later commands do in pieces, oldest first",
    saved=saved_rows(
        field=17,
        kind=b"J",
        row=AgendaJob,
        rows=lambda state: state.agenda,
        add=lambda state, job: state.agenda.put(job),
        bytes_of=lambda job: 5 * len(job.positions),
    ),
    derive=_derive,
    problems=_problems,
    limit=Limit(name="LIVE_TASKS_MAX", rows=lambda state: len(state.agenda)),
    retire=Reason("a workflow with a job has not finished"),
    parts=Reason("few rows; the largest is a list of numbers"),
)
