"""What the processes of an attempt use, read from /proc.

Only files are read that the kernel answers without waiting for the process (`stat`, `status`, `children`): the
launcher calls this, and must never hang. Kernels without CONFIG_PROC_CHILDREN show the first process of a tree only.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable, Iterator
from typing import NamedTuple

PROCESSES_MAX = 4_096
"""Processes of one tree that are looked at; the rest is left out."""

_ROUNDS_MAX = 20
_TICK_MS = 1000 // os.sysconf("SC_CLK_TCK")
_STAT_BYTES = 1 << 10
_STATUS_BYTES = 1 << 12
_MEMORY = (b"VmRSS", b"RssAnon", b"RssShmem", b"RssFile")
_CHILDREN_BYTES = 1 << 16


class ProcessTreeUsage(NamedTuple):
    """Processes and what they use together."""

    cpu_ms: int
    """CPU time, with that of children that have ended and were waited for."""
    held_kib: int
    """Sum of the memory that they hold (`ResidentMemory`); what several of them share is counted once for each."""
    files_kib: int
    """Sum of their resident pages of files."""
    pids: list[int]


class ResidentMemory(NamedTuple):
    """Resident memory of a process."""

    held_kib: int
    """What the system cannot take back without swapping: anonymous memory, and shared memory (tmpfs)."""
    files_kib: int
    """Pages of mapped files, its program and libraries among them: the system drops them when it needs memory."""


class _Stat(NamedTuple):
    """Of one process."""

    state: bytes
    """`R`, `S`, `D`, `T` (stopped), `t` (traced), `Z` (ended, and nobody has asked how), ..."""
    parent: int
    session: int
    ticks: int
    threads: int


def read_tree(roots: Iterable[int]) -> ProcessTreeUsage:
    """Return what these processes and their descendants use now; those that have ended meanwhile use nothing."""
    ticks, held_kib, files_kib = 0, 0, 0
    pids: list[int] = []
    waiting = list(roots)
    while waiting and len(pids) < PROCESSES_MAX:
        pid = waiting.pop()
        stat = _stat(pid)
        if stat is None:
            continue
        pids.append(pid)
        ticks += stat.ticks
        memory = memory_of(pid)
        held_kib += memory.held_kib
        files_kib += memory.files_kib
        waiting.extend(_children(pid, stat.threads))
    return ProcessTreeUsage(ticks * _TICK_MS, held_kib, files_kib, pids)


def memory_of(pid: int) -> ResidentMemory:
    """Return the memory of a process, nothing if it has ended."""
    return parse_memory(_read(f"/proc/{pid}/status", _STATUS_BYTES))


def parse_memory(status: bytes) -> ResidentMemory:
    """Return the memory that a file `status` of /proc reports."""
    found = [0, 0, 0, 0]
    at = status.find(b"\nVmRSS:")
    if at >= 0:
        for line in status[at + 1 :].splitlines()[:4]:
            name, _, value = line.partition(b":")
            if name in _MEMORY:
                found[_MEMORY.index(name)] = int(value.split()[0])
    total, anonymous, shared, files = found
    if total and not (anonymous or shared or files):  # Linux before 4.5 tells the sum only
        return ResidentMemory(total, 0)
    return ResidentMemory(anonymous + shared, files)


def session_of(pid: int) -> int:
    """Return the id of the process's session, 0 if it has ended."""
    stat = _stat(pid)
    return 0 if stat is None else stat.session


def state_of(pid: int) -> str:
    """Return the letter of a process's state: `T` stopped, `t` held by one that traces it; "" if it is gone."""
    stat = _stat(pid)
    return "" if stat is None else stat.state.decode()


def kill_descendants(root: int) -> int:
    """Kill every descendant of a process, but not the process itself. Returns how many.

    Parents are stopped first and killed last: the children of a dead parent belong to another process, and a parent
    that runs may make more. Rounds go on until one finds nothing. So processes that were made meanwhile, or whose
    parent ended while this looked, are found in the next round, as long as their ancestors up to the process itself
    are alive, or it adopts them.
    """
    killed: set[tuple[int, int]] = set()
    for _ in range(_ROUNDS_MAX):
        found: list[tuple[int, int]] = []
        waiting = [root]
        while waiting and len(found) < PROCESSES_MAX:
            parent = waiting.pop()
            stat = _stat(parent)
            if stat is None:
                continue
            for pid in _children(parent, stat.threads):
                waiting.append(pid)
                if (pid, parent) not in killed and _signal_child(pid, parent, signal.SIGSTOP):
                    found.append((pid, parent))
        if not found:
            break
        killed |= {each for each in reversed(found) if _signal_child(*each, signal.SIGKILL)}
    return len(killed)


def kill_tree(root: int) -> None:
    """Kill a child of this process, and every descendant of it. It has no chance to make another one."""
    if _signal_child(root, os.getpid(), signal.SIGSTOP):
        kill_descendants(root)
        _signal_child(root, os.getpid(), signal.SIGKILL)


def _signal_child(pid: int, parent: int, signum: signal.Signals) -> bool:
    """Send a signal to a process if it is the child of `parent` and alive. Returns whether it was."""
    try:
        handle = os.pidfd_open(pid)
    except OSError:
        return False
    try:
        stat = _stat(pid)  # of the process behind the handle, or of none: the number may be another's by now
        if stat is None or stat.parent != parent or stat.state in (b"Z", b"X"):
            return False
        signal.pidfd_send_signal(handle, signum)
    except OSError:  # it has ended, or belongs to another user
        return False
    finally:
        os.close(handle)
    return True


def _stat(pid: int) -> _Stat | None:
    data = _read(f"/proc/{pid}/stat", _STAT_BYTES)
    # The name of the program may hold anything, so the fields are counted from its closing bracket.
    fields = data[data.rfind(b")") + 2 :].split()
    if len(fields) < 18:
        return None
    ticks = int(fields[11]) + int(fields[12]) + int(fields[13]) + int(fields[14])
    return _Stat(fields[0], int(fields[1]), int(fields[3]), ticks, int(fields[17]))


def _children(pid: int, threads: int) -> Iterator[int]:
    """Yield the children of a process. Each thread has its own list of those that it made."""
    names: Iterable[str] = (str(pid),)
    if threads > 1:
        try:
            names = os.listdir(f"/proc/{pid}/task")
        except OSError:
            return
    for name in names:
        yield from map(int, _read(f"/proc/{pid}/task/{name}/children", _CHILDREN_BYTES).split())


def _read(path: str, bytes_max: int) -> bytes:
    """Return a file of /proc; nothing if the process has ended."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        return os.read(fd, bytes_max)
    except OSError:
        return b""
    finally:
        os.close(fd)
