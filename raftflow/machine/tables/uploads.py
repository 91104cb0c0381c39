"""A workflow that comes in pieces: what has arrived so far, and how a piece is checked and added.

Every piece costs time in proportion to itself alone. Whatever follows from the tasks (lookups, dependents, counts) is
kept up while they come, so that the end of an upload has nothing left to do. The pieces are kept as they came until
then: they are what a snapshot holds of an upload, and adding them again gives the same.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec

from raftflow.domain import limits
from raftflow.domain.commands import TaskPart
from raftflow.domain.tasks.budgets import Budget
from raftflow.domain.tasks.checks import check_task_values
from raftflow.domain.tasks.feasibility import Shape, shape_of
from raftflow.domain.tasks.preparation import WORK_MIN, WORK_PER_EDGE
from raftflow.domain.tasks.program import TaskWait, kind_of, required_labels
from raftflow.domain.tasks.states import TaskState
from raftflow.domain.tasks.workflow import GraphProblem, OnFailure, TaskSpec
from raftflow.domain.values.cachekeys import referred
from raftflow.domain.values.ids import name_problem
from raftflow.machine.tables.tasks import Profile, Task, is_admitted
from raftflow.machine.tables.workflows import Workflow

if TYPE_CHECKING:
    from collections.abc import Sequence


ShareShape = Callable[[Shape], Shape]
"""Returns one object for equal shapes: `State.shape`."""

RANK_MAX = limits.TASKS_PER_WORKFLOW_MAX * limits.DURATION_MS_MAX
WORK_PER_PIECE = 5 * limits.PIECE_NEEDS_MAX
"""Steps that the search for redundant needs may take in one piece."""
SHAPES_MAX = 20
"""Shapes that are remembered, to warn of those that no agent can run."""
_TUPLE_MAX = 32
"""Dependents that are kept in a tuple. More go into a list, for adding to a tuple copies it."""

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(tuple[tuple[TaskSpec, ...], tuple[TaskPart, ...]])


class UploadRecord(msgspec.Struct, array_like=True, frozen=True):
    """An upload without its pieces, as snapshots hold it."""

    id: str
    name: str
    priority: int
    on_failure: OnFailure
    max_parallel: int | None
    tasks: int
    needs: int
    pieces: int
    """How many follow."""
    code: str = ""
    budgets: tuple[Budget, ...] = ()


class Upload:
    """What has come so far of a workflow that comes in pieces."""

    __slots__ = (
        "_budget",
        "_levels",
        "_references",
        "arrived",
        "dependents",
        "highest",
        "needs",
        "needs_arrived",
        "pieces",
        "profiles",
        "shapes",
        "tasks",
        "workflow",
    )

    def __init__(
        self,
        workflow_id: str,
        name: str,
        *,
        priority: int,
        on_failure: OnFailure,
        max_parallel: int | None,
        tasks: int,
        needs: int,
        code: str = "",
        budgets: tuple[Budget, ...] = (),
    ) -> None:
        workflow = Workflow(0, workflow_id, name, priority=priority, on_failure=on_failure, submitted_ms=0)
        workflow.max_parallel = max_parallel
        workflow.code = code
        workflow.budgets = budgets
        self.workflow = workflow
        """Its number and its time come when it is finished; until then its tasks are in `tasks`."""
        self.tasks: list[Task | None] = [None] * tasks
        """By their place in the document; None for those that have not come."""
        self.arrived = 0
        """Tasks that have come."""
        self.needs = needs
        """Needs that were announced, all together."""
        self.needs_arrived = 0
        self.highest = 0
        """Most tasks that lie before one on its longest chain of needs."""
        self.shapes: dict[Shape, str] = {}
        """The first shapes, each with the first task that has it."""
        self.pieces: list[bytes] = []
        """What came, in order: profiles and tasks in MessagePack."""
        self.profiles: list[Profile] = []
        """What the tasks run and want, as far as it has come."""
        self.dependents: list[Sequence[int]] = [()] * tasks
        """For each task the positions of those that wait for it, in order."""
        self._levels = [0] * tasks
        self._references: list[tuple[str, ...]] = []
        """For each profile the tasks that the template of its cache key names."""
        self._budget = max(WORK_MIN, WORK_PER_EDGE * needs)
        """Steps that are left for the search for redundant needs."""

    @property
    def whole(self) -> bool:
        """True if everything that was announced has come."""
        return self.arrived == len(self.tasks) and self.needs_arrived == self.needs

    # --- a piece

    def problems(self, profiles: Sequence[TaskSpec], tasks: Sequence[TaskPart]) -> list[GraphProblem]:
        """Say what is wrong with a piece; an empty list means that `add` may be called."""
        found: list[GraphProblem] = []
        most = limits.PIECE_TASKS_MAX
        if len(profiles) > most or len(tasks) > most:
            return [GraphProblem("tasks", f"more than {most} tasks or profiles in a piece")]
        if len(self.profiles) + len(profiles) > len(self.tasks):
            return [GraphProblem("profiles", "there are more profiles than tasks")]
        references: list[tuple[str, ...]] = []
        for number, profile in enumerate(profiles):
            path = f"profiles[{number}]"
            if profile.needs:
                found.append(GraphProblem(f"{path}.needs", "a profile has none"))
            found.extend(check_task_values(profile, path))
            references.append(_references(profile, path, found))
        self._check_tasks(tasks, references, found)
        return found

    def _check_tasks(
        self, tasks: Sequence[TaskPart], references: list[tuple[str, ...]], found: list[GraphProblem]
    ) -> None:
        """Add what is wrong with the tasks. `references` are those of the profiles that come with them."""
        known = self.workflow.by_id
        profiles = len(self.profiles)
        fresh: dict[int, str] = {}
        """Position to id of those of the piece that were looked at."""
        ids: dict[str, None] = {}
        needs = 0
        for task in tasks:
            needs += len(task.needs)
            wrong = name_problem(task.id)
            if task.id in known or task.id in ids:
                wrong = "is the id of another task"
            elif not 0 <= task.position < len(self.tasks) or task.position in fresh or self._at(task.position):
                wrong = f"comes at {task.position}, which is not a free place of {len(self.tasks)}"
            elif not 0 <= task.profile < profiles + len(references):
                wrong = f"has profile {task.profile}, which has not come"
            elif not 0 <= task.rank <= RANK_MAX:
                wrong = f"has rank {task.rank}"
            elif len(task.needs) > limits.NEEDS_PER_TASK_MAX or len(set(task.needs)) < len(task.needs):
                wrong = "has too many needs, or one of them twice"
            elif wrong is None:
                wrong = self._needs_problem(task, references, fresh)
            if wrong is not None:
                found.append(GraphProblem(f"tasks[{task.position}]", f"{task.id[:80]!r} {wrong}"))
                return
            fresh[task.position] = task.id
            ids[task.id] = None
        if needs > limits.PIECE_NEEDS_MAX or self.needs_arrived + needs > self.needs:
            found.append(GraphProblem("tasks", f"{needs} more needs are too many, {self.needs} were announced"))

    def _at(self, position: int) -> bool:
        return self.tasks[position] is not None

    def _needs_problem(self, task: TaskPart, references: list[tuple[str, ...]], fresh: dict[int, str]) -> str | None:
        """Say what is wrong with the needs of one task."""
        count = len(self.tasks)
        for need in task.needs:
            if not 0 <= need < count or (need not in fresh and self.tasks[need] is None):
                return f"needs the task at {need}, which has not come"
        known = len(self._references)
        named = self._references[task.profile] if task.profile < known else references[task.profile - known]
        if named:
            ids = {fresh[need] if need in fresh else self._id(need): None for need in task.needs}
            for name in named:
                if name not in ids:
                    return f"has a cache key that refers to {name!r}, which it does not need"
        return None

    def _id(self, position: int) -> str:
        task = self.tasks[position]
        assert task is not None  # noqa: S101 - it was found to have come
        return task.id

    def add(self, share: ShareShape, profiles: Sequence[TaskSpec], tasks: Sequence[TaskPart]) -> None:
        """Add a piece in which nothing is wrong."""
        self.pieces.append(_encoder.encode((profiles, tasks)))
        self._add_profiles(share, profiles)
        self._add_tasks(tasks)

    def _add_profiles(self, share: ShareShape, profiles: Sequence[TaskSpec]) -> None:
        workflow = self.workflow
        for profile in profiles:
            made = profile_of(profile, share)
            self.profiles.append(made)
            workflow.caches = workflow.caches or is_admitted(made)
            self._references.append(_references(profile, "", []))
            if len(self.shapes) < SHAPES_MAX and type(made.program) is not TaskWait:
                self.shapes.setdefault(made.shape, profile.id)

    def _add_tasks(self, tasks: Sequence[TaskPart]) -> None:
        workflow = self.workflow
        counts, by_id, levels, profiles = workflow.counts, workflow.by_id, self._levels, self.profiles
        work = WORK_PER_PIECE
        for part in tasks:
            position, needs = part.position, part.needs
            waits = needs
            if needs:
                self.needs_arrived += len(needs)
                levels[position] = level = 1 + max([levels[need] for need in needs])
                self.highest = max(self.highest, level)
                if len(needs) > 1 and work > 0 and self._budget > 0:
                    waits, steps = self._needed(needs, min(work, self._budget))
                    work -= steps
                    self._budget -= steps
                for need in waits:
                    self._depend(need, position)
            first = TaskState.WAITING if needs or is_admitted(profiles[part.profile]) else TaskState.READY
            task = Task(part.id, position, part.profile, needs, part.rank, first, len(waits))
            if len(waits) < len(needs):
                task.waits = waits
            self.tasks[position] = task
            by_id[part.id] = task
            counts[first] += 1
        self.arrived += len(tasks)
        workflow.open += len(tasks)

    def _needed(self, needs: tuple[int, ...], steps_max: int) -> tuple[tuple[int, ...], int]:
        """Return those of a task's needs that do not follow from the others, and how many steps that took.

        As `preparation.without_redundant` does it for a whole graph. All of them if it takes too many steps.
        """
        levels, tasks = self._levels, self.tasks
        lowest = min([levels[need] for need in needs])
        walk = [need for need in needs if levels[need] > lowest]
        above: dict[int, None] = {}
        steps = 0
        for need in walk:
            task = tasks[need]
            assert task is not None  # noqa: S101 - needs come first
            for before in task.waited:
                steps += 1
                if levels[before] >= lowest and before not in above:
                    above[before] = None
                    if levels[before] > lowest:
                        walk.append(before)
            if steps >= steps_max:
                return needs, steps
        return tuple([need for need in needs if need not in above]), steps

    def _depend(self, need: int, position: int) -> None:
        """Note that the task at `position` waits for that at `need`."""
        dependents = self.dependents
        known = dependents[need]
        if isinstance(known, list):
            if position > known[-1]:
                known.append(position)
            else:
                known.insert(bisect_left(known, position), position)
        elif not known or position > known[-1]:
            dependents[need] = (*known, position)
        else:
            dependents[need] = tuple(sorted((*known, position)))
        if len(known) == _TUPLE_MAX:
            dependents[need] = list(dependents[need])

    # --- the end

    def record(self) -> UploadRecord:
        """Return what snapshots hold of it beside its pieces."""
        workflow = self.workflow
        return UploadRecord(
            workflow.id,
            workflow.name,
            workflow.priority,
            workflow.on_failure,
            workflow.max_parallel,
            len(self.tasks),
            self.needs,
            len(self.pieces),
            workflow.code,
            workflow.budgets,
        )

    def finish(self) -> Workflow:
        """Return the workflow, all of whose tasks have come."""
        workflow = self.workflow
        workflow.profiles = tuple(self.profiles)
        workflow.tasks = tuple(self.tasks)  # type: ignore[arg-type]  # none is missing
        workflow.dependents = tuple(self.dependents)
        return workflow


def decode_piece(data: bytes) -> tuple[tuple[TaskSpec, ...], tuple[TaskPart, ...]]:
    """Read a piece as an upload keeps it: profiles and tasks. Raises `msgspec.DecodeError`."""
    return _decoder.decode(data)


_NO_ENV: dict[str, str] = {}
"""One empty environment for all tasks that have none: it saves 80 bytes a task. Nobody changes it."""


def profile_of(task: TaskSpec, share: ShareShape) -> Profile:
    """Return what a task runs and what it needs."""
    labels = required_labels(task.program, task.labels)
    return Profile(
        task.program,
        task.env or _NO_ENV,
        task.cwd,
        share(shape_of(task.resources, labels, exclusive=task.exclusive)),
        task.retries,
        task.retry_delay_ms,
        task.retry_delay_max_ms,
        task.timeout_ms,
        task.grace_ms,
        kind_of(task.kind, task.program),
        task.cache,
        task.memory_max_mib,
        task.backup,
        tuple(sorted(task.rates.items())) if task.rates else (),
    )


def _references(profile: TaskSpec, path: str, found: list[GraphProblem]) -> tuple[str, ...]:
    """Return the tasks that the template of a profile's cache key names; add what is wrong with it."""
    if not profile.cache:
        return ()
    try:
        return tuple(referred(profile.cache))
    except ValueError as error:
        found.append(GraphProblem(f"{path}.cache.key", str(error)))
        return ()
