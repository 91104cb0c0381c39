"""CPU seconds and memory of the processes that a benchmark has started, by role, from /proc."""

from __future__ import annotations

import os
import resource
import time
from pathlib import Path

from raftflow.local.cluster import LocalCluster

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_PROCESS_CLOCK = 2
"""`CPUCLOCK_SCHED` of another process: its time in nanoseconds, where /proc counts ticks of 10 ms."""
_PAGE_BYTES = resource.getpagesize()


def _fields(pid: int) -> list[str]:
    """Return the fields of /proc/PID/stat behind the name, none if the process is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return []


def cpu_s(pid: int) -> float:
    """Return the CPU seconds of a process and of its children that have ended; 0 if it is gone."""
    fields = _fields(pid)
    try:
        own_s = time.clock_gettime((~pid << 3) | _PROCESS_CLOCK)
    except OSError:
        return 0.0
    return own_s + sum(int(field) for field in fields[13:15]) / _TICKS_PER_S


def resident_bytes(pid: int) -> int:
    """Return the resident memory of a process; 0 if it is gone."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1]) * _PAGE_BYTES
    except OSError:
        return 0


def descendants(pid: int) -> list[int]:
    """Return the pids of all that a process has started, directly or not, as far as they run."""
    children: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        fields = _fields(int(entry)) if entry.isdigit() else []
        if fields:
            children.setdefault(int(fields[1]), []).append(int(entry))
    found = list(children.get(pid, []))
    for each in found:
        found.extend(children.get(each, []))
    return found


class Roles:
    """CPU time by role: the leader, one follower on average, all agents, all that runs their tasks, this process."""

    def __init__(self, cluster: LocalCluster) -> None:
        """Note who leads now, and start the clock."""
        self._cluster = cluster
        self._name = leader = cluster.wait_leader()
        pids = {name: cluster.pid_of(name) for name in (*cluster.replica_names, *cluster.agent_names)}
        self._leader = [pid for name, pid in pids.items() if name == leader and pid]
        self._followers = [
            pid for name, pid in pids.items() if name in cluster.replica_names and name != leader and pid
        ]
        self._agents = [pid for name, pid in pids.items() if name in cluster.agent_names and pid]
        self._before = self._now()

    def _now(self) -> dict[str, float]:
        workers = [child for agent in self._agents for child in descendants(agent)]
        times = os.times()
        return {
            "leader": sum(map(cpu_s, self._leader)),
            "follower": sum(map(cpu_s, self._followers)) / max(1, len(self._followers)),
            "agents": sum(map(cpu_s, self._agents)),
            "workers": sum(map(cpu_s, workers)),
            "client": times.user + times.system,
        }

    def leader_changed(self) -> bool:
        """Tell whether another replica leads now: then `leader` and `follower` are mixed in the figures."""
        return self._cluster.wait_leader() != self._name

    def spent_s(self) -> dict[str, float]:
        """Return the CPU seconds of each role since the start."""
        now = self._now()
        return {role: round(now[role] - self._before[role], 3) for role in now}

    def spent_us_each(self, count: int) -> dict[str, float]:
        """Return the CPU microseconds of each role since the start, for one of `count` things."""
        return {role: round(seconds / count * 1e6, 1) for role, seconds in self.spent_s().items()}


def machine_load() -> float:
    """Return the load average of the last minute: what other work disturbs the figures."""
    return round(os.getloadavg()[0], 2)
