"""The two ways in which plans are built.

*Insertion* (serial): tasks in a fixed order, each at the earliest gap on the agent that suits it best. A later task
may be placed before an earlier one, in a gap.

*Dispatch* (parallel): the clock moves from one end to the next; every ready task that fits starts, in order of a key.
No agent is idle while a task could run on it.

Both build feasible plans for any order and any choice of agents.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from heapq import heapify, heappop, heappush

from raftflow.domain.tasks.feasibility import Shape
from raftflow.scheduler.plan.plan import MILLI, PlanningProblem, Slot
from raftflow.scheduler.plan.timeline import Timeline

Key = Callable[[int], int]
"""A number for each task, computed when its needs are met. The lowest goes first, then the order in the document."""


def insert_tasks(
    problem: PlanningProblem, key: Key, allowed: Sequence[Sequence[int]] | None = None
) -> tuple[Slot, ...]:
    """Build by insertion: each task where it ends first; ties go to the cheaper agent, then to the first.

    `allowed` limits the agents of each task; by default all that suit. A task is placed after its needs.
    """
    agents = problem.suited if allowed is None else allowed
    lines = [Timeline(capacity) for capacity in problem.capacity]
    slots: dict[int, Slot] = {}
    open_needs = [len(needs) for needs in problem.needs]
    heap = [(key(task), task) for task in range(len(problem)) if not open_needs[task]]
    heapify(heap)
    while heap:
        task = heappop(heap)[1]
        ready_ms = max((slots[need].end_ms for need in problem.needs[task]), default=0)
        slots[task] = slot = _insert(problem, lines, task, agents[task], ready_ms)
        lines[slot.agent].reserve(slot.start_ms, slot.end_ms, problem.demands[task])
        for below in problem.dependents[task]:
            open_needs[below] -= 1
            if not open_needs[below]:
                heappush(heap, (key(below), below))
    return tuple(slots[task] for task in range(len(problem)))


def _insert(problem: PlanningProblem, lines: list[Timeline], task: int, agents: Sequence[int], ready_ms: int) -> Slot:
    best: Slot | None = None
    best_cost = 0
    for agent in agents:
        duration_ms = problem.duration_ms(task, agent)
        cost = problem.cost_micro(task, agent)
        end_max_ms = None if best is None else best.end_ms - (cost >= best_cost)
        start_ms = lines[agent].earliest(ready_ms, duration_ms, problem.demands[task], end_max_ms)
        if start_ms is not None:
            best = Slot(task, agent, start_ms, start_ms + duration_ms)
            best_cost = cost
    assert best is not None  # noqa: S101 - the first agent is asked without a bound
    return best


class PlanFleet:
    """The agents at one moment of a dispatch."""

    def __init__(self, problem: PlanningProblem) -> None:
        self.problem = problem
        self.free = [list(capacity) for capacity in problem.capacity]
        self.busy_ms = [0] * len(problem.agents)
        """Work given to each agent so far: the sum of its tasks' durations."""

    def fits(self, task: int, agent: int) -> bool:
        """Tell whether a task could start there now."""
        free = self.free[agent]
        return all(amount <= free[resource] for resource, amount in self.problem.demands[task])

    def left_over(self, task: int, agent: int) -> int:
        """Return what stays free if the task starts there: thousandths of the capacity, summed over the resources."""
        free, capacity = self.free[agent], self.problem.capacity[agent]
        left = sum(amount * MILLI // total for amount, total in zip(free, capacity, strict=True) if total)
        return left - sum(amount * MILLI // capacity[resource] for resource, amount in self.problem.demands[task])


Preference = Callable[[PlanFleet, int, int], int]
"""Cost of an agent (third) for a task (second) that could start there now. Ties go to the first agent."""


def dispatch_tasks(problem: PlanningProblem, key: Key, preference: Preference) -> tuple[Slot, ...]:
    """Build by dispatch."""
    fleet = PlanFleet(problem)
    slots: dict[int, Slot] = {}
    open_needs = [len(needs) for needs in problem.needs]
    lanes: dict[Shape, list[tuple[int, int]]] = {}
    for task in range(len(problem)):
        if not open_needs[task]:
            lanes.setdefault(problem.shapes[task], []).append((key(task), task))
    for lane in lanes.values():
        heapify(lane)
    ends: list[tuple[int, int]] = []
    now_ms = 0
    while True:
        for task, agent in _startable(fleet, lanes, preference):
            end_ms = now_ms + problem.duration_ms(task, agent)
            slots[task] = Slot(task, agent, now_ms, end_ms)
            heappush(ends, (end_ms, task))
        if not ends:
            return tuple(slots[task] for task in range(len(problem)))
        now_ms = ends[0][0]
        while ends and ends[0][0] == now_ms:
            task = heappop(ends)[1]
            free = fleet.free[slots[task].agent]
            for resource, amount in problem.demands[task]:
                free[resource] += amount
            for below in problem.dependents[task]:
                open_needs[below] -= 1
                if not open_needs[below]:
                    heappush(lanes.setdefault(problem.shapes[below], []), (key(below), below))


def _startable(
    fleet: PlanFleet, lanes: dict[Shape, list[tuple[int, int]]], preference: Preference
) -> list[tuple[int, int]]:
    """Start what fits now, in order over all shapes; return the tasks and their agents.

    A shape that fits nowhere is skipped until a task ends, because room only shrinks until then.
    """
    problem = fleet.problem
    started = []
    heads = [(lane[0], shape) for shape, lane in lanes.items() if lane]
    order = [(head, number) for number, (head, _) in enumerate(heads)]
    heapify(order)
    while order:
        (_, task), number = heappop(order)
        shape = heads[number][1]
        fitting = [agent for agent in problem.suited[task] if fleet.fits(task, agent)]
        if not fitting:
            continue
        agent = min(fitting, key=lambda agent: preference(fleet, task, agent))
        free = fleet.free[agent]
        for resource, amount in problem.demands[task]:
            free[resource] -= amount
        fleet.busy_ms[agent] += problem.duration_ms(task, agent)
        started.append((task, agent))
        lane = lanes[shape]
        heappop(lane)
        if lane:
            heappush(order, (lane[0], number))
    return started
