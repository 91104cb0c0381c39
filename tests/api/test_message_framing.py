"""What arrives byte by byte: refused alike both ways, nothing inflated, nothing parsed for long in one turn."""

from __future__ import annotations

import asyncio
import gzip
import time
import zlib
from collections.abc import Callable
from typing import Any

import pytest

from raftflow.api.http import bodies

LIMIT_S = 30.0
WORKFLOW = b'{"name": "w", "tasks": [{"id": "t", "command": ["true"]}]}'
OTHER_WAY = b"Accept-Language: en\r\n"
"""Sends a request to the framework and changes nothing else."""


async def exchange(one: Any, raw: bytes, *, pieces: int = 1) -> bytes:
    """Send bytes; return what comes back until the connection ends or nothing more comes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", one.server.port)
    size = -(-len(raw) // pieces)
    answer = b""
    try:
        async with asyncio.timeout(LIMIT_S):
            for start in range(0, len(raw), size):
                writer.write(raw[start : start + size])
                await writer.drain()
                if pieces > 1:
                    await asyncio.sleep(0.01)
            while b"\r\n\r\n" not in answer:
                piece = await reader.read(65_536)
                if not piece:
                    break
                answer += piece
    except ConnectionError:
        pass
    finally:
        writer.close()
    return answer


def status_of(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1]) if answer else 0


def request(lines: bytes = b"", body: bytes = WORKFLOW, *, first: bytes = b"POST /v1/workflows HTTP/1.1") -> bytes:
    head = first + b"\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    return head + lines + b"Content-Length: %d\r\n\r\n" % len(body) + body


def swapped(old: bytes, new: bytes) -> Callable[[bytes], bytes]:
    return lambda raw: raw.replace(old, new, 1)


ODD: dict[str, tuple[Callable[[bytes], bytes], int]] = {
    "bare line feed after a header": (swapped(b"localhost\r\n", b"localhost\n"), 400),
    "bare line feed in a value": (swapped(b"Host: localhost", b"Accept: a\nHost: localhost"), 400),
    "bare carriage return in a value": (swapped(b"application/json", b"application/json\rx"), 400),
    "bare line feeds at the end": (swapped(b"\r\n\r\n{", b"\n\n{"), 400),
    "NUL in a value": (swapped(b"localhost\r\n", b"localhost\r\nUser-Agent: a\0b\r\n"), 400),
    "control character in a value": (swapped(b"localhost\r\n", b"localhost\r\nUser-Agent: a\x01b\r\n"), 400),
    "vertical tab around a value": (swapped(b"application/json", b"\x0bapplication/json"), 400),
    "DEL in a value": (swapped(b"localhost\r\n", b"localhost\r\nUser-Agent: a\x7fb\r\n"), 400),
    "non-ASCII in a value": (swapped(b"localhost\r\n", b"localhost\r\nUser-Agent: \xff\xfe\r\n"), 201),
    "non-ASCII in a name": (swapped(b"localhost\r\n", b"localhost\r\nUser-\xe4gent: a\r\n"), 400),
    "tab in a value": (swapped(b"localhost\r\n", b"localhost\r\nUser-Agent: a\tb\r\n"), 201),
    "folded line": (swapped(b"localhost\r\n", b"localhost\r\nUser-Agent: a\r\n b\r\n"), 400),
    "folded line that looks like a header": (swapped(b"localhost\r\n", b"localhost\r\n Accept: b\r\n"), 400),
    "space before the colon": (swapped(b"Content-Length:", b"Content-Length :"), 400),
    "no colon": (swapped(b"localhost\r\n", b"localhost\r\nAccept\r\n"), 400),
    "empty name": (swapped(b"localhost\r\n", b"localhost\r\n: b\r\n"), 400),
    "no Host": (swapped(b"Host: localhost\r\n", b""), 400),
    "two Hosts": (swapped(b"localhost\r\n", b"localhost\r\nHost: localhost\r\n"), 400),
    "another Host": (swapped(b"localhost\r\n", b"evil.example\r\n"), 421),
    "two lengths": (swapped(b"Content-Length:", b"Content-Length: 3\r\nContent-Length:"), 400),
    "two lengths in one": (swapped(b"Content-Length: ", b"Content-Length: 3, "), 400),
    "signed length": (swapped(b"Content-Length: ", b"Content-Length: +"), 400),
    "negative length": (swapped(b"Content-Length: ", b"Content-Length: -"), 400),
    "hexadecimal length": (swapped(b"Content-Length: ", b"Content-Length: 0x"), 400),
    "empty length": (lambda raw: raw.replace(b"Content-Length: %d" % len(WORKFLOW), b"Content-Length:"), 400),
    "length with a digit of another script": (swapped(b"Content-Length: ", b"Content-Length: \xd9\xa1"), 400),
    "length and chunks": (swapped(b"Content-Length:", b"Transfer-Encoding: chunked\r\nContent-Length:"), 400),
    "length and another coding": (swapped(b"Content-Length:", b"Transfer-Encoding: gzip\r\nContent-Length:"), 400),
    "coded chunks": (
        lambda raw: raw.split(b"Content-Length")[0] + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        415,
    ),
    "absolute target": (swapped(b"POST /", b"POST http://localhost/"), 201),
    "absolute target of another host": (swapped(b"POST /", b"POST http://evil.example/"), 400),
    "two spaces in the request line": (swapped(b"POST /", b"POST  /"), 201),
    "tab in the request line": (swapped(b"POST /", b"POST\t/"), 400),
    "space in the target": (swapped(b"/workflows ", b"/work flows "), 400),
    "control character in the target": (swapped(b"/workflows ", b"/work\x01flows "), 400),
    "NUL in the target": (swapped(b"/workflows ", b"/workflows\0 "), 400),
    "no version": (swapped(b" HTTP/1.1", b""), 400),
    "unknown version": (swapped(b"HTTP/1.1", b"HTTP/7.7"), 400),
    "small letters in the version": (swapped(b"HTTP/1.1", b"http/1.1"), 400),
    "small letters in the method": (swapped(b"POST ", b"post "), 400),
    "unknown method": (swapped(b"POST ", b"BREW "), 400),
    "origin that is none": (swapped(b"localhost\r\n", b"localhost\r\nOrigin: http://[evil\r\n"), 400),
    "origin of a page without one": (swapped(b"localhost\r\n", b"localhost\r\nOrigin: null\r\n"), 403),
    "origin of another site": (swapped(b"localhost\r\n", b"localhost\r\nOrigin: http://evil.example\r\n"), 403),
    "origin with a user": (swapped(b"localhost\r\n", b"localhost\r\nOrigin: http://a@localhost\r\n"), 400),
    "two origins": (
        swapped(b"localhost\r\n", b"localhost\r\nOrigin: http://localhost\r\nOrigin: http://evil.example\r\n"),
        400,
    ),
    "its own origin": (swapped(b"localhost\r\n", b"localhost\r\nOrigin: http://localhost\r\n"), 201),
    "upgrade to web sockets": (
        swapped(b"localhost\r\n", b"localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"),
        201,
    ),
    "compressed": (swapped(b"localhost\r\n", b"localhost\r\nContent-Encoding: gzip\r\n"), 415),
    "unknown coding": (swapped(b"localhost\r\n", b"localhost\r\nContent-Encoding: rot13\r\n"), 415),
    "compressed twice": (swapped(b"localhost\r\n", b"localhost\r\nContent-Encoding: identity, br\r\n"), 415),
    "as it is": (swapped(b"localhost\r\n", b"localhost\r\nContent-Encoding: identity\r\n"), 201),
    "unknown expectation": (swapped(b"localhost\r\n", b"localhost\r\nExpect: miracles\r\n"), 201),
    "key with a control character": (swapped(b"localhost\r\n", b"localhost\r\nIdempotency-Key: a\x02b\r\n"), 400),
    "one of everything that is right": (lambda raw: raw, 201),
}


async def test_odd_bytes_are_judged_alike_on_both_paths(one: Any) -> None:
    wrong = []
    for name, (change, status) in ODD.items():
        for lines in (b"", OTHER_WAY):
            answer = await exchange(one, change(request(lines)))
            if status_of(answer) != status:
                wrong.append((name, lines, answer[:200]))
            elif status >= 400:
                assert b"application/problem+json" in answer, (name, answer)
    assert not wrong
    assert one.server.fast_path.taken >= 2, "the fast path takes valid requests"


async def test_connect_is_refused_and_closed(one: Any) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", one.server.port)
    writer.write(b"CONNECT localhost:22 HTTP/1.1\r\nHost: localhost:22\r\n\r\n" + request())
    async with asyncio.timeout(LIMIT_S):
        answer = await reader.read()
    writer.close()
    assert answer.startswith(b"HTTP/1.1 405 ")
    assert answer.count(b"HTTP/1.1") == 1, "what follows is no request"
    assert not one.replica.machine.state.workflows


async def test_nothing_after_a_change_of_protocol_is_a_request(one: Any) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", one.server.port)
    upgrade = b"Connection: Upgrade\r\nUpgrade: websocket\r\n"
    writer.write(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n" + upgrade + b"\r\n" + request())
    async with asyncio.timeout(LIMIT_S):
        answer = await reader.read()
    writer.close()
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert answer.count(b"HTTP/1.1") == 1
    assert not one.replica.machine.state.workflows


# --- nothing inflates


def bomb(size: int = 64 << 20) -> bytes:
    return gzip.compress(bytes(size), 9)


@pytest.mark.parametrize("path", ["/v1/workflows", "/v1/agents/a/poll", "/v1/nothing", "/healthz", "/v1/ledger"])
@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "zstd", "gzip, gzip", "x-gzip"])
async def test_a_compressed_body_is_refused_before_it_is_read(serve: Any, path: str, coding: str) -> None:
    for token in (None, "a token that nobody sent"):
        one = await serve(token=token)
        head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n".encode()
        encoding = f"Content-Encoding: {coding}\r\n".encode()
        for framing in (b"Content-Length: 1000000\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\n"):
            answer = await exchange(one, head + encoding + framing)  # no byte of the body is sent
            assert answer.startswith(b"HTTP/1.1 415 "), (answer, token)
            assert b"connection: close" in answer.lower()


async def test_a_compressed_bomb_does_not_block_the_loop(one: Any) -> None:
    body = bomb()
    head = b"POST /v1/workflows HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    chunked = b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    framings = (b"Content-Length: %d\r\n\r\n%b" % (len(body), body), chunked)
    for coding, content in (("gzip", body), ("deflate", zlib.compress(bytes(8 << 20)))):
        for framing in framings if content is body else framings[:1]:
            raw = head + f"Content-Encoding: {coding}\r\n".encode() + framing
            assert (await exchange(one, raw)).startswith(b"HTTP/1.1 415 ")
    assert one.server.admission.shedder.longest_s < 0.05


# --- bodies in pieces


def chunks(body: bytes, size: int, extension: bytes = b"") -> bytes:
    pieces = [body[start : start + size] for start in range(0, len(body), size)]
    return b"".join(b"%x%b\r\n%b\r\n" % (len(piece), extension, piece) for piece in pieces) + b"0\r\n\r\n"


CHUNKED = (
    b"POST /v1/workflows HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n"
)


@pytest.mark.parametrize("size", [1, 7, 100, 10_000])
async def test_a_small_body_in_chunks_is_taken(one: Any, size: int) -> None:
    for pieces in (1, 7):
        assert status_of(await exchange(one, CHUNKED + chunks(WORKFLOW, size), pieces=pieces)) == 201


@pytest.mark.parametrize("size", [16, 1_000, 70_000])
async def test_a_large_body_in_chunks_is_taken(one: Any, size: int) -> None:
    padded = WORKFLOW[:-1] + b" " * 3_000_000 + b"}"
    assert status_of(await exchange(one, CHUNKED + chunks(padded, size))) == 201


async def test_a_large_body_with_a_length_is_taken_and_what_follows_too(one: Any) -> None:
    padded = WORKFLOW[:-1] + b" " * 3_000_000 + b"}"
    reader, writer = await asyncio.open_connection("127.0.0.1", one.server.port)
    writer.write(request(body=padded) + request() * 50)
    async with asyncio.timeout(20):
        for _ in range(51):
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 201 ")
            length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length"))
            await reader.readexactly(int(length.split(b":")[1]))
    writer.close()


@pytest.mark.parametrize(
    "body",
    [
        chunks(b" " * 400_000, 1),
        chunks(b" " * 400_000, 2),
        chunks(b" " * 20_000, 2_000, b";x=" + b"y" * 8_000),
        chunks(b" " * 400, 1, b";" + b"y" * 100),
    ],
)
async def test_a_body_of_tiny_chunks_is_refused_and_costs_no_turn(one: Any, body: bytes) -> None:
    answers = await asyncio.gather(*[exchange(one, CHUNKED + body) for _ in range(4)])
    for answer in answers:
        assert status_of(answer) in {400, 0}, answer[:300]
    assert any(b"problem+json" in answer for answer in answers)
    assert one.server.admission.shedder.longest_s < 0.05


@pytest.mark.parametrize(
    "rest", [b"zz\r\n", b"5\r\nabcdefgh\r\n", b"ffffffffffffffffffff\r\n", b"5\nabcde\n", b"-1\r\n"]
)
async def test_a_body_that_is_framed_wrongly_is_refused_at_once(one: Any, rest: bytes) -> None:
    began = time.monotonic()
    for pieces in (1, 2):
        first = CHUNKED if pieces == 1 else CHUNKED + chunks(b" " * 2_000, 1_000)[:-5]
        reader, writer = await asyncio.open_connection("127.0.0.1", one.server.port)
        writer.write(first)
        await asyncio.sleep(0.02)
        writer.write(rest)
        async with asyncio.timeout(LIMIT_S):
            answer = await reader.read()
        writer.close()
        assert answer.startswith(b"HTTP/1.1 400 "), answer
        assert b"problem+json" in answer
    assert time.monotonic() - began < bodies.BODY_TIMEOUT_S / 3


async def test_a_flood_of_tiny_requests_on_one_connection_takes_turns(one: Any) -> None:
    raw = b"GET /nothing HTTP/1.1\r\nHost:localhost\r\n\r\n" * 20_000
    reader, writer = await asyncio.open_connection("127.0.0.1", one.server.port)

    async def flood() -> None:
        writer.write(raw)
        await writer.drain()

    flooding = asyncio.ensure_future(flood())
    async with asyncio.timeout(10):
        for _ in range(20):
            assert (await one.get("/healthz")).status == 200
        assert (await reader.read(1_000)).startswith(b"HTTP/1.1 404 ")
    flooding.cancel()
    writer.close()
    assert one.server.admission.shedder.longest_s < 0.1


async def test_100_continue_is_sent_only_for_a_body_that_is_read(one: Any) -> None:
    expects = b"Expect: 100-continue\r\n"
    head, body = request(expects).split(b"\r\n\r\n", 1)
    reader, writer = await asyncio.open_connection("127.0.0.1", one.server.port)
    async with asyncio.timeout(LIMIT_S):
        writer.write(head + b"\r\n\r\n")
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(body)
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 201 ")
    writer.close()
    refused = head.replace(b"application/json", b"text/plain")
    assert (await exchange(one, refused + b"\r\n\r\n")).startswith(b"HTTP/1.1 415 ")


async def test_endless_headers_are_refused(one: Any) -> None:
    many = b"".join(b"X-%d: y\r\n" % number for number in range(100_000))
    long = b"X: " + b"y" * 1_000_000
    for lines in (many, long, b"X" * 1_000_000):
        answer = await exchange(one, b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n" + lines)
        assert status_of(answer) in {431, 0}
    assert status_of(await exchange(one, b"GET /" + b"x" * 100_000 + b" HTTP/1.1\r\n")) in {414, 0}
    trailers = CHUNKED + b"0\r\n" + many
    assert status_of(await exchange(one, trailers)) in {431, 0}
    assert one.server.admission.shedder.longest_s < 0.05
