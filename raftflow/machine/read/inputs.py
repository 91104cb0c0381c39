"""Inputs of attempts: the results of the needs, with the assignment while they are small, else in pieces.

A need's result does not change while an attempt of a task that needs it is live: the need has succeeded, and only a
finished workflow can be retried. A replica that knows the attempt has applied its placement, which is behind the
ends of the needs in the log. So every replica that knows the attempt has the same inputs for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import msgspec

from raftflow.domain.contract.views import InputsApart
from raftflow.domain.limits import INPUTS_INLINE_BYTES_MAX, INPUTS_PIECE_BYTES_MAX, INPUTS_PIECE_COUNT_MAX

if TYPE_CHECKING:
    from raftflow.machine.machine import Machine
    from raftflow.machine.tables.tasks import Task
    from raftflow.machine.tables.workflows import Workflow

_NULL = b"null"


class BehindError(Exception):
    """This replica has not applied the placement of the attempt yet."""


class NotLiveError(Exception):
    """The agent has no such live attempt: it is over, or another agent's."""


class InputsSlice(NamedTuple):
    """Some of the inputs of an attempt. Nothing is copied: the results are those of the table."""

    inputs: list[tuple[str, bytes]]
    """Task id and result as JSON."""
    next: int | None
    """Position of the need with which the next slice begins, None after the last one."""
    size: int
    """Bytes of the results."""


def all_inputs(workflow: Workflow, task: Task) -> dict[str, msgspec.Raw]:
    """Return every input of a task."""
    tasks = workflow.tasks
    return {tasks[need].id: msgspec.Raw(tasks[need].result or _NULL) for need in task.needs}


def apart(workflow: Workflow, task: Task) -> InputsApart | None:
    """Say how much there is to fetch, None if the inputs are small enough to come with the assignment."""
    tasks = workflow.tasks
    size = sum([len(tasks[need].result) for need in task.needs])
    return InputsApart(count=len(task.needs), size=size) if size > INPUTS_INLINE_BYTES_MAX else None


def inputs_slice(machine: Machine, agent: str, fence: int, first: int) -> InputsSlice:
    """Return the inputs of an attempt from its need number `first` on, as many as go into one piece.

    Raises `BehindError`, `NotLiveError`, and `ValueError` if there is no such need.
    """
    if fence > machine.state.fence:
        raise BehindError
    known = machine.state.agents.get(agent)
    found = None if known is None else known.live.get(fence)
    if found is None:
        raise NotLiveError
    workflow, task = found
    needs = task.needs
    if first and first >= len(needs):
        raise ValueError(f"the task has {len(needs)} needs")
    inputs: list[tuple[str, bytes]] = []
    size = 0
    for need in needs[first : first + INPUTS_PIECE_COUNT_MAX]:
        result = workflow.tasks[need].result or _NULL
        if inputs and size + len(result) > INPUTS_PIECE_BYTES_MAX:
            break
        size += len(result)
        inputs.append((workflow.tasks[need].id, result))
    end = first + len(inputs)
    return InputsSlice(inputs, end if end < len(needs) else None, size)
