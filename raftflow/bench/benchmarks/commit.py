"""commit: acknowledged writes through HTTP. One client at a time for latency, many for throughput, larger payloads.

A write is the submission of a workflow with one small task, sent to the leader: read, checked, replicated, on two
disks of three, applied, answered. There are no agents. Each run has a cluster of its own.

`transitions_per_s` is the other half: 256 connections of clients and simulated agents, on which tasks live whole
lives; `benchmarks/transitions.py` says what is counted.
"""

from __future__ import annotations

import asyncio
import time
from itertools import count
from statistics import median
from typing import Any, Final

import uvloop

from raftflow.bench.benchmarks import transitions
from raftflow.bench.figures import summary, times_better
from raftflow.bench.load.http import LoadConnection
from raftflow.bench.load.peer import Peer
from raftflow.bench.load.usage import Roles, machine_load
from raftflow.bench.load.workers import generators
from raftflow.bench.settings import Settings
from raftflow.local.cluster import LocalCluster
from raftflow.local.cluster_file import ClusterOptions

CLIENTS: Final = (4, 16, 64, 256)
PAYLOADS: Final = (256, 4_096, 32_768)
"""Bytes. The smallest is what latency and throughput are measured with."""
_WARM_UP_S: Final = 0.5
_LIMIT_S: Final = 180.0
"""For the many clients, beyond the seconds that they are asked to go on."""


def measure(settings: Settings) -> dict[str, Any]:
    """Run everything `settings.runs` times, beside etcd if the settings say so."""
    runs: list[dict[str, Any]] = []
    theirs: dict[str, list[dict[str, float]]] = {name: [] for name in settings.versus}
    versions: dict[str, dict[str, str]] = {}
    for number in range(settings.runs):
        cluster = LocalCluster.create(settings.directory / f"run{number}", ClusterOptions(agents=0))
        try:
            cluster.start()
            run = uvloop.run(_run(cluster, settings.seconds))
        finally:
            cluster.down()
        runs.append({**run, **_many_clients(settings, number)})
        for name in settings.versus:
            with Peer(name, "commit", settings) as peer:
                theirs[name].append(peer.ask())
                versions[name] = peer.versions
    figures = ["ms_median", "ms_p99", "per_s", *(f"per_s_{clients}" for clients in CLIENTS)]
    figures += [*(f"ms_median_{size}" for size in PAYLOADS[1:]), "transitions_per_s"]
    result: dict[str, Any] = {"name": "commit", "runs": runs, **summary(runs, figures), "versus": {}}
    for name, found in theirs.items():
        other = summary(found, found[0])
        ratios = {
            figure: times_better(figure, result["median"][figure], other["median"][figure]) for figure in found[0]
        }
        result["versus"][name] = {
            **other,
            "ratio": ratios["ms_median"],
            "ratios": ratios,
            "versions": versions[name],
        }
    return result


def _many_clients(settings: Settings, number: int) -> dict[str, Any]:
    """Let the tasks of many clients live on a cluster of their own."""
    cluster = LocalCluster.create(settings.directory / f"many{number}", ClusterOptions(agents=0, lease_ms=10_000))
    try:
        cluster.start()
        leader = cluster.wait_leader()
        pids = {name: cluster.pid_of(name) or 0 for name in cluster.replica_names}
        with generators(1) as pool:
            work = pool.submit(transitions.load, cluster.url_of(leader), pids, leader, settings.seconds)
            found = work.result(timeout=settings.seconds + _LIMIT_S)
        changed = cluster.wait_leader() != leader
    finally:
        cluster.down()
    return {
        "transitions_per_s": found["transitions"] / found["seconds"],
        "many_clients": {**found, "leader_changed": changed},
    }


async def _run(cluster: LocalCluster, seconds: float) -> dict[str, Any]:
    url = cluster.url_of(await asyncio.to_thread(cluster.wait_leader))
    run: dict[str, Any] = {"load_before": machine_load()}
    await _load(url, 4, _WARM_UP_S, PAYLOADS[0])
    for size in PAYLOADS:
        times = sorted((await _load(url, 1, seconds, size))[0])
        end = "" if size == PAYLOADS[0] else f"_{size}"
        run[f"ms_median{end}"] = median(times) * 1e3
        run[f"ms_p99{end}"] = times[len(times) * 99 // 100] * 1e3
    for clients in CLIENTS:
        roles = await asyncio.to_thread(Roles, cluster)
        times, took_s = await _load(url, clients, seconds, PAYLOADS[0])
        run[f"per_s_{clients}"] = len(times) / took_s
        run[f"cpu_us_per_write_{clients}"] = roles.spent_us_each(len(times))
    run["per_s"] = max(run[f"per_s_{clients}"] for clients in CLIENTS)
    return run


async def _load(url: str, clients: int, seconds: float, size: int) -> tuple[list[float], float]:
    """Write for some seconds, every client one at a time and at least once.

    The clock starts when all clients are connected.

    Returns:
        The seconds that each write took, and the seconds that all took together.
    """
    task = {"id": "t", "command": ["true"], "env": {"PAYLOAD": "x" * size}}
    document = {"name": "commit", "tasks": [task]}
    times: list[float] = []
    stamp = f"{time.time_ns():x}"
    numbers = count()
    connected = asyncio.Barrier(clients + 1)

    async def client() -> None:
        connection = await LoadConnection.open(url)
        try:
            await connected.wait()
            now = time.perf_counter()
            until = now + seconds
            going = True
            while going:
                began = now
                await connection.post("/v1/workflows", document, f"Idempotency-Key: {stamp}-{next(numbers)}\r\n")
                now = time.perf_counter()
                times.append(now - began)
                going = now < until
        finally:
            connection.close()

    async with asyncio.TaskGroup() as group:
        for _ in range(clients):
            group.create_task(client())
        await connected.wait()
        start = time.perf_counter()
    return times, time.perf_counter() - start
