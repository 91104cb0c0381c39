"""Spawning: a running attempt adds children to its own workflow.

A child is a task like the others: it is placed, retried, explained, paused, cancelled and forgotten as they are. It
needs nothing, and no task needs it: only its parent waits for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from raftflow.domain import limits
from raftflow.domain.events import TaskReady
from raftflow.domain.rejections import Rejection, RejectionCode
from raftflow.domain.replies import TasksSpawned
from raftflow.domain.tasks.checks import check_task_values, payload_bytes
from raftflow.domain.tasks.children import child_ids, key_problem
from raftflow.domain.tasks.states import TaskState
from raftflow.domain.tasks.workflow import EXPECTED_DEFAULT_MS, GraphProblem
from raftflow.domain.values.cachekeys import referred
from raftflow.machine.commands.children import find_caller
from raftflow.machine.commands.workflows import admit_tasks, invalid, limit_problem
from raftflow.machine.rules import learning
from raftflow.machine.tables.tasks import Family, Profile, SpawnOrigin, Task, is_admitted
from raftflow.machine.tables.uploads import RANK_MAX, profile_of

if TYPE_CHECKING:
    from raftflow.domain.commands import ChildTask, SpawnTasks
    from raftflow.domain.tasks.workflow import TaskSpec
    from raftflow.machine.rules.context import ApplyContext
    from raftflow.machine.tables.state import State
    from raftflow.machine.tables.workflows import Workflow


class _Fresh(NamedTuple):
    """A child that is not there yet."""

    id: str
    profile: int
    """Index in the command."""


def spawn_tasks(step: ApplyContext, command: SpawnTasks) -> TasksSpawned | Rejection:
    """Add children, all or nothing."""
    caller = find_caller(step, command)
    if isinstance(caller, Rejection):
        return caller
    workflow, parent = caller
    problems = _problems(command)
    if problems:
        return invalid(problems)
    made = [profile_of(spec, step.state.shape) for spec in command.profiles]
    positions: list[int] = []
    fresh: dict[str, _Fresh] = {}
    for number, child in enumerate(command.children):
        found = _find(workflow, parent, child.key)
        if isinstance(found, Rejection):
            return found
        if isinstance(found, Task):
            if not _is_equal(workflow, found, made[child.profile]):
                return _differs(parent, child.key, found.id)
            positions.append(found.position)
        elif found in fresh:
            return invalid([GraphProblem(f"children[{number}].key", f"{child.key!r} is there twice")])
        else:
            positions.append(len(workflow.tasks) + len(fresh))
            fresh[found] = _Fresh(found, child.profile)
    if fresh:
        spawned = sum([payload_bytes(command.profiles[child.profile]) for child in fresh.values()])
        full = _limit_problem(step, workflow, parent, len(fresh), spawned)
        if full is not None:
            return full
        _add(step, workflow, parent, list(fresh.values()), command.profiles, made)
        workflow.spawned_bytes += spawned
    return TasksSpawned(tuple(positions), len(fresh))


def known_children(
    state: State, workflow: Workflow, parent: Task, specs: tuple[TaskSpec, ...], children: tuple[ChildTask, ...]
) -> list[int] | None:
    """Return where the children are if all are there already, and equal; None if a command must decide.

    A later attempt of a task spawns again what an earlier one has spawned, and that needs no entry of the log.
    """
    made: dict[int, Profile] = {}
    positions: list[int] = []
    for child in children:
        found = _find(workflow, parent, child.key)
        if not isinstance(found, Task):
            return None
        profile = made.get(child.profile)
        if profile is None:
            profile = made[child.profile] = profile_of(specs[child.profile], state.shape)
        if not _is_equal(workflow, found, profile):
            return None
        positions.append(found.position)
    return positions


def _problems(command: SpawnTasks) -> list[GraphProblem]:
    """List what is wrong with the command itself."""
    most = limits.SPAWN_TASKS_MAX
    if not 1 <= len(command.children) <= most or len(command.profiles) > most:
        return [GraphProblem("children", f"{len(command.children)} children at a time; 1 to {most}: spawn in parts")]
    problems: list[GraphProblem] = []
    for number, spec in enumerate(command.profiles):
        path = f"profiles[{number}]"
        if spec.needs:
            problems.append(
                GraphProblem(f"{path}.needs", "a child has no needs: spawn it when what it needs has ended")
            )
        problems.extend(check_task_values(spec, path))
        if spec.cache:
            problems.extend(_cache_problems(spec, path))
    for number, child in enumerate(command.children):
        wrong = key_problem(child.key)
        if wrong is not None:
            problems.append(GraphProblem(f"children[{number}].key", f"{child.key[:80]!r} {wrong}"))
        if not 0 <= child.profile < len(command.profiles):
            problems.append(GraphProblem(f"children[{number}].profile", f"there is no profile {child.profile}"))
    return problems


def _cache_problems(spec: TaskSpec, path: str) -> list[GraphProblem]:
    try:
        named = list(referred(spec.cache or ""))
    except ValueError as error:
        return [GraphProblem(f"{path}.cache.key", str(error))]
    words = "the key refers to {!r}, and a child has no needs"
    return [GraphProblem(f"{path}.cache.key", words.format(name)) for name in named]


def _find(workflow: Workflow, parent: Task, key: str) -> Task | str | Rejection:
    """Return the child that a task has under a key; without one the id that it gets."""
    free = ""
    for task_id in child_ids(parent.id, key):
        known = workflow.by_id.get(task_id)
        if known is None:
            free = free or task_id
        elif known.origin is not None and known.origin.parent == parent.position:
            return known
    if free:
        return free
    return Rejection(
        RejectionCode.CONFLICT,
        f"another task has the id of the child {key!r} of {parent.id}: choose another key",
    )


def _is_equal(workflow: Workflow, child: Task, profile: Profile) -> bool:
    """Tell whether a child was spawned with this profile. It may have got more memory since."""
    return child.origin is not None and workflow.profiles[child.origin.profile] == profile


def _differs(parent: Task, key: str, child_id: str) -> Rejection:
    return Rejection(
        RejectionCode.REQUEST_MISMATCH,
        f"{parent.id} has spawned another task under the key {key!r} before ({child_id}): use one key for one task, "
        "and the same arguments in every attempt",
    )


def _limit_problem(
    step: ApplyContext, workflow: Workflow, parent: Task, count: int, spawned: int
) -> Rejection | None:
    """Refuse what would pass a limit of the workflow, of the parent, or of the cluster."""

    def refusal(limit: int, what: str, cure: str) -> Rejection:
        return Rejection(RejectionCode.LIMIT, f"{what}, the limit is {limit}: {cure}", limit=limit)

    children = count + (0 if parent.family is None else parent.family.count)
    if children > limits.CHILDREN_PER_TASK_MAX:
        cure = "give each child more work, or let children spawn their own"
        return refusal(limits.CHILDREN_PER_TASK_MAX, f"{parent.id} would have {children} children", cure)
    depth = 1 if parent.origin is None else parent.origin.depth + 1
    if depth > limits.SPAWN_DEPTH_MAX:
        cure = "let a task work in a loop in place of a child that spawns the next one"
        return refusal(limits.SPAWN_DEPTH_MAX, f"a child of {parent.id} would have {depth} ancestors", cure)
    tasks = len(workflow.tasks) + count
    if tasks > limits.TASKS_GROWN_MAX:
        cure = "give each child more work, or submit another workflow"
        return refusal(limits.TASKS_GROWN_MAX, f"workflow {workflow.id} would have {tasks} tasks", cure)
    size = workflow.spawned_bytes + spawned
    if size > limits.SPAWNED_BYTES_MAX:
        cure = "pass large arguments in files"
        return refusal(limits.SPAWNED_BYTES_MAX, f"what children of {workflow.id} run would have {size} bytes", cure)
    return limit_problem(step.state, count, new_workflow=False)


def _add(  # noqa: PLR0917 - the parts of a command that was found to be in order
    step: ApplyContext,
    workflow: Workflow,
    parent: Task,
    fresh: list[_Fresh],
    specs: tuple[TaskSpec, ...],
    made: list[Profile],
) -> None:
    """Add children that are not there yet."""
    state = step.state
    step.touch_workflow(workflow)
    step.touch_task(workflow, parent)
    if step.copying is not None:
        step.copying.before_growth(workflow)
    numbers, added = _number_profiles(workflow, parent, fresh, made)
    family = parent.family
    if family is None:
        family = parent.family = Family()
    depth = 1 if parent.origin is None else parent.origin.depth + 1
    tasks: list[Task] = []
    position = len(workflow.tasks)
    cached = False
    for child in fresh:
        profile = made[child.profile]
        expected_ms = specs[child.profile].expected_ms
        if expected_ms is None:
            expected_ms = learning.expected_ms(state, profile)
        # What follows a child is what follows its parent, and the rest of the parent.
        rank = min(parent.rank + (EXPECTED_DEFAULT_MS if expected_ms is None else expected_ms), RANK_MAX)
        admitted = is_admitted(profile)
        cached = cached or admitted
        first = TaskState.WAITING if admitted else TaskState.READY
        number = numbers[child.profile]
        task = Task(child.id, position, number, (), rank, first, 0)
        task.origin = SpawnOrigin(parent.position, depth, number, family.last)
        family.last = position
        tasks.append(task)
        position += 1
    family.count += len(tasks)
    family.open += len(tasks)
    workflow.grow(tasks, added)
    state.live_tasks += len(tasks)
    more = f" to {tasks[-1].id}" if len(tasks) > 1 else ""
    step.notes.append(f"{workflow.id}/{parent.id}: {len(tasks)} children, {tasks[0].id}{more}")
    if not workflow.held:
        step.events += [TaskReady(workflow.id, task.position) for task in tasks if task.state is TaskState.READY]
    if cached:
        workflow.caches = True
        admit_tasks(step, workflow, tasks)


def _number_profiles(
    workflow: Workflow, parent: Task, fresh: list[_Fresh], made: list[Profile]
) -> tuple[dict[int, int], list[Profile]]:
    """Return the number in the workflow of each profile that is used, and the profiles that are missing there.

    Only the newest profile and that of the parent are compared with: to compare with all would take long.
    """
    profiles = workflow.profiles
    known = (len(profiles) - 1, parent.profile)
    numbers: dict[int, int] = {}
    added: list[Profile] = []
    for child in fresh:
        if child.profile in numbers:
            continue
        profile = made[child.profile]
        number = next((each for each in known if profiles[each] == profile), None)
        if number is None:
            number = len(profiles) + len(added)
            added.append(profile)
        numbers[child.profile] = number
    return numbers, added
