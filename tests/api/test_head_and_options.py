"""HEAD is GET without the body, OPTIONS and 405 say what applies, and what is no HTTP gets a problem document."""

from __future__ import annotations

import asyncio
import socket
import time
from pathlib import Path
from typing import Any

import pytest

from raftflow.api.http.problems import CONTENT_TYPE
from raftflow.domain.contract.operations import OPERATIONS
from tests.api.test_message_framing import exchange, status_of
from tests.api.test_tls import make_certificate, with_tls

WORK = {"id": "a", "command": ["true"]}
DIFFERENT = {"date", "x-request-id", "x-raftflow-index"}
CHANGING = ("/metrics", "/v1/status", "/v1/agents", "/v1/agents/a1", "/v1/audit", "/v1/audit/verify", "/v1/ledger")
LONG = 9_000


def get_paths(workflow: str) -> list[str]:
    parts = {"id": workflow, "task": "a", "fence": "1", "digest": "0" * 64}
    paths = [operation.path for operation in OPERATIONS if operation.method == "GET"]
    return [path.replace("/v1/agents/{id}", "/v1/agents/a1").format(**parts) for path in paths]


async def test_head_is_get_without_the_body_on_every_route(one: Any) -> None:
    workflow = await one.submit(WORK)
    await one.register()
    await one.until(lambda: one.replica.machine.state.agents["a1"].live)
    paths = get_paths(workflow)
    assert len(paths) >= 20
    for path in [*paths, "/nothing", "/v1/workflows?limit=0", "/v1/workflows/none", "/v1/workflows?stale"]:
        if path.endswith("/logs"):
            continue  # a GET asks the agent; below
        got, head = await one.get(path), await one.call("HEAD", path)
        assert head.status == got.status, path
        assert head.body == b""
        assert head.headers.keys() == got.headers.keys(), path
        varies = DIFFERENT | ({"content-length"} if path in CHANGING else set())
        for name in head.headers:
            assert name.lower() in varies or head.headers[name] == got.headers[name], (path, name)


async def test_a_connection_continues_after_head(one: Any) -> None:
    request = b"HEAD /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
    reader, writer = await asyncio.open_connection("127.0.0.1", one.server.port)
    writer.write(request * 2 + request.replace(b"HEAD", b"GET"))
    async with asyncio.timeout(5):
        for _ in range(3):
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
        assert await reader.readexactly(2) == b'{"'
    writer.close()


async def test_head_is_not_held(one: Any) -> None:
    workflow = await one.submit(WORK)
    began_s = time.monotonic()
    for path in (f"/v1/workflows/{workflow}?wait_ms=10000", "/v1/leader?term=1000&wait_ms=6000"):
        assert (await one.call("HEAD", path)).status == 200
    assert time.monotonic() - began_s < 3
    assert (await one.call("HEAD", f"/v1/workflows/{workflow}?wait_ms=99999999")).status == 400


async def test_head_of_an_output_asks_no_agent(one: Any) -> None:
    workflow = await one.submit(WORK)
    path = f"/v1/workflows/{workflow}/tasks/a/logs"
    assert (await one.call("HEAD", path)).status == 409, "there is none yet"
    incarnation = await one.register()
    assert (await one.poll(incarnation=incarnation, seq=1, wait_ms=1000)).json["assign"]
    async with asyncio.timeout(1):
        head = await one.call("HEAD", path)
    assert (head.status, head.headers["Content-Type"], head.body) == (200, "application/json", b"")
    assert "Content-Length" not in head.headers, "only the agent knows it"
    assert (await one.call("HEAD", f"{path}?attempt=9")).status == 404


async def test_a_follower_forwards_head(trio: Any) -> None:
    cluster = await trio()
    await cluster.leader()
    follower = cluster.followers()[0]
    got, head = await follower.get("/v1/workflows"), await follower.call("HEAD", "/v1/workflows")
    assert (head.status, head.body) == (200, b"")
    assert head.headers["Content-Length"] == got.headers["Content-Length"]
    assert head.headers["X-Raftflow-Leader-Url"]


@pytest.mark.parametrize(
    ("path", "allow"),
    [
        ("/healthz", "GET, HEAD, OPTIONS"),
        ("/v1/workflows", "GET, HEAD, OPTIONS, POST"),
        ("/v1/cache", "DELETE, GET, HEAD, OPTIONS"),
        ("/v1/agents/a1/poll", "OPTIONS, POST"),
    ],
)
async def test_options_and_refused_methods_say_what_applies(one: Any, path: str, allow: str) -> None:
    options = await one.call("OPTIONS", path)
    assert (options.status, options.headers["Allow"], options.body) == (204, allow, b"")
    refused = await one.call("PATCH", path)
    assert (refused.status, refused.word, refused.headers["Allow"]) == (405, "method-not-allowed", allow)
    for method in allow.split(", "):
        assert (await one.call(method, path)).status != 405


async def test_options_of_the_server(one: Any) -> None:
    answer = await exchange(one, b"OPTIONS * HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert status_of(answer) == 204
    assert b"Allow: DELETE, GET, HEAD, OPTIONS, POST\r\n" in answer


HOST = b" HTTP/1.1\r\nHost: localhost\r\n"
POST = b"POST /v1/workflows" + HOST + b"Content-Type: application/json\r\n"
NO_HTTP: dict[str, tuple[bytes, int, bytes]] = {
    "no request line": (b"NONSENSE\r\n\r\n", 400, b"Invalid method"),
    "another protocol": (b"SSH-2.0-OpenSSH_9\r\n", 400, b"not an HTTP request"),
    "HTTP/0.9": (b"GET /healthz\r\n\r\n", 400, b"send HTTP/1.1"),
    "HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400, b"send HTTP/1.1"),
    "HTTP/2 in a request line": (b"GET /healthz HTTP/2.0\r\nHost: localhost\r\n\r\n", 400, b"send HTTP/1.1"),
    "an unknown method": (b"BREW /healthz" + HOST + b"\r\n", 400, b"Invalid method"),
    "a long target": (b"GET /" + b"a" * LONG + HOST + b"\r\n", 414, b"uri-too-long"),
    "a very long target": (b"GET /" + b"a" * 40_000 + HOST + b"\r\n", 414, b"uri-too-long"),
    "a long header": (b"GET /healthz" + HOST + b"X: " + b"/a" * LONG + b"\r\n\r\n", 431, b"headers-too-large"),
    "a long name": (b"GET /healthz" + HOST + b"X" * LONG + b": a\r\n\r\n", 431, b"headers-too-large"),
    "many headers": (b"GET /healthz" + HOST + b"X: y\r\n" * 5_000 + b"\r\n", 431, b"headers-too-large"),
    "no size of a chunk": (POST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\nabc\r\n", 400, b"chunk size"),
    "a chunk that goes on": (POST + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabcdef\r\n", 400, b"chunk data"),
    "a length in letters": (POST + b"Content-Length: abc\r\n\r\n", 400, b"Content-Length"),
    "a length of many digits": (POST + b"Content-Length: " + b"9" * 40 + b"\r\n\r\n", 400, b"Content-Length"),
    "TLS": (bytes.fromhex("16030100c8010000c40303") + bytes(200), 400, b"write http:// in the URL"),
    "a broken target": (b"GET http://[::1" + HOST + b"\r\n", 400, b"not an HTTP request"),
}  # fmt: skip


@pytest.mark.parametrize("name", list(NO_HTTP))
async def test_what_is_not_http_is_answered_with_a_problem_document(one: Any, name: str) -> None:
    raw, status, words = NO_HTTP[name]
    reader, writer = await asyncio.open_connection("127.0.0.1", one.server.port)
    writer.write(raw)
    async with asyncio.timeout(5):
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    assert head.startswith((b"HTTP/1.0 %d " % status, b"HTTP/1.1 %d " % status)), head
    assert f"Content-Type: {CONTENT_TYPE}".encode() in head
    assert f"Content-Length: {len(body)}".encode() in head
    assert words in body
    assert b"\\n" not in body
    assert b"bytearray" not in body


async def test_plain_http_at_a_tls_port_gets_advice(one: Any, tmp_path: Path) -> None:
    from raftflow.api.admission.listener import ApiListener
    from raftflow.api.http.tls import tls_context

    cert, key = make_certificate(tmp_path)
    door = ApiListener(
        one.server.admission, tls_context(with_tls(one.config, api_cert=cert, api_key=key, api_ca=cert))
    )
    door.start(one.config.bind)
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", door.port)
        assert writer.get_extra_info("socket").family == socket.AF_INET
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        async with asyncio.timeout(5):
            answer = await reader.read()
        writer.close()
    finally:
        door.close()
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"write https:// in the URL" in answer
    assert f"Content-Type: {CONTENT_TYPE}".encode() in answer
