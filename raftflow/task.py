"""For code that runs as a task: who am I, and what did the tasks before me find.

    from raftflow.task import current

    def join() -> dict[str, int]:
        parts = current().inputs          # results of the tasks that this one needs, by task id
        return {"words": sum(part["words"] for part in parts.values())}

The agent sets the context around every call of a `python = "module:function"` task.

A task that runs for long may tell how far it is; this works in programs of `command` tasks too, where any other
language writes a number from 0 to 1 into the file that RAFTFLOW_PROGRESS names:

    from raftflow.task import progress

    for done, part in enumerate(parts):
        progress(done / len(parts))
"""

from __future__ import annotations

import contextlib
import os
import time
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
    """Result of each task that this one needs. Large ones (32 KiB together) are read anew each time they are looked
    at, from a file that is there while the function runs."""


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


_PROGRESS_EVERY_S = 0.2
"""Progress that is told more often is not written: the agent looks once a second."""

_progress_at_s: float | None = None
"""When it was written last by this attempt."""


def progress(done: float) -> None:
    """Tell how far this task is, from 0 to 1. Cheap in a loop; does nothing outside of a task.

    Raises `ValueError` if `done` is not in that range.
    """
    global _progress_at_s  # noqa: PLW0603 - one attempt runs in a process at a time
    if not 0.0 <= done <= 1.0:
        raise ValueError(f"progress is a number from 0 to 1, not {done}")
    now_s = time.monotonic()
    if _progress_at_s is not None and done < 1.0 and now_s - _progress_at_s < _PROGRESS_EVERY_S:
        return
    path = os.environ.get("RAFTFLOW_PROGRESS")
    if not path:
        return
    _progress_at_s = now_s
    # Whoever reads it between truncation and writing finds nothing, and looks again a second later. A full disk is no
    # reason for the task to fail.
    with contextlib.suppress(OSError):
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            os.write(fd, b"%.4f\n" % done)
        finally:
            os.close(fd)


def forget_progress() -> None:
    """Let the next attempt begin without one. Called by the agent's worker. Raises `OSError` if it stays."""
    global _progress_at_s  # noqa: PLW0603 - see above
    _progress_at_s = None
    path = os.environ.get("RAFTFLOW_PROGRESS")
    if path and os.path.lexists(path):  # after every call, and there seldom is one
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)  # noqa: PTH108 - as above
