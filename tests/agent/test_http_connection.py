"""The agent's connections: what is kept, what is sent again, and answers of every framing."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import uvloop

from raftflow.agent.exchange import http_connection as wire_module
from raftflow.agent.exchange.http_connection import HttpConnectionError, HttpConnections

LIMIT_S = 5.0
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-Thing: a\r\n\r\nhi"

Script = Callable[[asyncio.StreamReader, asyncio.StreamWriter, int], Awaitable[None]]


class Server:
    """Runs a script for each connection, which gets its number from 1."""

    def __init__(self, script: Script) -> None:
        self._script = script
        self.connections = 0
        self.requests: list[bytes] = []
        self.base = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            await self._script(reader, writer, self.connections)
        writer.close()

    async def request(self, reader: asyncio.StreamReader) -> bytes:
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        self.requests.append(head + await reader.readexactly(length))
        return self.requests[-1]


@pytest.fixture
async def served() -> AsyncIterator[Callable[[Script], Awaitable[Server]]]:
    servers: list[asyncio.Server] = []

    async def start(script: Script) -> Server:
        one = Server(script)
        server = await asyncio.start_server(one.serve, "127.0.0.1", 0)
        servers.append(server)
        one.base = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        return one

    yield start
    for server in servers:
        server.close()


async def post(wire: HttpConnections, base: str, body: bytes = b"{}", **options: Any) -> Any:
    return await wire.post(base, "/v1/x", body, **{"timeout_s": LIMIT_S, "connect_timeout_s": LIMIT_S, **options})


async def test_a_connection_is_kept_and_used_again(served: Any) -> None:
    async def script(reader: Any, writer: Any, _number: int) -> None:
        while True:
            await one.request(reader)
            writer.write(OK)

    one = await served(script)
    wire = HttpConnections({"Authorization": "Bearer x"})
    for _ in range(3):
        answer = await post(wire, one.base, b'{"a": 1}')
        assert (answer.status, answer.headers["x-thing"], answer.body) == (200, "a", b"hi")
    assert one.connections == 1
    host = one.base.removeprefix("http://").encode()
    assert one.requests[0] == (
        b"POST /v1/x HTTP/1.1\r\nHost: " + host + b'\r\nContent-Length: 8\r\nAuthorization: Bearer x\r\n\r\n{"a": 1}'
    )
    both = await asyncio.gather(post(wire, one.base), post(wire, one.base))
    assert [answer.status for answer in both] == [200, 200]
    assert one.connections == 2, "two at a time take two"
    wire.close()


async def test_a_kept_connection_that_was_closed_meanwhile_is_replaced(served: Any) -> None:
    async def script(reader: Any, writer: Any, number: int) -> None:
        await one.request(reader)
        writer.write(OK)
        if number == 1:
            await one.request(reader)  # and says nothing to the second one

    one = await served(script)
    wire = HttpConnections({})
    await post(wire, one.base)
    assert (await post(wire, one.base)).status == 200
    assert (one.connections, len(one.requests)) == (2, 3)
    wire.close()


async def test_a_fresh_connection_that_breaks_is_an_error(served: Any) -> None:
    async def script(reader: Any, _writer: Any, _number: int) -> None:
        await one.request(reader)

    one = await served(script)
    with pytest.raises(HttpConnectionError, match="closed"):
        await post(HttpConnections({}), one.base)
    assert one.connections == 1


async def test_an_answer_that_has_begun_is_not_asked_for_again(served: Any) -> None:
    async def script(reader: Any, writer: Any, _number: int) -> None:
        await one.request(reader)
        writer.write(OK)
        await one.request(reader)
        writer.write(OK[:-1])

    one = await served(script)
    wire = HttpConnections({})
    await post(wire, one.base)
    with pytest.raises(HttpConnectionError):
        await post(wire, one.base)
    assert one.connections == 1


@pytest.mark.parametrize(
    ("raw", "kept"),
    [
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nh\r\n1\r\ni\r\n0\r\n\r\n", True),
        (b"HTTP/1.1 100 Continue\r\n\r\n" + OK, True),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nhi", False),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nhi", False),
    ],
)
@pytest.mark.parametrize("step", [1, 1000])
async def test_every_framing_is_understood(served: Any, raw: bytes, kept: bool, step: int) -> None:  # noqa: FBT001 - one row of the table
    async def script(reader: Any, writer: Any, _number: int) -> None:
        while True:
            await one.request(reader)
            for at in range(0, len(raw), step):
                writer.write(raw[at : at + step])
                await writer.drain()
                await asyncio.sleep(0)

    one = await served(script)
    wire = HttpConnections({})
    for _ in range(2):
        assert (await post(wire, one.base)).body == b"hi"
    assert one.connections == (1 if kept else 2)
    wire.close()


@pytest.mark.parametrize(
    "raw",
    [b"SSH-2.0-OpenSSH\r\n\r\n", b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n"],
)
async def test_what_is_no_answer_is_an_error(served: Any, raw: bytes) -> None:
    async def script(reader: Any, writer: Any, _number: int) -> None:
        await one.request(reader)
        writer.write(raw)
        await writer.drain()

    one = await served(script)
    with pytest.raises(HttpConnectionError):
        await post(HttpConnections({}), one.base)


@pytest.mark.parametrize(
    "raw",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 101\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n65\r\n" + b"x" * 101 + b"\r\n0\r\n\r\n",
    ],
)
async def test_answers_are_bounded(served: Any, monkeypatch: pytest.MonkeyPatch, raw: bytes) -> None:
    monkeypatch.setattr(wire_module, "ANSWER_BYTES_MAX", 100)

    async def script(reader: Any, writer: Any, _number: int) -> None:
        await one.request(reader)
        writer.write(raw)
        await writer.drain()
        await reader.read()

    one = await served(script)
    with pytest.raises(HttpConnectionError, match="an answer of"):
        await post(HttpConnections({}), one.base)


async def test_time_is_limited_and_a_late_answer_is_not_taken_for_the_next_one(served: Any) -> None:
    async def script(reader: Any, writer: Any, number: int) -> None:
        while True:
            await one.request(reader)
            if number > 1:
                writer.write(OK)

    one = await served(script)
    wire = HttpConnections({})
    with pytest.raises(TimeoutError):
        await post(wire, one.base, timeout_s=0.05)
    assert (await post(wire, one.base)).body == b"hi"
    assert one.connections == 2
    wire.close()


async def test_nobody_there(unused_tcp_port: int) -> None:
    with pytest.raises(OSError, match=r"refused|Connect"):
        await post(HttpConnections({}), f"http://127.0.0.1:{unused_tcp_port}")


def test_it_works_on_the_agents_loop() -> None:
    async def run() -> int:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(OK)
            await writer.drain()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        wire = HttpConnections({})
        answer = await post(wire, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", b"")
        wire.close()
        server.close()
        return int(answer.status)

    assert uvloop.run(run()) == 200
