"""The policy `least-makespan`: the best of several orders, then justified and perturbed within a budget.

Justification: Valls, Ballestin, Quintanilla, "Justification and RCPSP: a technique that pays" (2005).
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import cycle, islice

from raftflow.scheduler.plan.bounds import lower_bounds
from raftflow.scheduler.plan.build import Key, dispatch_tasks, insert_tasks
from raftflow.scheduler.plan.heuristics import (
    Slots,
    by_rank,
    earliest_plan,
    makespan_ms,
    plan_critical_path,
    shortest_duration,
)
from raftflow.scheduler.plan.plan import PlanningProblem, Slot
from raftflow.scheduler.plan.timeline import Timeline

BUDGET_SLOTS = 60_000
"""Slots that the search computes at most. This bounds its time without a clock."""

PERTURBATIONS_MAX = 60
"""Times that the order is perturbed at most."""

_NOISE_PERCENT = (100, 5, 40, 10, 20)


def plan_least_makespan(problem: PlanningProblem) -> Slots:
    """Take the best of several orders, then search for a better plan within a budget."""
    orders: list[Key] = [
        by_rank(problem),
        lambda task: -problem.ranks_ms[task] * (1 + _eighths(problem, task)),
        lambda task: -len(problem.dependents[task]),
        lambda task: -problem.expected_ms[task],
    ]
    best = plan_critical_path(problem)
    for key in orders:
        best = earliest_plan(best, insert_tasks(problem, key), dispatch_tasks(problem, key, shortest_duration))
    return _search(problem, best, lower_bounds(problem).best_ms)


def _eighths(problem: PlanningProblem, task: int) -> int:
    """Return how much of the largest agent a task takes, in the resource of which it takes most, in eighths."""
    largest = [max(amounts) for amounts in zip(*problem.capacity, strict=True)]
    return max((amount * 8 // largest[resource] for resource, amount in problem.demands[task]), default=0)


def _search(problem: PlanningProblem, best: Slots, bound_ms: int) -> Slots:
    """Justify the best plan; perturb its order and justify again, until the bound is met or the budget is used up."""
    budget = BUDGET_SLOTS
    random = _random_numbers()
    current = best
    for noise_percent in islice(cycle(_NOISE_PERCENT), PERTURBATIONS_MAX):
        while budget > 0 and makespan_ms(best) > bound_ms:
            budget -= 2 * len(problem)
            justified = _justify(problem, current)
            if makespan_ms(justified) >= makespan_ms(current):
                break
            current = justified
            best = earliest_plan(best, current)
        if budget <= 0 or makespan_ms(best) <= bound_ms:
            break
        spread_ms = max(1, makespan_ms(best) * noise_percent // 100)
        keys = [slot.start_ms + next(random) % spread_ms for slot in best]
        current = insert_tasks(problem, keys.__getitem__)
        budget -= len(problem)
        best = earliest_plan(best, current)
    return best


def _justify(problem: PlanningProblem, slots: Slots) -> Slots:
    """Push every task as late as it can be, the last ones first; then as early as it can be, the first ones first."""
    end_ms = makespan_ms(slots)
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


def _random_numbers() -> Iterator[int]:
    """Yield the same numbers forever (a linear congruential generator with the constants of MMIX)."""
    state = 1
    while True:
        state = (state * 6364136223846793005 + 1442695040888963407) % 2**64
        yield state >> 33
