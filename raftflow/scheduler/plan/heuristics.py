"""Ways to build a plan that policies share: the order by rank, HEFT, and the cheapest agents.

HEFT: Topcuoglu, Hariri, Wu, "Performance-effective and low-complexity task scheduling for heterogeneous computing"
(2002).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count

from raftflow.scheduler.plan.build import Key, PlanFleet, dispatch_tasks, insert_tasks
from raftflow.scheduler.plan.plan import Plan, PlanningProblem, Slot

Slots = tuple[Slot, ...]


def follow(problem: PlanningProblem, assignment: Sequence[int]) -> Plan:
    """Plan with the agent of each task given. Only the times are chosen, largest rank first."""
    return Plan("given", insert_tasks(problem, by_rank(problem), [(agent,) for agent in assignment]))


def by_rank(problem: PlanningProblem) -> Key:
    """Return the order by upward rank, the largest first."""
    ranks = problem.ranks_ms
    return lambda task: -ranks[task]


def by_arrival() -> Key:
    """Return the order in which tasks become ready."""
    # A key is computed when its task becomes ready, so a counter gives the order of arrival.
    arrivals = count()
    return lambda _task: next(arrivals)


def plan_critical_path(problem: PlanningProblem) -> Slots:
    """Plan by rank, by insertion (HEFT) and by dispatch, and return the plan that ends earlier."""
    key = by_rank(problem)
    return earliest_plan(insert_tasks(problem, key), dispatch_tasks(problem, key, shortest_duration))


def plan_least_cost(problem: PlanningProblem) -> Slots:
    """Plan each task on an agent on which it costs least, largest rank first, by insertion."""
    cheapest = []
    for task, suited in enumerate(problem.suited):
        least = min(problem.cost_micro(task, agent) for agent in suited)
        cheapest.append([agent for agent in suited if problem.cost_micro(task, agent) == least])
    return insert_tasks(problem, by_rank(problem), cheapest)


def shortest_duration(fleet: PlanFleet, task: int, agent: int) -> int:
    """Prefer the agent on which a task takes the least time."""
    return fleet.problem.duration_ms(task, agent)


def makespan_ms(slots: Slots) -> int:
    """Return when the last task ends."""
    return max(slot.end_ms for slot in slots)


def earliest_plan(*candidates: Slots) -> Slots:
    """Return the plan that ends first; the first of equal ones."""
    return min(candidates, key=makespan_ms)
