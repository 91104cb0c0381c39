"""A workflow as the replicated core knows it: normalised, integers only, checked.

User documents (`raftflow.formats`) are turned into these by one normaliser; the state machine checks the graph
again, since it trusts nobody.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Literal

import msgspec

from raftflow.domain import limits
from raftflow.domain.tasks.budgets import Budget
from raftflow.domain.tasks.program import Program
from raftflow.domain.tasks.resources import DEFAULT_DEMAND
from raftflow.domain.values.cachekeys import referred
from raftflow.domain.values.ids import name_problem

OnFailure = Literal["stop", "continue"]


class TaskSpec(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """One task."""

    id: str
    needs: tuple[str, ...] = ()
    program: Program
    """What it runs."""
    env: dict[str, str] = {}
    cwd: str | None = None
    """Working directory on the agent; the agent's own by default."""
    resources: dict[str, int] = msgspec.field(default_factory=lambda: dict(DEFAULT_DEMAND))
    """Demand in integer units (`raftflow.domain.tasks.resources`)."""
    retries: int = 0
    """Attempts after the first when an attempt fails. Attempts lost with an agent do not count."""
    retry_delay_ms: int = 1_000
    retry_delay_max_ms: int = 60_000
    timeout_ms: int | None = None
    """Longest run of one attempt."""
    grace_ms: int = 5_000
    """Between SIGTERM and SIGKILL when an attempt is stopped."""
    expected_ms: int | None = None
    """Expected run time; ranks and plans use it."""
    labels: dict[str, str] = {}
    """Labels that the agent must carry."""
    kind: str = ""
    """What it has in common with tasks that take alike: expected times are learnt for each kind. By default the name
    of what it runs."""
    cache: str | None = None
    """Whether an equal task's result may stand for its own: None for no, a template of the key
    (`raftflow.domain.values.cachekeys`), or empty for the automatic key, all that the task runs and its inputs."""
    exclusive: bool = False
    """It runs alone on an agent."""
    memory_max_mib: int | None = None
    """How far its demand for memory may be raised when it outgrows it."""
    backup: bool = False
    """Whether a second attempt may start beside one that is late: then it may run twice at the same time."""
    rates: dict[str, int] = {}
    """Units that each attempt takes of rate limits when it is placed, by name."""


class WorkflowSpec(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """A graph of tasks."""

    name: str
    tasks: tuple[TaskSpec, ...]
    priority: int = 50
    """0..100, higher first."""
    on_failure: OnFailure = "stop"
    """`stop`: the first task that fails after its retries cancels the rest. `continue`: only what needs
    it is cancelled."""
    max_parallel: int | None = None
    """Most tasks of it that are queued or running at the same time."""
    code: str = ""
    """Digest of the code bundle that its tasks run with, empty for none (`raftflow.domain.values.code_bundle`)."""
    budgets: tuple[Budget, ...] = ()
    """What its tasks may spend."""


class GraphProblem(msgspec.Struct, frozen=True):
    """One fault of a workflow, with the path of the part that is wrong (`tasks[3].needs[0]`)."""

    path: str
    message: str


EXPECTED_DEFAULT_MS = 1_000
"""Run time assumed for ranks when a task names none."""


def check_graph(spec: WorkflowSpec, problems_max: int = 100) -> list[GraphProblem]:
    """List what is wrong with the graph: bad or duplicate ids, unknown needs, self-needs, cycles, limits.

    An empty list means that `topological_order` and `upward_ranks` will succeed. At most `problems_max` are listed.
    """
    tasks = spec.tasks
    if not tasks:
        return [GraphProblem("tasks", "a workflow has at least one task")]
    if len(tasks) > limits.TASKS_PER_WORKFLOW_MAX:
        return [GraphProblem("tasks", f"{len(tasks)} tasks, the limit is {limits.TASKS_PER_WORKFLOW_MAX}")]
    problems: list[GraphProblem] = []
    position = _check_ids(spec, problems)
    _check_needs(spec, position, problems)
    # Known needs alone make a graph that an order can be asked of, which is quicker than to look for cycles.
    whole = not problems and len(topological_order(spec)) == len(tasks)
    for cycle in [] if whole else find_cycles(spec):
        shown = " -> ".join([*cycle[:12], "..." if len(cycle) > 12 else cycle[0]])
        problems.append(
            GraphProblem(f"tasks[{position[cycle[0]]}].needs", f"tasks need each other in a circle: {shown}")
        )
    return problems[:problems_max]


def _check_ids(spec: WorkflowSpec, problems: list[GraphProblem]) -> dict[str, int]:
    """Add the faults of the ids and return the position of each."""
    position: dict[str, int] = {}
    for number, task in enumerate(spec.tasks):
        wrong = name_problem(task.id)
        if wrong is not None:
            problems.append(GraphProblem(f"tasks[{number}].id", f"{task.id[:80]!r} {wrong}"))
        first = position.setdefault(task.id, number)
        if first != number:
            problems.append(GraphProblem(f"tasks[{number}].id", f"{task.id!r} is already the id of tasks[{first}]"))
    return position


def _check_needs(spec: WorkflowSpec, position: dict[str, int], problems: list[GraphProblem]) -> None:
    """Add the faults of the needs, cycles aside."""
    edges = 0
    for number, task in enumerate(spec.tasks):
        edges += len(task.needs)
        if len(task.needs) > limits.NEEDS_PER_TASK_MAX:
            problems.append(GraphProblem(f"tasks[{number}].needs", f"more than {limits.NEEDS_PER_TASK_MAX} needs"))
            continue
        seen: set[str] = set()
        for place, need in enumerate(task.needs):
            path = f"tasks[{number}].needs[{place}]"
            if need == task.id:
                problems.append(GraphProblem(path, f"{need!r} needs itself"))
            elif need not in position:
                problems.append(GraphProblem(path, f"no task has the id {need[:80]!r}"))
            elif need in seen:
                problems.append(GraphProblem(path, f"{need!r} is listed twice"))
            seen.add(need)
        _check_cache(task, seen, number, problems)
    if edges > limits.EDGES_PER_WORKFLOW_MAX:
        problems.append(GraphProblem("tasks", f"{edges} needs in all, the limit is {limits.EDGES_PER_WORKFLOW_MAX}"))


def _check_cache(task: TaskSpec, needs: Collection[str], number: int, problems: list[GraphProblem]) -> None:
    """Add the faults of the template of a cache key."""
    if task.cache:
        try:
            wanted = referred(task.cache)
        except ValueError as error:
            problems.append(GraphProblem(f"tasks[{number}].cache.key", str(error)))
            return
        problems.extend(
            GraphProblem(f"tasks[{number}].cache.key", f"the key refers to {need!r}, so it must be in `needs`")
            for need in wanted
            if need not in needs
        )


def find_cycles(spec: WorkflowSpec, cycles_max: int = 10) -> list[list[str]]:
    """Return cycles that share no task, each as ids of which every one needs the next and the last the first.

    Other faults do not matter: needs that are not known are passed over, so are tasks that need themselves, and of
    tasks with one id the first counts.
    """
    position: dict[str, int] = {}
    for number, task in enumerate(spec.tasks):
        position.setdefault(task.id, number)
    left: dict[int, list[int]] = {}
    for number, task in enumerate(spec.tasks):
        known = (position[need] for need in task.needs if need in position)
        left[number] = [need for need in known if need != number]
    cycles: list[list[str]] = []
    while len(cycles) < cycles_max:
        left = _on_or_behind_cycles(left)
        if not left:
            break
        number = next(iter(left))
        walked: dict[int, int] = {}
        path: list[int] = []
        # Every task left over needs another left-over task, so this walk must come back to where it has been.
        while number not in walked:
            walked[number] = len(path)
            path.append(number)
            number = left[number][0]
        cycle = path[walked[number] :]
        cycles.append([spec.tasks[each].id for each in cycle])
        for each in cycle:
            del left[each]
    return cycles


def _on_or_behind_cycles(needs: Mapping[int, Sequence[int]]) -> dict[int, list[int]]:
    """Return the tasks that no order can reach, each with those of its needs that are among them (Kahn 1962)."""
    open_needs = {number: sum(need in needs for need in each) for number, each in needs.items()}
    dependents: dict[int, list[int]] = {number: [] for number in needs}
    for number, each in needs.items():
        for need in each:
            if need in needs:
                dependents[need].append(number)
    reached = [number for number, count in open_needs.items() if count == 0]
    for number in reached:
        for dependent in dependents[number]:
            open_needs[dependent] -= 1
            if open_needs[dependent] == 0:
                reached.append(dependent)
    left = needs.keys() - set(reached)
    return {number: [need for need in each if need in left] for number, each in needs.items() if number in left}


def topological_order(spec: WorkflowSpec) -> list[int]:
    """Return task positions so that needs come first (Kahn 1962); tasks on or behind a cycle are left out."""
    position = {task.id: number for number, task in enumerate(spec.tasks)}
    open_needs = [len(task.needs) for task in spec.tasks]
    dependents = dependents_of(spec, position)
    order = [number for number, count in enumerate(open_needs) if count == 0]
    for number in order:
        for dependent in dependents[number]:
            open_needs[dependent] -= 1
            if open_needs[dependent] == 0:
                order.append(dependent)
    return order


def dependents_of(spec: WorkflowSpec, position: dict[str, int]) -> list[list[int]]:
    """Return for each task the positions of the tasks that need it, in document order."""
    dependents: list[list[int]] = [[] for _ in spec.tasks]
    for number, task in enumerate(spec.tasks):
        for need in task.needs:
            dependents[position[need]].append(number)
    return dependents


def upward_ranks(
    spec: WorkflowSpec, order: Sequence[int] | None = None, learnt_ms: Sequence[int | None] | None = None
) -> list[int]:
    """Return for each task the longest expected time, in ms, from its start to the workflow's end.

    `learnt_ms` is for each task the time that one is taken to run that names no `expected`, None where it is unknown.
    The upward rank of HEFT (Topcuoglu, Hariri, Wu 2002) with equal agents and free communication.
    """
    position = {task.id: number for number, task in enumerate(spec.tasks)}
    ranks = [0] * len(spec.tasks)
    for number in reversed(topological_order(spec) if order is None else order):
        task = spec.tasks[number]
        expected_ms = task.expected_ms
        if expected_ms is None and learnt_ms is not None:
            expected_ms = learnt_ms[number]
        rank = ranks[number] + (EXPECTED_DEFAULT_MS if expected_ms is None else expected_ms)
        ranks[number] = rank
        for need in task.needs:
            before = position[need]
            ranks[before] = max(ranks[before], rank)
    return ranks
