"""The order in which ready tasks should run, over all shapes and workflows."""

from __future__ import annotations

from raftflow.domain.tasks.feasibility import ReadyTask, Urgency

OrderKey = tuple[int, int, int, int, int, int]
"""See `order_key`."""

POINTS_PER_AGE_STEP = 5
"""Priority that a workflow gains over later ones with each `AGE_STEP_MS` that it is older."""


def order_key(task: ReadyTask, order: int | None = None, turn: int = 0) -> OrderKey:
    """Sort by what was lost first, then priority with ageing, then turn, then rank, then submission, then position.

    A workflow gains priority over those that come after it, a point a minute, so that nothing waits for ever behind
    a stream of more urgent work; that needs no clock, for both of any two get older alike. Inside a workflow what was
    lost goes first, and rank decides alone.

    Args:
        task: the task.
        order: what `workflow_order` gives for its workflow; by default as of its submission.
        turn: the turn that its workflow waits for (`parts.Waiting`).
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
    """Tell whether a task should not wait behind one of this urgency: by its priority, and with ageing as well."""
    if waiting is None or task.priority <= waiting.priority:
        return False
    return workflow_order(task.age, task.priority) < workflow_order(waiting.age, waiting.priority)


def workflow_order(age: int, priority: int) -> int:
    """Sort workflows by priority with ageing.

    `age` is when one was submitted or had its last turn, in steps of `AGE_STEP_MS`: less is older.
    """
    return age * POINTS_PER_AGE_STEP - priority
