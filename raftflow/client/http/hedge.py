"""One request to one peer, given up when the peer is silent and another replica leads.

A replica that is connected and does not answer may be busy, or its machine may be down. After `HEDGE_S` the client
asks other replicas who leads (`GET /v1/leader`). They hold that question until the leader changes. Then the request
is given up and sent to the leader, so a silent machine costs a call little more than the election.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Final

import msgspec

from raftflow.client.errors import ClientError
from raftflow.client.http.calls import ApiCall
from raftflow.client.http.peer_order import PeerOrder
from raftflow.client.http.responses import REQUEST_FAILURES, RetryableProblem
from raftflow.client.http.session import CONNECT_S, HttpSession
from raftflow.domain.contract.operations.replicas import SHOW_LEADER
from raftflow.domain.contract.views import LeaderNotice
from raftflow.domain.values.exact import UNREADABLE

HEDGE_S: Final = 0.3
"""How long one replica may be silent before others are asked who leads."""
_HEDGE_LARGE_S = 3.0
"""The same for a request that takes time to send."""
_LARGE_BYTES = 256 * 1024
_HEDGED_S_MAX = 30.0
"""A call that may take longer than this is not for the leader: a replica checks its own ledger, say."""
_ASKED_MAX = 2
"""Replicas that are asked who leads. One alone for a call whose answer is late by design."""
_NOTICE_HOLD_S = 10.0
_NOTICE_PAUSE_S = 0.1
"""Pause after an answer without news that was not held."""


class LeaderMovedError(Exception):
    """The replica that was asked has not answered, and another one leads."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.url = url


class HedgedSender:
    """Sends requests, and looks for another leader while one is without an answer."""

    def __init__(self, session: HttpSession, peers: PeerOrder) -> None:
        self._session = session
        self._peers = peers
        self._leader = ("", 0)
        """URL and term of the leader, as another replica told last."""

    async def send(
        self, call: ApiCall, peer: str, timeout_s: float, on_connected: Callable[[], None]
    ) -> bytes | RetryableProblem:
        """Send one request. Raises `LeaderMovedError` if it has no answer and another replica leads."""
        others = [other for other in self._peers.urls if other != peer]
        if call.replica is not None or call.once or call.attempt_s > _HEDGED_S_MAX or not others:
            return await self._session.request(call, peer, timeout_s, on_connected)
        loop = asyncio.get_running_loop()
        until_s = loop.time() + timeout_s
        scope = asyncio.timeout(None)
        found: list[str] = []
        lookups: list[asyncio.Task[None]] = []

        def moved(url: str) -> None:
            if not found and not scope.expired():
                found.append(url)
                scope.reschedule(loop.time())

        def look() -> None:
            asked = random.sample(others, min(len(others), 1 if "wait_ms" in call.params else _ASKED_MAX))
            lookups.extend(loop.create_task(self._find_leader(peer, other, until_s, moved)) for other in asked)

        large = call.body is not None and len(call.body) > _LARGE_BYTES
        timers: list[asyncio.TimerHandle] = []

        def connected() -> None:
            on_connected()
            timers.append(loop.call_later(_HEDGE_LARGE_S if large else HEDGE_S, look))

        try:
            async with scope:
                return await self._session.request(call, peer, timeout_s, connected)
        except TimeoutError:
            if found:
                raise LeaderMovedError(found[0]) from None
            raise
        finally:
            for timer in timers:
                timer.cancel()
            for lookup in lookups:
                lookup.cancel()

    async def _find_leader(self, peer: str, other: str, until_s: float, moved: Callable[[str], None]) -> None:
        """Ask another replica until `until_s` who leads; report the first leader that is not `peer`."""
        loop = asyncio.get_running_loop()
        while (left_s := until_s - (asked_s := loop.time())) > 0:
            hold_s = min(left_s, _NOTICE_HOLD_S)
            term = self._leader[1] if self._leader[0] == peer else 0
            params = {"term": str(term), "wait_ms": str(int(hold_s * 1000))}
            try:
                question = ApiCall(SHOW_LEADER.method, SHOW_LEADER.path, params)
                answer = await self._session.request(question, other, hold_s + CONNECT_S)
                notice = msgspec.json.decode(answer, type=LeaderNotice) if isinstance(answer, bytes) else None
            except (*REQUEST_FAILURES, ClientError, *UNREADABLE):
                return
            if notice is None:
                return
            if notice.leader is not None and notice.term > term:
                url = (notice.url or "").rstrip("/")
                self._leader = (url, notice.term)
                if url != peer:
                    moved(url if url in self._peers.urls else other)
                    return
            elif loop.time() - asked_s < _NOTICE_PAUSE_S:
                await asyncio.sleep(_NOTICE_PAUSE_S)
