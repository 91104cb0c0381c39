"""Connections count from when they are accepted; descriptors are left for the log; no error unbinds the port."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import resource
import socket
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from raftflow.api.admission import descriptors, gated_connection, listener
from raftflow.api.admission.descriptors import RESERVE, share_out
from raftflow.api.server import HttpServer, _http_log
from raftflow.coordinator.config.values import ConfigError
from tests.api.test_tls import make_certificate, with_tls


@pytest.fixture
async def tls_door(one: Any, tmp_path: Path) -> AsyncIterator[Any]:
    """A door with a certificate, and the context to ask it."""
    cert, key = make_certificate(tmp_path)
    one.replica.config = with_tls(one.config, api_cert=cert, api_key=key, api_ca=cert)
    door = HttpServer(one.replica)
    await door.start()
    trusting = ssl.create_default_context(cafile=str(cert))
    yield door, trusting, one.until
    await door.stop()


async def ask(door: Any, trusting: ssl.SSLContext) -> int:
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"https://127.0.0.1:{door.port}/healthz", ssl=trusting) as answer,
    ):
        return answer.status


def dial(door: Any, count: int = 1, data: bytes = b"") -> list[socket.socket]:
    made = []
    for _ in range(count):
        sock = socket.create_connection(("127.0.0.1", door.port), timeout=5)
        sock.sendall(data)
        made.append(sock)
    return made


def client_hello() -> bytes:
    outgoing = ssl.MemoryBIO()
    half = ssl.create_default_context().wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="localhost")
    with contextlib.suppress(ssl.SSLWantReadError):
        half.do_handshake()
    return outgoing.read()


async def closed(sock: socket.socket) -> bool:
    sock.settimeout(0)
    loop = asyncio.get_running_loop()
    with contextlib.suppress(ConnectionError):
        while await asyncio.wait_for(loop.sock_recv(sock, 65_536), 5):
            pass
    return True


@pytest.mark.parametrize("data", [b"", client_hello(), client_hello()[:20]], ids=["silent", "hello", "half a hello"])
async def test_half_open_handshakes_count_and_end(
    tls_door: Any, data: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listener, "HANDSHAKE_S", 0.3)
    door, trusting, until = tls_door
    sockets = dial(door, 5, data)
    await until(lambda: len(door.admission.handshakes) == 5)
    assert await ask(door, trusting) == 200
    for sock in sockets:
        assert await closed(sock)
        sock.close()
    await until(lambda: not door.admission.handshakes)
    assert await ask(door, trusting) == 200


async def test_a_connection_without_a_tls_handshake_is_closed_at_once(tls_door: Any) -> None:
    door, trusting, until = tls_door
    for data in (
        b"GET / HTTP/1.1\r\n\r\n",
        b"\0" * 100,
        b"\x80\x2e\x01\x03\x01",
        b"\x16\x03\x01\xff\xff" + b"x" * 9_000,
    ):
        [sock] = dial(door, 1, data)
        assert await closed(sock)
        sock.close()
    await until(lambda: not door.admission.handshakes)
    assert await ask(door, trusting) == 200


async def test_half_open_handshakes_leave_room(tls_door: Any) -> None:
    door, trusting, until = tls_door
    door.admission.set_connections_max(20)
    sockets = dial(door, 60, client_hello())
    await until(lambda: door.admission.shed >= 50)
    assert len(door.admission.handshakes) <= 10
    assert await ask(door, trusting) == 200
    for sock in sockets:
        sock.close()


async def test_the_end_of_the_server_ends_handshakes(tls_door: Any) -> None:
    door, _, until = tls_door
    [sock] = dial(door)
    await until(lambda: len(door.admission.handshakes) == 1)
    await asyncio.wait_for(door.stop(), 5)
    assert await closed(sock)
    sock.close()


async def test_without_descriptors_the_port_stays_bound_and_the_loop_rests(
    one: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    real = socket.socket.accept
    short = True

    def accept(self: socket.socket) -> Any:
        if short:
            raise OSError(errno.EMFILE, "too many open files")
        return real(self)

    monkeypatch.setattr(socket.socket, "accept", accept)
    door = one.server
    sockets = dial(door, 3)
    await one.until(lambda: door.listener.accept_failed >= 2)
    assert door.listener.accept_failed < 10, "it does not spin"
    short = False
    assert (await one.get("/healthz")).status == 200
    told = [record for record in caplog.records if "cannot be accepted" in record.getMessage()]
    assert len(told) == 1
    for sock in sockets:
        sock.close()


async def test_many_silent_connections_do_not_keep_others_out(one: Any) -> None:
    one.server.admission.set_connections_max(10)
    sockets = dial(one.server, 100)
    halves = dial(one.server, 20, b"POST /v1/workflows HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n")
    bodies = dial(
        one.server,
        20,
        b"POST /v1/workflows HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        b"Content-Length: 10\r\n\r\n{",
    )
    for number in range(5):
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"{one.url}/healthz") as answer,
        ):
            assert answer.status == 200, number
    assert len(one.server.admission.connections) <= 10
    for sock in (*sockets, *halves, *bodies):
        sock.close()


async def test_a_connection_whose_client_never_reads_is_closed(one: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gated_connection, "UNREAD_S", 0.2)
    for number in range(100):
        await one.submit({"id": "t", "command": ["true"]}, name=f"w{number}-{'x' * 80}")
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
    sock.settimeout(5)
    sock.connect(("127.0.0.1", one.server.port))
    sock.settimeout(0)
    request = b"GET /v1/workflows?limit=100 HTTP/1.1\r\nHost: localhost\r\n\r\n"
    loop = asyncio.get_running_loop()
    sending = asyncio.ensure_future(loop.sock_sendall(sock, request * 2_000))
    await one.until(lambda: bool(one.server.admission.unread))
    assert one.server.admission.unread_bytes < 8 << 20
    await one.until(lambda: not one.server.admission.unread and one.server.admission.shed >= 1)
    sending.cancel()
    with contextlib.suppress(asyncio.CancelledError, ConnectionError):
        await sending
    sock.close()


def test_descriptors_are_shared_out(caplog: pytest.LogCaptureFixture) -> None:
    assert share_out(-1, 10, 50_000).connections == 50_000
    assert share_out(1_000_000, 10, 50_000) == (50_000, 256)
    assert not caplog.records
    connections, forward = share_out(300, 10, 50_000)
    assert connections + forward + 10 + RESERVE == 300
    assert connections >= 100
    assert forward >= 1
    [told] = caplog.records
    assert "limits.connections is 50000" in told.getMessage()
    with pytest.raises(ConfigError, match=r"the limit of open files is 100, .* at least \d+: raise it"):
        share_out(100, 10, 50_000)
    needed = next(limit for limit in range(100, 400) if _starts(limit))
    with pytest.raises(ConfigError, match=f"at least {needed}:"):
        share_out(120, 10, 50_000)
    assert share_out(300, 10, 20) == (20, forward)


def _starts(limit: int) -> bool:
    try:
        share_out(limit, 10, 50_000)
    except ConfigError:
        return False
    return True


def test_the_limit_is_raised_as_far_as_it_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    set_to: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1_024, 4_096))
    monkeypatch.setattr(resource, "setrlimit", lambda _, both: set_to.append(both))
    assert descriptors.raise_limit() == 4_096
    assert set_to == [(4_096, 4_096)]

    def refuse(*_: Any) -> None:
        raise OSError(errno.EPERM, "no")

    monkeypatch.setattr(resource, "setrlimit", refuse)
    assert descriptors.raise_limit() == 1_024
    assert descriptors.open_now() > 3


def test_an_answer_to_a_closed_connection_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    """It would be the last line of a replica that stops, in place of the reason."""
    log = _http_log()
    for reason in ("unable to perform operation on <TCPTransport closed=True>; the handler is closed", "a fault"):
        log.error("Unhandled exception", exc_info=RuntimeError(reason))
    assert [record.message for record in caplog.records] == [
        "Unhandled exception: 'a fault' (0 more since the last such line)"
    ]
