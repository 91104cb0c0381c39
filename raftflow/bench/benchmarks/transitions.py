"""Many clients at once, over whole lives of tasks: how many transitions of the replicated task table a second.

Counted is what the leader's audit holds of the measured time: every change of a task's state that the log applied
(waiting to ready, ready to queued or running, queued to running, running to succeeded). That a task exists as `ready`
or `waiting` from its submission on is not a transition, and not counted. Nothing is derived from what a client hoped.

All clients are connections of one load generator, a process of its own. Most submit workflows of ten small tasks
(one, eight after it, one after these), each the next when its last has ended; the others are simulated agents, which
take tasks and report them at once. Everything goes over HTTP and every write is on two disks of three.
"""

from __future__ import annotations

import asyncio
import os
import time
from itertools import count
from typing import Any, Final

import msgspec
import uvloop

from raftflow.bench.load.http import LoadConnection, encode
from raftflow.bench.load.jobs import fanned
from raftflow.bench.load.usage import cpu_s
from raftflow.bench.load.workers import BUSY, SimulatedAgent
from raftflow.bench.settings import BenchError
from raftflow.domain.contract.views import AuditPage, ReplicaStatus, ReportedEnd, WorkflowCreated

CONNECTIONS: Final = 256
"""Of clients and simulated agents together."""
AGENTS: Final = 32
MIDDLE: Final = 8
TASKS: Final = MIDDLE + 2
"""Of one workflow."""
_CPUS: Final = 16
_PREFETCH: Final = 48
_WARM_UP_S: Final = 1.0
_PAGE: Final = 1_000
_BUSY_PAUSE_S: Final = 0.1
_ANSWER_S: Final = 60.0
_SELF: Final = ""
"""Stands for this process among the names of the replicas."""
_audit_page = msgspec.json.Decoder(AuditPage).decode
_status = msgspec.json.Decoder(ReplicaStatus).decode
_created = msgspec.json.Decoder(WorkflowCreated).decode


def load(url: str, pids: dict[str, int], leader: str, seconds: float) -> dict[str, Any]:
    """Be the load generator against the leader at `url`; returns counts, seconds and CPU microseconds a transition.

    `pids` are those of the replicas. Raises `BenchError`.
    """
    return uvloop.run(_Crowd(url).run(pids, leader, seconds))


class _Crowd:
    """The clients and the agents."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._left: dict[str, int] = {}
        """Tasks of each workflow that have not ended yet; below zero if the ends came before the answer."""
        self._ended: dict[str, asyncio.Event] = {}
        self._workflows = 0
        self._refused = 0
        self._stamp = f"{time.time_ns():x}"
        self._numbers = count()

    async def run(self, pids: dict[str, int], leader: str, seconds: float) -> dict[str, Any]:
        """Warm up, measure, count. Raises `BenchError`."""
        agents = [
            SimulatedAgent(f"crowd{number}", cpus=_CPUS, prefetch=_PREFETCH, on_confirmed=self._confirm)
            for number in range(AGENTS)
        ]
        look = await LoadConnection.open(self._url)
        try:
            async with asyncio.TaskGroup() as group:
                for agent in agents:
                    await agent.register(self._url)
                work = [group.create_task(agent.work()) for agent in agents]
                work += [group.create_task(self._client()) for _ in range(CONNECTIONS - AGENTS)]
                await asyncio.sleep(_WARM_UP_S)
                first, began, workflows, cpu = (
                    await self._index(look),
                    time.perf_counter(),
                    self._workflows,
                    _cpu(pids),
                )
                await asyncio.sleep(seconds)
                last, passed = await self._index(look), time.perf_counter() - began
                workflows, cpu = (
                    self._workflows - workflows,
                    {name: now - cpu[name] for name, now in _cpu(pids).items()},
                )
                for task in work:
                    task.cancel()
        except BaseExceptionGroup as failures:
            raise failures.exceptions[0] from failures
        transitions = await asyncio.wait_for(_count(look, first, last), _ANSWER_S)
        look.close()
        us = {name: spent * 1e6 / max(1, transitions) for name, spent in cpu.items()}
        followers = [spent for name, spent in us.items() if name not in {leader, _SELF}]
        return {
            "transitions": transitions,
            "seconds": passed,
            "cpu_us_per_transition": {
                "leader": round(us[leader], 1),
                "follower": round(sum(followers) / max(1, len(followers)), 1),
                "clients": round(us[_SELF], 1),
            },
            "workflows": workflows,
            "refused": self._refused + sum(agent.refused for agent in agents),
        }

    async def _index(self, connection: LoadConnection) -> int:
        status, body = await connection.request("GET", "/v1/status", b"")
        if status != 200:
            raise BenchError(f"the leader's status was answered with {status}")
        return _status(body).applied_index

    async def _client(self) -> None:
        """Submit one workflow after the other, each when the one before has ended."""
        document = encode(fanned(MIDDLE))
        connection = await LoadConnection.open(self._url)
        try:
            while True:
                key = f"Idempotency-Key: {self._stamp}-{next(self._numbers)}\r\n"
                while (answer := await connection.request("POST", "/v1/workflows", document, key))[0] == BUSY:
                    self._refused += 1
                    await asyncio.sleep(_BUSY_PAUSE_S)
                status, body = answer
                if status != 201:
                    raise BenchError(
                        f"a submission was answered with {status}: {body[:300].decode(errors='replace')}"
                    )
                workflow = _created(body).id
                ended = self._ended[workflow] = asyncio.Event()
                self._count(workflow, TASKS)
                await ended.wait()
                self._workflows += 1
        finally:
            connection.close()

    def _confirm(self, end: ReportedEnd) -> None:
        self._count(end.workflow_id, -1)

    def _count(self, workflow: str, more: int) -> None:
        left = self._left.get(workflow, 0) + more
        if left == 0 and workflow in self._ended:
            self._left.pop(workflow, None)
            self._ended.pop(workflow).set()
        else:
            self._left[workflow] = left


def _cpu(pids: dict[str, int]) -> dict[str, float]:
    return {**{name: cpu_s(pid) for name, pid in pids.items()}, _SELF: cpu_s(os.getpid())}


async def _count(connection: LoadConnection, after: int, last: int) -> int:
    """Return the transitions in the leader's audit of the entries behind `after` up to `last`."""
    found = 0
    start: int | None = after + 1
    while start is not None and start <= last:
        status, body = await connection.request("GET", f"/v1/audit?from={start}&limit={_PAGE}", b"")
        if status != 200:
            raise BenchError(f"the audit was answered with {status}: {body[:300].decode(errors='replace')}")
        page = _audit_page(body)
        found += sum(len(record.transitions) for record in page.records if record.index <= last)
        start = page.next
    return found
