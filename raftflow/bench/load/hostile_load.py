"""The load generators of the flood: requests made beforehand, sent at a rate whatever becomes of them.

A generator keeps its connections, does not wait for an answer before it sends the next request (up to `AHEAD_MAX` of
a connection may be on their way), and connects again where the replica has closed. It is bounded in time and count.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections import Counter
from itertools import cycle
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec
import uvloop

from raftflow.bench.load.http import encode
from raftflow.bench.load.jobs import independent

CONNECTIONS: Final = 64
"""Of one generator."""
AHEAD_MAX: Final = 64
"""Requests of one connection that may be without an answer."""
OVERSIZED_BYTES: Final = 17 * 1024 * 1024
LATE_TASKS: Final = 2_000
"""Tasks of a document of which only the last one is wrong."""
_TICK_S: Final = 0.002
_REOPEN_S: Final = 0.05
_STATUS: Final = re.compile(rb"HTTP/1\.1 (\d\d\d)")
_STATUS_BYTES: Final = 12


def bad_requests(host: str, token: str) -> list[bytes]:
    """Return requests that can only be refused."""
    good = f"Host: {host}\r\nAuthorization: Bearer {token}\r\n"
    wrong = f"Host: {host}\r\nAuthorization: Bearer {'0' * len(token)}\r\n"
    json = "Content-Type: application/json\r\n"
    document = encode(independent(1))
    texts = [
        f"GET /v1/nothing HTTP/1.1\r\n{good}\r\n",
        f"GET /v1/workflows?colour=red HTTP/1.1\r\n{good}\r\n",
        f"PATCH /v1/workflows HTTP/1.1\r\n{good}\r\n",
        f"POST /v1/workflows HTTP/1.1\r\n{good}{json}Content-Length: 9\r\n\r\n{{not json",
        f"POST /v1/workflows HTTP/1.1\r\n{good}{json}Content-Length: 2\r\n\r\n{{}}",
        f"POST /v1/agents/nobody/poll HTTP/1.1\r\n{good}{json}Content-Length: 2\r\n\r\n{{}}",
        f"GET /v1/workflows HTTP/1.1\r\n{wrong}\r\n",
        f"POST /v1/workflows HTTP/1.1\r\n{wrong}{json}Content-Length: {len(document)}\r\n\r\n{document.decode()}",
    ]
    # Each of these ends its connection; it comes once in a round.
    closing = [
        "NONSENSE\r\n\r\n",
        f"POST /v1/workflows HTTP/1.1\r\n{good}{json}Content-Length: {OVERSIZED_BYTES}\r\n\r\n{'x' * 16_384}",
    ]
    return [text.encode() for text in (*(texts * 8), *closing)]


def heavy_requests(host: str, token: str, workflow: str) -> list[bytes]:
    """Return requests that make the replica work. `workflow` has many tasks."""
    good = f"Host: {host}\r\nAuthorization: Bearer {token}\r\n"
    late = independent(LATE_TASKS)
    late["tasks"][-1] = {**late["tasks"][-1], "needs": ["nobody"]}
    body = encode(late)
    paths = (
        "/v1/workflows?limit=1000",
        f"/v1/workflows/{workflow}/tasks?limit=1000",
        f"/v1/workflows/{workflow}",
        "/v1/ledger",
        "/v1/agents",
        "/v1/audit?from=0&limit=1000",
        "/v1/audit/verify",
        "/v1/ledger/verify",
        "/metrics",
    )
    head = (
        f"POST /v1/workflows HTTP/1.1\r\n{good}Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return [*(f"GET {path} HTTP/1.1\r\n{good}\r\n".encode() for path in paths), head.encode() + body]


class Tally(msgspec.Struct):
    """What a generator has done."""

    offered: int = 0
    """Requests that were written."""
    answered: int = 0
    lost: int = 0
    """Requests without an answer when their connection was closed."""
    opened: int = 0
    """Connections that were made."""
    seconds: float = 0.0
    statuses: dict[str, int] = {}


def hostile_load(url: str, requests: list[bytes], per_s: float, seconds: float) -> dict[str, Any]:
    """Be a generator: send the requests in turn, `per_s` a second, for some seconds."""
    tally: Tally = uvloop.run(_HostileLoad(url, requests).run(per_s, seconds))
    found: dict[str, Any] = msgspec.to_builtins(tally)
    return found


class _HostileLoad:
    def __init__(self, url: str, requests: list[bytes]) -> None:
        place = urlsplit(url)
        self._place = (place.hostname or "127.0.0.1", place.port or 80)
        self._requests = cycle(requests)
        self.tally = Tally()
        self.statuses: Counter[str] = Counter()
        self._until = 0.0

    async def run(self, per_s: float, seconds: float) -> Tally:
        began = time.perf_counter()
        self._until = began + seconds
        lines = [_LoadLine(self) for _ in range(CONNECTIONS)]
        keeping = [asyncio.create_task(self._keep(line)) for line in lines]
        turns = cycle(lines)
        tally = self.tally
        limit = round(per_s * seconds)
        while (now := time.perf_counter()) < self._until and tally.offered < limit:
            due = min(limit, round(per_s * (now - began)))
            for _ in range(CONNECTIONS):  # nobody has room: what was not offered by now is offered later, or never
                line = next(turns)
                while tally.offered < due and line.has_room:
                    line.send(next(self._requests))
                    tally.offered += 1
                if tally.offered >= due:
                    break
            await asyncio.sleep(_TICK_S)
        await asyncio.sleep(max(0.0, self._until - time.perf_counter()))
        tally.seconds = time.perf_counter() - began
        for task in keeping:
            task.cancel()
        for line in lines:
            line.close()
        tally.statuses = dict(self.statuses)
        return tally

    async def _keep(self, line: _LoadLine) -> None:
        """Connect, and again whenever the replica has closed."""
        loop = asyncio.get_running_loop()
        while True:
            line.closed.clear()
            try:
                await loop.create_connection(lambda: line, *self._place)
                self.tally.opened += 1
                await line.closed.wait()
            except OSError:
                pass
            await asyncio.sleep(_REOPEN_S)


class _LoadLine(asyncio.Protocol):
    """One connection of a generator."""

    def __init__(self, hostile_load: _HostileLoad) -> None:
        self._hostile_load = hostile_load
        self._transport: asyncio.Transport | None = None
        self._ahead = 0
        self._full = False
        self._rest = b""
        self.closed = asyncio.Event()

    @property
    def has_room(self) -> bool:
        return self._transport is not None and not self._full and self._ahead < AHEAD_MAX

    def send(self, request: bytes) -> None:
        assert self._transport is not None  # noqa: S101 - has_room
        self._transport.write(request)
        self._ahead += 1

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]  # a TCP connection's is a Transport
        self._full = False

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self._transport = None
        self._hostile_load.tally.lost += self._ahead
        self._ahead = 0
        self._rest = b""
        self.closed.set()

    def pause_writing(self) -> None:
        self._full = True

    def resume_writing(self) -> None:
        self._full = False

    def data_received(self, data: bytes) -> None:
        """Count the answers."""
        data = self._rest + data
        found = _STATUS.findall(data)
        self._rest = data[1 - _STATUS_BYTES :]
        self._ahead -= len(found)
        self._hostile_load.tally.answered += len(found)
        self._hostile_load.statuses.update(status.decode() for status in found)
