"""Whatever answers, and however a client is used, what comes out is a `ClientError`."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import threading
import time
from typing import Any

import pytest

from raftflow.client import AsyncClient, Client, ClientError, UsageError

DOCUMENT = {"name": "w", "tasks": [{"id": "a", "command": ["true"]}]}
HTML = b"<html><body>502 Bad Gateway</body></html>"


def http(status: str, body: bytes, *lines: str, length: int | None = None) -> bytes:
    head = [f"HTTP/1.1 {status}", f"Content-Length: {len(body) if length is None else length}", *lines, "", ""]
    return "\r\n".join(head).encode("latin-1") + body


JSON = "Content-Type: application/json"
ANSWERS = {
    "nothing": b"",
    "noise": bytes(range(256)) * 4,
    "half a head": b"HTTP/1.1 200 O",
    "no number": b"HTTP/1.1 abc OK\r\n\r\n",
    "other protocol": b"SSH-2.0-OpenSSH_9.6\r\n",
    "http 2": b"\x00\x00\x12\x04\x00\x00\x00\x00\x00\x00\x03\x00\x00\x00\x64",
    "truncated": http("200 OK", b'{"agents": [', JSON, length=1000),
    "truncated chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nff\r\n{",
    "wrong chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n{",
    "two lengths": http("200 OK", b"{}", "Content-Length: 3"),
    "negative length": http("200 OK", b"{}", length=-1),
    "no JSON": http("200 OK", b'{"agents": [}', JSON),
    "other JSON": http("200 OK", b"[1, 2]", JSON),
    "deep JSON": http("200 OK", b"[" * 200_000, JSON),
    "deep value": http("200 OK", b'{"x": ' + b"[" * 200_000, JSON),
    "huge number": http("200 OK", b'{"id": ' + b"9" * 5_000 + b"}", JSON),
    "no UTF-8": http("200 OK", b'{"id": "\xff\xfe"}', JSON),
    "lone surrogate": http("200 OK", b'{"id": "\\ud800"}', JSON),
    "empty": http("200 OK", b"", JSON),
    "no content": http("204 No Content", b""),
    "page": http("200 OK", HTML, "Content-Type: text/html"),
    "page of a proxy": http("502 Bad Gateway", HTML, "Content-Type: text/html"),
    "page for 403": http("403 Forbidden", HTML, "Content-Type: text/html"),
    "redirect": http("302 Found", b"", "Location: http://127.0.0.1:9/"),
    "redirect elsewhere": http("307 Temporary Redirect", b"", "Location: file:///etc/passwd"),
    "no such place": http("301 Moved", b"", "Location: http://[::1"),
    "deep problem": http("400 Bad Request", b"[" * 200_000, "Content-Type: application/problem+json"),
    "long header": http("200 OK", b"{}", "X: " + "a" * 100_000),
    "odd header": http(
        "200 OK", b"{}", "X-Raftflow-Peers: http://[::1,\xff", "Retry-After: \xb2", "Set-Cookie: \x01=;;"
    ),
    "compressed": http("200 OK", b"\x1f\x8b\x08", "Content-Encoding: gzip"),
    "endless head": b"HTTP/1.1 200 OK\r\n" + b"X-A: b\r\n" * 50_000,
    "continue": b"HTTP/1.1 100 Continue\r\n\r\n" * 50,
    "upgrade": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
    "strange status": http("999 Odd", b"{}", JSON),
}


class Odd:
    """Answers every request with the same bytes and closes the connection, or resets it."""

    def __init__(self, content: bytes, *, reset: bool = False) -> None:
        self.content = content
        self._reset = reset

    async def __aenter__(self) -> str:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(self.content)
            if self._reset:
                writer.transport.abort()
            else:
                await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()


async def try_all(url: str) -> None:
    async with AsyncClient([url], timeout_s=0.15, environ={}) as client:
        calls: list[Any] = [
            client.agents(),
            client.submit(DOCUMENT),
            client.status(url),
            client.cluster_status(),
            client.cancel("wf-1"),
            client.openapi(),
        ]
        for result in await asyncio.gather(*calls, return_exceptions=True):
            assert isinstance(result, ClientError | dict), repr(result)
            assert not isinstance(result, dict) or result in ({}, {"id": "\ud800"}), result


@pytest.mark.parametrize("name", ANSWERS)
async def test_odd_answers(name: str) -> None:
    async with Odd(ANSWERS[name]) as url:
        await try_all(url)


async def test_connections_that_are_reset() -> None:
    for content in (b"", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n{"):
        async with Odd(content, reset=True) as url:
            await try_all(url)


async def test_answers_with_random_faults() -> None:
    """Good answers of which a few bytes are changed, lost or doubled; the seed is fixed."""
    rng = random.Random(11)
    good = http("200 OK", b'{"agents": [], "id": "wf-1", "state": "x"}', JSON, "X-Raftflow-Peers: http://a:1")
    odd = Odd(good)
    async with odd as url, AsyncClient([url], timeout_s=0.02, environ={}) as client:
        for _ in range(80):
            content = bytearray(good)
            for _ in range(rng.randint(1, 4)):
                at = rng.randrange(len(content))
                change = rng.choice(("flip", "cut", "double"))
                content[at : at + rng.randint(1, 5)] = (
                    bytes([rng.randrange(256)]) if change == "flip" else b"" if change == "cut" else content[at:] * 2
                )
            odd.content = bytes(content)
            for call in (client.agents(), client.submit(DOCUMENT)):
                with contextlib.suppress(ClientError):
                    await call


@pytest.mark.parametrize("key", ["", " ", "two words", "ü", "a\nb", "k" * 201, "\ud800", 5])
async def test_what_is_no_idempotency_key_is_refused(replicas: list[Any], key: Any) -> None:
    async with AsyncClient([replicas[0].url], environ={}) as client:
        with pytest.raises(UsageError, match="idempotency key"):
            await client.submit(DOCUMENT, idempotency_key=key)
    assert replicas[0].seen == []


@pytest.mark.parametrize("name", ["", None, 5, "\ud800", "..", "."])
async def test_names_that_are_none_are_refused(replicas: list[Any], name: Any) -> None:
    replicas[0].routes["GET", "/v1/workflows"] = {"workflows": [], "next": None}
    async with AsyncClient([replicas[0].url], environ={}) as client:
        for call in (client.workflow(name), client.task("w", name), client.drain(name)):
            with pytest.raises(UsageError):
                await call
        with contextlib.suppress(UsageError):
            await client.workflows_page(state=name)
            assert name in (None, "", 5, ".", ".."), "what cannot be sent is refused"


async def test_a_closed_client_says_so(replicas: list[Any]) -> None:
    replicas[0].routes["GET", "/v1/agents"] = {"agents": []}
    client = AsyncClient([replicas[0].url], environ={})
    await client.agents()
    await client.close()
    await client.close()
    with pytest.raises(UsageError, match="closed"):
        await client.agents()


async def test_a_client_belongs_to_one_loop(replicas: list[Any]) -> None:
    replicas[0].routes["GET", "/v1/agents"] = {"agents": []}
    client = AsyncClient([replicas[0].url], environ={})
    await client.agents()

    def elsewhere() -> None:
        with pytest.raises(UsageError, match="event loop"):
            asyncio.run(client.agents())

    await asyncio.to_thread(elsewhere)
    assert await client.agents() == []
    await client.close()


async def test_closing_ends_the_calls_of_other_threads(replicas: list[Any], make: Any) -> None:
    replicas[0].script = [make.hang]
    client = Client([replicas[0].url], environ={})
    ended: list[BaseException] = []

    def call() -> None:
        try:
            client.agents()
        except BaseException as error:  # noqa: BLE001 - whatever it is
            ended.append(error)

    thread = threading.Thread(target=call)
    thread.start()
    while not replicas[0].seen:  # noqa: ASYNC110 - no event tells it
        await asyncio.sleep(0.01)
    began = time.monotonic()
    await asyncio.to_thread(client.close)
    await asyncio.to_thread(thread.join)
    assert time.monotonic() - began < 5
    (error,) = ended
    assert isinstance(error, ClientError)
    assert "closed" in str(error)


def test_a_client_that_was_used_before_a_fork_says_so() -> None:
    with Client(["http://127.0.0.1:1"], timeout_s=0.05, environ={}) as client:
        with pytest.raises(ClientError):
            client.agents()
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                client.agents()
            except UsageError as error:
                os.write(writer, str(error).encode())
            finally:
                client.close()
                os._exit(0)
        os.waitpid(child, 0)
        assert b"forked" in os.read(reader, 1000)
        os.close(reader)
        os.close(writer)


async def test_a_cancelled_call_is_cancelled(replicas: list[Any], make: Any) -> None:
    """The one that cancels gets what asyncio promises, and the client goes on."""
    replicas[0].script = [make.hang]
    replicas[0].routes["GET", "/v1/agents"] = {"agents": []}
    async with AsyncClient([replicas[0].url], environ={}) as client:
        call = asyncio.ensure_future(client.agents())
        while not replicas[0].seen:  # noqa: ASYNC110 - no event tells it
            await asyncio.sleep(0.01)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert await client.agents() == []
