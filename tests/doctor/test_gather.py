"""Asking replicas that are healthy, old, silent, slow, or not replicas at all: always within a bounded time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import cast

import msgspec
import pytest

from raftflow.client import AsyncClient
from raftflow.doctor.examine import examine
from raftflow.doctor.facts import ClusterFacts
from raftflow.doctor.gather import ASK_S, PAUSE_S, REPLICAS_MAX, gather
from raftflow.domain.contract.views import AgentList, AgentView, HostView, MemberList, MemberView, ReplicaStatus
from tests.doctor.healthy import NAMES, agent, host, status

BOUND_S = 3 * ASK_S + PAUSE_S + 1.0
"""Members that the first answers name are asked in a second turn."""

Answer = Callable[[str], bytes | None]
"""Path to the body of a successful answer, None for 404."""
Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter, str], Awaitable[None]]


@pytest.fixture(autouse=True)
def _short_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pause makes the rate of clocks exact, which no test here is about."""
    monkeypatch.setattr("raftflow.doctor.gather.PAUSE_S", 0.05)


class Fakes:
    """Three addresses, on which something answers."""

    def __init__(self) -> None:
        self.urls: dict[str, str] = {}
        self.skew_ms: dict[str, int] = {}
        self.began_s = time.monotonic()

    def healthy(self, name: str) -> Answer:
        """Return what a healthy replica answers."""

        def answer(path: str) -> bytes | None:
            running_ms = round((time.monotonic() - self.began_s) * 1000)
            facts = host(
                name,
                time_ms=time.time_ns() // 1_000_000 + self.skew_ms.get(name, 0),
                cluster_time_ms=time.time_ns() // 1_000_000,
                running_ms=running_ms,
            )
            members = [MemberView(name=each, peer=f"{each}:2", url=self.urls[each]) for each in NAMES]
            told = {
                "/v1/status": status(name),
                "/v1/host": facts,
                "/v1/members": MemberList(replica=name, leader="n1", term=3, members=members),
                "/v1/agents": AgentList(agents=[agent()]),
            }
            found = told.get(path)
            return None if found is None else msgspec.json.encode(found)

        return answer


@asynccontextmanager
async def served(serve: Serve) -> AsyncIterator[str]:
    """Serve connections with a function that gets the path of the first request; closed at the end."""
    tasks: set[asyncio.Task[None]] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                await serve(reader, writer, head.split()[1].decode().partition("?")[0])
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def speaks(answer: Answer) -> Serve:
    """Answer as HTTP."""

    async def serve(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter, path: str) -> None:
        body = answer(path)
        line, body = ("404 Not Found", b"{}") if body is None else ("200 OK", body)
        head = f"HTTP/1.1 {line}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)
        await writer.drain()

    return serve


async def says_nothing(_reader: asyncio.StreamReader, _writer: asyncio.StreamWriter, _path: str) -> None:
    await asyncio.Event().wait()


async def says_garbage(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter, _path: str) -> None:
    writer.write(b"\x00\xff not HTTP at all\r\n\r\n" * 3)
    await writer.drain()
    writer.close()


async def says_it_slowly(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter, _path: str) -> None:
    """Send an answer byte by byte, for ever."""
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 1000000\r\n\r\n")
    while True:
        writer.write(b" ")
        await writer.drain()
        await asyncio.sleep(0.05)


async def never_ends(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter, _path: str) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n")
    while True:
        writer.write(b"1000\r\n" + b"[" * 0x1000 + b"\r\n")
        await writer.drain()
        await asyncio.sleep(0)


async def diagnose(third: Callable[[Fakes], Serve], peers: tuple[str, ...] = NAMES) -> tuple[ClusterFacts, float]:
    """Gather from two healthy replicas and a third one. Returns what was gathered, and how long it took."""
    fakes = Fakes()
    async with (
        served(speaks(fakes.healthy("n1"))) as first,
        served(speaks(fakes.healthy("n2"))) as second,
        served(third(fakes)) as last,
    ):
        fakes.urls = dict(zip(NAMES, (first, second, last), strict=True))
        async with AsyncClient([fakes.urls[name] for name in peers], environ={}) as client:
            began_s = time.monotonic()
            gathered = await gather(client)
            return gathered, time.monotonic() - began_s


async def test_three_healthy_replicas() -> None:
    gathered, took_s = await diagnose(lambda fakes: speaks(fakes.healthy("n3")))
    assert examine(gathered).ok, [each for each in examine(gathered).findings if not each.is_ok]
    assert [each.name for each in gathered.replicas] == list(NAMES)
    assert all(len(each.samples) == 2 for each in gathered.replicas)
    assert took_s < BOUND_S


async def test_members_that_are_not_configured_are_found() -> None:
    gathered, _ = await diagnose(lambda fakes: speaks(fakes.healthy("n3")), peers=("n2",))
    assert [each.name for each in gathered.replicas if each.host is not None] == list(NAMES)


SICK: dict[str, tuple[Serve, str]] = {
    "silent": (says_nothing, "unreachable: no answer in time"),
    "garbage": (says_garbage, "unreachable: 400"),
    "byte by byte": (says_it_slowly, "unreachable: no answer in time"),
    "without end": (never_ends, "unreachable: no answer in time"),
    "other JSON": (speaks(lambda _path: b'{"name": 7}'), "not a replica: "),
    "no JSON": (speaks(lambda _path: b"<html>"), "not a replica: "),
    "deep JSON": (speaks(lambda _path: b"[" * 100_000), "not a replica: "),
    "another program": (speaks(lambda _path: None), "refused: 404"),
}


@pytest.mark.parametrize("how", SICK)
async def test_a_sick_replica_costs_the_others_nothing(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    serve, failure = SICK[how]
    monkeypatch.setattr("raftflow.doctor.gather.ASK_S", 1.0)
    gathered, took_s = await diagnose(lambda _fakes: serve)
    assert took_s < BOUND_S
    third = gathered.replicas[2]
    assert (third.name, third.status, third.host) == ("n3", None, None)
    assert third.failure.startswith(failure), third.failure
    bad = [(each.subject, each.code) for each in examine(gathered).findings if not each.is_ok]
    assert bad == [("n3", "replica"), ("cluster", "quorum")]


async def test_a_replica_of_an_older_version_does_not_know_the_question() -> None:
    def old(fakes: Fakes) -> Serve:
        answer = fakes.healthy("n3")
        return speaks(lambda path: None if path == "/v1/host" else answer(path))

    gathered, _ = await diagnose(old)
    assert (gathered.replicas[2].too_old, gathered.replicas[2].answers) == (True, True)
    bad = [each for each in examine(gathered).findings if not each.is_ok]
    assert [(each.subject, each.code) for each in bad] == [("n3", "host-facts")]


async def test_a_wrong_clock_is_measured_by_round_trips() -> None:
    def ahead(fakes: Fakes) -> Serve:
        fakes.skew_ms["n3"] = 90_000
        return speaks(fakes.healthy("n3"))

    gathered, _ = await diagnose(ahead)
    (finding,) = [each for each in examine(gathered).findings if not each.is_ok and each.code == "clock-skew"]
    assert (finding.subject, finding.severity) == ("n3", "problem")
    assert finding.value is not None and abs(finding.value - 90) < 1


async def test_nothing_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raftflow.doctor.gather.ASK_S", 0.5)
    async with served(says_nothing) as url:
        pass
    async with AsyncClient([url], environ={}) as client:
        gathered = await gather(client)
    assert [each.failure for each in gathered.replicas] == ["connection refused"]
    assert (gathered.agents, gathered.leader) == (None, None)


class LyingClient:
    """A cluster in which every replica leads a later term than the one before, and names yet another member."""

    def __init__(self) -> None:
        self.peers = ["http://x:0"]
        self.asked = 0

    async def status(self, url: str) -> ReplicaStatus:
        self.asked += 1
        number = self.asked
        return status(f"n{number}", term=number)

    async def members(self, *, replica_url: str) -> MemberList:
        del replica_url
        new = MemberView(name=f"n{self.asked + 1}", peer="h:1", url=f"http://x:{self.asked + 1}")
        return MemberList(replica="n1", leader="n1", term=self.asked, members=[new])

    async def host(self, url: str) -> HostView:
        del url
        return host("n1")

    async def agents(self, *, stale: bool) -> list[AgentView]:
        del stale
        return []


async def test_replicas_that_name_ever_new_members_are_not_followed_for_ever() -> None:
    liar = LyingClient()
    gathered = await gather(cast("AsyncClient", liar))
    assert len(gathered.replicas) <= REPLICAS_MAX + 1, "those that were asked, and one that was only named"
    assert liar.asked == 2 * REPLICAS_MAX
