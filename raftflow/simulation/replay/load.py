"""What a simulated fleet is asked to do: workflows repeated and mixed to any size, and the bounds that follow."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from raftflow.domain.limits import LIVE_TASKS_MAX, WORKFLOWS_MAX
from raftflow.domain.tasks.program import TaskWait
from raftflow.domain.tasks.workflow import WorkflowSpec
from raftflow.scheduler.plan.bounds import lower_bounds
from raftflow.scheduler.plan.plan import MILLI, PlanAgent, PlanError, PlanningProblem

_OVER = TaskWait("signal", "nobody", timeout_ms=1, on_timeout=b"null")


class Load(msgspec.Struct, frozen=True):
    """Workflows in the order in which they are submitted, as numbers of their templates."""

    templates: tuple[WorkflowSpec, ...]
    order: tuple[int, ...]

    @property
    def tasks(self) -> int:
        """Count the tasks of all copies."""
        sizes = [len(spec.tasks) for spec in self.templates]
        return sum(sizes[template] for template in self.order)


def mix(templates: Sequence[WorkflowSpec], *, repeat: int = 1, tasks: int | None = None) -> Load:
    """Take the templates in turn: `repeat` times, or until there are at least so many tasks.

    Raises `PlanError` for more than the state machine takes.
    """
    order: list[int] = []
    total = 0
    for number in _turns(len(templates), None if tasks is not None else repeat):
        if tasks is not None and total >= tasks:
            break
        total += len(templates[number].tasks)
        order.append(number)
        if total > LIVE_TASKS_MAX or len(order) > WORKFLOWS_MAX:
            raise PlanError(
                f"at most {LIVE_TASKS_MAX} tasks in {WORKFLOWS_MAX} workflows can be live at a time: ask for fewer"
            )
    return Load(tuple(map(_without_people, templates)), tuple(order))


def _without_people(spec: WorkflowSpec) -> WorkflowSpec:
    """Return a workflow whose waits end at once: nobody sends signals here, and nobody decides."""
    return msgspec.structs.replace(
        spec,
        tasks=tuple(
            msgspec.structs.replace(task, program=_OVER) if type(task.program) is TaskWait else task
            for task in spec.tasks
        ),
    )


def _turns(count: int, repeat: int | None) -> Iterator[int]:
    turn = 0
    while repeat is None or turn < repeat:
        yield from range(count)
        turn += 1


class LoadBounds(msgspec.Struct, kw_only=True):
    """Times that no scheduler can pass with agents that never fail."""

    critical_path_s: float
    """The longest of the templates' own lower bounds on the whole fleet."""
    work_s: float
    """Work of all copies over the capacity of all agents, in the resource in which it is largest."""
    work_by_resource_s: dict[str, float]

    @property
    def best_s(self) -> float:
        """The larger one."""
        return max(self.critical_path_s, self.work_s)


def load_bounds(load: Load, agents: Sequence[PlanAgent]) -> LoadBounds:
    """Compute the bounds. Raises `PlanError` if a task could run on none of the agents."""
    longest_ms = 0
    work: dict[str, int] = {}
    for number, spec in enumerate(load.templates):
        copies = load.order.count(number)
        if not copies:
            continue
        problem = PlanningProblem(spec, _kinds(agents))
        longest_ms = max(longest_ms, lower_bounds(problem).critical_path_ms)
        for task, demand in enumerate(problem.demands):
            for resource, amount in demand:
                name = problem.resources[resource]
                work[name] = work.get(name, 0) + copies * amount * problem.expected_ms[task]
    capacity: dict[str, int] = {}
    for agent in agents:
        for name, amount in agent.capacity.items():
            capacity[name] = capacity.get(name, 0) + amount * agent.speed_milli
    by_resource = {name: amount / capacity[name] for name, amount in sorted(work.items())}
    return LoadBounds(
        critical_path_s=longest_ms / MILLI,
        work_s=max(by_resource.values(), default=0.0),
        work_by_resource_s=by_resource,
    )


def _kinds(agents: Sequence[PlanAgent]) -> list[PlanAgent]:
    """Return one agent of each kind: the longest path does not depend on how many there are."""
    seen: dict[tuple[object, ...], PlanAgent] = {}
    for agent in agents:
        key = (tuple(sorted(agent.capacity.items())), tuple(sorted(agent.labels.items())), agent.speed_milli)
        seen.setdefault(key, agent)
    return list(seen.values())
