"""Events: pages, streams, filters, and ids that go on at another replica."""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import sys
from collections.abc import Callable
from typing import Any

import aiohttp
import msgspec
import pytest

from raftflow.api.routes.events import events as routes
from raftflow.client import AsyncClient, Refused
from raftflow.domain.contract.views import ClusterEvent, EventPage
from tests.api.test_tokens import SHARED, bearer, make

TASK = {"id": "t", "command": ["true"], "resources": {"cpu": 1}}


async def page(served: Any, query: str) -> EventPage:
    answer = await served.get(f"/v1/events?{query}")
    assert answer.status == 200, answer.body
    return msgspec.json.decode(answer.body, type=EventPage)


class TestPages:
    async def test_tell_the_life_of_a_workflow_in_order(self, one: Any) -> None:
        workflow_id = await one.submit(TASK)
        await one.post(f"/v1/workflows/{workflow_id}/pause")
        await one.post(f"/v1/workflows/{workflow_id}/resume")
        await one.post(f"/v1/workflows/{workflow_id}/cancel")
        events = (await page(one, f"from=0&workflow={workflow_id}")).events
        assert [(event.kind, event.state) for event in events] == [
            ("workflow.submitted", ""),
            ("workflow.controlled", "pause"),
            ("workflow.controlled", "resume"),
            ("workflow.controlled", "cancel"),
            ("task.finished", "cancelled"),
            ("workflow.finished", "cancelled"),
        ]

    async def test_pages_of_any_size_are_the_same_events(self, one: Any) -> None:
        for _ in range(3):
            await one.submit(TASK, {**TASK, "id": "u"})
        whole = (await page(one, "from=0&limit=1000")).events
        found, after = [], "0"
        while (piece := await page(one, f"from={after}&limit=1")).events:
            found += piece.events
            after = piece.next
        assert found == whole
        ids = [tuple(map(int, event.id.split("."))) for event in whole]
        assert ids == sorted(set(ids))

    async def test_filters(self, one: Any) -> None:
        first, second = await one.submit(TASK), await one.submit(TASK)
        await one.register("a7")
        assert {event.workflow for event in (await page(one, f"from=0&workflow={second}")).events} == {second}
        assert [event.kind for event in (await page(one, "from=0&agent=a7&kind=agent")).events] == [
            "agent.registered"
        ]
        kinds = (await page(one, "from=0&kind=workflow.submitted,agent.registered")).events
        assert [event.workflow or event.agent for event in kinds] == [first, second, "a7"]
        assert {event.task for event in (await page(one, "from=0&task=t")).events} == {"t"}

    async def test_without_an_id_it_begins_now_and_waits(self, one: Any) -> None:
        await one.submit(TASK)
        now = await page(one, "")
        assert now.events == []
        held = asyncio.create_task(page(one, f"from={now.next}&kind=workflow&wait_ms=20000"))
        await one.until(lambda: one.replica.events.readers.total() == 1)
        workflow_id = await one.submit(TASK)
        (event,) = (await held).events
        assert (event.kind, event.workflow) == ("workflow.submitted", workflow_id)

    async def test_an_id_that_is_none_is_refused(self, one: Any) -> None:
        for bad in ("x", "-1", "1.", "1.2.3", "9" * 17):
            assert (await one.get(f"/v1/events?from={bad}")).word == "invalid-document"

    async def test_what_is_not_kept_is_gone(self, one: Any) -> None:
        await one.submit(TASK)
        old = (await page(one, "from=0")).next
        one.replica.events.restart(one.replica.machine.applied_index + 5)
        answer = await one.get(f"/v1/events?from={old}")
        assert (answer.status, answer.word) == (410, "gone")
        assert str(one.replica.events.oldest) in answer.json["detail"]
        assert (await page(one, "from=0")).events == []

    async def test_no_secret_is_told(self, serve: Callable[..., Any]) -> None:
        one = await serve(token=SHARED)
        token = await make(one, "v", "read")
        answer = await one.get("/v1/events?from=0", headers=bearer(token))
        assert b"token.created" in answer.body
        assert token.encode() not in answer.body
        assert b"digest" not in answer.body


class TestStream:
    async def test_goes_on_behind_the_last_id(self, one: Any) -> None:
        await one.submit(TASK)
        first, *rest = (await page(one, "from=0")).events
        headers = {"Accept": "text/event-stream", "Last-Event-ID": first.id}
        async with one.session.get(one.url + "/v1/events", headers=headers) as answer:
            assert answer.headers["Content-Type"] == "text/event-stream"
            workflow_id = await one.submit(TASK)
            lines = []
            while not lines or workflow_id not in lines[-1]:
                line = (await answer.content.readline()).decode()
                if line.startswith("id: "):
                    lines.append(line)
                elif line.startswith("data: "):
                    lines[-1] = line
        assert [msgspec.json.decode(line[6:])["id"] for line in lines[: len(rest)]] == [each.id for each in rest]

    async def test_a_revoked_token_ends_it(self, serve: Callable[..., Any]) -> None:
        one = await serve(token=SHARED)
        headers = {"Accept": "text/event-stream", **bearer(await make(one, "v", "read"))}
        async with one.session.get(one.url + "/v1/events", headers=headers) as answer:
            await answer.content.readline()
            assert (await one.call("DELETE", "/v1/tokens/v", headers=bearer(SHARED))).status == 200
            async with asyncio.timeout(10):
                with contextlib.suppress(aiohttp.ClientError, OSError):
                    while await answer.content.readline():
                        pass

    async def test_too_many_are_refused(self, one: Any, monkeypatch: Any) -> None:
        monkeypatch.setattr("raftflow.domain.limits.EVENT_READERS_PER_CLIENT_MAX", 1)
        headers = {"Accept": "text/event-stream"}
        async with one.session.get(one.url + "/v1/events", headers=headers) as answer:
            await answer.content.readline()
            assert (await one.get("/v1/events", headers=headers)).word == "queue-full"
        await one.until(lambda: not one.replica.events.readers)

    async def test_ends_when_the_replica_stops(self, one: Any) -> None:
        async with one.session.get(one.url + "/v1/events", headers={"Accept": "text/event-stream"}) as answer:
            await answer.content.readline()
            one.replica.answer_held()
            assert await answer.content.read() in {b"", b"\n"}

    async def test_one_that_falls_behind_what_is_kept_is_told_so_in_mid_stream(self, one: Any) -> None:
        async with one.session.get(one.url + "/v1/events", headers={"Accept": "text/event-stream"}) as answer:
            await answer.content.readline()
            one.replica.events.restart(one.replica.machine.applied_index + 5)
            oldest = str(one.replica.events.oldest)
            await one.submit(TASK)
            text = (await answer.content.read()).decode()
        assert text.strip().endswith(f'event: gone\ndata: {{"oldest":"{oldest}"}}')


async def everything(served: Any, after: str = "0") -> list[ClusterEvent]:
    found: list[ClusterEvent] = []
    while (piece := await page(served, f"from={after}&limit=1000")).events:
        found += piece.events
        after = piece.next
    return found


def ids_in(line: bytes) -> list[str]:
    """Return the id of an event that a line is the data of."""
    return [msgspec.json.decode(line[6:])["id"]] if line.startswith(b"data: ") and line.endswith(b"\n") else []


async def test_the_client_asks_the_other_replicas_before_events_are_gone(trio: Callable[..., Any]) -> None:
    cluster = await trio()
    leader = await cluster.leader()
    first, second = await leader.submit(TASK), await leader.submit(TASK)
    (begin, _) = [event.id for event in await everything(leader) if event.kind == "workflow.submitted"]
    replicas = list(cluster.live.values())
    for served in replicas:
        await served.until(lambda served=served: served.replica.machine.applied_index >= int(begin.split(".")[0]) + 1)
    for served in replicas[:2]:
        served.replica.events.restart(served.replica.machine.applied_index)
    async with AsyncClient([served.url for served in replicas]) as client:
        events = client.events(begin, kind="workflow.submitted")
        assert (await anext(events)).workflow == second != first
        await events.aclose()
        replicas[2].replica.events.restart(replicas[2].replica.machine.applied_index)
        with pytest.raises(Refused) as refused:
            await anext(client.events(begin))
    assert refused.value.kind == "gone"


async def test_the_command_line_prints_one_event_a_line(one: Any) -> None:
    workflow_id = await one.submit(TASK)
    command = [sys.executable, "-m", "raftflow", "events", "--no-follow", "-o", "json", "--kind", "workflow"]
    process = await asyncio.create_subprocess_exec(
        *command, "--peers", one.url, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    printed, complaint = await process.communicate()
    assert process.returncode == 0, complaint
    (event,) = map(msgspec.json.decode, printed.splitlines())
    assert (event["kind"], event["workflow"]) == ("workflow.submitted", workflow_id)


async def test_every_replica_tells_the_same_and_a_reader_goes_on_after_the_leader(trio: Callable[..., Any]) -> None:
    cluster = await trio()
    leader = await cluster.leader()
    urls = [served.url for served in cluster.live.values()]
    async with AsyncClient(urls) as client:
        events = client.events("0", kind="workflow.submitted")
        first = await leader.submit(TASK)
        assert (await anext(events)).workflow == first
        await cluster.stop(leader.replica.config.name)
        second = await (await cluster.leader(other_than=leader.replica.config.name)).submit(TASK)
        assert (await anext(events)).workflow == second
        await events.aclose()
    one, other = cluster.live.values()
    await one.until(lambda: one.replica.machine.applied_index == other.replica.machine.applied_index)
    told = [(await page(served, "from=0&limit=1000")).events for served in (one, other)]
    assert told[0] == told[1] != []


async def test_a_reader_that_takes_nothing_is_closed_and_goes_on_behind_its_last_id(
    one: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(routes, "WRITE_TIMEOUT_S", 0.5)
    readers, loop = one.replica.events.readers, asyncio.get_running_loop()
    with socket.socket() as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.settimeout(0)
        await loop.sock_connect(slow, ("127.0.0.1", one.server.port))
        head = "GET /v1/events?from=0 HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: text/event-stream\r\n\r\n"
        await loop.sock_sendall(slow, head.encode())
        await one.until(lambda: readers.total() == 1, 60.0)
        many = [{**TASK, "id": f"t{number}"} for number in range(2_000)]
        for _ in range(100):  # what the kernel keeps for the connection is full after about twenty
            await one.post(f"/v1/workflows/{await one.submit(*many)}/cancel")
            if not readers.total():
                break
        assert not readers.total(), "it holds what it does not read"
        received = b""
        with contextlib.suppress(ConnectionError):
            while piece := await loop.sock_recv(slow, 1 << 20):
                received += piece
    # What has come is whole up to some message; the rest is there behind its id.
    *_, last = re.findall(rb"id: ([0-9]+\.[0-9]+)\nevent: [a-z.]+\ndata: .*\n\n", received)
    everything = [event.id for event in await every_event(one, "0")]
    assert [event.id for event in await every_event(one, last.decode())] == everything[
        everything.index(last.decode()) + 1 :
    ]


async def every_event(served: Any, after: str) -> list[ClusterEvent]:
    events: list[ClusterEvent] = []
    while (piece := await page(served, f"from={after}&limit=1000")).events:
        events += piece.events
        after = piece.next
    return events
