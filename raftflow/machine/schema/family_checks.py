"""What must hold of children and their parents, and of parked tasks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from raftflow.domain import limits
from raftflow.domain.tasks.states import FINAL, LIVE_ATTEMPT, TaskState
from raftflow.machine.tables.tasks import ORDER_STOP, ChildCounts, Parking, is_awaited, is_over

if TYPE_CHECKING:
    from collections.abc import Iterator

    from raftflow.machine.tables.tasks import Family, SpawnOrigin, Task
    from raftflow.machine.tables.workflows import Workflow


def family_problems(workflow: Workflow) -> Iterator[str]:
    """Yield what is wrong with the children of a workflow's tasks, and with what they are to their parents."""
    children: dict[int, list[Task]] = {}
    handled = 0
    for task in workflow.tasks:
        if task.origin is not None:
            children.setdefault(task.origin.parent, []).append(task)
            handled += task.state is TaskState.FAILED and task.origin.handled
            for problem in _origin_problems(workflow, task, task.origin):
                yield f"task {task.id}: {problem}"
    if handled != workflow.handled:
        yield f"{workflow.handled} failed children counted that are their parents' matter, there are {handled}"
    if len(workflow.tasks) > limits.TASKS_GROWN_MAX:
        yield f"has {len(workflow.tasks)} tasks"
    for task in workflow.tasks:
        own = children.pop(task.position, []) if task.family is not None else []
        if task.family is not None:
            for problem in _family_problems(workflow, task.family, own):
                yield f"task {task.id}: {problem}"
        for problem in _parking_problems(workflow, task, own):
            yield f"task {task.id}: {problem}"
    for position in children:
        yield f"the task at {position} has children and does not know it"


def _origin_problems(workflow: Workflow, task: Task, origin: SpawnOrigin) -> Iterator[str]:
    if not 0 <= origin.parent < task.position:
        yield f"its parent is at {origin.parent}"
        return
    parent = workflow.tasks[origin.parent]
    depth = 1 if parent.origin is None else parent.origin.depth + 1
    if origin.depth != depth or depth > limits.SPAWN_DEPTH_MAX:
        yield f"has {origin.depth} ancestors counted, there are {depth}"
    if task.needs or workflow.dependents[task.position]:
        yield "is a child and has needs, or is needed"
    if not 0 <= origin.profile < len(workflow.profiles):
        yield f"was spawned with profile {origin.profile}, there are {len(workflow.profiles)}"
    if parent.state in {TaskState.FAILED, TaskState.CANCELLED} and not workflow.jobs and not _is_called_off(task):
        yield f"is {task.state.name}, its parent {parent.state.name}"
    if origin.handled and task.state not in {TaskState.FAILED, TaskState.CANCELLED} and not _is_called_off(task):
        yield f"is {task.state.name}, and its parent has cancelled it"


def _is_called_off(task: Task) -> bool:
    """Tell whether a task has ended, or every live attempt of it was told to stop."""
    if task.state in FINAL:
        return True
    attempts = [each for each in (task.last, task.backup) if each is not None]
    return task.state in LIVE_ATTEMPT and all(attempt.order == ORDER_STOP for attempt in attempts)


def _family_problems(workflow: Workflow, family: Family, children: list[Task]) -> Iterator[str]:
    still_open = sum(child.state not in FINAL for child in children)
    if (family.count, family.open) != (len(children), still_open):
        yield f"{family.open} of {family.count} children open counted, there are {still_open} of {len(children)}"
    if family.count > limits.CHILDREN_PER_TASK_MAX:
        yield f"has {family.count} children"
    chain = []
    position = family.last
    for _ in children:
        child = workflow.tasks[position]
        chain.append(child)
        position = -1 if child.origin is None else child.origin.previous
    if chain[::-1] != children or position != -1:
        yield "the chain of its children does not match them"


def _parking_problems(workflow: Workflow, task: Task, children: list[Task]) -> Iterator[str]:
    parking = Parking() if task.parking is None else task.parking
    awaited = [child for child in children if is_awaited(parking, child.position)]
    awaited_open = sum(child.state not in FINAL for child in awaited)
    if (parking.awaited, parking.awaited_open) != (len(awaited), awaited_open):
        yield f"waits for {parking.awaited_open} of {parking.awaited}, there are {awaited_open} of {len(awaited)}"
    parked = task.state is TaskState.PARKED
    if parked != bool(parking.awaits or parking.waits):
        yield f"is {task.state.name} and waits for {parking.awaits} and {parking.waits}"
    succeeded = sum(child.state is TaskState.SUCCEEDED for child in awaited)
    over = bool(parking.awaits) and is_over(parking.mode, ChildCounts(len(awaited), awaited_open, succeeded))
    if parked and not workflow.blocked and (over or any(each not in parking.open for each in parking.waits)):
        yield "is parked although what it waits for has ended"
