"""soak: memory, latency and elections of a cluster that works at half of what it can, for as long as it is told.

First the rate is measured that the cluster can keep up with (`full_tasks_per_s`). Then small workflows come at half
that rate; each is timed from its submission until it has ended. Nobody is killed, so any new term is a false
election. A run is one stretch of `--seconds`; the memory of the leader is taken at its beginning and at its end.
"""

from __future__ import annotations

import asyncio
import time
from statistics import median
from typing import Any, Final

from raftflow.bench.figures import summary
from raftflow.bench.load.jobs import independent
from raftflow.bench.load.usage import machine_load, resident_bytes
from raftflow.bench.settings import BenchError, Settings
from raftflow.client.aio import AsyncClient
from raftflow.local.cluster import LocalCluster
from raftflow.local.cluster_file import ClusterOptions

BATCH: Final = 20
"""Tasks of one workflow."""
OPEN_MAX: Final = 200
"""Workflows that may be under way; when there are more, the cluster does not keep up and new ones wait."""
FIGURES: Final = (
    "ms_median",
    "ms_p99",
    "ms_worst",
    "tasks_per_s",
    "full_tasks_per_s",
    "false_elections",
    "leader_mib_first",
    "leader_mib_last",
    "follower_mib_last",
)
_WORKFLOW_LIMIT_S: Final = 120.0


def measure(settings: Settings) -> dict[str, Any]:
    """Keep a cluster at half load for `settings.runs` stretches of `settings.seconds`."""
    options = ClusterOptions(
        agents=settings.agents,
        agent_cpus=settings.slots / settings.agents,
        prefetch=settings.prefetch,
        lease_ms=10_000,
    )
    cluster = LocalCluster.create(settings.directory, options)
    try:
        cluster.start()
        runs = asyncio.run(_soak(cluster, settings))
    finally:
        cluster.down()
    return {"name": "soak", "runs": runs, **summary(runs, FIGURES), "seconds": settings.seconds}


async def _soak(cluster: LocalCluster, settings: Settings) -> list[dict[str, float]]:
    async with AsyncClient(cluster.urls) as client:
        await _work(client, independent(settings.tasks))
        full = settings.tasks / await _work(client, independent(settings.tasks))
        stretches = [await _stretch(cluster, client, full / 2, settings.seconds) for _ in range(settings.runs)]
    return [{**stretch, "full_tasks_per_s": full} for stretch in stretches]


async def _stretch(cluster: LocalCluster, client: AsyncClient, rate: float, seconds: float) -> dict[str, float]:
    load = machine_load()
    before = await asyncio.to_thread(_look, cluster)
    times: list[float] = []
    open_gate = asyncio.Semaphore(OPEN_MAX)

    async def one() -> None:
        try:
            times.append(await _work(client, independent(BATCH)))
        finally:
            open_gate.release()

    began = time.perf_counter()
    due = began
    async with asyncio.TaskGroup() as group:
        while time.perf_counter() - began < seconds:
            await open_gate.acquire()
            group.create_task(one())
            due += BATCH / rate
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
    passed = time.perf_counter() - began
    after = await asyncio.to_thread(_look, cluster)
    times.sort()
    return {
        "ms_median": median(times) * 1e3,
        "ms_p99": times[len(times) * 99 // 100] * 1e3,
        "ms_worst": times[-1] * 1e3,
        "tasks_per_s": BATCH * len(times) / passed,
        "false_elections": after["term"] - before["term"],
        "leader_mib_first": before["leader_mib"],
        "leader_mib_last": after["leader_mib"],
        "follower_mib_last": after["follower_mib"],
        "load_before": load,
    }


def _look(cluster: LocalCluster) -> dict[str, float]:
    leader = cluster.wait_leader()
    mib = {name: resident_bytes(cluster.pid_of(name) or 0) / 2**20 for name in cluster.replica_names}
    statuses = [status for status in cluster.statuses().values() if status is not None]
    return {
        "term": max(status.term for status in statuses),
        "leader_mib": mib.pop(leader),
        "follower_mib": max(mib.values(), default=0.0),
    }


async def _work(client: AsyncClient, document: dict[str, Any]) -> float:
    """Return the seconds from a workflow's submission to its end. Raises `BenchError` if it does not succeed."""
    began = time.perf_counter()
    workflow = (await client.submit(document)).id
    view = await client.wait(workflow, timeout_s=_WORKFLOW_LIMIT_S, check=False)
    if view.state != "succeeded":
        raise BenchError(f"a workflow ended as {view.state}")
    return time.perf_counter() - began
