"""steps: durable steps of one task in sequence, and of many tasks at once.

A step is recorded in the log of three replicas with real disks before the next line of its task runs. Tasks are
python functions in workers, so a step is a line on a Unix socket, an HTTP exchange of the agent that others share,
and a commit. For the many tasks the clock begins when all of them have started: what is measured are steps, not
starts.
"""

from __future__ import annotations

import asyncio
import os
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from raftflow.bench.figures import summary, times_better
from raftflow.bench.load.jobs import RUN_LIMIT_S
from raftflow.bench.load.peer import Peer
from raftflow.bench.load.step_tasks import GO, sequence
from raftflow.bench.load.usage import Roles, machine_load
from raftflow.bench.settings import BenchError, Settings
from raftflow.client.aio import AsyncClient
from raftflow.local.cluster import LocalCluster
from raftflow.local.cluster_file import ClusterOptions

if TYPE_CHECKING:
    from collections.abc import Iterator

FIGURES: Final = ("ms_p50", "ms_p99", "per_s")
_WARM_UP_STEPS: Final = 50
_LOOK_EVERY_S: Final = 0.02


def measure(settings: Settings) -> dict[str, Any]:
    """Run both parts `settings.runs` times, beside the systems to compare with, and return the figures."""
    runs: list[dict[str, Any]] = []
    theirs: dict[str, list[dict[str, Any]]] = {name: [] for name in settings.versus}
    versions: dict[str, dict[str, str]] = {}
    with _cluster(settings) as cluster:
        asyncio.run(_warm_up(settings, cluster))
        for number in range(settings.runs):
            runs.append(asyncio.run(_one_run(settings, cluster, settings.directory / f"gate{number}")))
            for name in settings.versus:  # started for each run: after a long suspension a cluster elects first
                with Peer(name, "steps", settings) as peer:
                    theirs[name].append(peer.ask())
                    versions[name] = peer.versions
    result: dict[str, Any] = {"name": "steps", "runs": runs, **summary(runs, FIGURES), "versus": {}}
    for name, found in theirs.items():
        other = summary(found, FIGURES)
        ratios = {
            figure: times_better(figure, result["median"][figure], other["median"][figure]) for figure in FIGURES
        }
        result["versus"][name] = {**other, "ratio": ratios["ms_p50"], "ratios": ratios, "versions": versions[name]}
    fixed = {"slots": settings.slots, "agents": settings.agents, "at_once": settings.at_once}
    return {**result, "tasks": settings.tasks, "fixed": {**fixed, "steps_each": settings.steps_each}}


@contextmanager
def _cluster(settings: Settings) -> Iterator[LocalCluster]:
    """Start three replicas, and agents that keep a worker for each of the tasks at once."""
    cluster = LocalCluster.create(settings.directory, ClusterOptions(agents=0, lease_ms=10_000))
    file = settings.directory / "agents.toml"
    try:
        cluster.start()
        kept = f"workers_idle_max = {settings.at_once}\nworkers_idle_max_mib = 16384\nworker_idle_max_s = 600\n"
        file.write_text(f"[agent]\n{kept}", encoding="utf-8")
        cpus = settings.slots / settings.agents
        for number in range(settings.agents):
            arguments = ["--cpus", f"{cpus:g}", "--memory", "8GiB", "--prefetch", str(settings.prefetch)]
            cluster.add_agent(f"a{number + 1}", [*arguments, "--config", str(file)])
        cluster.wait_agents()
        yield cluster
    finally:
        cluster.down()


async def _warm_up(settings: Settings, cluster: LocalCluster) -> None:
    """Let workers start, and connections be made."""
    async with AsyncClient(cluster.urls) as client:
        await client.run(sequence, _WARM_UP_STEPS)
        await _time_at_once(settings, client, settings.directory / "gate", cluster)


async def _one_run(settings: Settings, cluster: LocalCluster, gate: Path) -> dict[str, Any]:
    load = machine_load()
    async with AsyncClient(cluster.urls) as client:
        found_us = sorted(await client.run(sequence, settings.tasks))
        seconds, cpu_us = await _time_at_once(settings, client, gate, cluster)
    return {
        "ms_p50": found_us[len(found_us) // 2] / 1e3,
        "ms_p99": found_us[len(found_us) * 99 // 100] / 1e3,
        "per_s": settings.at_once * settings.steps_each / seconds,
        "cpu_us_per_step": cpu_us,
        "load_before": load,
    }


async def _time_at_once(
    settings: Settings, client: AsyncClient, gate: Path, cluster: LocalCluster
) -> tuple[float, dict[str, float]]:
    """Run many tasks at once.

    Returns:
        The seconds from the moment when all tasks may begin until all results are here, and the CPU time of each role
        meanwhile, in microseconds for each step.

    Raises:
        BenchError: the tasks do not start, or do not succeed.
    """
    await asyncio.to_thread(gate.mkdir)
    task = {
        "python": "raftflow.bench.load.step_tasks:gated",
        "args": [settings.steps_each, str(gate)],
        "resources": {"cpu": settings.slots / settings.at_once},
    }
    tasks = [{"id": f"t{number}", **task} for number in range(settings.at_once)]
    workflow = (await client.submit({"name": "steps", "tasks": tasks})).id
    deadline_s = time.monotonic() + RUN_LIMIT_S
    while len(await asyncio.to_thread(os.listdir, gate)) < settings.at_once:
        if time.monotonic() > deadline_s:
            raise BenchError("not all tasks have started")
        await asyncio.sleep(_LOOK_EVERY_S)
    roles = await asyncio.to_thread(Roles, cluster)
    began = time.perf_counter()
    await asyncio.to_thread((gate / GO).touch)
    view = await client.wait(workflow, timeout_s=RUN_LIMIT_S, check=False)
    seconds = time.perf_counter() - began
    if view.state != "succeeded":
        raise BenchError(f"the workflow ended as {view.state}: {view.tasks}")
    return seconds, roles.spent_us_each(settings.at_once * settings.steps_each)
