"""Facts of a workflow's graph for those who look at it: they follow from what never changes, so they are kept."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from raftflow.domain.preparation import critical_path, levels_of

if TYPE_CHECKING:
    from raftflow.machine.state import Workflow

PATH_SHOWN_MAX = 100


class GraphFacts(NamedTuple):
    """Levels and the critical path."""

    levels: int
    """Tasks on the longest chain of needs."""
    path: tuple[int, ...]
    """Positions along the critical path, at most `PATH_SHOWN_MAX`, first to last."""
    path_ms: int
    """Expected time along all of it."""


def facts_of(workflow: Workflow) -> GraphFacts:
    """Return the facts of a workflow's graph. The first time takes time in proportion to its tasks and needs."""
    if workflow.facts is None:
        tasks = workflow.tasks
        waited = [task.waited for task in tasks]
        left = [len(each) for each in waited]
        order = [position for position, count in enumerate(left) if not count]
        for position in order:
            for below in workflow.dependents[position]:
                left[below] -= 1
                if not left[below]:
                    order.append(below)
        ranks = [task.rank for task in tasks]
        path = critical_path(waited, order, ranks)
        workflow.facts = GraphFacts(
            levels=1 + max(levels_of(waited, order)),
            path=tuple(path[:PATH_SHOWN_MAX]),
            path_ms=ranks[path[0]],
        )
    return workflow.facts
