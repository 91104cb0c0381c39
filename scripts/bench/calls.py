"""Compare the two ways in which an agent could bring a durable step into the log: a call, and a poll. Prints JSON.

    python scripts/bench/calls.py [--exchanges 500] [--rounds 5]

Three replicas with real disks. One connection asks the leader, one exchange after the other, in turns of both kinds.
A call records one step; a poll reports one end, and brings the next assignment. Each needs one commit, so what
differs is the exchange. `ms` is the median of an exchange, `leader_us` the CPU time of the leader for one.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from itertools import count
from pathlib import Path

import msgspec
import uvloop

from raftflow.bench.load.http import LoadConnection, encode
from raftflow.bench.load.jobs import independent
from raftflow.bench.load.usage import cpu_s
from raftflow.domain.contract.views import (
    CallsRequest,
    PollRequest,
    PollResponse,
    RecordStep,
    RegisterRequest,
    RegisterResponse,
    ReportedEnd,
)
from raftflow.local.cluster import LocalCluster
from raftflow.local.cluster_file import ClusterOptions

NAME = "a1"
Exchange = Callable[[], Awaitable[None]]


async def exchanges(connection: LoadConnection, total: int) -> tuple[Exchange, Exchange]:
    """Register an agent with a running task, and return what does one call, and one poll."""
    register = RegisterRequest(name=NAME, instance="bench-instance", resources={"cpu": 2}, prefetch=16)
    answer = await connection.post("/v1/agents", register)
    incarnation = msgspec.json.decode(answer, type=RegisterResponse).incarnation
    numbers, places = count(1), count(1)
    running: dict[int, ReportedEnd] = {}
    seen = 0

    async def poll(ends: list[ReportedEnd]) -> None:
        nonlocal seen
        request = PollRequest(
            incarnation=incarnation,
            seq=next(numbers),
            seen=seen,
            ends=ends,
            running=[fence for fence in running if fence not in {end.fence for end in ends}],
        )
        told = msgspec.json.decode(await connection.post(f"/v1/agents/{NAME}/poll", request), type=PollResponse)
        for end in ends:
            running.pop(end.fence)
        for item in told.assign:
            seen = max(seen, item.fence)
            running[item.fence] = ReportedEnd(
                fence=item.fence, workflow_id=item.workflow_id, task_id=item.task_id, outcome="succeeded"
            )

    document = {**independent(total + 2), "name": "calls"}
    status, body = await connection.request("POST", "/v1/workflows", encode(document), "Idempotency-Key: calls\r\n")
    if status != 201:
        raise RuntimeError(f"{status}: {body[:300]!r}")
    while len(running) < 2:
        await poll([])  # more wait in the agent's queue: an end promotes the next one in its own commit
    recorder = min(running)

    async def one_call() -> None:
        step = RecordStep(fence=recorder, name="step", occurrence=next(places), result=msgspec.Raw(b"1"))
        body = await connection.post(f"/v1/agents/{NAME}/calls", CallsRequest(incarnation=incarnation, calls=[step]))
        if b"error" in body:
            raise RuntimeError(body[:300])

    async def one_poll() -> None:
        while len(running) < 2:
            await poll([])
        await poll([running[min(fence for fence in running if fence != recorder)]])

    return one_call, one_poll


async def measure(cluster: LocalCluster, number: int, rounds: int) -> dict[str, dict[str, float]]:
    """Take turns of both kinds."""
    leader = cluster.wait_leader()
    pid = cluster.pid_of(leader) or 0
    connection = await LoadConnection.open(cluster.url_of(leader))
    one_call, one_poll = await exchanges(connection, (number + 50) * (rounds + 1))
    times: dict[str, list[float]] = {"call": [], "poll": []}
    cpu: dict[str, list[float]] = {"call": [], "poll": []}
    for turn in range(rounds + 1):
        for kind, exchange in (("call", one_call), ("poll", one_poll)):
            before = cpu_s(pid)
            taken = []
            for _ in range(number if turn else 50):
                began = time.perf_counter()
                await exchange()
                taken.append(time.perf_counter() - began)
            if turn:  # the first is a warm-up
                times[kind] += taken
                cpu[kind].append((cpu_s(pid) - before) / number)
    connection.close()
    return {
        kind: {
            "ms": round(statistics.median(times[kind]) * 1e3, 3),
            "ms_p99": round(statistics.quantiles(times[kind], n=100)[98] * 1e3, 3),
            "leader_us": round(statistics.median(cpu[kind]) * 1e6, 1),
        }
        for kind in times
    }


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--exchanges", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="raftflow-bench-calls-") as name:
        cluster = LocalCluster.create(Path(name) / "cluster", ClusterOptions(agents=0, lease_ms=30_000))
        try:
            cluster.start()
            found = uvloop.run(measure(cluster, given.exchanges, given.rounds))
        finally:
            cluster.down()
    print(json.dumps({"name": "calls", **found, "load": os.getloadavg()[0]}))


if __name__ == "__main__":
    main()
