"""Load of the machine, sampled at most once a second."""

from __future__ import annotations

import os
import time

from raftflow.domain.contract.views import AgentLoad

_EVERY_S = 1.0
_BUSY_OVER_S = 4.0
"""About the time over which the share of busy CPUs is taken: what is shorter comes and goes with single tasks."""


class LoadSampler:
    """Reads /proc."""

    def __init__(self, proc: str = "/proc") -> None:
        """`proc` is where the system shows itself; tests have another place."""
        self._proc = proc
        self._at_s = 0.0
        self._load: AgentLoad | None = None
        self._ticks: list[tuple[float, int, int]] = []
        """When, and the CPUs' busy and whole time until then, oldest first."""

    def sample(self) -> AgentLoad:
        """Return the load, at most a second old."""
        now_s = time.monotonic()
        if self._load is None or now_s - self._at_s >= _EVERY_S:
            busy_per_mille, run_queue = self._cpus(now_s)
            self._load = AgentLoad(
                load_1m=round(os.getloadavg()[0], 2),
                cpu_count=os.cpu_count() or 1,
                memory_free_mib=self._memory_free_mib(),
                cpu_busy_per_mille=busy_per_mille,
                run_queue=run_queue,
            )
            self._at_s = now_s
        return self._load

    def _cpus(self, now_s: float) -> tuple[int, int]:
        """Return the share of busy time since some seconds ago (0 the first time), and who runs or wants to."""
        run_queue = 0
        with open(f"{self._proc}/stat", "rb") as file:  # noqa: PTH123 - half the cost
            # user nice system idle iowait irq softirq steal; guests are in user and nice already
            times = [int(word) for word in file.readline().split()[1:9]]
            for line in file:
                if line.startswith(b"procs_running "):
                    run_queue = max(int(line.split()[1]) - 1, 0)  # not this process, which reads
                    break
        whole = sum(times)
        busy = whole - times[3] - times[4]
        ticks = self._ticks
        ticks.append((now_s, busy, whole))
        while len(ticks) > 2 and now_s - ticks[1][0] >= _BUSY_OVER_S:
            del ticks[0]
        _, busy_before, whole_before = ticks[0]
        if whole <= whole_before:
            return 0, run_queue
        return min(max((busy - busy_before) * 1000 // (whole - whole_before), 0), 1000), run_queue

    def _memory_free_mib(self) -> int:
        with open(f"{self._proc}/meminfo", "rb") as file:  # noqa: PTH123 - half the cost
            for line in file:
                if line.startswith(b"MemAvailable:"):
                    return int(line.split()[1]) >> 10
        return 0
