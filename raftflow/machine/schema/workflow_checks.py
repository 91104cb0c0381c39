"""What must hold of workflows and of their numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from raftflow.domain.tasks.states import FINAL, TaskState

if TYPE_CHECKING:
    from collections.abc import Iterator

    from raftflow.machine.tables.state import State
    from raftflow.machine.tables.workflows import Workflow


def workflow_problems(workflow: Workflow) -> Iterator[str]:
    """Yield what is wrong with a workflow's own fields."""
    counts = [0] * len(TaskState)
    for task in workflow.tasks:
        counts[task.state] += 1
    if counts != workflow.counts:
        yield f"counts {workflow.counts}, its tasks give {counts}"
    backups = sum(task.backup is not None for task in workflow.tasks)
    if workflow.backups != backups:
        yield f"{workflow.backups} backup attempts counted, there are {backups}"
    under_way = counts[TaskState.QUEUED] + counts[TaskState.RUNNING] + backups
    if workflow.max_parallel is not None and under_way > workflow.max_parallel:
        yield f"{under_way} tasks are queued or running, its limit is {workflow.max_parallel}"
    unfinished = sum(task.state not in FINAL for task in workflow.tasks)
    cached = sum(task.cached for task in workflow.tasks)
    if workflow.cached != cached:
        yield f"{workflow.cached} tasks with cached results counted, there are {cached}"
    if workflow.open != unfinished:
        yield f"{workflow.open} open tasks counted, there are {unfinished}"
    finished = unfinished == 0 and (not workflow.jobs or bool(workflow.finished_ms))
    if finished != bool(workflow.finished_ms) or finished != bool(workflow.finished_number):
        yield f"{unfinished} tasks have not ended, finished at {workflow.finished_ms}"
    if workflow.paused and (workflow.finished_ms or workflow.cancelled):
        yield "paused although it has ended or is cancelled"
    if workflow.used_up != (workflow.find_used_up() is not None):
        yield "a budget is used up and the workflow does not know it, or the other way round"
    held = (workflow.paused or workflow.blocked or workflow.used_up) and not workflow.finished_ms
    if workflow.held != held:
        yield "is held although it is neither paused nor blocked, nor its budget used up, or the other way round"
    if [workflow.by_id.get(task.id) for task in workflow.tasks] != list(workflow.tasks):
        yield "the table of ids does not match its tasks"
    below: list[list[int]] = [[] for _ in workflow.tasks]
    for task in workflow.tasks:
        for need in task.waited:
            below[need].append(task.position)
    if [tuple(positions) for positions in below] != [tuple(positions) for positions in workflow.dependents]:
        yield "the table of dependents does not match its tasks"


def number_problems(state: State) -> Iterator[str]:
    """Yield what is wrong with the table of workflows by number."""
    if {workflow.number: workflow for workflow in state.workflows.values()} != state.by_number:
        yield "the table of workflows by number does not match the one by id"
    if list(state.by_number) != sorted(state.by_number) or any(n > state.workflow_number for n in state.by_number):
        yield "workflows are out of order"
