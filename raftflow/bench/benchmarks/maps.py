"""map: `client.map` of a no-op function, beside a document of the same tasks, alternating on one cluster."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from raftflow.bench.figures import summary
from raftflow.bench.load.jobs import RUN_LIMIT_S, WARM_UP_TASKS, bench_cluster, independent, time_document
from raftflow.bench.load.noop import noop
from raftflow.bench.settings import BenchError, Settings
from raftflow.client.aio import AsyncClient


def measure(settings: Settings) -> dict[str, Any]:
    """Run both `settings.runs` times and return the figures: how many times as long as the document a map takes."""
    with bench_cluster(settings) as cluster:
        runs = asyncio.run(_runs(settings, cluster.urls))
    figures = ["times_document", "map_tasks_per_s", "document_tasks_per_s"]
    return {"name": "map", "runs": runs, **summary(runs, figures), "tasks": settings.tasks}


async def _runs(settings: Settings, urls: list[str]) -> list[dict[str, Any]]:
    runs: list[dict[str, Any]] = []
    async with AsyncClient(urls) as client:
        await time_document(client, independent(min(WARM_UP_TASKS, settings.tasks)))
        await _time_map(client, min(WARM_UP_TASKS, settings.tasks))
        for number in range(settings.runs):
            seconds: dict[str, float] = {}
            for what in ("document", "map") if number % 2 else ("map", "document"):
                if what == "map":
                    seconds[what] = await _time_map(client, settings.tasks)
                else:
                    seconds[what] = await time_document(client, independent(settings.tasks))
            runs.append(
                {
                    "times_document": seconds["map"] / seconds["document"],
                    "map_tasks_per_s": settings.tasks / seconds["map"],
                    "document_tasks_per_s": settings.tasks / seconds["document"],
                }
            )
    return runs


async def _time_map(client: AsyncClient, count: int) -> float:
    """Return the seconds of a map. Raises `BenchError` if a result is wrong."""
    began = time.perf_counter()
    results = await client.map(noop, range(count), timeout=RUN_LIMIT_S)
    seconds = time.perf_counter() - began
    if results != [noop(n) for n in range(count)]:
        raise BenchError("the results of the map are wrong")
    return seconds
