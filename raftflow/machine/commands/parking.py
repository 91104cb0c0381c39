"""Parking: an attempt ends to wait for children of its task.

The task holds nothing while it is parked: no slot, no room in the ledger, no place in a queue, no timer. It costs no
retry, and the time does not count for its timeout, which bounds one attempt. When all of the children that it waits
for have ended, or one of them, the task is ready again (`context.wake`), and another attempt runs from its beginning.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from raftflow.domain import limits
from raftflow.domain.tasks.children import merge_ranges, read_condition
from raftflow.domain.tasks.states import TaskEvent
from raftflow.machine.rules.context import move, wake
from raftflow.machine.tables.tasks import count_children, is_over

if TYPE_CHECKING:
    from raftflow.domain.commands import AttemptEnd
    from raftflow.machine.rules.context import ApplyContext
    from raftflow.machine.tables.tasks import Attempt, Task
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
    family.mode = wanted.mode
    # Nothing but its children can be behind it, so the whole rest is a range for all of them.
    ranges = wanted.children or ((task.position + 1, len(workflow.tasks) - 1),)
    family.awaits = merge_ranges(ranges, len(workflow.tasks))
    found = count_children(workflow.tasks, task.position, family.awaits)
    family.awaited, family.awaited_open = found.all, found.open
    if is_over(family.mode, found):
        family.idle_parks += 1
        wake(step, workflow, task, family)
    else:
        family.idle_parks = 0
    return ""
