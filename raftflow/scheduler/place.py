"""Placement: which ready task runs on which agent now, and which waits in whose queue.

Order of the tasks over all shapes (`order.order_key`): lost tasks first, then priority with ageing, then turn, then
upward rank (the longest path to the end of the workflow). A task that fits nowhere is passed over and reserves
nothing. The same holds for a task whose workflow is at its `max_parallel`, and for one that takes more of a rate
limit than there is now.

First round, tasks that can run at once: each goes to the agent with the best score (`scores.py`). An agent whose
queue is not empty takes none: the task would join the queue, and passing the queue would let large tasks starve. An
agent that is reserved for a shape takes nothing else (`reservations.py`).

Second round, prefetch: a task that can run nowhere now waits where it can start without a round trip. It joins the
queue in which it waits least among those that suit it, so queues grow evenly. It does not join a queue in which less
urgent tasks wait.

The same view gives the same placements: there are no sets and no floats, and ties are broken by what agents were
given and by their names.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from heapq import merge

import msgspec

from raftflow.domain.commands import Placement
from raftflow.domain.tasks.feasibility import ReadyTask, Shape
from raftflow.scheduler.order import OrderKey
from raftflow.scheduler.queue.fleet import Fleet, Lane
from raftflow.scheduler.view import Group, PlacementView


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """What was decided, and which shapes were passed over."""

    placements: list[Placement]
    """In the order of their commit."""
    placed: tuple[Shape, ...]
    """Shapes of which some task was placed, at once or in a queue."""
    overtaken: tuple[Shape, ...]
    """Shapes of which no task was placed, while tasks later in order were."""


def place(view: PlacementView) -> list[Placement]:
    """Decide. Returns at most `placements_max` placements, in the order of their commit."""
    return decide(view).placements


def decide(view: PlacementView) -> Decision:
    """Decide, and return which shapes were overtaken."""
    fleet = Fleet(view)
    lanes = [Lane(group.shape, fleet) for group in view.groups]
    placements: list[Placement] = []
    passed: list[tuple[ReadyTask, Lane]] = []
    budgets = dict(view.budgets)
    units = dict(view.rate_units)
    for task, lane in _in_order(view.groups, lanes):
        if len(placements) == view.placements_max:
            break
        if (task.limited and budgets.get(task.workflow_id, 1) <= 0) or (task.rates and not _has_units(task, units)):
            continue
        number = lane.where_to_run(task)
        if number is not None:
            fleet.run(number, lane)
            placements.append(_placement(fleet, lane, task, number, budgets, units))
            continue
        if lane.passed_at < 0:
            lane.passed_at = len(placements)
        if fleet.queue_room:
            passed.append((task, lane))
        else:
            lane.exhausted = lane.best_to_run() is None
    at_once = len(placements)
    for task, lane in passed:
        if len(placements) == view.placements_max or not fleet.queue_room:
            break
        if (task.limited and budgets.get(task.workflow_id, 1) <= 0) or (task.rates and not _has_units(task, units)):
            continue
        number = lane.where_to_queue(task)
        if number is not None:
            fleet.enqueue(number, task)
            placements.append(_placement(fleet, lane, task, number, budgets, units))
    return Decision(
        placements=placements,
        placed=tuple([lane.shape for lane in lanes if lane.placed]),
        overtaken=tuple([lane.shape for lane in lanes if not lane.placed and 0 <= lane.passed_at < at_once]),
    )


def _has_units(task: ReadyTask, units: dict[str, int]) -> bool:
    """Tell whether the rate limits have what a task takes of them."""
    return all(units.get(name, 0) >= count for name, count in task.rates)


def _placement(  # noqa: PLR0917 - of one caller
    fleet: Fleet, lane: Lane, task: ReadyTask, number: int, budgets: dict[str, int], units: dict[str, int]
) -> Placement:
    lane.placed = True
    for name, count in task.rates:
        units[name] -= count
    if task.limited and task.workflow_id in budgets:
        budgets[task.workflow_id] -= 1
    agent = fleet.agents[number]
    return Placement(task.workflow_id, task.task, agent.name, agent.incarnation)


def _in_order(groups: Sequence[Group], lanes: list[Lane]) -> Iterator[tuple[ReadyTask, Lane]]:
    """Merge the groups into one order."""

    def walk(number: int, group: Group) -> Iterator[tuple[OrderKey, int, ReadyTask]]:
        lane = lanes[number]
        for key, task in zip(group.keys, group.tasks, strict=True):
            if lane.exhausted:
                return
            yield key, number, task

    for _, number, task in merge(*(walk(number, group) for number, group in enumerate(groups))):
        yield task, lanes[number]
