"""Attempts that are live, as the leader looks at them: their rows, their lateness, whether a backup may start."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from raftflow.domain.tasks.states import TaskState
from raftflow.machine.rules import lateness
from raftflow.machine.rules.backups import wants_backup
from raftflow.machine.rules.dependents import is_last_need
from raftflow.machine.rules.lateness import PATIENCE_MIN_MS, SAMPLES_MIN, Expectation
from raftflow.machine.rules.stopping import at_limit
from raftflow.machine.tables.tasks import attempt_of, is_awaited

if TYPE_CHECKING:
    from raftflow.machine.machine import Machine
    from raftflow.machine.rows import AttemptRow, TaskRow, WorkflowRow
    from raftflow.machine.tables.tasks import Task

__all__ = [
    "PATIENCE_MIN_MS",
    "SAMPLES_MIN",
    "Expectation",
    "at_limit",
    "expectation",
    "is_last_need",
    "live_attempt",
    "successes_awaited",
    "wants_backup",
]


def live_attempt(task: TaskRow, fence: int) -> AttemptRow:
    """Return the live attempt of a task that an agent's table (`AgentRow.live`) holds under `fence`."""
    return attempt_of(cast("Task", task), fence)


def successes_awaited(parent: TaskRow, child: TaskRow) -> int:
    """Return how many successes of children a parked task still waits for; 0 if it does not wait for this child."""
    task = cast("Task", parent)
    parking = task.parking
    if task.state is not TaskState.PARKED or parking is None or not is_awaited(parking, child.position):
        return 0
    return 1 if parking.mode == "any" else parking.awaited_open


def expectation(machine: Machine, workflow: WorkflowRow, task: TaskRow) -> Expectation | None:
    """Return how long a task is expected to run, None if it is not known."""
    return lateness.expectation(machine.state, workflow, task)
