"""Lower bounds of the makespan: no plan can end earlier, whatever its policy.

- *critical path*: the longest path, every task on the fastest agent that could run it.
- *work*: for each resource, the work of all tasks (demand times time) over the capacity of all agents (times speed);
  also for those tasks alone that a part of the agents can run.
- *energy*: for tasks that cannot start before h and have q to go after them, h + their work over the capacity + q
  (Carlier 1982; Fernandez, Bussell 1973). Demands are rounded up to what they take in effect: of tasks that want more
  than 1/(k+1) of an agent, no more than k run on it at once (a dual feasible function; Fekete, Schepers 2001).

Agents of different sizes count as if each were as large as the largest: never too high, but looser.
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction

import msgspec

from raftflow.scheduler.plan import MILLI, Problem

CLASSES_MAX = 8
"""Largest k for which tasks that want more than 1/(k+1) of an agent are counted."""

HEADS_MAX = 128
"""Different heads that are tried; of more, evenly picked ones."""


class LowerBounds(msgspec.Struct, frozen=True):
    """Times in ms before which no plan of the problem ends."""

    critical_path_ms: int
    work_ms: int
    energy_ms: int
    work_by_resource_ms: dict[str, int]

    @property
    def best_ms(self) -> int:
        """The largest of them."""
        return max(self.critical_path_ms, self.work_ms, self.energy_ms)


def lower_bounds(problem: Problem) -> LowerBounds:
    """Compute the bounds."""
    by_resource = dict.fromkeys(problem.resources, 0)
    energy_ms = 0
    for agents, tasks in _parts(problem):
        for resource, name in enumerate(problem.resources):
            largest = max(problem.capacity[agent][resource] for agent in agents)
            if not largest:
                continue
            amounts = [dict(problem.demands[task]).get(resource, 0) for task in tasks]
            work = sum(amount * problem.expected_ms[task] for task, amount in zip(tasks, amounts, strict=True))
            capacity = sum(problem.capacity[agent][resource] * problem.agents[agent].speed_milli for agent in agents)
            by_resource[name] = max(by_resource[name], -(-work * MILLI // capacity))
            speed_milli = sum(
                problem.agents[agent].speed_milli for agent in agents if problem.capacity[agent][resource]
            )
            for parts in _effective(amounts, largest):
                energy_ms = max(energy_ms, _energy_ms(problem, tasks, parts, speed_milli))
            exact = [Fraction(amount, 1) for amount in amounts]
            energy_ms = max(energy_ms, _energy_ms(problem, tasks, exact, capacity))
    critical_path_ms = max(head + fastest for head, fastest in zip(problem.heads_ms, problem.fastest_ms, strict=True))
    return LowerBounds(critical_path_ms, max(by_resource.values(), default=0), energy_ms, by_resource)


def _parts(problem: Problem) -> Iterator[tuple[tuple[int, ...], list[int]]]:
    """Yield sets of agents, each with the tasks that can run on nothing else."""
    suited: dict[tuple[int, ...], frozenset[int]] = {agents: frozenset(agents) for agents in problem.suited}
    everyone = tuple(range(len(problem.agents)))
    suited[everyone] = frozenset(everyone)
    for agents, members in suited.items():
        within = {part for part, those in suited.items() if those <= members}
        yield agents, [task for task in range(len(problem)) if problem.suited[task] in within]


def _effective(amounts: list[int], capacity: int) -> Iterator[list[Fraction]]:
    """Yield for each class k the part of an agent that each task takes in effect (the function u(k) of the paper)."""
    parts = {amount: Fraction(amount, capacity) for amount in set(amounts)}
    for k in range(1, CLASSES_MAX + 1):
        effect = {
            amount: part if (part * (k + 1)).denominator == 1 else Fraction(part * (k + 1) // 1, k)
            for amount, part in parts.items()
        }
        yield [effect[amount] for amount in amounts]


def _energy_ms(problem: Problem, tasks: list[int], parts: list[Fraction], capacity: int) -> int:
    """Return the best bound of the form head + work over capacity + tail, for the tasks behind both.

    `capacity` is in the unit of the parts, times the speed in thousandths.
    """
    scale = 1
    for part in set(parts):
        scale = scale * part.denominator // _gcd(scale, part.denominator)
    rows = sorted(
        (
            (problem.tails_ms[task], problem.heads_ms[task], int(part * scale) * problem.expected_ms[task])
            for task, part in zip(tasks, parts, strict=True)
            if part
        ),
        reverse=True,
    )
    heads = sorted({head for _, head, _ in rows})
    step = -(-len(heads) // HEADS_MAX) or 1
    best_ms = 0
    for head in heads[::step]:
        work = 0
        for tail, own_head, own_work in rows:
            if own_head >= head:
                work += own_work
                best_ms = max(best_ms, head + tail + -(-work * MILLI // (capacity * scale)))
    return best_ms


def _gcd(a: int, b: int) -> int:
    while b:
        a, b = b, a % b
    return a
