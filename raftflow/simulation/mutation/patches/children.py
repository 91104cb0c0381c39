# ruff: noqa: D103 - the table in mutants.py says of each what it does
"""Planted faults of children and parked tasks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from raftflow.domain.tasks.states import TaskState
from raftflow.machine.commands import spawning
from raftflow.machine.rules import context

if TYPE_CHECKING:
    from raftflow.machine.tables.tasks import Task
    from raftflow.machine.tables.workflows import Workflow
    from raftflow.simulation.mutation.patches.common import Patch


def forget_keys() -> Patch:
    def forgetful(workflow: Workflow, parent: Task, key: str) -> Any:
        """Find no child that is there: it gets a second one."""
        known = workflow.by_id.get(f"{parent.id}:{key}")
        return f"{parent.id}:{key}" if known is None else f"{parent.id}:{key}.{len(workflow.tasks)}"

    return patch.object(spawning, "_find", forgetful)


def wake_with_the_first() -> Patch:
    tell = context._tell_parent  # noqa: SLF001

    def hasty(step: Any, workflow: Any, child: Any, origin: Any, opened: int) -> None:
        """Wake a parked task when any of its children has ended."""
        parking = workflow.tasks[origin.parent].parking
        if parking is None:
            tell(step, workflow, child, origin, opened)
            return
        mode, parking.mode = parking.mode, "any"
        try:
            tell(step, workflow, child, origin, opened)
        finally:
            parking.mode = mode

    return patch.object(context, "_tell_parent", hasty)


def forget_failed_children() -> Patch:
    tell = context._tell_parent  # noqa: SLF001

    def forgetful(step: Any, workflow: Any, child: Any, origin: Any, opened: int) -> None:
        """Do not wake a task whose child failed."""
        if child.state is not TaskState.FAILED:
            tell(step, workflow, child, origin, opened)
            return
        with patch.object(context, "wake", lambda *_: None):
            tell(step, workflow, child, origin, opened)

    return patch.object(context, "_tell_parent", forgetful)
