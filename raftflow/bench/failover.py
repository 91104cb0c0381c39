"""`raftflow bench failover`: from SIGKILL of the leader to the next assignment that an agent holds in its hands.

Three replicas and two agents as separate processes on this machine, all of them with work; a measuring agent takes a
stream of tiny tasks. For every run the leader is killed, the time until the measuring agent receives the next new
assignment is taken, and the dead replica is started again. Long tasks run through all of it on the real agents and
must end in their first attempt.
"""

from __future__ import annotations

import asyncio
import random
from pathlib import Path
from typing import Any

from raftflow.bench.figures import rounded, summary
from raftflow.bench.probe import ProbeAgent
from raftflow.local.cluster import LocalCluster, Options

_TINY_TASKS = 2_000
_ANSWER_LIMIT_S = 30.0


async def measure(directory: Path, *, runs: int, nodes: int = 3, agents: int = 2) -> dict[str, Any]:
    """Kill `runs` leaders and return every run, their median, their spread and the worst, which is what counts.

    Times are in seconds. `long_tasks_disturbed` counts long tasks that needed more than one attempt: it must be 0.
    """
    cluster = LocalCluster.create(directory, Options(nodes=nodes, agents=agents, lease_ms=10_000))
    probe = ProbeAgent(cluster.urls)
    try:
        await asyncio.to_thread(cluster.start)
        stop_file = directory / "stop"
        long_id = await asyncio.to_thread(_submit, cluster, _long_document(agents, stop_file))
        await probe.start()
        results = [await _one_kill(cluster, probe) for _ in range(runs)]
        stop_file.touch()
        disturbed = await asyncio.to_thread(_disturbed, cluster, long_id)
    finally:
        await probe.close()
        await asyncio.to_thread(cluster.down)
    return {
        "name": "failover",
        "runs": results,
        **summary(results, ["seconds"]),
        "worst": {"seconds": rounded(max(result["seconds"] for result in results))},
        "long_tasks_disturbed": disturbed,
        "assignments": probe.assignments,
    }


async def _one_kill(cluster: LocalCluster, probe: ProbeAgent) -> dict[str, Any]:
    await asyncio.to_thread(_submit, cluster, _tiny_document())
    await probe.next_assignment(_ANSWER_LIMIT_S)
    await asyncio.sleep(random.uniform(0.1, 0.4))  # noqa: S311 - spreads the kill over the heartbeat's phase
    leader = await asyncio.to_thread(cluster.wait_leader)
    loop = asyncio.get_running_loop()
    at = loop.time()
    await asyncio.to_thread(cluster.kill, leader)
    # What arrives within a few ms may have been on its way when the leader died; an assignment of the new leader
    # cannot come before an election, which takes far longer than this.
    seconds = 0.0
    while seconds < _IN_FLIGHT_S:
        seconds = await probe.next_assignment(_ANSWER_LIMIT_S) - at
    await asyncio.to_thread(cluster.start_replica, leader)
    await asyncio.to_thread(cluster.wait_ready)
    return {"seconds": round(seconds, 3), "killed": leader}


_IN_FLIGHT_S = 0.05


def _submit(cluster: LocalCluster, document: dict[str, Any]) -> str:
    with cluster.client() as client:
        return client.submit(document).id


def _disturbed(cluster: LocalCluster, workflow_id: str) -> int:
    with cluster.client() as client:
        client.wait(workflow_id, timeout_s=60.0)
        return sum(task.attempt != 1 or task.state != "succeeded" for task in client.tasks(workflow_id))


def _tiny_document() -> dict[str, Any]:
    tasks = [{"id": f"t{number}", "command": ["true"], "resources": {"probe": 1}} for number in range(_TINY_TASKS)]
    return {"name": "failover-stream", "priority": 10, "tasks": tasks}


def _long_document(agents: int, stop_file: Path) -> dict[str, Any]:
    wait = ["sh", "-c", 'while [ ! -e "$1" ]; do sleep 0.2; done', "wait", str(stop_file)]
    tasks = [{"id": f"long{number}", "command": wait} for number in range(2 * agents)]
    return {"name": "failover-long", "tasks": tasks}
