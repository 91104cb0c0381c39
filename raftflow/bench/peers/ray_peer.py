"""Ray on this machine alone: its control store, raylet and workers, everything in memory."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from typing import Any

from peer_loop import Programs, given, serve, timed  # type: ignore[import-not-found]

STORE_BYTES = 300_000_000


def noop(value: Any = 0, *_: object) -> int:
    """Return the first argument if it is a number."""
    return value if isinstance(value, int) else 0


def count(*values: int) -> int:
    """Return how many there are."""
    return len(values)


def true() -> int:
    """Run a program; returns its exit code."""
    return subprocess.run(["/bin/true"], check=False).returncode


def start(_: Programs) -> Callable[[], dict[str, Any]]:
    """Start everything; Ray ends it when this process ends."""
    os.environ.update({"RAY_DISABLE_METRICS_COLLECTION": "1", "RAY_USAGE_STATS_ENABLED": "0"})
    import ray  # type: ignore[import-not-found]  # noqa: PLC0415 - reads the environment when it is imported

    settings = given()
    ray.init(
        address="local",
        num_cpus=settings["slots"],
        include_dashboard=False,
        configure_logging=False,
        log_to_driver=False,
        _node_ip_address="127.0.0.1",
        object_store_memory=STORE_BYTES,
    )
    remote_noop, remote_count, remote_true = (ray.remote(function) for function in (noop, count, true))

    def workload(name: str, tasks: int) -> None:
        if name == "lifecycle":
            done = len(ray.get([remote_noop.remote(value) for value in range(tasks)]))
        elif name == "subprocess":
            done = ray.get([remote_true.remote() for _ in range(tasks)]).count(0)
        elif name == "chain":
            last = remote_noop.remote()
            for _ in range(tasks - 1):
                last = remote_noop.remote(last)
            ray.get(last)
            done = tasks
        else:
            first = remote_noop.remote()
            done = ray.get(remote_count.remote(*[remote_noop.remote(first) for _ in range(tasks)]))
        if done != tasks:
            raise RuntimeError(f"{done} of {tasks} tasks succeeded")

    run: Callable[[], dict[str, Any]] = timed(
        lambda tasks: workload(settings["workload"], tasks), settings["tasks"], warm_up_max=200
    )
    return run


if __name__ == "__main__":
    serve(start, ["ray"])
