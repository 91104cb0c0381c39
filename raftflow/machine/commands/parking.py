"""Parking: an attempt ends to wait for children of its task, or for signals and people (`waits`).

The task holds nothing while it is parked: no slot, no room in the ledger, no place in a queue, no timer. It costs no
retry, and the time does not count for its timeout, which bounds one attempt. When all of the children that it waits
for have ended, or one of them, or one of its waits, the task is ready again (`context.wake`), and another attempt
runs from its beginning. A task that parks because a budget is used up is ready at once: its workflow is held
(`rules/spending/budgets.py`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from raftflow.domain import limits
from raftflow.domain.tasks.children import merge_ranges, read_condition
from raftflow.domain.tasks.states import AttemptOutcome, TaskEvent
from raftflow.machine.rules.context import move, parking_of, wake
from raftflow.machine.tables.tasks import count_children, is_over

if TYPE_CHECKING:
    from raftflow.domain.commands import AttemptEnd
    from raftflow.machine.rules.context import ApplyContext
    from raftflow.machine.tables.tasks import Attempt, Task
    from raftflow.machine.tables.workflows import Workflow


def park_problem(task: Task, condition: bytes) -> str | None:
    """Say why a task cannot be parked, or None if it can."""
    try:
        wanted = read_condition(condition)
    except ValueError as error:
        return str(error)
    if wanted.budget:
        return None
    if task.family is None and not wanted.waits:
        return "it parked and has nothing to wait for: spawn children or begin a wait before, or end"
    if task.parking is not None and task.parking.idle_parks >= limits.IDLE_PARKS_MAX:
        return (
            f"it parked {task.parking.idle_parks} times in a row although nothing that it waited for was open: "
            "look at the results of its children and waits before it parks"
        )
    return None


def park(step: ApplyContext, workflow: Workflow, task: Task, attempt: Attempt, end: AttemptEnd) -> str:
    """Park a task whose only attempt ends. It is ready at once if what it waits for has ended. Returns no error."""
    wanted = read_condition(end.result)
    if wanted.budget:
        move(step, workflow, task, TaskEvent.PARKED, attempt)
        task.losses = 0
        # Its workflow starts nothing until the budget is raised, so there is nothing else to wait for.
        move(step, workflow, task, TaskEvent.WAIT_OVER)
        return ""
    move(step, workflow, task, TaskEvent.PARKED, attempt)
    task.losses = 0
    parking = parking_of(task)
    if not task.history or task.history[-1].outcome is not AttemptOutcome.PARKED:
        parking.asked_ms = 0
    # What else it has begun and not ended counts too: several places of an attempt wait, and one of them parks first.
    parking.mode, parking.waits = wanted.mode, tuple(dict.fromkeys((*wanted.waits, *parking.open)))
    over = any(number not in parking.open for number in wanted.waits)
    if wanted.children or not wanted.waits:
        # Nothing but its children can be behind it, so the whole rest is a range for all of them.
        ranges = wanted.children or ((task.position + 1, len(workflow.tasks) - 1),)
        parking.awaits = merge_ranges(ranges, len(workflow.tasks))
        found = count_children(workflow.tasks, task.position, parking.awaits)
        parking.awaited, parking.awaited_open = found.all, found.open
        over = over or is_over(parking.mode, found)
    if over:
        parking.idle_parks += 1
        wake(step, workflow, task)
    else:
        parking.idle_parks = 0
    return ""
