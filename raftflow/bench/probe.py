"""A measuring agent: speaks the agents' HTTP contract, runs nothing, and notes when assignments reach it."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Sequence

import aiohttp
import msgspec

from raftflow.domain.contract import (
    PollRequest,
    PollResponse,
    RegisterRequest,
    RegisterResponse,
    ReportedEnd,
)

_RETRY_S = 0.01
_TIMEOUT = aiohttp.ClientTimeout(total=2.0, connect=0.5)
_encode = msgspec.json.Encoder().encode


class ProbeAgent:
    """Takes one task at a time, holds it for `hold_s`, reports success, and counts.

    `assigned_at` is the loop time at which the newest assignment arrived, `fence` its number.
    """

    def __init__(self, urls: Sequence[str], *, name: str = "probe", hold_s: float = 0.002) -> None:
        self._urls = list(urls)
        self._leader = 0
        self._name = name
        self._instance = secrets.token_hex(8)
        self._hold_s = hold_s
        self._session: aiohttp.ClientSession | None = None
        self._task: asyncio.Task[None] | None = None
        self._arrived = asyncio.Event()
        self.fence = 0
        self.assigned_at = 0.0
        self.assignments = 0

    async def start(self) -> None:
        """Register and begin to poll."""
        self._session = aiohttp.ClientSession(timeout=_TIMEOUT)
        request = RegisterRequest(name=self._name, instance=self._instance, resources={"cpu": 1, "probe": 1})
        answer = await self._call("/v1/agents", _encode(request))
        incarnation = msgspec.json.decode(answer, type=RegisterResponse).incarnation
        self._task = asyncio.create_task(self._work(incarnation))

    async def close(self) -> None:
        """Stop polling."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        if self._session is not None:
            await self._session.close()

    async def next_assignment(self, timeout_s: float) -> float:
        """Wait for an assignment that arrives after this call; returns its loop time. Raises `TimeoutError`."""
        self._arrived.clear()
        async with asyncio.timeout(timeout_s):
            await self._arrived.wait()
        return self.assigned_at

    async def _work(self, incarnation: int) -> None:
        seq = 0
        held: ReportedEnd | None = None
        while True:
            seq += 1
            request = PollRequest(
                incarnation=incarnation, seq=seq, seen=self.fence, ends=[held] if held else [], wait_ms=1_000
            )
            answer = await self._call(f"/v1/agents/{self._name}/poll", _encode(request))
            response = msgspec.json.decode(answer, type=PollResponse)
            if held is not None and any(verdict.fence == held.fence for verdict in response.verdicts):
                held = None
            for assignment in response.assign:
                self.fence = assignment.fence
                self.assigned_at = asyncio.get_running_loop().time()
                self.assignments += 1
                self._arrived.set()
                await asyncio.sleep(self._hold_s)
                held = ReportedEnd(
                    fence=assignment.fence,
                    workflow_id=assignment.workflow_id,
                    task_id=assignment.task_id,
                    outcome="succeeded",
                )

    async def _call(self, path: str, body: bytes) -> bytes:
        """POST to the leader, wherever it is, until it answers."""
        if self._session is None:
            raise RuntimeError("the probe was not started")
        headers = {"Content-Type": "application/json"}
        while True:
            url = self._urls[self._leader] + path
            try:
                async with self._session.post(url, data=body, headers=headers) as response:
                    if response.status in {200, 201}:
                        return await response.read()
                    if response.status != 503:
                        raise RuntimeError(f"{url} answered {response.status}: {await response.text()}")
            except (aiohttp.ClientError, TimeoutError):
                pass  # the next replica may know better
            self._leader = (self._leader + 1) % len(self._urls)
            await asyncio.sleep(_RETRY_S)
