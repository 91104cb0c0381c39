"""Lower bounds of the makespan: no plan can end earlier, whatever its policy.

- *critical path*: the longest path, every task on the fastest agent that could run it.
- *work*: for each resource, the work of all tasks (demand times time) over the capacity of all agents (times speed);
  also for those tasks alone that a part of the agents can run.
- *energy*: for tasks that cannot start before h and have q to go after them, h + their work over the capacity + q
  (Carlier 1982; Fernandez, Bussell 1973). Demands are rounded up to their effect: of tasks that demand more
  than 1/(k+1) of an agent, at most k run on it at once (a dual feasible function; Fekete, Schepers 2001).

- *slots*: if at most m tasks run at once, then of the k * m + 1 longest some k + 1 run one after the other.

Energy and slots are counted in *windows*: for the tasks after a head and before a tail. The work before a task with
several needs is bounded in the same way first: the task cannot start before everything that it needs, directly or
indirectly, had its energy and its slots. So heads (and, mirrored, tails) are longer than the longest path, and layers
with a barrier between them add up.

Agents of different sizes count as if each were as large as the largest: never too high, but looser.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from math import lcm

import msgspec

from raftflow.scheduler.plan.plan import MILLI, PlanningProblem

CLASSES_MAX = 8
"""Largest k for which tasks that demand more than 1/(k+1) of an agent are counted."""

HEADS_MAX = 128
"""How many different heads are tried; if there are more, evenly picked ones."""

JOIN_HEADS_MAX = 16
"""As above, for what lies before one task, and for large workflows."""

JOIN_MEASURES_MAX = 3
"""Measures, those with most work, by which what lies before one task is bounded."""

JOINED_TASKS_MAX = 5_000
"""Larger workflows are not bounded join by join: that takes time with the square of the tasks."""


class LowerBounds(msgspec.Struct, frozen=True):
    """Times in ms before which no plan of the problem ends."""

    critical_path_ms: int
    work_ms: int
    window_ms: int
    work_by_resource_ms: dict[str, int]

    @property
    def best_ms(self) -> int:
        """The largest of them."""
        return max(self.critical_path_ms, self.work_ms, self.window_ms)


class _Measure(msgspec.Struct, frozen=True):
    """One way to count work, of some tasks on some agents."""

    work: dict[int, int]
    """For each task that has any."""
    per_ms: int
    """What the agents do in a ms at most."""
    slots: int
    """How many of these tasks can run at once at most."""

    def ms(self, work: int) -> int:
        """Return how long the agents take for so much work."""
        return -(-work // self.per_ms)

    @property
    def total_ms(self) -> int:
        """How long they take for all of it."""
        return self.ms(sum(self.work.values()))


def lower_bounds(problem: PlanningProblem) -> LowerBounds:
    """Compute the bounds."""
    by_resource = dict.fromkeys(problem.resources, 0)
    measures: list[_Measure] = []
    for agents, tasks in _parts(problem):
        for resource, name in enumerate(problem.resources):
            if any(problem.capacity[agent][resource] for agent in agents):
                mine = list(_measures(problem, agents, tasks, resource))
                by_resource[name] = max(by_resource[name], mine[0].total_ms)
                measures += [measure for measure in mine if measure.work]
    heads, tails = _heads_and_tails(problem, measures)
    path_ms = max(map(sum, zip(heads, problem.fastest_ms, tails, strict=True)))
    windows = HEADS_MAX if len(problem) <= JOINED_TASKS_MAX else JOIN_HEADS_MAX
    window_ms = max(
        (_window_ms(measure, measure.work, problem.fastest_ms, (heads, tails), windows) for measure in measures),
        default=0,
    )
    critical_path_ms = max(map(sum, zip(problem.heads_ms, problem.fastest_ms, strict=True)))
    work_ms = max(by_resource.values(), default=0)
    return LowerBounds(critical_path_ms, work_ms, max(path_ms, window_ms), by_resource)


def _parts(problem: PlanningProblem) -> Iterator[tuple[tuple[int, ...], list[int]]]:
    """Yield sets of agents, each with the tasks that can run on nothing else."""
    suited: dict[tuple[int, ...], frozenset[int]] = {agents: frozenset(agents) for agents in problem.suited}
    everyone = tuple(range(len(problem.agents)))
    suited[everyone] = frozenset(everyone)
    for agents, members in suited.items():
        within = {part for part, those in suited.items() if those <= members}
        yield agents, [task for task in range(len(problem)) if problem.suited[task] in within]


def _measures(
    problem: PlanningProblem, agents: Sequence[int], tasks: Sequence[int], resource: int
) -> Iterator[_Measure]:
    """Yield the plain measure of a resource, then those of the classes k (the function u(k) of the paper)."""
    amounts = {task: amount for task in tasks for name, amount in problem.demands[task] if name == resource}
    speeds = {agent: problem.agents[agent].speed_milli for agent in agents}
    yield _Measure(
        {task: amount * problem.expected_ms[task] * MILLI for task, amount in amounts.items()},
        sum(problem.capacity[agent][resource] * speed for agent, speed in speeds.items()),
        _slots(problem, agents, resource, amounts.values()),
    )
    largest = max(problem.capacity[agent][resource] for agent in agents)
    speed_milli = sum(speed for agent, speed in speeds.items() if problem.capacity[agent][resource])
    parts = {amount: Fraction(amount, largest) for amount in set(amounts.values())}
    known = [parts]
    for k in range(1, CLASSES_MAX + 1):
        effect = {
            amount: part if (part * (k + 1)).denominator == 1 else Fraction(part * (k + 1) // 1, k)
            for amount, part in parts.items()
        }
        if effect not in known:
            known.append(effect)
            scale = lcm(*(part.denominator for part in effect.values()))
            work = {
                task: int(effect[amount] * scale) * problem.expected_ms[task] * MILLI
                for task, amount in amounts.items()
                if effect[amount]
            }
            wanted = [amount for amount in amounts.values() if effect[amount]]
            yield _Measure(work, speed_milli * scale, _slots(problem, agents, resource, wanted))


def _slots(problem: PlanningProblem, agents: Sequence[int], resource: int, amounts: Iterable[int]) -> int:
    """Count the tasks that could run at once if all were as small as the smallest."""
    least = min(amounts, default=1)
    return sum(problem.capacity[agent][resource] // least for agent in agents)


def _heads_and_tails(problem: PlanningProblem, measures: list[_Measure]) -> tuple[Sequence[int], Sequence[int]]:
    """Return heads and tails, longer than the longest paths where joins allow."""
    if len(problem) > JOINED_TASKS_MAX:
        return problem.heads_ms, problem.tails_ms
    chosen = sorted(measures, key=lambda measure: -measure.total_ms)[:JOIN_MEASURES_MAX]
    heads = _joined(problem.needs, problem.dependents, problem.order, problem.fastest_ms, chosen)
    tails = _joined(problem.dependents, problem.needs, problem.order[::-1], problem.fastest_ms, chosen)
    return heads, tails


def _joined(
    before: Sequence[Sequence[int]],
    after: Sequence[Sequence[int]],
    order: Sequence[int],
    lasts_ms: Sequence[int],
    measures: list[_Measure],
) -> list[int]:
    """Return for each task when it can start at the earliest; `order` has what is before first."""
    heads = [0] * len(order)
    above = [0] * len(order)
    place = {task: number for number, task in enumerate(order)}
    known: dict[tuple[int, ...], int] = {}
    for task in order:
        needs = tuple(before[task])
        for need in needs:
            heads[task] = max(heads[task], heads[need] + lasts_ms[need])
            above[task] |= above[need] | 1 << place[need]
        if len(needs) > 1:
            if needs not in known:
                ancestors = [order[number] for number in _bits(above[task])]
                known[needs] = _join_ms(task, ancestors, after, lasts_ms, heads, measures)
            heads[task] = max(heads[task], known[needs])
    return heads


def _join_ms(  # noqa: PLR0917 - private, called in one place
    task: int,
    ancestors: list[int],
    after: Sequence[Sequence[int]],
    lasts_ms: Sequence[int],
    heads: Sequence[int],
    measures: list[_Measure],
) -> int:
    """Bound the start of a task by the energy of everything before it. `ancestors` are in order."""
    to_go = {task: 0}
    for other in reversed(ancestors):
        to_go[other] = max(
            to_go[below] + (lasts_ms[below] if below != task else 0) for below in after[other] if below in to_go
        )
    best_ms = 0
    for measure in measures:
        best_ms = max(best_ms, _window_ms(measure, ancestors, lasts_ms, (heads, to_go), JOIN_HEADS_MAX))
    return best_ms


def _bits(mask: int) -> list[int]:
    """Return the numbers of the bits that are set, ascending."""
    return [number for number, bit in enumerate(reversed(f"{mask:b}")) if bit == "1"]


def _window_ms(
    measure: _Measure,
    tasks: Iterable[int],
    lasts_ms: Sequence[int],
    window: tuple[Sequence[int], Sequence[int] | dict[int, int]],
    heads_max: int,
) -> int:
    """Return the best bound of the form head + what the tasks behind both take + tail (`window`: heads, tails)."""
    work_of, slots = measure.work, measure.slots
    heads, tails = window
    rows = sorted(
        ((tails[task], heads[task], work_of[task], lasts_ms[task]) for task in tasks if task in work_of), reverse=True
    )
    thresholds = sorted({row[1] for row in rows})
    step = -(-len(thresholds) // heads_max) or 1
    best_ms = 0
    for head in thresholds[::step]:
        work = 0
        lasting: list[int] = []
        behind = [row for row in rows if row[1] >= head]
        often = -(-len(behind) // heads_max)
        for number, (tail, _, own_work, own_ms) in enumerate(behind, 1):
            work += own_work
            lasting.append(own_ms)
            takes_ms = measure.ms(work)
            if number > slots and (number % often == 0 or number == len(behind)):
                lasting.sort(reverse=True)
                takes_ms = max(takes_ms, _stacked_ms(lasting, slots))
            best_ms = max(best_ms, head + tail + takes_ms)
    return best_ms


def _stacked_ms(lasting_ms: list[int], slots: int) -> int:
    """Return how long the slots take for tasks, longest first: of k * slots + 1 some k + 1 share one."""
    return max(sum(lasting_ms[k * slots - k : k * slots + 1]) for k in range(1, (len(lasting_ms) - 1) // slots + 1))
