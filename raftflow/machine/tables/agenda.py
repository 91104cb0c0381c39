"""The agenda: work that commands have begun and later commands do in bounded pieces (`rules/agenda.py`)."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from raftflow.domain.tasks.states import AttemptOutcome
from raftflow.machine.tables.tasks import ORDER_NONE

if TYPE_CHECKING:
    from collections.abc import Iterator


class JobKind(enum.StrEnum):
    """What a job does."""

    STOP = "stop"
    """Cancels every task of a workflow that has not started, and tells live attempts to stop."""
    REVIVE = "revive"
    """Takes back the ends of the tasks that did not succeed. Then it admits cached tasks, by a second pass."""
    MEET_NEEDS = "meet_needs"
    """Tells the tasks that need certain tasks that those have succeeded."""
    CANCEL_DOWNSTREAM = "cancel_downstream"
    """Cancels everything that needs a task that failed."""
    REQUEUE = "requeue"
    """Asks for queued attempts back, or lets them run, and decides again who runs among equal tasks."""
    CANCEL_CHILDREN = "cancel_children"
    """Cancels what a task that has ended, or was told to stop, has spawned, and what that has spawned."""
    REMOVE_AGENT = "remove_agent"
    """Ends the attempts of an agent that is gone."""


class JobKey(NamedTuple):
    """What a job is known by. There is one job of a kind for each subject and task."""

    kind: JobKind
    subject: str
    task: int


class AgendaJob(msgspec.Struct, array_like=True, gc=False, eq=False):
    """Work that is done in pieces. Its fields say where the next piece begins."""

    kind: JobKind
    subject: str
    """Id of the workflow, or name of the agent."""
    task: int = -1
    """Position of the task that failed (`CANCEL_DOWNSTREAM`), or whose children are cancelled (`CANCEL_CHILDREN`)."""
    why: str = ""
    """Detail of the tasks that are cancelled, error of the attempts that end."""
    cursor: int = 0
    """Position of the next task (`REVIVE`: counted on in the second pass), or index of the next of `positions`."""
    offset: int = 0
    """How many dependents of the next of `positions` are done. `CANCEL_CHILDREN`: 1 + the next child of it, 0 for the
    newest one."""
    positions: list[int] = []
    """Tasks whose dependents are looked at."""
    order: int = ORDER_NONE
    """What the agents of queued attempts are told (`REQUEUE`)."""
    fence: int = 0
    """Attempts with a larger one are left alone (`REQUEUE`)."""
    outcome: AttemptOutcome = AttemptOutcome.LOST
    """Of the attempts that end (`REMOVE_AGENT`)."""
    lost_most: int = -1
    """Running tasks that lost as many agents before are blamed for this loss, -1 for none (`REMOVE_AGENT`)."""

    @property
    def key(self) -> JobKey:
        """What it is known by."""
        return JobKey(self.kind, self.subject, self.task)


class Agenda:
    """Jobs in the order in which they were begun."""

    def __init__(self) -> None:
        self._jobs: dict[JobKey, AgendaJob] = {}

    def __len__(self) -> int:
        """Count the jobs."""
        return len(self._jobs)

    def __iter__(self) -> Iterator[AgendaJob]:
        """Go through them, oldest first."""
        return iter(self._jobs.values())

    def items(self) -> Iterator[tuple[JobKey, AgendaJob]]:
        """Go through them with their keys, oldest first."""
        return iter(self._jobs.items())

    def first(self) -> AgendaJob | None:
        """Return the oldest job; None for an empty agenda."""
        return next(iter(self._jobs.values()), None)

    def get(self, kind: JobKind, subject: str, task: int = -1) -> AgendaJob | None:
        """Return a job; None if it is not on the agenda."""
        return self._jobs.get(JobKey(kind, subject, task))

    def put(self, job: AgendaJob) -> None:
        """Add a job that is not there."""
        self._jobs[job.key] = job

    def remove(self, job: AgendaJob) -> None:
        """Remove a job that is there."""
        del self._jobs[job.key]
