"""The processes that the launcher has started or adopted: which there are, whose they are, how they are killed."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path

_CHUNK_BYTES = 1 << 16
_SHORT_BYTES = 1 << 11


class ChildList:
    """The children of this process, as the kernel lists them."""

    def __init__(self) -> None:
        self._fd = _open_child_list()

    def pids(self) -> list[int]:
        """Return the process ids; none if the kernel has no such list."""
        if self._fd is None:
            return []
        data = os.pread(self._fd, _CHUNK_BYTES, 0)
        # The kernel fills about a page at a time: what is much shorter is all.
        while len(data) >= _SHORT_BYTES and (more := os.pread(self._fd, _CHUNK_BYTES, len(data))):
            data += more
        return [int(word) for word in data.split()]


def _open_child_list() -> int | None:
    """Return a descriptor of the list of this process's children, None if the kernel has none."""
    try:
        return os.open(f"/proc/self/task/{os.getpid()}/children", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:  # CONFIG_PROC_CHILDREN is not set
        return None


def kill_group(pid: int, number: int) -> None:
    """Send a signal to a process group. It may have ended."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, number)


def kill_process(pid: int) -> bool:
    """Kill a process, with its group if it leads one. Returns whether it could be killed."""
    try:
        if os.getpgid(pid) == pid:
            os.killpg(pid, signal.SIGKILL)
        os.kill(pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def fence_of(pid: int) -> str | None:
    """Return the fence that the environment of a process names, None if it names none."""
    try:
        environ = Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return None
    for entry in environ.split(b"\0"):
        if entry.startswith(b"RAFTFLOW_FENCE="):
            return entry[len(b"RAFTFLOW_FENCE=") :].decode(errors="replace")
    return None
