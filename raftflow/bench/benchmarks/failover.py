"""`raftflow bench failover`: from the leader's end to the next assignment, acknowledged write, and task that ran.

Three replicas and two agents as separate processes, all of them with work; a measuring agent takes a stream of tiny
tasks. For every run the leader fails, and this is measured:

seconds          until the measuring agent receives the next new assignment
submit_seconds   until a submission that begins at that moment is acknowledged
task_seconds     until its task has run on one of the agents, and the client knows

How it fails: `kill` is SIGKILL, `stop` is SIGSTOP, and with `silent` every packet to and from its machine is dropped
(each replica has a network namespace of its own then). Long tasks run through all of it on the agents and must end in
their first attempt.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from raftflow.bench.figures import rounded, summary
from raftflow.bench.load.probe import ProbeAgent
from raftflow.bench.settings import BenchError
from raftflow.local.cluster import LocalCluster
from raftflow.local.cluster_file import ClusterOptions
from raftflow.local.faults.namespaces import Machines, NamespaceError, machines

HOWS: Final = ("kill", "silent", "stop")
FIGURES: Final = ("seconds", "submit_seconds", "task_seconds")
_TINY_TASKS = 2_000
_ANSWER_LIMIT_S = 30.0
_IN_FLIGHT_S = 0.05


async def measure(
    directory: Path, *, runs: int, nodes: int = 3, agents: int = 2, how: str = "kill"
) -> dict[str, Any]:
    """Have `runs` leaders fail and return every run, their medians, their spread and the worst, which is what counts.

    Times are in seconds. `long_tasks_disturbed` counts long tasks that needed more than one attempt: it must be 0.
    Raises `BenchError` if a machine cannot be silenced here.
    """
    with contextlib.ExitStack() as stack:
        hosts: Machines | None = None
        if how == "silent":
            try:
                hosts = stack.enter_context(machines(nodes))
            except NamespaceError as error:
                raise BenchError(str(error)) from error
        return await _measure(directory, hosts, runs=runs, nodes=nodes, agents=agents, how=how)


async def _measure(
    directory: Path, hosts: Machines | None, *, runs: int, nodes: int, agents: int, how: str
) -> dict[str, Any]:
    places = () if hosts is None else tuple((host, hosts.command(n)) for n, host in enumerate(hosts.hosts))
    options = ClusterOptions(nodes=nodes, agents=agents, lease_ms=10_000, with_token=hosts is not None, hosts=places)
    cluster = LocalCluster.create(directory, options)
    probe = ProbeAgent(cluster.urls, token=cluster.token)
    try:
        await asyncio.to_thread(cluster.start)
        stop_file = directory / "stop"
        long_id = await asyncio.to_thread(_submit, cluster, _long_document(agents, stop_file))
        await probe.start()
        results = [await _one_failure(cluster, probe, _LeaderFault(cluster, hosts, how)) for _ in range(runs)]
        stop_file.touch()
        disturbed = await asyncio.to_thread(_disturbed, cluster, long_id)
    finally:
        await probe.close()
        await asyncio.to_thread(cluster.down)
    return {
        "name": "failover",
        "how": how,
        "runs": results,
        **summary(results, list(FIGURES)),
        "worst": {figure: rounded(max(result[figure] for result in results)) for figure in FIGURES},
        "long_tasks_disturbed": disturbed,
        "assignments": probe.assignments,
    }


_NEXT: Final = {
    "name": "failover-next",
    "priority": 90,
    # The measuring agent offers no memory, and so cannot get it.
    "tasks": [{"id": "t", "command": ["true"], "resources": {"cpu": 1, "memory": "16MiB"}}],
}


class _LeaderFault:
    """What becomes of one leader."""

    def __init__(self, cluster: LocalCluster, hosts: Machines | None, how: str) -> None:
        self._cluster = cluster
        self._hosts = hosts
        self._how = how

    @contextlib.contextmanager
    def on(self, leader: str) -> Iterator[None]:
        """Let a leader fail; afterwards it is as before."""
        cluster, number = self._cluster, self._cluster.replica_names.index(leader)
        if self._hosts is not None:
            self._hosts.silence(number)
        elif self._how == "stop":
            cluster.signal(leader, signal.SIGSTOP)
        else:
            cluster.kill(leader)
        try:
            yield
        finally:
            if self._hosts is not None:
                self._hosts.heal(number)
            elif self._how == "stop":
                cluster.signal(leader, signal.SIGCONT)
            else:
                cluster.start_replica(leader)


async def _one_failure(cluster: LocalCluster, probe: ProbeAgent, fault: _LeaderFault) -> dict[str, Any]:
    await asyncio.to_thread(_submit, cluster, _tiny_document())
    await probe.next_assignment(_ANSWER_LIMIT_S)
    await asyncio.sleep(random.uniform(0.1, 0.4))  # noqa: S311 - spreads the failure over the heartbeat's phase
    leader = await asyncio.to_thread(cluster.wait_leader)
    loop = asyncio.get_running_loop()
    at = loop.time()
    # In a thread of its own: the signal may take a moment, and the probe goes on meanwhile.
    client = asyncio.create_task(asyncio.to_thread(_fail_and_use, cluster, fault, leader))
    # What arrives within a few ms may have been on its way when the leader failed; an assignment of the new leader
    # cannot come before an election, which takes far longer than this.
    seconds = 0.0
    while seconds < _IN_FLIGHT_S:
        seconds = await probe.next_assignment(_ANSWER_LIMIT_S) - at
    submitted_s, ran_s = await client
    await asyncio.to_thread(cluster.wait_ready)
    return {
        "seconds": round(seconds, 3),
        "submit_seconds": round(submitted_s, 3),
        "task_seconds": round(ran_s, 3),
        "failed": leader,
    }


def _fail_and_use(cluster: LocalCluster, fault: _LeaderFault, leader: str) -> tuple[float, float]:
    """Let the leader fail, submit a task at once, and wait until it has run. Returns both times in seconds."""
    with cluster.client(_ANSWER_LIMIT_S) as client:
        client.agents()  # as a client that has talked to the leader before
        began_s = time.monotonic()
        with fault.on(leader):
            created = client.submit(_NEXT)
            submitted_s = time.monotonic() - began_s
            client.wait(created.id, timeout_s=_ANSWER_LIMIT_S, check=False)
            return submitted_s, time.monotonic() - began_s


def _submit(cluster: LocalCluster, document: dict[str, Any]) -> str:
    with cluster.client() as client:
        return client.submit(document).id


def _disturbed(cluster: LocalCluster, workflow_id: str) -> int:
    with cluster.client() as client:
        client.wait(workflow_id, timeout_s=60.0, check=False)
        return sum(task.attempt != 1 or task.state != "succeeded" for task in client.tasks(workflow_id))


def _tiny_document() -> dict[str, Any]:
    tasks = [{"id": f"t{number}", "command": ["true"], "resources": {"probe": 1}} for number in range(_TINY_TASKS)]
    return {"name": "failover-stream", "priority": 10, "tasks": tasks}


def _long_document(agents: int, stop_file: Path) -> dict[str, Any]:
    wait = ["sh", "-c", 'while [ ! -e "$1" ]; do sleep 0.2; done', "wait", str(stop_file)]
    tasks = [{"id": f"long{number}", "command": wait} for number in range(2 * agents)]
    return {"name": "failover-long", "tasks": tasks}
