"""When a success leaves a task nothing to wait for. Only this module decides it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from raftflow.domain.tasks.states import TaskState

if TYPE_CHECKING:
    from raftflow.machine.rows import TaskRow

_WAITING = TaskState.WAITING


def is_last_need(dependent: TaskRow, met: int = 1) -> bool:
    """Tell whether `met` more successes of needs leave a waiting task with no open need.

    `apply` asks before it counts one success. The leader asks for successes that are reported and not applied yet.
    """
    return dependent.open_needs == met and dependent.state is _WAITING
