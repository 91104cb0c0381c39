"""How long a running task is expected to run, and from when on it counts as late.

By what was learnt of its kind once that was learnt from `SAMPLES_MIN` attempts, else by the `expected` of its
document. An attempt with no expected duration is never late.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from raftflow.domain.tasks.workflow import EXPECTED_DEFAULT_MS

if TYPE_CHECKING:
    from raftflow.machine.rows import TaskRow, WorkflowRow
    from raftflow.machine.tables.state import State
    from raftflow.machine.tables.tasks import Attempt, Task
    from raftflow.machine.tables.workflows import Workflow

SAMPLES_MIN = 4
"""After so many attempts of a kind its learnt run time is used."""
PATIENCE_MIN_MS = 1_000
"""No attempt counts as late before that: starting another one is not free either."""
DEVIATIONS = 4
"""An attempt is late when it has run longer than its kind's mean and so many mean deviations, and half as long again
as the mean (RFC 6298 waits as long for an answer)."""


class Expectation(NamedTuple):
    """Expected duration, in ms."""

    mean_ms: int
    late_ms: int
    """After so long it is late."""
    kind: str | None
    """The kind by which that is known; None if the document says so."""

    @property
    def words(self) -> str:
        """Where the time comes from, and the time."""
        source = "the document expects it to take" if self.kind is None else f"tasks of the kind {self.kind} take"
        return f"{source} {seconds(self.mean_ms)}"


def expectation(state: State, workflow: WorkflowRow, task: TaskRow) -> Expectation | None:
    """Return how long a task is expected to run, None if unknown."""
    kind = workflow.profiles[task.profile].kind
    known = None if kind is None else state.kinds_learnt.get(kind)
    if known is not None and known.count >= SAMPLES_MIN:
        mean_ms = max(known.mean_us // 1000, 1)
        late_ms = max(mean_ms + DEVIATIONS * (known.deviation_us // 1000), mean_ms * 3 // 2, PATIENCE_MIN_MS)
        return Expectation(mean_ms, late_ms, kind)
    declared_ms = declared(workflow, task)
    if declared_ms == EXPECTED_DEFAULT_MS:  # what is taken if a task says nothing
        return None
    return Expectation(declared_ms, max(2 * declared_ms, PATIENCE_MIN_MS), None)


def declared(workflow: WorkflowRow, task: TaskRow) -> int:
    """Return what a task adds to the largest rank of what follows it: its expected time in ms."""
    if task.origin is not None:
        return task.rank - workflow.tasks[task.origin.parent].rank
    return task.rank - max((workflow.tasks[below].rank for below in workflow.dependents[task.position]), default=0)


def why_backup(state: State, workflow: Workflow, task: Task, attempt: Attempt, at_ms: int) -> str:
    """Say why a backup attempt started at a time beside an attempt of a task."""
    ran = f"attempt {attempt.number} on {attempt.agent} had run for {seconds(at_ms - attempt.started_ms)}"
    found = expectation(state, workflow, task)
    if found is None:
        return ran
    if at_ms - attempt.started_ms >= found.late_ms:
        return f"{ran}: it is late, {found.words}"
    return f"{ran}, and its agent is slow or its progress small: {found.words}"


def seconds(ms: int) -> str:
    """Write a time in seconds, for a person."""
    return f"{ms // 1000}.{ms % 1000 // 100} s"
