"""The progress of a long task, which it reports itself."""

from __future__ import annotations

import contextlib
import os
import time

_PROGRESS_EVERY_S = 0.2
"""The shortest time between two writes. The agent reads the file once a second."""

_progress_at_s: float | None = None
"""When this attempt last wrote its progress."""


def progress(done: float) -> None:
    """Report how much of this task is done, from 0 to 1. Cheap in a loop; does nothing outside of a task.

    Raises `ValueError` if `done` is not in that range.

    >>> raftflow.progress(0.5)
    >>> raftflow.progress(2)
    Traceback (most recent call last):
    ValueError: progress is a number from 0 to 1, not 2
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
    # A reader between truncation and write finds an empty file, and reads again a second later. A full disk must not
    # fail the task.
    with contextlib.suppress(OSError):
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            os.write(fd, b"%.4f\n" % done)
        finally:
            os.close(fd)


def forget_progress() -> None:
    """Remove the progress of this attempt. Called by the agent's worker. Raises `OSError` if that fails."""
    global _progress_at_s  # noqa: PLW0603 - see above
    _progress_at_s = None
    path = os.environ.get("RAFTFLOW_PROGRESS")
    if path and os.path.lexists(path):  # this runs after every call, and the file seldom exists
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)  # noqa: PTH108 - as above
