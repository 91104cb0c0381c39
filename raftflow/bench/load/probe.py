"""A measuring agent: talks to the leader as agents do, runs nothing, and notes when assignments reach it."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import TypeVar

import msgspec

from raftflow.agent.config import AgentConfig
from raftflow.agent.exchange.leader import LeaderClient, LeaderNotFoundError
from raftflow.domain.contract.views import PollRequest, RegisterRequest, ReportedEnd

_RETRY_S = 0.01
_WAIT_MS = 1_000
_TIMEOUT_S = 2.0
_encode = msgspec.json.Encoder().encode
_T = TypeVar("_T")


class ProbeAgent:
    """Takes one task at a time, holds it for `hold_s`, reports success, and counts.

    `assigned_at` is the loop time at which the newest assignment arrived, `fence` its number.
    """

    def __init__(
        self, urls: Sequence[str], *, name: str = "probe", hold_s: float = 0.002, token: str | None = None
    ) -> None:
        self._leader = LeaderClient(
            AgentConfig(
                peers=tuple(urls), name=name, token=token or "", connect_timeout_s=0.5, poll_timeout_s=_TIMEOUT_S
            )
        )
        self._name = name
        self._instance = secrets.token_hex(8)
        self._hold_s = hold_s
        self._task: asyncio.Task[None] | None = None
        self._arrived = asyncio.Event()
        self.fence = 0
        self.assigned_at = 0.0
        self.assignments = 0

    async def start(self) -> None:
        """Register and begin to poll."""
        await self._leader.start()
        request = RegisterRequest(name=self._name, instance=self._instance, resources={"cpu": 1, "probe": 1})
        registered = await self._persist(partial(self._leader.register, request))
        self._task = asyncio.create_task(self._work(registered.incarnation))

    async def close(self) -> None:
        """Stop polling."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        await self._leader.close()

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
                incarnation=incarnation, seq=seq, seen=self.fence, ends=[held] if held else [], wait_ms=_WAIT_MS
            )
            response = await self._persist(partial(self._leader.poll, self._name, _encode(request), _TIMEOUT_S))
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

    async def _persist(self, ask: Callable[[], Awaitable[_T]]) -> _T:
        """Ask the leader, wherever it is, until it answers."""
        while True:
            try:
                return await ask()
            except LeaderNotFoundError:
                await asyncio.sleep(_RETRY_S)
