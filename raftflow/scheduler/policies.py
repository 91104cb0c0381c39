"""The policies by which a plan is made.

| policy         | what it does                                                                                    |
| -------------- | ----------------------------------------------------------------------------------------------- |
| first-come     | dispatch: what became ready first starts first, on the first agent that has room                |
| critical-path  | HEFT: largest upward rank first, inserted where it ends first; or the same order dispatched,    |
|                | if that ends earlier                                                                            |
| least-cost     | each task on an agent on which it costs least, largest rank first, inserted                     |
| least-makespan | the best of several orders, then justified to and fro and shaken, within a budget               |
| binpack        | dispatch by rank: the agent that is left with the least room                                    |
| spread         | dispatch by rank: the agent that was given the least work so far                                |

HEFT: Topcuoglu, Hariri, Wu, "Performance-effective and low-complexity task scheduling for heterogeneous computing"
(2002). Justification: Valls, Ballestin, Quintanilla, "Justification and RCPSP: a technique that pays" (2005).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import count, cycle, islice

from raftflow.scheduler.plan.bounds import lower_bounds
from raftflow.scheduler.plan.build import Key, PlanFleet, dispatch_tasks, insert_tasks
from raftflow.scheduler.plan.plan import Plan, PlanningProblem, Slot
from raftflow.scheduler.plan.timeline import Timeline

Slots = tuple[Slot, ...]

BUDGET_SLOTS = 60_000
"""Slots that `least-makespan` computes at most after its first orders: a bound of its time that no clock needs."""

SHAKES_MAX = 60
"""Times that the order is shaken at most."""

_NOISE_PERCENT = (100, 5, 40, 10, 20)


def make_plan(problem: PlanningProblem, policy: str) -> Plan:
    """Plan a workflow. Raises `KeyError` for a policy that is not in `POLICIES`."""
    return Plan(policy, POLICIES[policy](problem))


def follow(problem: PlanningProblem, assignment: Sequence[int]) -> Plan:
    """Plan with the agent of each task given: only the times are chosen, largest rank first."""
    return Plan("given", insert_tasks(problem, _by_rank(problem), [(agent,) for agent in assignment]))


def _by_rank(problem: PlanningProblem) -> Key:
    ranks = problem.ranks_ms
    return lambda task: -ranks[task]


def _first_come(problem: PlanningProblem) -> Slots:
    # A key is asked for when a task becomes ready, so counting the questions gives the order of arrival.
    arrivals = count()
    return dispatch_tasks(problem, lambda _task: next(arrivals), lambda _fleet, _task, agent: agent)


def _critical_path(problem: PlanningProblem) -> Slots:
    key = _by_rank(problem)
    return _earlier(insert_tasks(problem, key), dispatch_tasks(problem, key, _soonest))


def _least_cost(problem: PlanningProblem) -> Slots:
    cheapest = []
    for task, suited in enumerate(problem.suited):
        least = min(problem.cost_micro(task, agent) for agent in suited)
        cheapest.append([agent for agent in suited if problem.cost_micro(task, agent) == least])
    return insert_tasks(problem, _by_rank(problem), cheapest)


def _binpack(problem: PlanningProblem) -> Slots:
    return dispatch_tasks(problem, _by_rank(problem), lambda fleet, task, agent: fleet.left_over(task, agent))


def _spread(problem: PlanningProblem) -> Slots:
    return dispatch_tasks(problem, _by_rank(problem), lambda fleet, _task, agent: fleet.busy_ms[agent])


def _soonest(fleet: PlanFleet, task: int, agent: int) -> int:
    return fleet.problem.duration_ms(task, agent)


def _end(slots: Slots) -> int:
    return max(slot.end_ms for slot in slots)


def _earlier(*candidates: Slots) -> Slots:
    return min(candidates, key=_end)


# --- least makespan


def _least_makespan(problem: PlanningProblem) -> Slots:
    orders: list[Key] = [
        _by_rank(problem),
        lambda task: -problem.ranks_ms[task] * (1 + _eighths(problem, task)),
        lambda task: -len(problem.dependents[task]),
        lambda task: -problem.expected_ms[task],
    ]
    best = _critical_path(problem)
    for key in orders:
        best = _earlier(best, insert_tasks(problem, key), dispatch_tasks(problem, key, _soonest))
    return _search(problem, best, lower_bounds(problem).best_ms)


def _eighths(problem: PlanningProblem, task: int) -> int:
    """Return how much of the largest agent a task takes, in the resource of which it takes most, in eighths."""
    largest = [max(amounts) for amounts in zip(*problem.capacity, strict=True)]
    return max((amount * 8 // largest[resource] for resource, amount in problem.demands[task]), default=0)


def _search(problem: PlanningProblem, best: Slots, bound_ms: int) -> Slots:
    """Justify the best plan; shake its order and justify again, until the bound is met or the budget is used up."""
    budget = BUDGET_SLOTS
    random = _random()
    current = best
    for noise_percent in islice(cycle(_NOISE_PERCENT), SHAKES_MAX):
        while budget > 0 and _end(best) > bound_ms:
            budget -= 2 * len(problem)
            justified = _justify(problem, current)
            if _end(justified) >= _end(current):
                break
            current = justified
            best = _earlier(best, current)
        if budget <= 0 or _end(best) <= bound_ms:
            break
        spread_ms = max(1, _end(best) * noise_percent // 100)
        keys = [slot.start_ms + next(random) % spread_ms for slot in best]
        current = insert_tasks(problem, keys.__getitem__)
        budget -= len(problem)
        best = _earlier(best, current)
    return best


def _justify(problem: PlanningProblem, slots: Slots) -> Slots:
    """Push every task as late as it can be, the last ones first; then as early as it can be, the first ones first."""
    end_ms = _end(slots)
    lines = [Timeline(capacity) for capacity in problem.capacity]
    late: dict[int, Slot] = {}
    # Mirrored in time: the end of the plan is 0, so that "as late as possible" is the earliest gap.
    for slot in sorted(slots, key=lambda slot: (-slot.end_ms, -slot.start_ms, slot.task)):
        ready_ms = max((end_ms - late[below].start_ms for below in problem.dependents[slot.task]), default=0)
        duration_ms = slot.end_ms - slot.start_ms
        start_ms = lines[slot.agent].earliest(ready_ms, duration_ms, problem.demands[slot.task])
        assert start_ms is not None  # noqa: S101 - asked without a bound
        lines[slot.agent].reserve(start_ms, start_ms + duration_ms, problem.demands[slot.task])
        late[slot.task] = Slot(slot.task, slot.agent, end_ms - start_ms - duration_ms, end_ms - start_ms)
    return insert_tasks(problem, lambda task: late[task].start_ms)


def _random() -> Iterator[int]:
    """Yield the same numbers for ever (a linear congruential generator with the constants of MMIX)."""
    state = 1
    while True:
        state = (state * 6364136223846793005 + 1442695040888963407) % 2**64
        yield state >> 33


POLICIES: dict[str, Callable[[PlanningProblem], Slots]] = {
    "first-come": _first_come,
    "critical-path": _critical_path,
    "least-cost": _least_cost,
    "least-makespan": _least_makespan,
    "binpack": _binpack,
    "spread": _spread,
}
