"""Parking: an attempt ends to wait for children of its task.

The task holds nothing while it is parked: no slot, no room in the ledger, no place in a queue, no timer. It costs no
retry, and the time does not count for its timeout, which bounds one attempt. When all of the children that it waits
for have ended, or one of them, the task is ready again (`context.wake`), and another attempt runs from its beginning.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from raftflow.domain import limits
from raftflow.domain.tasks.children import Positions, merge_ranges, read_condition
from raftflow.domain.tasks.states import FINAL, TaskEvent
from raftflow.machine.rules.context import move, wake

if TYPE_CHECKING:
    from raftflow.domain.commands import AttemptEnd
    from raftflow.machine.rules.context import ApplyContext
    from raftflow.machine.tables.tasks import Attempt, Family, Task
    from raftflow.machine.tables.workflows import Workflow


def park_problem(task: Task, condition: bytes) -> str | None:
    """Say why a task cannot be parked, or None if it can."""
    family = task.family
    if family is None:
        return "it parked and has no children to wait for: spawn some before, or end"
    if family.idle_parks >= limits.IDLE_PARKS_MAX:
        return (
            f"it parked {family.idle_parks} times in a row although nothing that it waited for was open: "
            "look at the results of its children before it parks"
        )
    try:
        read_condition(condition)
    except ValueError as error:
        return str(error)
    return None


def park(step: ApplyContext, workflow: Workflow, task: Task, attempt: Attempt, end: AttemptEnd) -> str:
    """Park a task whose only attempt ends. It is ready at once if what it waits for has ended. Returns no error."""
    wanted, family = read_condition(end.result), task.family
    assert family is not None  # noqa: S101 - `park_problem` has asked
    move(step, workflow, task, TaskEvent.PARKED, attempt)
    task.losses = 0
    family.any_of = wanted.mode == "any"
    if wanted.children:
        family.awaits = merge_ranges(wanted.children, len(workflow.tasks))
        family.awaited, family.awaited_open = _count(workflow, task, family.awaits)
    else:
        family.awaits = ((task.position + 1, len(workflow.tasks) - 1),)
        family.awaited, family.awaited_open = family.count, family.open
    if _is_over(family):
        family.idle_parks += 1
        wake(step, workflow, task, family)
    else:
        family.idle_parks = 0
    return ""


def _is_over(family: Family) -> bool:
    """Tell whether what a task waits for has ended."""
    return not family.awaited_open or (family.any_of and family.awaited_open < family.awaited)


def _count(workflow: Workflow, task: Task, ranges: Positions) -> tuple[int, int]:
    """Return how many children of a task are in these ranges, and how many of them have not ended."""
    awaited = still_open = 0
    for first, last in ranges:
        for child in workflow.tasks[first : last + 1]:
            if child.origin is not None and child.origin.parent == task.position:
                awaited += 1
                still_open += child.state not in FINAL
    return awaited, still_open
