"""The order in which ready tasks should run, over all shapes and workflows."""

from __future__ import annotations

from raftflow.domain.tasks.feasibility import ReadyTask, Urgency

OrderKey = tuple[int, int, int, int, int, int]
"""See `order_key`."""

POINTS_PER_AGE_STEP = 5
"""Priority that a workflow gains over later ones with each `AGE_STEP_MS` that it is older."""


def order_key(task: ReadyTask, order: int | None = None, turn: int = 0) -> OrderKey:
    """Sort lost tasks first, then by priority with ageing, then turn, then rank, then submission, then position.

    A workflow gains priority over later ones, a point a minute, so nothing waits forever behind a stream of more
    urgent work. That needs no clock, because all workflows get older at the same rate. Inside a workflow lost tasks
    go first, and then rank decides alone.

    Args:
        task: the task.
        order: `workflow_order` of its workflow; by default that of its submission.
        turn: the turn that its workflow waits for (`workflow_queues.WaitingWorkflow`).
    """
    return (
        0 if task.lost else 1,
        workflow_order(task.age, task.priority) if order is None else order,
        turn,
        -task.rank,
        task.number,
        task.task,
    )


def is_more_urgent(task: ReadyTask, waiting: Urgency | None) -> bool:
    """Tell whether a task should not wait behind one of this urgency: its priority is higher, with ageing too."""
    if waiting is None or task.priority <= waiting.priority:
        return False
    return workflow_order(task.age, task.priority) < workflow_order(waiting.age, waiting.priority)


def workflow_order(age: int, priority: int) -> int:
    """Sort workflows by priority with ageing.

    `age` is the time of its submission or of its last turn, in steps of `AGE_STEP_MS`: a lower number is older.
    """
    return age * POINTS_PER_AGE_STEP - priority
