"""recovery: how long replicas that hold N tasks take to work again after all of them were killed.

The tasks wait (there are no agents). Time is taken from the start of the processes, the interpreter included, until
one replica leads and each has read its snapshot and journal and is ready.
"""

from __future__ import annotations

import time
from typing import Any, Final

from raftflow.bench.figures import summary
from raftflow.bench.load.jobs import independent
from raftflow.bench.load.usage import machine_load, resident_bytes
from raftflow.bench.settings import BenchError, Settings
from raftflow.local.cluster import LocalCluster
from raftflow.local.cluster_file import ClusterOptions

PER_WORKFLOW: Final = 10_000
READY_S: Final = 300.0


def measure(settings: Settings) -> dict[str, Any]:
    """Fill a cluster, then kill and start all of it `settings.runs` times."""
    cluster = LocalCluster.create(settings.directory, ClusterOptions(agents=0))
    runs: list[dict[str, float]] = []
    try:
        cluster.start()
        with cluster.client(timeout_s=120.0) as client:
            for first in range(0, settings.tasks, PER_WORKFLOW):
                client.submit(independent(min(PER_WORKFLOW, settings.tasks - first)))
        for _ in range(settings.runs):
            cluster.wait_equal(READY_S)
            runs.append(_restart(cluster))
            cluster.wait_equal(READY_S)
            with cluster.client() as client:
                found = sum(workflow.tasks.total for workflow in client.workflows())
            if found != settings.tasks:
                raise BenchError(f"{found} of {settings.tasks} tasks are known after the restart")
    finally:
        cluster.down()
    return {"name": "recovery", "runs": runs, **summary(runs, ("seconds", "resident_mib")), "tasks": settings.tasks}


def _restart(cluster: LocalCluster) -> dict[str, float]:
    for name in cluster.replica_names:
        cluster.kill(name)
    load = machine_load()
    began = time.perf_counter()
    for name in cluster.replica_names:
        cluster.start_replica(name)
    leader = cluster.wait_ready(READY_S)
    seconds = time.perf_counter() - began
    pid = cluster.pid_of(leader)
    return {
        "seconds": seconds,
        "resident_mib": resident_bytes(pid) / 2**20 if pid is not None else 0.0,
        "load_before": load,
    }
