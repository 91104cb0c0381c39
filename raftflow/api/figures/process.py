"""Figures of this process, from the operating system."""

from __future__ import annotations

import os
import resource
import time
from typing import Final, NamedTuple

_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")
_TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")


class ProcessFigures(NamedTuple):
    """What a process uses."""

    cpu_s: float
    """CPU time of all its threads, in user and kernel mode."""
    resident_bytes: int
    virtual_bytes: int
    open_fds: int
    max_fds: int
    started_s: float
    """Seconds since the epoch."""


def process_figures() -> ProcessFigures:
    """Read the figures of this process from `/proc`."""
    with open("/proc/self/statm", "rb") as file:  # noqa: PTH123 - it is read each time that metrics are
        virtual, resident = file.read().split()[:2]
    used = resource.getrusage(resource.RUSAGE_SELF)
    return ProcessFigures(
        cpu_s=used.ru_utime + used.ru_stime,
        resident_bytes=int(resident) * _PAGE_BYTES,
        virtual_bytes=int(virtual) * _PAGE_BYTES,
        open_fds=len(os.listdir("/proc/self/fd")) - 1,  # without the descriptor that lists
        max_fds=resource.getrlimit(resource.RLIMIT_NOFILE)[0],
        started_s=_started_s(),
    )


def _started_s() -> float:
    with open("/proc/self/stat", "rb") as file:  # noqa: PTH123 - as above
        since_boot_s = int(file.read().rpartition(b")")[2].split()[19]) / _TICKS_PER_S
    return round(time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) + since_boot_s, 2)
