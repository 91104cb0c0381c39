"""Celery on Redis (both with their defaults): prefork workers; results are kept in Redis."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import celery  # type: ignore[import-not-found]
from peer_loop import Programs, free_port, given, program, serve, timed, wait_port  # type: ignore[import-not-found]

PORT = "RAFTFLOW_BENCH_REDIS"
LIMIT_S = 500
_port = os.environ.setdefault(PORT, str(free_port()))
app = celery.Celery("celery_peer", broker=f"redis://127.0.0.1:{_port}/0", backend=f"redis://127.0.0.1:{_port}/1")
app.conf.broker_connection_retry_on_startup = True


def task(function: Callable[..., Any]) -> Any:
    """Make a function a task that is known by its own name, whatever this module is called."""
    return app.task(name=f"bench.{function.__name__}")(function)


@task
def noop(value: Any = 0, *_: object) -> int:
    """Return the first argument if it is a number."""
    return value if isinstance(value, int) else 0


@task
def count(values: list[int]) -> int:
    """Return how many there are."""
    return len(values)


@task
def true() -> int:
    """Run a program; returns its exit code."""
    return subprocess.run(["/bin/true"], check=False).returncode


def workload(name: str, tasks: int) -> None:
    """Run one workload and wait for all its results."""
    if name == "lifecycle":
        result = celery.group(noop.s(value) for value in range(tasks)).apply_async()
        done = len(result.get(timeout=LIMIT_S))
        result.forget()
    elif name == "subprocess":
        result = celery.group(true.s() for _ in range(tasks)).apply_async()
        done = result.get(timeout=LIMIT_S).count(0)
        result.forget()
    elif name == "chain":
        celery.chain(*[noop.si(value) for value in range(tasks)]).apply_async().get(timeout=LIMIT_S)
        done = tasks
    else:
        middle = celery.group(noop.si(value) for value in range(tasks))
        done = celery.chain(noop.si(0), middle, count.s()).apply_async().get(timeout=LIMIT_S)
    if done != tasks:
        raise RuntimeError(f"{done} of {tasks} tasks succeeded")


def start(programs: Programs) -> Callable[[], dict[str, Any]]:
    """Start the broker and the workers."""
    settings = given()
    binary = program("redis-server", "redis-server")
    programs.start([binary, "--port", _port, "--bind", "127.0.0.1", "--dir", settings["directory"]])
    wait_port(int(_port))
    threads = settings["slots"] // settings["agents"]
    for number in range(settings["agents"]):
        programs.start(
            [
                *(sys.executable, "-m", "celery", "-A", "celery_peer", "worker", "-c", str(threads)),
                *("-n", f"worker{number}@bench", "-l", "WARNING"),
            ],
            cwd=Path(__file__).parent,
            env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        )
    run: Callable[[], dict[str, Any]] = timed(
        lambda tasks: workload(settings["workload"], tasks), settings["tasks"], warm_up_max=100
    )
    return run


if __name__ == "__main__":
    serve(start, ["celery", "redis"])
