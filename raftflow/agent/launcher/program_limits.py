"""The limits of the system that programs of tasks begin with, and what no program may have."""

from __future__ import annotations

import contextlib
import resource
from typing import Final

import msgspec

_UNLIMITED: Final = resource.RLIM_INFINITY


class ProgramLimits(msgspec.Struct, frozen=True, kw_only=True):
    """What every program begins with. It never has a core file."""

    files: int = -1
    """Soft limit of open files; -1 for the launcher's own."""
    files_max: int = 0
    """Hard limit of open files; 0 for the launcher's own."""
    file_bytes_max: int = 0
    """Size of the largest file that it may write; 0 for no limit."""
    processes_max: int = 0
    """Processes of its user that may exist when it makes another one; 0 for no limit. Means nothing for root."""
    niceness: int = 0
    """See `TaskNiceness`."""
    new_privileges: bool = True
    """Whether it may get the rights of another user from a program such as sudo."""


class ProgramRlimits:
    """Sets the limits of programs that this process starts. It has one thread, and keeps none of them itself.

    A program inherits its soft limits when it starts, so for a moment they are those of this process. The hard ones,
    which nobody without root's rights could raise again, are set a few microseconds later.
    """

    def __init__(self, limits: ProgramLimits) -> None:
        self._soft: list[tuple[int, tuple[int, int], tuple[int, int]]] = []
        self._hard: list[tuple[int, tuple[int, int]]] = []
        self._limit(resource.RLIMIT_NOFILE, limits.files, limits.files_max)
        self._limit(resource.RLIMIT_FSIZE, limits.file_bytes_max or -1, limits.file_bytes_max)
        if limits.processes_max:  # never this process's own: it could not start the program then
            self._limit(resource.RLIMIT_NPROC, -1, limits.processes_max)
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

    def _limit(self, which: int, soft: int, hard: int) -> None:
        """Note a limit; -1 as `soft` and 0 as `hard` mean that this process's own stays."""
        own = resource.getrlimit(which)
        if hard:
            hard = hard if own[1] == _UNLIMITED else min(hard, own[1])
            soft = min(hard, own[0] if soft < 0 and own[0] != _UNLIMITED else soft if soft >= 0 else hard)
            self._hard.append((which, (soft, hard)))
        if soft >= 0 and soft != own[0] and which != resource.RLIMIT_NPROC:
            self._soft.append((which, (soft, own[1]), own))

    def begin(self) -> None:
        """Let the next program begin with the limits. Call `end` after it."""
        for which, limit, _ in self._soft:
            resource.setrlimit(which, limit)

    def end(self, pid: int) -> None:
        """Take the limits back, and make those of the program final; `pid` is 0 if none was started."""
        for which, _, own in self._soft:
            resource.setrlimit(which, own)
        if pid:
            for which, limit in self._hard:
                with contextlib.suppress(OSError):  # it has ended
                    resource.prlimit(pid, which, limit)
