"""What an agent's process does for itself before it runs tasks of its own user.

Tasks can send it signals, fill tables and, on many systems, look into its memory. Against SIGKILL of the same user
there is no help; against the rest there is.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
from collections.abc import Callable

FD_RESERVE = 128
"""Descriptors of a process that attempts do not get."""
FDS_PER_ATTEMPT = 4
"""Most that one attempt takes of one process: a pipe and a file for each stream, in the launcher."""
_FDS_MAX = 1 << 20

_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4
_PR_SET_CHILD_SUBREAPER = 36
_PR_SET_NO_NEW_PRIVS = 38

_ENV_START = 47
"""Of `/proc/PID/stat`, counted from the state of the process: where the memory of its first environment begins. Where
it ends is next."""

_FAULTS = {signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGSYS}
"""Sent by the kernel for what a process did itself. Ignored, they end it then, but not if somebody sends them."""
_LEFT = {signal.SIGKILL, signal.SIGSTOP, signal.SIGCHLD, signal.SIGCONT}


def attempts_max() -> int:
    """Return how many attempts may run at once with the descriptors that this process may have."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max((soft - FD_RESERVE) // FDS_PER_ATTEMPT, 1)


def raise_files_limit() -> int:
    """Raise the limit of open files as far as it goes. Returns what it was: tasks are given that."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _FDS_MAX if hard == resource.RLIM_INFINITY else min(hard, _FDS_MAX)
    if 0 <= soft < wanted:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return soft


def hide_memory() -> None:
    """Let no process of the same user trace this one or read its memory and environment: the token is in it."""
    _prctl(_PR_SET_DUMPABLE, 0)


def erase_environment(is_secret: Callable[[str], bool]) -> None:
    """Erase the environment with which this process was started, as the kernel shows it to others.

    `/proc/PID/environ` is the memory in which a process finds its environment at its start. It stays as it was,
    whatever the process sets and removes later, and root may read that of every process. This process keeps its
    variables: they are copied first. Those of which `is_secret` is true are removed from its environment too, so
    that no program inherits them.
    """
    for name in [name for name in os.environ if is_secret(name)]:
        del os.environ[name]
    for name, value in os.environ.items():
        with contextlib.suppress(OSError, ValueError):  # a name that nobody can look up
            os.putenv(name, value)  # the C library copies it, and has its pointer lead to the copy
    try:
        with open("/proc/self/stat", "rb", 0) as file:  # noqa: PTH123 - a file of the kernel
            fields = file.read().rpartition(b")")[2].split()
    except OSError:  # no /proc: nobody else has one either
        return
    begin, end = int(fields[_ENV_START]), int(fields[_ENV_START + 1])
    if 0 < begin < end:
        ctypes.memset(begin, 0, end - begin)


def adopt_orphans() -> None:
    """Become the parent of descendants whose own parents end."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def refuse_new_privileges() -> None:
    """Let no program that this process starts get the rights of another user, as sudo does. It cannot be undone."""
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)


def wake_when_parent_dies() -> None:
    """Have SIGCONT sent to this process when its parent dies: so that it learns of it even if it was stopped."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGCONT)


def ignore_signals(but: frozenset[signal.Signals] = frozenset()) -> None:
    """Ignore every signal that can be ignored, but some. Programs that are started later do not inherit it.

    Those that a fault raises are inherited as ignored: see `inherited`.
    """
    for number in signal.valid_signals() - _LEFT - but:
        if number in _FAULTS:
            signal.signal(number, signal.SIG_IGN)
        else:
            signal.signal(number, _nothing)  # exec resets what has a handler, and keeps what is ignored


def inherited() -> frozenset[signal.Signals]:
    """Return the signals that must be reset for a program that is started."""
    return frozenset(_FAULTS)


def _nothing(_number: int, _frame: object) -> None:
    pass


def _prctl(option: int, value: int) -> None:
    ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)
