"""Workflows with their profiles and tasks, and the tables that follow from them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from raftflow.domain.tasks.states import LIVE_ATTEMPT, TaskState
from raftflow.machine.schema.declaration import Counter, Frozen, Limit, Reason, Restoring, Saved, SnapshotError, Table
from raftflow.machine.schema.family_checks import family_problems
from raftflow.machine.schema.task_checks import fence_problems, task_problems
from raftflow.machine.schema.workflow_checks import number_problems, workflow_problems
from raftflow.machine.tables.copy_on_write import CHUNK, CHUNK_BITS, WorkflowRecord
from raftflow.machine.tables.tasks import Profile, SpawnOrigin, Task
from raftflow.machine.tables.workflows import Workflow

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from raftflow.machine.schema.declaration import Frame
    from raftflow.machine.tables.copy_on_write import CopyOnWrite
    from raftflow.machine.tables.state import State

_WORKFLOW, _PROFILES, _TASKS = b"W", b"P", b"T"
_BATCH = 500
"""Profiles in a frame."""

_encoder = msgspec.msgpack.Encoder()
_workflow_decoder = msgspec.msgpack.Decoder(WorkflowRecord)
_profiles_decoder = msgspec.msgpack.Decoder(list[Profile])
_tasks_decoder = msgspec.msgpack.Decoder(list[Task])


def _freeze(state: State, copying: CopyOnWrite) -> Frozen:
    workflows = list(state.workflows.values())

    def frames() -> Iterator[Frame]:
        for workflow in workflows:
            yield from _workflow_frames(copying, workflow)

    return Frozen(len(workflows), frames())


def _workflow_frames(copying: CopyOnWrite, workflow: Workflow) -> Iterator[Frame]:
    head, profiles = copying.write_head(workflow)
    yield _WORKFLOW, head
    for first in range(0, profiles, _BATCH):
        yield _PROFILES, _encoder.encode(workflow.profiles[first : min(first + _BATCH, profiles)])
    for chunk in range((copying.tasks_of(workflow) + CHUNK - 1) >> CHUNK_BITS):
        for part in copying.write_chunk(workflow, chunk):
            yield _TASKS, part


class WorkflowReader:
    """Reads workflows, each followed by its profiles and its tasks."""

    def __init__(self, restoring: Restoring) -> None:
        self._restoring = restoring
        self._workflow: Workflow | None = None
        """The one whose profiles and tasks come now."""
        self._profiles: list[Profile] = []
        self._tasks: list[Task] = []
        """Those of it that were read."""
        self._profiles_expected = 0
        self._tasks_expected = 0

    def take(self, kind: bytes, payload: bytes) -> None:
        """Read a workflow, profiles or tasks."""
        if kind == _WORKFLOW:
            self.finish()
            self._begin(_workflow_decoder.decode(payload))
        elif kind == _PROFILES:
            self._add_profiles(_profiles_decoder.decode(payload))
        else:
            self._add_tasks(_tasks_decoder.decode(payload))

    def _begin(self, record: WorkflowRecord) -> None:
        self._workflow = workflow = Workflow(
            record.number,
            record.id,
            record.name,
            priority=record.priority,
            on_failure=record.on_failure,
            submitted_ms=record.submitted_ms,
        )
        workflow.finished_ms = record.finished_ms
        workflow.finished_number = record.finished_number
        workflow.paused = workflow.held = record.paused
        workflow.cancelled = record.cancelled
        workflow.stopping = record.stopping
        workflow.placed = record.placed
        workflow.warnings = record.warnings
        workflow.max_parallel = record.max_parallel
        workflow.code = record.code
        workflow.facts = record.facts
        workflow.spawned_bytes = record.spawned_bytes
        workflow.budgets = record.budgets
        self._profiles, self._tasks = [], []
        self._profiles_expected, self._tasks_expected = record.profiles, record.tasks

    def _begun(self) -> Workflow:
        if self._workflow is None:
            raise SnapshotError("tasks without a workflow")
        return self._workflow

    def _add_profiles(self, profiles: list[Profile]) -> None:
        self._begun()
        for profile in profiles:
            shared = self._restoring.state.shape(profile.shape)
            self._profiles.append(
                profile if shared is profile.shape else msgspec.structs.replace(profile, shape=shared)
            )

    def _add_tasks(self, tasks: list[Task]) -> None:
        workflow = self._begun()
        names = self._restoring.names
        for task in tasks:
            if (
                task.position != len(self._tasks)
                or not 0 <= task.profile < self._profiles_expected
                or any(not 0 <= need < self._tasks_expected for need in (*task.needs, *task.waited))
                or (task.origin is not None and not self._is_child(task, task.origin))
                or (task.family is not None and not task.position < task.family.last < self._tasks_expected)
            ):
                raise SnapshotError(f"{workflow.id}/{task.id}: refers to what is not there")
            self._tasks.append(task)
            for attempt in (task.last, task.backup, *task.history):
                if attempt is not None:
                    attempt.agent = names.setdefault(attempt.agent, attempt.agent)
            if task.state in LIVE_ATTEMPT:
                if task.last is None:
                    raise SnapshotError(f"{workflow.id}/{task.id}: {task.state.name.lower()} without an attempt")
                self._restoring.live.append((task.last.fence, workflow, task))
            if task.backup is not None:
                if task.state is not TaskState.RUNNING:
                    raise SnapshotError(f"{workflow.id}/{task.id}: {task.state.name.lower()} with a backup attempt")
                self._restoring.live.append((task.backup.fence, workflow, task))

    def _is_child(self, task: Task, origin: SpawnOrigin) -> bool:
        """Tell whether what a child says of itself can be: parents and older children come before it."""
        return (
            0 <= origin.parent < task.position
            and self._tasks[origin.parent].family is not None
            and -1 <= origin.previous < task.position
            and 0 <= origin.profile < self._profiles_expected
        )

    def finish(self) -> None:
        """Enter the workflow that was begun last into its table."""
        workflow = self._workflow
        if workflow is None:
            return
        workflow.profiles, workflow.tasks = tuple(self._profiles), self._tasks
        if len(workflow.profiles) != self._profiles_expected or len(workflow.tasks) != self._tasks_expected:
            raise SnapshotError(f"{workflow.id}: some of its tasks are missing")
        if any(not 0 <= position < self._tasks_expected for position in workflow.facts.path):
            raise SnapshotError(f"{workflow.id}: its critical path refers to what is not there")
        workflow.index_tasks()
        self._restoring.state.workflows[workflow.id] = workflow


def _problems(state: State, clock_ms: int) -> Iterator[str]:
    for workflow in state.workflows.values():
        for problem in workflow_problems(workflow):
            yield f"workflow {workflow.id}: {problem}"
        for problem in family_problems(workflow):
            yield f"workflow {workflow.id}: {problem}"
        for task in workflow.tasks:
            for problem in task_problems(state, workflow, task, clock_ms):
                yield f"task {workflow.id}/{task.id}: {problem}"


def _retire(state: State, workflows: Sequence[Workflow]) -> None:
    for workflow in workflows:
        del state.workflows[workflow.id]


WORKFLOWS = Table(
    name="workflows",
    about="workflows by id, in order of submission, each with its profiles and tasks",
    saved=Saved(field=13, kinds=(_WORKFLOW, _PROFILES, _TASKS), freeze=_freeze, reader=WorkflowReader),
    derive=Reason("the reader counts and links the tasks of each workflow"),
    problems=_problems,
    limit=Limit(name="WORKFLOWS_MAX", rows=lambda state: len(state.workflows) + len(state.uploads)),
    retire=_retire,
    parts=lambda state: (state.workflows, *state.workflows.values()),
)


# --- what follows from them


def _derive_by_number(restoring: Restoring) -> None:
    state = restoring.state
    state.by_number = {workflow.number: workflow for workflow in state.workflows.values()}


def _retire_numbers(state: State, workflows: Sequence[Workflow]) -> None:
    for workflow in workflows:
        del state.by_number[workflow.number]


BY_NUMBER = Table(
    name="by_number",
    about="the workflows by number",
    saved=Reason("the workflows tell it"),
    derive=_derive_by_number,
    problems=lambda state, _: number_problems(state),
    limit=Limit(name="WORKFLOWS_MAX", rows=lambda state: len(state.by_number)),
    retire=_retire_numbers,
    parts=lambda state: (state.by_number,),
)


def _derive_finished(restoring: Restoring) -> None:
    state = restoring.state
    state.finished = _finished(state)


def _finished(state: State) -> dict[str, Workflow]:
    ended = [workflow for workflow in state.workflows.values() if workflow.finished_ms]
    ended.sort(key=lambda workflow: workflow.finished_number)
    return {workflow.id: workflow for workflow in ended}


def _finished_problems(state: State, _: int) -> Iterator[str]:
    if list(state.finished.items()) != list(_finished(state).items()):
        yield "the table of finished workflows does not match them"


def _retire_finished(state: State, workflows: Sequence[Workflow]) -> None:
    for workflow in workflows:
        del state.finished[workflow.id]


FINISHED = Table(
    name="finished",
    about="the finished workflows in the order in which they finished",
    saved=Reason("the workflows tell it"),
    derive=_derive_finished,
    problems=_finished_problems,
    limit=Limit(name="WORKFLOWS_MAX", rows=lambda state: len(state.finished)),
    retire=_retire_finished,
    parts=lambda state: (state.finished,),
)


def _live_tasks(state: State) -> int:
    return sum(len(workflow.tasks) for workflow in state.workflows.values() if not workflow.finished_ms)


def _derive_live_tasks(restoring: Restoring) -> None:
    restoring.state.live_tasks = _live_tasks(restoring.state)


def _live_task_problems(state: State, _: int) -> Iterator[str]:
    if state.live_tasks != (live_tasks := _live_tasks(state)):
        yield f"{state.live_tasks} live tasks counted, there are {live_tasks}"


LIVE_TASKS = Table(
    name="live_tasks",
    about="number of tasks of unfinished workflows",
    saved=Reason("the workflows tell it"),
    derive=_derive_live_tasks,
    problems=_live_task_problems,
    limit=Limit(name="LIVE_TASKS_MAX", rows=lambda state: state.live_tasks + state.upload_tasks),
    retire=Reason("a finished workflow has no live tasks"),
    parts=Reason("a number"),
)


def _derive_result_bytes(restoring: Restoring) -> None:
    state = restoring.state
    state.result_bytes = sum(workflow.result_bytes for workflow in state.workflows.values())


def _result_problems(state: State, _: int) -> Iterator[str]:
    for workflow in state.workflows.values():
        if workflow.result_bytes != (size := sum(len(task.result) for task in workflow.tasks)):
            yield f"{workflow.id}: {workflow.result_bytes} bytes of results counted, there are {size}"
    if state.result_bytes != (size := sum(workflow.result_bytes for workflow in state.workflows.values())):
        yield f"{state.result_bytes} bytes of results counted, there are {size}"


def _retire_results(state: State, workflows: Sequence[Workflow]) -> None:
    state.result_bytes -= sum([workflow.result_bytes for workflow in workflows])


RESULT_BYTES = Table(
    name="result_bytes",
    about="bytes of the results of all workflows",
    saved=Reason("the workflows tell it"),
    derive=_derive_result_bytes,
    problems=_result_problems,
    limit=Reason("`RESULTS_BYTES_MAX`; results of up to `RESULT_SMALL_BYTES` are always taken"),
    retire=_retire_results,
    parts=Reason("a number"),
)

SHAPES = Table(
    name="shapes",
    about="one object for equal shapes",
    saved=Reason("profiles hold their shapes"),
    derive=Reason("readers of profiles share the shapes"),
    problems=Reason("a shape that is not shared costs memory and changes nothing"),
    limit=Reason("weak: it holds the shapes that profiles hold"),
    retire=Reason("weak: a shape goes with its last profile"),
    parts=Reason("weak: a shape goes with its last profile"),
)

FENCE = Counter(name="fence", field=7, problems=fence_problems)
WORKFLOW_NUMBER = Counter(
    name="workflow_number", field=9, problems=Reason("`by_number` checks that no workflow is beyond it")
)


def _finished_number_problems(state: State) -> Iterator[str]:
    last = max([workflow.finished_number for workflow in state.finished.values()], default=0)
    if last > state.finished_number:
        yield f"a workflow finished as number {last}, the last number given is {state.finished_number}"


FINISHED_NUMBER = Counter(name="finished_number", field=10, problems=_finished_number_problems)
