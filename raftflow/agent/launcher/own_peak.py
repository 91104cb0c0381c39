"""The largest memory that the launcher itself has had. A program begins its life in it."""

from __future__ import annotations

import contextlib
import time

_OWN_PEAK_S = 5.0
"""How long the launcher's own peak is taken for nearly unchanged; it holds a few MiB for each program that runs."""
_OWN_GROWTH_KIB = 64 << 10
"""It does not grow by more in that time."""
_SLACK_KIB = 512
"""The system counts pages of each CPU by itself, and adds them up now and then."""


class OwnPeak:
    """Tells peaks of programs from the launcher's own.

    `ru_maxrss` of this process says too much: it counts the program that started it (Linux keeps it over `exec`).
    """

    def __init__(self) -> None:
        self._peak_kib = 0
        self._until_s = 0.0

    def covers(self, rss_max_kib: int) -> bool:
        """Tell whether the largest memory of a program may be that of the launcher."""
        if rss_max_kib <= self._peak_kib:
            return True
        now_s = time.monotonic()
        # Soon after the last look the launcher cannot have grown by much.
        if now_s >= self._until_s or rss_max_kib <= self._peak_kib + _OWN_GROWTH_KIB:
            self._until_s = now_s + _OWN_PEAK_S
            with contextlib.suppress(OSError), open("/proc/self/status", "rb") as file:  # noqa: PTH123 - half the cost
                for line in file:
                    if line.startswith(b"VmHWM:"):
                        self._peak_kib = int(line.split()[1]) + _SLACK_KIB
        return rss_max_kib <= self._peak_kib
