"""Simulated agents: kept connections that take assignments and report them as succeeded, and run nothing.

Many of them fit into one load generator, so what is measured is the leader, its log and its polls.
"""

from __future__ import annotations

import asyncio
import resource
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from itertools import count
from typing import Final

import msgspec

from raftflow.bench.load.http import LoadConnection, encode
from raftflow.bench.settings import BenchError
from raftflow.domain.contract.views import (
    Assignment,
    PollRequest,
    PollResponse,
    RegisterRequest,
    RegisterResponse,
    ReportedEnd,
)
from raftflow.helpers import spawn_context

BUSY: Final = 429
_BUSY_PAUSE_S: Final = 0.1
_decode = msgspec.json.Decoder(PollResponse).decode


class SimulatedAgent:
    """One agent on one connection. `register` it, then `work`.

    Args:
        name: the agent's.
        cpus: tasks of one CPU that run there at the same time.
        prefetch: tasks that may wait there.
        hold_s: seconds from an assignment until its end is reported.
        on_assigned: called with each assignment as it arrives.
        on_confirmed: called with each end that the leader has accepted.
    """

    def __init__(
        self,
        name: str,
        *,
        cpus: float = 1,
        prefetch: int = 0,
        hold_s: float = 0.0,
        on_assigned: Callable[[Assignment], None] | None = None,
        on_confirmed: Callable[[ReportedEnd], None] | None = None,
    ) -> None:
        self.name = name
        self.polls = 0
        """Polls that were answered."""
        self.refused = 0
        """Polls that were put off with 429."""
        self.longest_s = 0.0
        """Longest time that a poll took which brought a report."""
        self._cpus = cpus
        self._prefetch = prefetch
        self._hold_s = hold_s
        self._on_assigned = on_assigned
        self._on_confirmed = on_confirmed
        self._connection: LoadConnection | None = None
        self._registered: RegisterResponse | None = None

    async def register(self, url: str, token: str | None = None) -> None:
        """Connect to the leader and come up. Raises `OSError`, `BenchError`."""
        connection = await LoadConnection.open(url, token)
        request = RegisterRequest(
            name=self.name,
            instance=f"{self.name}-instance",
            resources={"cpu": self._cpus},
            prefetch=self._prefetch,
        )
        answer = await connection.post("/v1/agents", request)
        self._registered = msgspec.json.decode(answer, type=RegisterResponse)
        self._connection = connection

    async def work(self) -> None:
        """Poll until cancelled. Raises `BenchError` if the leader refuses, or no longer leads."""
        connection, registered = self._connection, self._registered
        if connection is None or registered is None:
            raise BenchError(f"{self.name} has not registered")
        loop = asyncio.get_running_loop()
        held: dict[int, ReportedEnd] = {}
        seen = 0
        try:
            for seq in count(1):
                poll = PollRequest(
                    incarnation=registered.incarnation,
                    seq=seq,
                    seen=seen,
                    ends=list(held.values()),
                    wait_ms=registered.poll_wait_ms,
                )
                began = loop.time()
                status, body = await connection.request("POST", f"/v1/agents/{self.name}/poll", encode(poll))
                if status == BUSY:
                    self.refused += 1
                    await asyncio.sleep(_BUSY_PAUSE_S)
                    continue
                told = self._told(status, body)
                self.polls += 1
                if held:
                    self.longest_s = max(self.longest_s, loop.time() - began)
                for verdict in told.verdicts:
                    end = held.pop(verdict.fence, None)
                    if end is not None and self._on_confirmed is not None:
                        self._on_confirmed(end)
                for item in told.assign:
                    seen = max(seen, item.fence)
                    held[item.fence] = ReportedEnd(
                        fence=item.fence, workflow_id=item.workflow_id, task_id=item.task_id, outcome="succeeded"
                    )
                    if self._on_assigned is not None:
                        self._on_assigned(item)
                if self._hold_s and told.assign:
                    await asyncio.sleep(self._hold_s)
        finally:
            connection.close()

    def _told(self, status: int, body: bytes) -> PollResponse:
        if status == 307:
            raise BenchError(f"the leader lost its term while {self.name} polled")
        if status != 200:
            raise BenchError(f"a poll was answered with {status}: {body[:300].decode(errors='replace')}")
        return _decode(body)


def generators(number: int) -> ProcessPoolExecutor:
    """Return processes of their own for load, so that neither side waits for the other's interpreter."""
    return ProcessPoolExecutor(number, spawn_context(), initializer=many_files)


def many_files() -> None:
    """Let this process hold as many connections as the system allows."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
