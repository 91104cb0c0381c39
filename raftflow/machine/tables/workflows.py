"""Rows of workflows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import msgspec

from raftflow.domain.tasks.budgets import Budget
from raftflow.domain.tasks.preparation import NO_FACTS, GraphFacts
from raftflow.domain.tasks.states import FINAL, TaskState, WorkflowState
from raftflow.domain.tasks.workflow import OnFailure
from raftflow.machine.tables.effects.rows import WorkflowEffects
from raftflow.machine.tables.steps import WorkflowSteps
from raftflow.machine.tables.tasks import Profile, Task, is_admitted
from raftflow.machine.tables.waits.signals import WorkflowSignals
from raftflow.machine.tables.waits.waits import WorkflowWaits

_NOT_STARTED = (TaskState.WAITING, TaskState.DELAYED, TaskState.READY, TaskState.PARKED)
_WITHOUT_SUCCESS = (TaskState.FAILED, TaskState.CANCELLED)


_Row = TypeVar("_Row")


def _extended(rows: Sequence[_Row], more: Sequence[_Row]) -> Sequence[_Row]:
    """Return a list with more rows. It is the same list, so that to grow costs in proportion to what is added."""
    found = rows if isinstance(rows, list) else list(rows)
    found.extend(more)
    return found


class Workflow(msgspec.Struct, gc=False, eq=False):
    """A workflow and its tasks, in document order."""

    number: int
    """In order of submission, from 1."""
    id: str
    name: str
    priority: int
    on_failure: OnFailure
    submitted_ms: int
    finished_ms: int = 0
    """0 until the last task ended."""
    finished_number: int = 0
    """In order of finishing, from 1; 0 while unfinished."""
    paused: bool = False
    cancelled: bool = False
    """A client cancelled it."""
    stopping: bool = False
    """A task failed, no retries were left, and the rest is cancelled."""
    placed: bool = False
    """An attempt has been placed."""
    warnings: tuple[str, ...] = ()
    max_parallel: int | None = None
    """Most of its tasks that may be queued or running."""
    code: str = ""
    """Digest of its code bundle, empty for none."""
    profiles: Sequence[Profile] = ()
    tasks: Sequence[Task] = ()
    """This and others are tuples: the garbage collector skips them, unlike lists. They become lists when the workflow
    grows."""
    by_id: dict[str, Task] = msgspec.field(default_factory=dict)
    dependents: Sequence[Sequence[int]] = ()
    """For each task the positions of those that wait for it, in order."""
    counts: list[int] = msgspec.field(default_factory=lambda: [0] * len(TaskState))
    """Tasks by state."""
    backups: int = 0
    """Backup attempts that live."""
    open: int = 0
    """Tasks that have not ended."""
    facts: GraphFacts = NO_FACTS
    """What its graph is like."""
    cached: int = 0
    """Tasks that succeeded by the result of an equal one."""
    caches: bool = False
    """Some of its tasks are cached, or wait for signals and decisions (`is_admitted`)."""
    result_bytes: int = 0
    """Of the results of its tasks, all together."""
    jobs: int = 0
    """Jobs of it on the agenda."""
    blocked: bool = False
    """One of them stops or revives it."""
    held: bool = False
    """None of its tasks may be placed: it is paused or blocked, or a budget is used up."""
    steps: WorkflowSteps | None = None
    """Records of the durable steps of its tasks, None without one."""
    effects: WorkflowEffects | None = None
    """Effects of its tasks, None without one."""
    waits: WorkflowWaits | None = None
    """Waits of its tasks, None without one."""
    signals: WorkflowSignals | None = None
    """Signals that were sent to it, None without one."""
    handled: int = 0
    """Children that failed while their parents were open: they do not make the workflow a failed one."""
    spawned_bytes: int = 0
    """Bytes of what its children run."""
    budgets: tuple[Budget, ...] = ()
    """What its tasks may spend. What they have spent is with the records of their steps."""
    used_up: bool = False
    """A budget is used up: none of its tasks starts until it is raised."""

    @property
    def stop_pending(self) -> bool:
        """True while some of its tasks have not been stopped yet although it is being stopped."""
        return self.blocked and (self.cancelled or self.stopping)

    @property
    def settled_counts(self) -> list[int]:
        """Tasks by state, as they are when the pending stop or revival is done."""
        counts = self.counts
        if not self.blocked:
            return counts
        counts = counts.copy()
        moved, after = (
            (_NOT_STARTED, TaskState.CANCELLED) if self.stop_pending else (_WITHOUT_SUCCESS, TaskState.WAITING)
        )
        count = sum([counts[state] for state in moved])
        for state in moved:
            counts[state] = 0
        counts[after] += count
        return counts

    def hold(self) -> None:
        """Note that it was paused or blocked, that a budget of it was used up or raised, or that it runs again."""
        self.held = (self.paused or self.blocked or self.used_up) and not self.finished_ms

    def spent_of(self, name: str) -> int:
        """Return what its tasks have spent of something, in millionths."""
        spending = None if self.steps is None else self.steps.spending
        return 0 if spending is None else spending.total.get(name, 0)

    def find_used_up(self) -> Budget | None:
        """Return the first budget that is used up, None if none is."""
        for budget in self.budgets:
            if self.spent_of(budget.name) >= budget.hard:
                return budget
        return None

    @property
    def state(self) -> WorkflowState:
        """The public state. A cancelled workflow of which nothing runs has ended, although its tasks follow later."""
        ended = self.stop_pending and not (self.counts[TaskState.QUEUED] or self.counts[TaskState.RUNNING])
        if self.finished_ms or ended:
            if self.cancelled:
                return WorkflowState.CANCELLED
            return WorkflowState.FAILED if self.counts[TaskState.FAILED] > self.handled else WorkflowState.SUCCEEDED
        if self.paused or self.used_up:
            return WorkflowState.PAUSED
        return WorkflowState.RUNNING if self.placed else WorkflowState.PENDING

    def grow(self, tasks: Sequence[Task], profiles: Sequence[Profile]) -> None:
        """Add children, none of which has ended, and what they run. The caller has kept the workflow as it was."""
        self.add_profiles(profiles)
        self.tasks = _extended(self.tasks, tasks)
        self.dependents = _extended(self.dependents, [()] * len(tasks))
        self.open += len(tasks)
        counts, by_id = self.counts, self.by_id
        for task in tasks:
            by_id[task.id] = task
            counts[task.state] += 1

    def add_profiles(self, profiles: Sequence[Profile]) -> None:
        """Add profiles behind the others."""
        if profiles:
            self.profiles = _extended(self.profiles, profiles)

    def index_tasks(self) -> None:
        """Build everything that follows from the tasks: lookups, dependents, counts."""
        self.tasks = tuple(self.tasks)
        self.by_id = {task.id: task for task in self.tasks}
        dependents: list[list[int]] = [[] for _ in self.tasks]
        counts = [0] * len(TaskState)
        self.backups = self.handled = 0
        for task in self.tasks:
            counts[task.state] += 1
            if task.backup is not None:
                self.backups += 1
            if task.origin is not None and task.origin.handled and task.state is TaskState.FAILED:
                self.handled += 1
            for need in task.waited:
                dependents[need].append(task.position)
        self.dependents = tuple([tuple(positions) for positions in dependents])
        self.counts = counts
        self.result_bytes = sum([len(task.result) for task in self.tasks])
        self.cached = sum(task.cached for task in self.tasks)
        self.caches = any(map(is_admitted, self.profiles))
        self.open = len(self.tasks) - sum([counts[state] for state in FINAL])
