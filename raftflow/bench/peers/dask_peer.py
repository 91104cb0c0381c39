"""dask.distributed: a scheduler and worker processes over TCP, everything in memory."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

from peer_loop import Programs, free_port, given, serve, timed, wait_port  # type: ignore[import-not-found]


def noop(value: int = 0, *_: object) -> int:
    """Return the first argument."""
    return value


def program(_: int) -> int:
    """Run a program; returns its exit code."""
    return subprocess.run(["/bin/true"], check=False).returncode


def count(values: list[int]) -> int:
    """Return how many there are."""
    return len(values)


def workload(client: Any, name: str, tasks: int) -> None:
    """Run one workload and wait for all its results."""
    if name == "lifecycle":
        done = len(client.gather(client.map(noop, range(tasks), pure=False)))
    elif name == "chain":
        last = client.submit(noop, 0, pure=False)
        for _ in range(tasks - 1):
            last = client.submit(noop, last, pure=False)
        last.result()
        done = tasks
    elif name == "fanout":
        first = client.submit(noop, 0, pure=False)
        middle = client.map(noop, range(tasks), [first] * tasks, pure=False)
        done = client.submit(count, middle, pure=False).result()
    else:
        done = client.gather(client.map(program, range(tasks), pure=False)).count(0)
    if done != tasks:
        raise RuntimeError(f"{done} of {tasks} tasks succeeded")


def start(programs: Programs) -> Callable[[], dict[str, Any]]:
    """Start the scheduler and the workers."""
    from distributed import Client  # type: ignore[import-not-found]  # noqa: PLC0415 - only in its environment

    settings = given()
    port = free_port()
    address = f"tcp://127.0.0.1:{port}"
    common = ["--host", "127.0.0.1", "--no-dashboard"]
    programs.start([sys.executable, "-m", "distributed.cli.dask_scheduler", "--port", str(port), *common])
    wait_port(port)
    agents, threads = settings["agents"], settings["slots"] // settings["agents"]
    for _ in range(agents):
        programs.start(
            [
                *(sys.executable, "-m", "distributed.cli.dask_worker", address, *common),
                *("--nthreads", str(threads), "--nworkers", "1", "--local-directory", settings["directory"]),
            ]
        )
    client = Client(address)
    client.wait_for_workers(agents, timeout=60)
    run: Callable[[], dict[str, Any]] = timed(
        lambda tasks: workload(client, settings["workload"], tasks), settings["tasks"], warm_up_max=200
    )
    return run


if __name__ == "__main__":
    serve(start, ["distributed"])
