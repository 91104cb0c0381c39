"""The mark of a program: whose a process is, told by a limit that it inherits and that the kernel does not use.

A process can clear its environment, leave its session and let its parent end. Then only its limits tell where it
comes from. `RLIMIT_LOCKS` has had no meaning since Linux 2.4, and every process inherits it. So each program begins
with a number of its own there. Without root's rights nobody can raise it again. A process that lowers it belongs to
an older program, or to none.

    bits 62 to 32   the work directory of the agent
    bits 31 to 0    the program
"""

from __future__ import annotations

import contextlib
import hashlib
import resource
from typing import Final

_RLIMIT_LOCKS: Final = 10
_ID_BITS: Final = 32
_ID_MASK: Final = (1 << _ID_BITS) - 1
_INSTANCE_MASK: Final = (1 << 30) - 1


class ProcessMarks:
    """The marks of the programs of one agent.

    Args:
        instance: what the environment of all that is started carries too (`WorkDirectory.mark`).
    """

    def __init__(self, instance: str) -> None:
        digest = hashlib.blake2b(instance.encode(errors="surrogateescape"), digest_size=4).digest()
        self._base = (1 << 30 | int.from_bytes(digest, "big") & _INSTANCE_MASK) << _ID_BITS
        self._own = resource.getrlimit(_RLIMIT_LOCKS)
        self.works = False
        """Whether programs can be marked: see `prepare`."""

    def prepare(self) -> None:
        """Find out whether this process can mark programs.

        It cannot if it is itself a process of another agent and not root's, or if the system does not let it.
        """
        for limits in (self._own, (resource.RLIM_INFINITY, resource.RLIM_INFINITY)):
            with contextlib.suppress(OSError, ValueError):
                resource.setrlimit(_RLIMIT_LOCKS, limits)
                resource.setrlimit(_RLIMIT_LOCKS, (self._base | _ID_MASK, limits[1]))
                resource.setrlimit(_RLIMIT_LOCKS, limits)
                self._own, self.works = limits, True
                return

    def begin(self, identity: int) -> None:
        """Let the next program that this process starts begin with a mark. Call `end` after it."""
        if self.works:
            resource.setrlimit(_RLIMIT_LOCKS, (self._base | identity & _ID_MASK, self._own[1]))

    def end(self, identity: int, pid: int) -> None:
        """Make the mark of the program that was started final; `pid` is 0 if none was."""
        if not self.works:
            return
        resource.setrlimit(_RLIMIT_LOCKS, self._own)
        mark = self._base | identity & _ID_MASK
        if pid:
            with contextlib.suppress(OSError):  # it has ended, or has another user by now
                resource.prlimit(pid, _RLIMIT_LOCKS, (mark, mark))

    def id_of(self, pid: int) -> int | None:
        """Return the id of the program that a process belongs to, None if it carries no mark of this agent."""
        try:
            soft, hard = resource.prlimit(pid, _RLIMIT_LOCKS)
        except PermissionError:  # of another user
            soft, hard = _read_limit(pid)
        except OSError:
            return None
        for mark in (hard, soft):  # a program may make a process before `end`: then only the soft one is set
            if mark & ~_ID_MASK == self._base:
                return mark & _ID_MASK
        return None


def _read_limit(pid: int) -> tuple[int, int]:
    """Return the soft and the hard limit of any process; -1 for no limit."""
    try:
        with open(f"/proc/{pid}/limits", encoding="ascii") as file:  # noqa: PTH123 - a file of the kernel
            line = next(each for each in file if each.startswith("Max file locks"))
    except (OSError, StopIteration):
        return -1, -1
    soft, hard = (-1 if word == "unlimited" else int(word) for word in line.split()[3:5])
    return soft, hard
