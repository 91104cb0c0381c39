"""A replica asks for more of a busy machine's time than tasks get, so that it answers before its peers miss it."""

from __future__ import annotations

import logging
import os
from typing import Final

NICENESS: Final = -10
"""Below 0 for more time than other programs. Root may set it, or a service with `LimitNICE`."""

_log = logging.getLogger(__name__)


def ask_for_priority() -> bool:
    """Lower the niceness of this process to `NICENESS` where that is allowed. Return whether it has it.

    A replica works without it: where it is not allowed, nothing changes.
    """
    try:
        if os.getpriority(os.PRIO_PROCESS, 0) > NICENESS:
            os.setpriority(os.PRIO_PROCESS, 0, NICENESS)
    except OSError as error:
        _log.info("this replica runs with the priority of other programs: %s", error)
        return False
    return True
