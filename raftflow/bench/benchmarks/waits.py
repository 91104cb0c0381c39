"""waits: from a signal to the code that runs behind it, and what parked tasks cost.

All tasks of a workflow park first, each for a signal of its own name. Then a client sends the signals, one after the
other at random moments. The time is that from the call of the client to the first line behind the wait, on the same
machine: a commit, a placement, an assignment, and a run of the function from its beginning in a kept worker.
"""

from __future__ import annotations

import asyncio
import random
import time
from typing import TYPE_CHECKING, Any, Final

from raftflow.bench.figures import summary
from raftflow.bench.load.jobs import RUN_LIMIT_S
from raftflow.bench.load.usage import machine_load
from raftflow.bench.settings import BenchError, Settings
from raftflow.client.aio import AsyncClient
from raftflow.local.cluster import LocalCluster
from raftflow.local.cluster_file import ClusterOptions

if TYPE_CHECKING:
    from collections.abc import Mapping

FIGURES: Final = ("signal_ms_p50", "signal_ms_p99")
_PAUSE_MAX_S: Final = 0.03
"""Longest pause between two signals."""
_LOOK_EVERY_S: Final = 0.05


def measure(settings: Settings) -> dict[str, Any]:
    """Run it `settings.runs` times with `settings.tasks` signals, and return the figures."""
    cluster = LocalCluster.create(settings.directory, ClusterOptions(agents=0, lease_ms=10_000))
    runs: list[dict[str, Any]] = []
    try:
        cluster.start()
        cpus = settings.slots / settings.agents
        for number in range(settings.agents):
            arguments = ["--cpus", f"{cpus:g}", "--memory", "8GiB", "--prefetch", str(settings.prefetch)]
            cluster.add_agent(f"a{number + 1}", arguments)
        cluster.wait_agents()
        asyncio.run(_one_run(cluster, min(settings.tasks, 20)))  # workers start, connections are made
        runs += [asyncio.run(_one_run(cluster, settings.tasks)) for _ in range(settings.runs)]
    finally:
        cluster.down()
    fixed = {"slots": settings.slots, "agents": settings.agents}
    figures = summary(runs, FIGURES)
    return {"name": "waits", "runs": runs, **figures, "versus": {}, "tasks": settings.tasks, "fixed": fixed}


async def _one_run(cluster: LocalCluster, count: int) -> dict[str, Any]:
    load = machine_load()
    names = [f"go-{number}" for number in range(count)]
    tasks = [
        {"id": name, "python": "raftflow.bench.load.wait_tasks:woken_at", "args": [name], "kind": "wait"}
        for name in names
    ]
    async with AsyncClient(cluster.urls) as client:
        workflow = (await client.submit({"name": "waits", "tasks": tasks})).id
        await _until_parked(client, workflow, count)
        draw = random.Random(count)  # noqa: S311 - only the order
        draw.shuffle(names)
        sent_s: dict[str, float] = {}
        for name in names:
            await asyncio.sleep(draw.random() * _PAUSE_MAX_S)
            sent_s[name] = time.time()
            await client.send_signal(workflow, name)
        view = await client.wait(workflow, timeout_s=RUN_LIMIT_S, check=False)
        if view.state != "succeeded":
            raise BenchError(f"the workflow ended as {view.state}: {view.tasks}")
        woken_s = await client.results(workflow)
    return {**_figures(sent_s, woken_s), "load_before": load}


def _figures(sent_s: Mapping[str, float], woken_s: Mapping[str, Any]) -> dict[str, float]:
    took_ms = sorted((float(woken_s[name]) - sent) * 1e3 for name, sent in sent_s.items())
    return {"signal_ms_p50": took_ms[len(took_ms) // 2], "signal_ms_p99": took_ms[len(took_ms) * 99 // 100]}


async def _until_parked(client: AsyncClient, workflow: str, count: int) -> None:
    deadline_s = time.monotonic() + RUN_LIMIT_S
    while True:
        parked = sum(task.state == "parked" for task in await client.tasks(workflow))
        if parked == count:
            return
        if time.monotonic() > deadline_s:
            raise BenchError(f"{parked} of {count} tasks have parked")
        await asyncio.sleep(_LOOK_EVERY_S)
