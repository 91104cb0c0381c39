"""Load of the machine, sampled at most once a second."""

from __future__ import annotations

import os
import time

from raftflow.domain.contract import AgentLoad

_EVERY_S = 1.0


class LoadSampler:
    """Reads /proc."""

    def __init__(self) -> None:
        self._at_s = 0.0
        self._load: AgentLoad | None = None

    def sample(self) -> AgentLoad:
        """Return the load, at most a second old."""
        now_s = time.monotonic()
        if self._load is None or now_s - self._at_s >= _EVERY_S:
            self._load = AgentLoad(
                load_1m=round(os.getloadavg()[0], 2),
                cpu_count=os.cpu_count() or 1,
                memory_free_mib=_memory_free_mib(),
            )
            self._at_s = now_s
        return self._load


def _memory_free_mib() -> int:
    with open("/proc/meminfo", "rb") as file:  # noqa: PTH123 - half the cost
        for line in file:
            if line.startswith(b"MemAvailable:"):
                return int(line.split()[1]) >> 10
    return 0
