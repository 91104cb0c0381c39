"""For code that runs as a task: who am I, and what did the tasks before me find.

    from raftflow.task import current

    def join() -> dict[str, int]:
        parts = current().inputs          # results of the tasks that this one needs, by task id
        return {"words": sum(part["words"] for part in parts.values())}

The agent sets the context around every call of a `python = "module:function"` task.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class TaskContext:
    """The attempt that is running."""

    workflow: str
    task: str
    attempt: int
    """1 for the first attempt of the task."""
    fence: int
    """Grows over all attempts of all tasks: write it with what you store, and refuse smaller ones."""
    inputs: Mapping[str, Any] = field(default_factory=dict)
    """Result of each task that this one needs."""


_current: TaskContext | None = None


def current() -> TaskContext:
    """Return the running attempt. Raises `RuntimeError` outside of a task."""
    if _current is None:
        raise RuntimeError("raftflow.task.current() works inside a task that an agent runs as a python callable")
    return _current


def set_current(context: TaskContext | None) -> None:
    """Enter (or leave, with None) an attempt. Called by the agent's worker."""
    global _current  # noqa: PLW0603 - one attempt runs in a worker process at a time
    _current = context
