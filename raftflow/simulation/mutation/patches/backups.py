"""Planted faults of backup attempts, in the state machine and in the leader that places them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from raftflow.coordinator.placement import rebalancer
from raftflow.domain.tasks.states import AttemptOutcome, TaskState
from raftflow.machine.commands import attempts
from raftflow.machine.rules import backups, stopping
from raftflow.simulation.mutation.patches.common import both

if TYPE_CHECKING:
    from raftflow.machine.rules.context import ApplyContext
    from raftflow.simulation.mutation.patches.common import Patch


def forget_failures() -> Patch:
    """One of two attempts that ends without success costs nothing, whatever its end."""

    def forgiving(  # noqa: PLR0917 - as the original
        step: ApplyContext,
        workflow: Any,
        task: Any,
        attempt: Any,
        _end: Any,
        outcome: AttemptOutcome,
        error: str,
        _blamed: Any,
    ) -> str:
        backups.drop(step, workflow, task, attempt, outcome)
        return error

    return patch.object(attempts, "_end_beside_another", forgiving)


def back_up_anything() -> Patch:
    """Leader and replicas take every task for one that allows backup attempts."""

    def whatever(self: rebalancer._ObservedAttempt) -> bool:
        return backups.wants_backup(self.task) and not self.workflow.paused and not stopping.at_limit(self.workflow)

    return both(
        patch.object(rebalancer._ObservedAttempt, "may_be_backed_up", property(whatever)),  # noqa: SLF001
        patch.object(backups, "allows_backup", lambda _profile: True),
    )


def back_up_again() -> Patch:
    """An attempt gets a backup whenever it is the only one, and so does a backup."""
    wants = backups.wants_backup

    def again(task: Any) -> bool:
        mishaps, task.mishaps = task.mishaps, None
        try:
            return wants(task) and task.backup is None
        finally:
            task.mishaps = mishaps

    return both(patch.object(backups, "wants_backup", again), patch.object(rebalancer, "wants_backup", again))


def uncounted_backups() -> Patch:
    """The limit of a workflow knows nothing of backup attempts."""

    def tasks_alone(workflow: Any) -> int:
        return int(workflow.counts[TaskState.QUEUED] + workflow.counts[TaskState.RUNNING])

    def room_left(workflow: Any) -> bool:
        return workflow.max_parallel is not None and tasks_alone(workflow) > workflow.max_parallel

    return both(patch.object(backups, "at_limit", room_left), patch.object(rebalancer, "at_limit", room_left))
