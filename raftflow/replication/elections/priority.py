"""A replica asks for more of a busy machine's time than tasks get, so that it answers before its peers miss it.

Linux has two numbers. The niceness of a process compares processes of one session. Where
`kernel.sched_autogroup_enabled` is 1, sessions are compared by the niceness of their groups
(`/proc/PID/autogroup`), and that of a process counts inside its session only. So a replica that leads a session, as
a service or one of `raftflow cluster up` does, asks for both. In a control group with a CPU controller of its own the
weight of that group counts instead: the operator sets it (`CPUWeight=` of a service).
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Final

NICENESS: Final = -10
"""Below 0 for more time than other programs. Root may set it, or a service with `LimitNICE`."""

SESSION_GROUP: Final = Path("/proc/self/autogroup")

_log = logging.getLogger(__name__)


def ask_for_priority() -> bool:
    """Lower the niceness of this process, and of its session, to `NICENESS` where that is allowed.

    Return whether it has it. A replica works without it: where it is not allowed, nothing changes.
    """
    try:
        if os.getpriority(os.PRIO_PROCESS, 0) > NICENESS:
            os.setpriority(os.PRIO_PROCESS, 0, NICENESS)
        _raise_session()
    except OSError as error:
        _log.info("this replica runs with the priority of other programs: %s", error)
        return False
    return True


def _raise_session() -> None:
    """Lower the niceness of this session, unless it belongs to somebody else, such as a shell.

    Raises `OSError` if that is not allowed.
    """
    if os.getsid(0) != os.getpid():
        return
    niceness = session_niceness()
    if niceness is not None and niceness > NICENESS:
        SESSION_GROUP.write_text(str(NICENESS))


def session_niceness() -> int | None:
    """Return the niceness of this process's session, None where sessions have none.

    The file is absent without the option in the kernel. It is empty for a session that has no group: that of the
    machine's first process, and of a container's. Raises `OSError`.
    """
    words = SESSION_GROUP.read_text().split() if SESSION_GROUP.exists() else []
    return int(words[-1]) if words else None
