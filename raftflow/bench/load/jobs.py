"""lifecycle, chain, fanout, subprocess: a workflow from its submission until all results are known.

Three replicas with real disks, agents and this client are processes of their own on this machine. Runs of raftflow
and of the systems that it is compared with alternate, so that other work on the machine disturbs both alike.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Final

from raftflow.bench.figures import summary, times_better
from raftflow.bench.load.peer import Peer
from raftflow.bench.load.usage import Roles, machine_load
from raftflow.bench.settings import BenchError, Settings
from raftflow.client.aio import AsyncClient
from raftflow.local.cluster import LocalCluster
from raftflow.local.cluster_file import ClusterOptions

PROGRAM: Final = "/bin/true"
RUN_LIMIT_S: Final = 600.0
WARM_UP_TASKS: Final = 64
_WARM_UP_RUNS: Final = 2

Document = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Job:
    """A workflow to be timed."""

    name: str
    figure: str
    document: Callable[[int], Document]
    """From the number of tasks (of the middle ones for `fanout`)."""
    value: Callable[[float, int], float]
    """The figure, from seconds and the number of tasks."""
    bare: bool = False
    """Run a bare loop that starts programs beside it."""


def _python(task_id: str, *, needs: list[str] | None = None) -> Document:
    task: Document = {"id": task_id, "python": "raftflow.bench.load.noop:noop", "args": [1]}
    return task if needs is None else {**task, "needs": needs}


def independent(count: int) -> Document:
    """Return `count` no-op callables."""
    return {"name": "lifecycle", "tasks": [_python(f"t{n}") for n in range(count)]}


def chained(count: int) -> Document:
    """Return `count` no-op callables, each after the one before."""
    rest = [_python(f"t{n}", needs=[f"t{n - 1}"]) for n in range(1, count)]
    return {"name": "chain", "tasks": [_python("t0"), *rest]}


def fanned(count: int) -> Document:
    """Return one callable, `count` after it, and one after all of these."""
    middle = [_python(f"t{n}", needs=["first"]) for n in range(count)]
    last = _python("last", needs=[task["id"] for task in middle])
    return {"name": "fanout", "tasks": [_python("first"), *middle, last]}


def programs(count: int) -> Document:
    """Return `count` commands."""
    return {"name": "subprocess", "tasks": [{"id": f"t{n}", "command": [PROGRAM]} for n in range(count)]}


JOBS: Final = {
    job.name: job
    for job in (
        Job("lifecycle", "tasks_per_s", independent, lambda seconds, count: count / seconds),
        Job("chain", "ms_per_hop", chained, lambda seconds, count: seconds * 1e3 / count),
        Job("fanout", "seconds", fanned, lambda seconds, _: seconds),
        Job("subprocess", "tasks_per_s", programs, lambda seconds, count: count / seconds, bare=True),
    )
}


def measure(job: Job, settings: Settings) -> dict[str, Any]:
    """Run a job `settings.runs` times, beside the systems to compare with, and return the figures."""
    with ExitStack() as stack:
        peers = [stack.enter_context(Peer(name, job.name, settings)) for name in settings.versus]
        cluster = stack.enter_context(bench_cluster(settings))
        result = asyncio.run(_runs(job, settings, cluster, peers))
    return {**result, "fixed": {"slots": settings.slots, "agents": settings.agents, "prefetch": settings.prefetch}}


@contextmanager
def bench_cluster(settings: Settings) -> Iterator[LocalCluster]:
    """Start three replicas and agents as the settings say, and take them down at the end."""
    options = ClusterOptions(
        agents=settings.agents,
        agent_cpus=settings.slots / settings.agents,
        prefetch=settings.prefetch,
        lease_ms=10_000,
    )
    cluster = LocalCluster.create(settings.directory, options)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.down()


async def _runs(job: Job, settings: Settings, cluster: LocalCluster, peers: list[Peer]) -> dict[str, Any]:
    runs: list[dict[str, Any]] = []
    theirs: dict[str, list[float]] = {peer.name: [] for peer in peers}
    async with AsyncClient(cluster.urls) as client:
        for _ in range(_WARM_UP_RUNS):  # workers start, connections are made
            await time_document(client, job.document(min(WARM_UP_TASKS, settings.tasks)))
        for peer in peers:
            peer.suspend()
        for _ in range(settings.runs):
            runs.append(await _one_run(job, settings, cluster, client))
            for peer in peers:
                seconds = await asyncio.to_thread(peer.run)
                theirs[peer.name].append(job.value(seconds, settings.tasks))
    figures = [job.figure, *(["bare_per_s", "times_bare"] if job.bare else [])]
    result: dict[str, Any] = {"name": job.name, "runs": runs, **summary(runs, figures), "tasks": settings.tasks}
    ours = result["median"][job.figure]
    result["versus"] = {}
    for peer in peers:
        values = [{job.figure: value} for value in theirs[peer.name]]
        found = summary(values, [job.figure])
        ratio = times_better(job.figure, ours, found["median"][job.figure])
        result["versus"][peer.name] = {**found, "ratio": ratio, "versions": peer.versions}
    return result


async def _one_run(job: Job, settings: Settings, cluster: LocalCluster, client: AsyncClient) -> dict[str, Any]:
    document = job.document(settings.tasks)
    load = machine_load()
    roles = await asyncio.to_thread(Roles, cluster)
    seconds = await time_document(client, document)
    cpu_us = roles.spent_us_each(len(document["tasks"]))
    value = job.value(seconds, settings.tasks)
    changed = await asyncio.to_thread(roles.leader_changed)
    run = {
        job.figure: value,
        "seconds": seconds,
        "cpu_us_per_task": cpu_us,
        "leader_changed": changed,
        "load_before": load,
    }
    if job.bare:
        bare_per_s = await asyncio.to_thread(bare, settings.tasks, settings.slots)
        run |= {"bare_per_s": bare_per_s, "times_bare": bare_per_s / value}
    return run


async def time_document(client: AsyncClient, document: Document) -> float:
    """Return the seconds from the submission until every result is here. Raises `BenchError` if a task failed."""
    began = time.perf_counter()
    workflow = (await client.submit(document)).id
    view = await client.wait(workflow, timeout_s=RUN_LIMIT_S, check=False)
    tasks = await client.tasks(workflow)
    seconds = time.perf_counter() - began
    if view.state != "succeeded" or len(tasks) != len(document["tasks"]):
        raise BenchError(f"the workflow ended as {view.state}: {view.tasks}")
    return seconds


def bare(count: int, slots: int) -> float:
    """Start a program `count` times with nothing around it, `slots` at a time; returns programs a second."""

    def spawn(_: int) -> None:
        os.waitpid(os.posix_spawn(PROGRAM, [PROGRAM], os.environ), 0)

    began = time.perf_counter()
    with ThreadPoolExecutor(slots) as pool:
        list(pool.map(spawn, range(count)))
    return count / (time.perf_counter() - began)
