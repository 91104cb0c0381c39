"""procrastinate on PostgreSQL with its durable defaults (fsync and synchronous_commit on).

It keeps no results and knows no dependencies: a workload is over when no job is left, the tasks of a chain each defer
the next one, and a counter in a table tells the last of many from the others.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import procrastinate  # type: ignore[import-not-found]
from peer_loop import Programs, given, serve, timed  # type: ignore[import-not-found]
from postgres_server import start_postgres  # type: ignore[import-not-found]

LOOK_S = 0.02
ADDRESS = "RAFTFLOW_BENCH_POSTGRES"
app = procrastinate.App(connector=procrastinate.PsycopgConnector(conninfo=os.environ.get(ADDRESS, ""), max_size=6))


def task(function: Callable[..., Any]) -> Any:
    """Make a function a task."""
    return app.task(queue="q")(function)


@task
async def noop(value: int) -> int:
    """Do nothing."""
    return value


@task
async def true() -> None:
    """Run a program."""
    process = await asyncio.create_subprocess_exec("/bin/true")
    await process.wait()


@task
async def hop(left: int) -> None:
    """Defer the next task of a chain."""
    if left > 1:
        await hop.defer_async(left=left - 1)


@task
async def first(count: int) -> None:
    """Defer many."""
    await app.connector.execute_query_async("UPDATE fan SET still = %(count)s", count=count)
    await middle.batch_defer_async(*[{"value": value} for value in range(count)])


@task
async def middle(value: int) -> int:
    """Be one of many; the last of them defers the end."""
    row = await app.connector.execute_query_one_async("UPDATE fan SET still = still - 1 RETURNING still")
    if row["still"] == 0:
        await last.defer_async()
    return value


@task
async def last() -> None:
    """Do nothing."""


async def work(concurrency: int) -> None:
    """Be a worker."""
    async with app.open_async():
        await app.run_worker_async(queues=["q"], concurrency=concurrency, fetch_job_polling_interval=1.0)


async def workload(name: str, tasks: int) -> None:
    """Defer one workload and wait until no job is left."""
    if name == "lifecycle":
        await noop.batch_defer_async(*[{"value": value} for value in range(tasks)])
    elif name == "subprocess":
        await true.batch_defer_async(*[{} for _ in range(tasks)])
    elif name == "chain":
        await hop.defer_async(left=tasks)
    else:
        await first.defer_async(count=tasks)
    open_jobs = "SELECT count(*) AS jobs FROM procrastinate_jobs WHERE status IN ('todo', 'doing')"
    # A task defers the next one before it ends itself, so there is never a moment without any before the end.
    while (await app.connector.execute_query_one_async(open_jobs))["jobs"]:  # noqa: ASYNC110 - it is asked, tells nobody
        await asyncio.sleep(LOOK_S)
    failed = "SELECT count(*) AS jobs FROM procrastinate_jobs WHERE status <> 'succeeded'"
    if (await app.connector.execute_query_one_async(failed))["jobs"]:
        raise RuntimeError("tasks failed")


def start(programs: Programs) -> Callable[[], dict[str, Any]]:
    """Start the server and the workers."""
    settings = given()
    address = start_postgres(programs, Path(settings["directory"]))
    connector = procrastinate.PsycopgConnector(conninfo=address, min_size=1, max_size=6)
    runner = asyncio.Runner()

    async def prepare() -> None:
        await app.open_async()
        await app.schema_manager.apply_schema_async()
        await app.connector.execute_query_async("CREATE TABLE fan (still int)")
        await app.connector.execute_query_async("INSERT INTO fan VALUES (0)")

    app.connector = connector
    app.job_manager.connector = connector
    runner.run(prepare())
    concurrency = settings["slots"] // settings["agents"]
    for _ in range(settings["agents"]):
        programs.start([sys.executable, __file__, "worker", str(concurrency)], env={**os.environ, ADDRESS: address})
    run: Callable[[], dict[str, Any]] = timed(
        lambda tasks: runner.run(workload(settings["workload"], tasks)), settings["tasks"], warm_up_max=100
    )
    return run


if __name__ == "__main__":
    if sys.argv[1] == "worker":
        asyncio.run(work(int(sys.argv[2])))
    else:
        serve(start, ["procrastinate", "psycopg"])
