"""Who leads, told by any replica; and calls that were passed on to a leader that says nothing any more."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from raftflow.api.forwarding.forwarder import Forwarder
from raftflow.coordinator.leader.leader_news import HOLD_MAX_S

SOON_S = 5.0


async def test_every_replica_names_the_leader(trio: Any) -> None:
    cluster = await trio()
    leader = await cluster.leader()
    term = leader.replica.log.stamp().term
    for one in (leader, *cluster.followers()):
        await one.until(lambda one=one: one.replica.cluster.leader_notice().leader is not None)
        told = (await one.get("/v1/leader")).json
        assert told == {
            "leader": leader.config.name,
            "url": leader.replica.cluster.url_of(leader.config.name),
            "term": term,
        }
        assert (await one.get(f"/v1/leader?term={term}&wait_ms=20")).json == told, "no news after that time"


async def test_the_question_is_held_until_leadership_moves(trio: Any) -> None:
    cluster = await trio()
    leader = await cluster.leader()
    term = leader.replica.log.stamp().term
    everybody = [leader, *cluster.followers()]
    for one in everybody:
        await one.until(lambda one=one: one.replica.cluster.leader_notice().leader is not None)
    before = sum(one.server.fast_path.taken for one in everybody)
    asked = [asyncio.ensure_future(one.get(f"/v1/leader?term={term}&wait_ms=30000")) for one in everybody]
    for one in everybody:
        await one.until(lambda one=one: one.replica.news.count == 1)
    assert await leader.replica.transfer(None)
    async with asyncio.timeout(SOON_S):
        told = [(await answer).json for answer in asked]
    assert {answer["term"] > term for answer in told} == {True}
    assert {answer["leader"] for answer in told} != {leader.config.name}
    assert sum(one.server.fast_path.taken for one in everybody) == before + len(everybody)


@pytest.mark.parametrize("query", [f"wait_ms={int(HOLD_MAX_S * 1000) + 1}", "term=-1", "terms=1", "term=1&term=2"])
async def test_invalid_questions_about_the_leader_are_refused(one: Any, query: str) -> None:
    assert (await one.get(f"/v1/leader?{query}")).word == "invalid-document"


async def test_the_fast_path_answers_who_leads(one: Any) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", one.server.port)
    for term, wait_ms in ((0, 30_000), (10**6, 10), (0, 0)):
        writer.write(
            f"GET /v1/leader?term={term}&wait_ms={wait_ms} HTTP/1.1\r\n"
            "Host: localhost\r\nContent-Length: 0\r\n\r\n".encode()
        )
        head = (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), SOON_S)).decode().lower()
        body = await reader.readexactly(int(head.split("content-length: ")[1].split("\r\n")[0]))
        assert head.startswith("http/1.1 200")
        assert b'"leader":"n1"' in body
    assert one.server.fast_path.taken == 3
    for odd in ("term=x&wait_ms=1", "wait_ms=1&term=1", f"term=1&wait_ms={10**8}"):
        writer.write(f"GET /v1/leader?{odd} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        head = (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), SOON_S)).decode().lower()
        await reader.readexactly(int(head.split("content-length: ")[1].split("\r\n")[0]))
    assert one.server.fast_path.taken == 3, "the framework judges these"
    writer.close()


async def test_the_fast_path_needs_the_token(serve: Any) -> None:
    one = await serve(token="t" * 20)
    reader, writer = await asyncio.open_connection("127.0.0.1", one.server.port)
    writer.write(b"GET /v1/leader?term=0&wait_ms=0 HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert b" 401 " in await asyncio.wait_for(reader.readline(), SOON_S)
    writer.close()


class Silent:
    """A server that takes requests and says nothing."""

    def __init__(self) -> None:
        self.requests: list[bytes] = []
        self.port = 0
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.requests.append(await reader.readuntil(b"\r\n\r\n"))
        await reader.read()
        writer.close()

    def close(self) -> None:
        if self._server is not None:
            self._server.close()


@pytest.mark.parametrize("kind", ["read", "write with a key", "write without one"])
async def test_a_forwarded_call_goes_to_the_next_leader(
    trio: Any, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    cluster = await trio()
    leader = await cluster.leader()
    asked = cluster.followers()[0]
    await asked.until(lambda: asked.replica.cluster.find_leader() is not None)
    silent = Silent()
    await silent.start()
    forward = Forwarder.forward
    old = leader.config.name

    async def astray(*arguments: Any) -> Any:
        """The machine of the first leader is silent."""
        *first, url, request_id = arguments
        if asked.replica.cluster.find_leader() == (old, url):
            url = f"http://127.0.0.1:{silent.port}"
        return await forward(*first, url, request_id)

    monkeypatch.setattr(Forwarder, "forward", astray)
    document = {"name": "w", "tasks": [{"id": "a", "command": ["true"]}]}
    if kind == "read":
        call = asyncio.ensure_future(asked.get("/v1/agents"))
    else:
        headers = {"Idempotency-Key": "k1"} if kind == "write with a key" else {}
        call = asyncio.ensure_future(asked.post("/v1/workflows", document, headers=headers))
    await asked.until(lambda: silent.requests)
    other = next(one for one in cluster.followers() if one is not asked)
    assert await leader.replica.transfer(other.config.name)
    async with asyncio.timeout(SOON_S):
        answer = await call
    if kind == "write without one":
        assert answer.word == "outcome-unknown"
    else:
        assert answer.status in {200, 201}, answer.body
    assert len(silent.requests) == 1
    silent.close()
