"""The niceness of programs: on a busy machine replicas, the agent and this launcher go first.

Linux has two numbers, and which of them counts depends on the machine:

    the niceness of a process     compares processes of one session
    that of a session's group     /proc/PID/autogroup: compares sessions, if `kernel.sched_autogroup_enabled` is 1

Each program has a session of its own, so both are set. A process in a control group with a CPU controller of its own
is compared by that group's weight, and neither counts outside of it. What the system refuses stays as it is.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections import deque

AGAIN_S = 0.1
"""The kernel changes the group of one session in so long a time, for all users but root."""


class TaskNiceness:
    """Sets the niceness of programs.

    Args:
        value: the niceness, if the agent itself has a smaller one; 0 for that of the agent.
    """

    def __init__(self, value: int) -> None:
        value = 0 if os.getpriority(os.PRIO_PROCESS, 0) >= value else value
        self._value = value
        self._waiting: deque[int] = deque()
        """Process ids of programs whose session's group could not be changed yet."""
        self._again_at_s = 0.0
        self._has_groups = value > 0 and os.path.exists("/proc/self/autogroup")  # noqa: PTH110 - a cheap import

    def apply_to_processes(self, pid: int) -> None:
        """Set the niceness of a program that has just been started."""
        if self._value:
            with contextlib.suppress(OSError):
                os.setpriority(os.PRIO_PGRP, pid, self._value)

    def apply_to_session(self, pid: int) -> None:
        """Set the niceness of the group of a program's session, now or as soon as the kernel allows it."""
        if self._has_groups:
            self._waiting.append(pid)
            self.work()

    def forget(self, pid: int) -> None:
        """Note that a program has ended: its id may belong to another process soon."""
        if self._waiting:
            with contextlib.suppress(ValueError):
                self._waiting.remove(pid)

    @property
    def due_s(self) -> float | None:
        """When `work` has something to do, on the monotonic clock; None if nothing waits."""
        return self._again_at_s if self._waiting else None

    def work(self) -> None:
        """Change the groups that wait."""
        while self._waiting and self._again_at_s <= time.monotonic():
            try:
                _write_group(self._waiting[0], self._value)
            except BlockingIOError:
                self._again_at_s = time.monotonic() + AGAIN_S
                return
            except OSError:
                pass  # it has ended, or the system does not allow it
            self._waiting.popleft()


def _write_group(pid: int, value: int) -> None:
    """Set the niceness of a session's group. Raises `BlockingIOError` if it is too early, `OSError` if refused."""
    fd = os.open(f"/proc/{pid}/autogroup", os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, b"%d" % value)
    finally:
        os.close(fd)
