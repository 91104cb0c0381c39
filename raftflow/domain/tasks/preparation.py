"""What a graph says about itself before anything runs: levels, redundant needs, critical path.

A need is redundant if another need of the same task needs it in turn: waiting for the other one is enough. Dropping
such edges makes no difference to when a task may start, but every edge costs work whenever a task succeeds.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

Needs = Sequence[Sequence[int]]
"""For each task the positions of those that it needs."""

WORK_PER_EDGE = 4
WORK_MIN = 10_000
PATH_MAX = 100
"""Tasks of the critical path that are kept."""


class GraphFacts(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """What a graph is like."""

    levels: int
    """Tasks on the longest chain of needs."""
    path: tuple[int, ...]
    """Positions along the critical path, first to last, its first `PATH_MAX`."""
    path_ms: int
    """Expected time along all of it."""


NO_FACTS = GraphFacts(0, (), 0)
"""Of a graph that is not known yet."""


def facts_of(needs: Needs, order: Sequence[int], ranks: Sequence[int], levels: Sequence[int]) -> GraphFacts:
    """Return the facts of a graph with at least one task. `needs` may leave out redundant ones."""
    path = critical_path(needs, order, ranks)
    return GraphFacts(1 + max(levels), tuple(path[:PATH_MAX]), ranks[path[0]])


def levels_of(needs: Needs, order: Sequence[int]) -> list[int]:
    """Return for each task how many lie before it on the longest chain of needs. `order` has needs first."""
    levels = [0] * len(needs)
    for position in order:
        if needs[position]:
            levels[position] = 1 + max([levels[need] for need in needs[position]])
    return levels


def without_redundant(needs: Needs, order: Sequence[int], levels: Sequence[int]) -> dict[int, tuple[int, ...]]:
    """Return the tasks that have redundant needs, and those that are left of them, in the order of the document.

    To find all may take long, so the work is bounded: `WORK_PER_EDGE` steps for every need of the graph, or
    `WORK_MIN` if that is more. What is not found by then stays. The same graph gives the same answer everywhere.
    """
    budget = max(WORK_MIN, WORK_PER_EDGE * sum(map(len, needs)))
    reduced: dict[int, tuple[int, ...]] = {}
    for position in order:
        wanted = needs[position]
        if len(wanted) < 2:
            continue
        lowest = min([levels[need] for need in wanted])
        # Whatever is redundant lies below another need, and nothing under the lowest one is of interest.
        walk = [need for need in wanted if levels[need] > lowest]
        above: dict[int, None] = {}
        for need in walk:
            for before in reduced.get(need, needs[need]):
                budget -= 1
                if levels[before] >= lowest and before not in above:
                    above[before] = None
                    if levels[before] > lowest:
                        walk.append(before)
            if budget <= 0:
                return reduced
        left = tuple([need for need in wanted if need not in above])
        if len(left) < len(wanted):
            reduced[position] = left
    return reduced


def critical_path(needs: Needs, order: Sequence[int], ranks: Sequence[int]) -> list[int]:
    """Return the chain of tasks that is expected to take longest, first to last: along the largest upward ranks."""
    following: list[int | None] = [None] * len(needs)
    for position in reversed(order):
        for need in needs[position]:
            best = following[need]
            if best is None or (ranks[position], -position) > (ranks[best], -best):
                following[need] = position
    at: int | None = min(range(len(needs)), key=lambda position: (-ranks[position], position), default=None)
    path = []
    while at is not None:
        path.append(at)
        at = following[at]
    return path
