"""parked: what many tasks that wait cost, and what becomes of them when replicas die.

Nearly all are tasks of documents (`wait = { signal = "go", timeout = "3d" }`). Some are programs that have parked.
When all of them wait, the leader is killed `settings.runs` times, and then all replicas. `takeover_s` is the time
from the kill to the acknowledgement of a write that begins at that moment. `empty_takeover_s` is the same before
anything waits: the difference is what the waits add.
"""

from __future__ import annotations

import time
from statistics import median
from typing import TYPE_CHECKING, Any, Final

from raftflow.bench.benchmarks.recovery import PER_WORKFLOW, READY_S
from raftflow.bench.figures import rounded, summary
from raftflow.bench.load.usage import machine_load, resident_bytes
from raftflow.bench.settings import BenchError, Settings
from raftflow.local.cluster import LocalCluster
from raftflow.local.cluster_file import ClusterOptions

if TYPE_CHECKING:
    from raftflow.client.client import Client

FIGURES: Final = ("takeover_s", "empty_takeover_s")
_PROGRAMS_MAX: Final = 200
_PROGRAMS_SHARE: Final = 100
"""One of so many tasks is a program."""
_LOOK_EVERY_S: Final = 0.1
_ONE: Final = {"name": "one", "tasks": [{"id": "t", "wait": {"signal": "never", "timeout": "1h"}}]}


def measure(settings: Settings) -> dict[str, Any]:
    """Park `settings.tasks` tasks, and kill leaders and then all replicas. Raises `BenchError` if a wait is lost."""
    cluster = LocalCluster.create(settings.directory, ClusterOptions(agents=0, lease_ms=10_000))
    try:
        cluster.start()
        slots = settings.slots // settings.agents
        for number in range(settings.agents):
            cluster.add_agent(f"a{number + 1}", ["--cpus", str(slots), "--memory", "8GiB"])
        cluster.wait_agents()
        empty_s = [_take_over(cluster) for _ in range(settings.runs)]
        cluster.wait_equal(READY_S)
        before = _resident(cluster)
        with cluster.client(timeout_s=120.0) as client:
            parked = _park(client, settings.tasks)
        cluster.wait_equal(READY_S)
        grown = {name: now - before[name] for name, now in _resident(cluster).items()}
        used = _used_cpus(cluster)
        load = machine_load()
        taken_s = [_take_over(cluster) for _ in range(settings.runs)]
        restart_s = _restart(cluster)
        with cluster.client(timeout_s=120.0) as client:
            _look(client, parked)
            _wake_all(client, parked)
    finally:
        cluster.down()
    runs = [
        {"takeover_s": taken, "empty_takeover_s": empty, "load_before": load}
        for taken, empty in zip(taken_s, empty_s, strict=True)
    ]
    return {
        "name": "parked",
        "runs": runs,
        **summary(runs, FIGURES),
        "tasks": settings.tasks,
        "bytes_per_wait": round(max(grown.values()) / settings.tasks),
        "grown_mib": {name: rounded(each / 2**20) for name, each in grown.items()},
        "takeover_s_worst": rounded(max(taken_s)),
        "added_s": rounded(median(taken_s) - median(empty_s)),
        "restart_s": rounded(restart_s),
        "cpus_used": used,
    }


def _park(client: Client, count: int) -> dict[str, int]:
    """Submit tasks that wait, and return how many wait in each workflow once all of them do."""
    programs = min(count // _PROGRAMS_SHARE, _PROGRAMS_MAX)
    wait = {"signal": "go", "timeout": "3d"}
    parked: dict[str, int] = {}
    for first in range(0, count - programs, PER_WORKFLOW):
        size = min(PER_WORKFLOW, count - programs - first)
        tasks: list[dict[str, Any]] = [{"id": f"t{number}", "wait": wait} for number in range(size)]
        parked[client.submit({"name": "parked", "tasks": tasks}).id] = size
    if programs:
        python = {"python": "raftflow.bench.load.wait_tasks:woken_at", "args": ["go"]}
        tasks = [{"id": f"t{number}", **python} for number in range(programs)]
        parked[client.submit({"name": "parked", "tasks": tasks}).id] = programs
    deadline_s = time.monotonic() + READY_S
    for workflow, size in parked.items():
        while (found := client.workflow(workflow).tasks.parked) != size:
            if time.monotonic() > deadline_s:
                raise BenchError(f"{found} of {size} tasks of workflow {workflow} have parked")
            time.sleep(_LOOK_EVERY_S)
    return parked


def _take_over(cluster: LocalCluster) -> float:
    """Kill the leader, and return after how many seconds a write is acknowledged."""
    cluster.wait_equal(READY_S)
    leader = cluster.wait_leader()
    with cluster.client() as client:
        client.agents()  # as a client that has talked to the leader before
        began_s = time.perf_counter()
        cluster.kill(leader)
        created = client.submit(_ONE)
        seconds = time.perf_counter() - began_s
        client.cancel(created.id)
    cluster.start_replica(leader)
    cluster.wait_ready(READY_S)
    return seconds


def _restart(cluster: LocalCluster) -> float:
    """Kill all replicas, and return after how many seconds they are ready again."""
    for name in cluster.replica_names:
        cluster.kill(name)
    began_s = time.perf_counter()
    for name in cluster.replica_names:
        cluster.start_replica(name)
    cluster.wait_ready(READY_S)
    return time.perf_counter() - began_s


def _look(client: Client, parked: dict[str, int]) -> None:
    """Look that every wait is there."""
    for workflow, size in parked.items():
        found = client.workflow(workflow).tasks.parked
        if found != size:
            raise BenchError(f"{found} of {size} tasks of workflow {workflow} wait after all replicas were killed")


def _wake_all(client: Client, parked: dict[str, int]) -> None:
    """Wake one task of each workflow, and see that exactly one has ended."""
    for workflow, size in parked.items():
        client.send_signal(workflow, "go", key="go")
        deadline_s = time.monotonic() + READY_S
        while (tasks := client.workflow(workflow).tasks).succeeded != 1 or tasks.parked != size - 1:
            if time.monotonic() > deadline_s:
                raise BenchError(f"a signal woke no task of workflow {workflow}: {tasks}")
            time.sleep(_LOOK_EVERY_S)


def _used_cpus(cluster: LocalCluster) -> float:
    """Return the CPUs that attempts hold: 0 if what waits holds nothing."""
    with cluster.client() as client:
        agents = client.agents()
    return sum(each.allocated.get("cpu", 0) for each in agents)


def _resident(cluster: LocalCluster) -> dict[str, int]:
    return {name: resident_bytes(cluster.pid_of(name) or 0) for name in cluster.replica_names}
