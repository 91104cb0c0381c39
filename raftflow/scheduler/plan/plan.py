"""Plans: which task of a workflow runs on which agent, from when to when, before anything runs.

Everything is an integer: times in ms, speeds and cost rates in thousandths, resources in their integer units. So the
same problem gives the same plan on every machine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property

import msgspec

from raftflow.domain.tasks.feasibility import Shape, shape_of, suits
from raftflow.domain.tasks.program import TaskWait, required_labels
from raftflow.domain.tasks.workflow import EXPECTED_DEFAULT_MS, WorkflowSpec, dependents_of, topological_order

MILLI = 1_000

Demand = tuple[tuple[int, int], ...]
"""Number of a resource (`PlanningProblem.resources`), and the amount."""


class PlanError(Exception):
    """A plan is impossible; the message says why."""


class PlanAgent(msgspec.Struct, frozen=True, kw_only=True):
    """An agent as plans see it: empty, and available from beginning to end."""

    name: str
    capacity: dict[str, int]
    """Integer units (`raftflow.domain.tasks.resources`)."""
    labels: dict[str, str] = {}
    speed_milli: int = MILLI
    """A task of 10 s takes 10 / speed."""
    cost_rate_milli: int = MILLI
    """Cost of a second of use by one task, in thousandths."""


class Slot(msgspec.Struct, frozen=True, array_like=True):
    """Where and when one task runs, in ms from the start of the workflow."""

    task: int
    """Position in the workflow."""
    agent: int
    """Number of the agent in the problem."""
    start_ms: int
    end_ms: int


class Plan(msgspec.Struct, frozen=True):
    """A slot for every task, in the workflow's order."""

    policy: str
    slots: tuple[Slot, ...]

    @property
    def makespan_ms(self) -> int:
        """When the last task ends."""
        return max(slot.end_ms for slot in self.slots)


class PlanningProblem:
    """A workflow and the agents to run it on, prepared for planning.

    Raises `PlanError` if a task could run on none of the agents. The workflow's graph must be checked
    (`domain.workflow.check_graph`).
    """

    def __init__(self, spec: WorkflowSpec, agents: Sequence[PlanAgent]) -> None:
        _check_agents(agents)
        self.name = spec.name
        self.agents = tuple(agents)
        self.ids = tuple(task.id for task in spec.tasks)
        position = {task_id: number for number, task_id in enumerate(self.ids)}
        self.needs = tuple(tuple(position[need] for need in task.needs) for task in spec.tasks)
        self.dependents = tuple(tuple(below) for below in dependents_of(spec, position))
        self.order = tuple(topological_order(spec))
        """Positions, needs first."""
        self.expected_ms = tuple(
            0
            if type(task.program) is TaskWait
            else max(1, EXPECTED_DEFAULT_MS if task.expected_ms is None else task.expected_ms)
            for task in spec.tasks
        )
        """Expected times at speed 1; 1 ms at least, so that every task holds its demand for some time. A task that
        waits takes none."""
        self.shapes = tuple(
            shape_of(task.resources, required_labels(task.program, task.labels), exclusive=task.exclusive)
            for task in spec.tasks
        )
        self.resources = tuple(sorted({name for agent in agents for name in agent.capacity}))
        self.capacity = tuple(tuple(agent.capacity.get(name, 0) for name in self.resources) for agent in agents)
        self.suited = self._suited()
        """For each task the numbers of the agents that could run it."""
        number = {name: index for index, name in enumerate(self.resources)}
        demands = {shape: tuple((number[name], amount) for name, amount in shape.demand) for shape in self.shapes}
        self.demands: tuple[Demand, ...] = tuple(demands[shape] for shape in self.shapes)

    def _suited(self) -> tuple[tuple[int, ...], ...]:
        by_shape: dict[Shape, tuple[int, ...]] = {}
        for position, shape in enumerate(self.shapes):
            if shape in by_shape:
                continue
            by_shape[shape] = tuple(
                number for number, agent in enumerate(self.agents) if suits(shape, agent.capacity, agent.labels)
            )
            if not by_shape[shape]:
                wants = ", ".join(
                    [f"{name} {amount}" for name, amount in shape.demand] + [f"{k}={v}" for k, v in shape.labels]
                )
                raise PlanError(f"task {self.ids[position]} fits on none of the agents: it needs {wants}")
        return tuple(by_shape[shape] for shape in self.shapes)

    def __len__(self) -> int:
        """Count the tasks."""
        return len(self.ids)

    def duration_ms(self, task: int, agent: int) -> int:
        """Return how long a task takes on an agent, rounded up."""
        return -(-self.expected_ms[task] * MILLI // self.agents[agent].speed_milli)

    def cost_micro(self, task: int, agent: int) -> int:
        """Return what a task costs on an agent: rate times duration, in millionths."""
        return self.agents[agent].cost_rate_milli * self.duration_ms(task, agent)

    @cached_property
    def fastest_ms(self) -> tuple[int, ...]:
        """For each task its duration on the fastest agent that could run it."""
        fastest: dict[tuple[int, ...], int] = {}
        for suited in self.suited:
            if suited not in fastest:
                fastest[suited] = max(suited, key=lambda number: self.agents[number].speed_milli)
        return tuple(self.duration_ms(task, fastest[suited]) for task, suited in enumerate(self.suited))

    @cached_property
    def heads_ms(self) -> tuple[int, ...]:
        """For each task the longest path before it: it cannot start earlier."""
        heads = [0] * len(self)
        for task in self.order:
            for need in self.needs[task]:
                heads[task] = max(heads[task], heads[need] + self.fastest_ms[need])
        return tuple(heads)

    @cached_property
    def tails_ms(self) -> tuple[int, ...]:
        """For each task the longest path after it: the workflow cannot end earlier than that after its end."""
        tails = [0] * len(self)
        for task in reversed(self.order):
            for need in self.needs[task]:
                tails[need] = max(tails[need], tails[task] + self.fastest_ms[task])
        return tuple(tails)

    @cached_property
    def ranks_ms(self) -> tuple[int, ...]:
        """Upward ranks (Topcuoglu, Hariri, Wu 2002): mean duration over the agents, and the largest rank below."""
        means: dict[tuple[int, tuple[int, ...]], int] = {}
        ranks = [0] * len(self)
        for task in reversed(self.order):
            suited = self.suited[task]
            key = (self.expected_ms[task], suited)
            if key not in means:
                means[key] = sum(self.duration_ms(task, number) for number in suited) // len(suited)
            ranks[task] += means[key]
            for need in self.needs[task]:
                ranks[need] = max(ranks[need], ranks[task])
        return tuple(ranks)

    def critical_path(self) -> list[int]:
        """Return the positions along the longest path, every task on its fastest agent; the first of equal ones."""
        ends = [self.fastest_ms[task] + self.tails_ms[task] for task in range(len(self))]
        starts = [task for task in range(len(self)) if not self.needs[task]]
        path = [max(starts, key=lambda task: (ends[task], -task))]
        while self.dependents[path[-1]]:
            path.append(max(self.dependents[path[-1]], key=lambda task: (ends[task], -task)))
        return path


def _check_agents(agents: Sequence[PlanAgent]) -> None:
    if not agents:
        raise PlanError("there are no agents to plan for")
    seen: set[str] = set()
    for agent in agents:
        if agent.name in seen:
            raise PlanError(f"two agents have the name {agent.name!r}")
        seen.add(agent.name)
        if agent.speed_milli < 1 or agent.cost_rate_milli < 0:
            raise PlanError(f"agent {agent.name}: the speed must be above 0 and the cost rate not negative")


def cost_micro(problem: PlanningProblem, plan: Plan) -> int:
    """Return the cost of a plan, in millionths: the sum over tasks of the agent's rate times the task's duration."""
    return sum(problem.cost_micro(slot.task, slot.agent) for slot in plan.slots)


def utilisation(problem: PlanningProblem, plan: Plan) -> dict[str, float]:
    """Return for each resource the part of all agents' capacity that is in use, over the whole makespan."""
    used = [0] * len(problem.resources)
    for slot in plan.slots:
        for resource, amount in problem.demands[slot.task]:
            used[resource] += amount * (slot.end_ms - slot.start_ms)
    total = [sum(amounts) * plan.makespan_ms for amounts in zip(*problem.capacity, strict=True)]
    return {name: used[n] / total[n] for n, name in enumerate(problem.resources) if total[n]}


def assignment_of(problem: PlanningProblem, given: Mapping[str, str]) -> tuple[int, ...]:
    """Return the agents' numbers for a table of task ids to agents' names. Raises `PlanError` if it is wrong."""
    numbers = {agent.name: number for number, agent in enumerate(problem.agents)}
    for task_id in given:
        if task_id not in problem.ids:
            raise PlanError(f"the given plan names {task_id!r}, which is not a task of {problem.name}")
    chosen = []
    for task, task_id in enumerate(problem.ids):
        if task_id not in given:
            raise PlanError(f"the given plan has no agent for task {task_id}")
        number = numbers.get(given[task_id])
        if number is None:
            raise PlanError(f"the given plan has {task_id} on {given[task_id]!r}, which is not an agent")
        if number not in problem.suited[task]:
            raise PlanError(f"the given plan has {task_id} on {given[task_id]}, which could never run it")
        chosen.append(number)
    return tuple(chosen)
