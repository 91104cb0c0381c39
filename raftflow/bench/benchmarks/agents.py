"""agents: what thousands of long-polling agents cost the leader, idle and at work.

The agents are connections of one load generator, a process of its own that runs nothing: it takes assignments and
reports them at once as succeeded. So what is measured is the leader, its log and its polls.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any, Final

import uvloop

from raftflow.bench.figures import summary
from raftflow.bench.load.http import LoadConnection
from raftflow.bench.load.jobs import independent
from raftflow.bench.load.usage import cpu_s, machine_load, resident_bytes
from raftflow.bench.load.workers import SimulatedAgent, generators
from raftflow.bench.settings import BenchError, Settings
from raftflow.domain.contract.views import Assignment, ReportedEnd
from raftflow.local.cluster import LocalCluster
from raftflow.local.cluster_file import ClusterOptions

BUSY_TASKS_MAX: Final = 10_000
"""Tasks of the busy phase: ten for each agent, and no more than this."""
FIGURES: Final = (
    "idle_leader_cores",
    "idle_leader_mib",
    "idle_polls_per_s",
    "wake_seconds",
    "wake_ms_median",
    "busy_tasks_per_s",
    "busy_leader_us_per_task",
    "register_per_s",
)
_CONNECTING: Final = 64
"""Agents that register at the same time."""
_LIMIT_S: Final = 300.0


def measure(settings: Settings) -> dict[str, Any]:
    """Run the fleet of `settings.tasks` agents `settings.runs` times, each time with a cluster of its own."""
    runs = []
    for number in range(settings.runs):
        cluster = LocalCluster.create(settings.directory / f"run{number}", ClusterOptions(agents=0, lease_ms=10_000))
        try:
            cluster.start()
            leader = cluster.wait_leader()
            pid = cluster.pid_of(leader)
            if pid is None:
                raise BenchError(f"the leader {leader} has ended")
            load = machine_load()
            with generators(1) as pool:
                work = pool.submit(_fleet, cluster.url_of(leader), pid, settings.tasks, settings.seconds)
                runs.append({**work.result(timeout=2 * _LIMIT_S), "load_before": load})
        finally:
            cluster.down()
    return {"name": "agents", "runs": runs, **summary(runs, FIGURES), "agents": settings.tasks}


def _fleet(url: str, leader_pid: int, agents: int, seconds: float) -> dict[str, float]:
    """Be the load generator."""
    return uvloop.run(_AgentFleet(url, leader_pid, agents).run(agents, seconds))


class _AgentFleet:
    """Many agents in one process."""

    def __init__(self, url: str, leader_pid: int, agents: int) -> None:
        self._url = url
        self._leader_pid = leader_pid
        self._agents = [
            SimulatedAgent(f"agent{number}", on_assigned=self._arrived, on_confirmed=self._confirm)
            for number in range(agents)
        ]
        self._registered = 0
        self._phase = "registered"
        self._arrivals: list[float] = []
        """When each assignment has arrived."""
        self._confirmed = 0
        """Ends that the leader has accepted."""
        self._news = asyncio.Event()

    async def run(self, agents: int, seconds: float) -> dict[str, float]:
        """Go through all phases and return the figures. Raises `BenchError`, `TimeoutError`."""
        memory = resident_bytes(self._leader_pid)
        began = time.perf_counter()
        gate = asyncio.Semaphore(_CONNECTING)
        try:
            async with asyncio.TaskGroup() as group:
                polling = [group.create_task(self._agent(agent, gate)) for agent in self._agents]
                async with asyncio.timeout(_LIMIT_S):
                    while self._registered < agents:
                        self._news.clear()
                        await self._news.wait()
                figures = {"register_per_s": agents / (time.perf_counter() - began)}
                figures |= await self._idle(memory, seconds)
                figures |= await self._wake(agents)
                figures |= await self._busy(min(10 * agents, BUSY_TASKS_MAX))
                for task in polling:
                    task.cancel()
        except BaseExceptionGroup as failures:
            raise failures.exceptions[0] from failures
        return figures

    async def _idle(self, memory: int, seconds: float) -> dict[str, float]:
        self._phase = "were idle"
        await asyncio.sleep(min(seconds, 3.0))  # every agent has polled once
        polls, cpu, began = self._polls(), cpu_s(self._leader_pid), time.perf_counter()
        await asyncio.sleep(seconds)
        passed = time.perf_counter() - began
        return {
            "idle_leader_cores": (cpu_s(self._leader_pid) - cpu) / passed,
            "idle_leader_mib": (resident_bytes(self._leader_pid) - memory) / 2**20,
            "idle_polls_per_s": (self._polls() - polls) / passed,
        }

    def _polls(self) -> int:
        return sum(agent.polls for agent in self._agents)

    async def _wake(self, agents: int) -> dict[str, float]:
        """One task for every agent: from the submission until each has it."""
        self._phase = "were woken with work for each"
        began = await self._work(agents)
        times = sorted(at - began for at in self._arrivals)
        return {"wake_seconds": times[-1], "wake_ms_median": times[len(times) // 2] * 1e3}

    async def _busy(self, tasks: int) -> dict[str, float]:
        self._phase = "were busy"
        cpu = cpu_s(self._leader_pid)
        began = await self._work(tasks)
        seconds = time.perf_counter() - began
        spent = cpu_s(self._leader_pid) - cpu
        return {"busy_tasks_per_s": tasks / seconds, "busy_leader_us_per_task": spent / tasks * 1e6}

    async def _work(self, tasks: int) -> float:
        """Submit tasks and wait until all are reported; returns when they were submitted."""
        self._arrivals.clear()
        self._confirmed = 0
        client = await LoadConnection.open(self._url)
        began = time.perf_counter()
        await client.post("/v1/workflows", independent(tasks))
        client.close()
        async with asyncio.timeout(_LIMIT_S):
            while self._confirmed < tasks:
                self._news.clear()
                await self._news.wait()
        return began

    async def _agent(self, agent: SimulatedAgent, gate: asyncio.Semaphore) -> None:
        """Be one agent: register, then poll until cancelled. Raises `BenchError`."""
        async with gate:
            await agent.register(self._url)
        self._registered += 1
        self._news.set()
        try:
            await agent.work()
        except BenchError as error:
            raise BenchError(f"{error} (the agents {self._phase})") from error

    def _arrived(self, _: Assignment) -> None:
        self._arrivals.append(time.perf_counter())

    def _confirm(self, _: ReportedEnd) -> None:
        self._confirmed += 1
        self._news.set()
