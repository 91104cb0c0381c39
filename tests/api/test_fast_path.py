"""The fast path: the same answers as the framework gives, however a request arrives, and no message misread."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from raftflow.api import connection as connection_module
from raftflow.api import server as server_module
from raftflow.coordinator.config.replica_config import Limits
from raftflow.coordinator.sessions import poll_service

LIMIT_S = 5.0


class Wire:
    """A connection that is written to byte by byte if need be."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def answer(self) -> tuple[int, dict[str, str], Any]:
        async with asyncio.timeout(LIMIT_S):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            headers = dict(line.lower().split(": ", 1) for line in head[1:] if line)
            body = await self.reader.readexactly(int(headers["content-length"]))
        return int(head[0].split()[1]), headers, msgspec.json.decode(body) if body else None

    async def closed(self) -> bool:
        async with asyncio.timeout(LIMIT_S):
            with contextlib.suppress(ConnectionResetError):
                return await self.reader.read() == b""
            return True


@contextlib.asynccontextmanager
async def wire_to(one: Any) -> AsyncIterator[Wire]:
    reader, writer = await asyncio.open_connection("127.0.0.1", one.server.port)
    try:
        yield Wire(reader, writer)
    finally:
        writer.close()


def request(body: bytes, *more: str, agent: str = "a1", length: int | None = None) -> bytes:
    lines = [
        f"POST /v1/agents/{agent}/poll HTTP/1.1",
        "Host: localhost",
        "Content-Type: application/json",
        f"Content-Length: {len(body) if length is None else length}",
        *more,
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def poll(incarnation: int, seq: int, *more: str, **fields: Any) -> bytes:
    return request(msgspec.json.encode({"incarnation": incarnation, "seq": seq, **fields}), *more)


async def test_both_paths_give_the_same_answer(one: Any) -> None:
    incarnation = await one.register()
    async with wire_to(one) as wire:
        answers = []
        for seq, more in ((1, ()), (2, ("X-Request-Id: mine",))):
            wire.send(poll(incarnation, seq, *more))
            answers.append(await wire.answer())
    assert one.server.fast_path.taken == 1, "a header that is not plain sends a poll the other way"
    (status, headers, body), (other_status, other_headers, other_body) = answers
    assert (status, body) == (other_status, other_body)
    assert (status, body["lease_ms"]) == (200, 5_000)
    assert headers.keys() == other_headers.keys() - {"server"}
    differing = {"x-request-id", "date"}
    assert {k: v for k, v in headers.items() if k not in differing} == {
        k: v for k, v in other_headers.items() if k not in differing | {"server"}
    }


@pytest.mark.parametrize(
    ("raw", "status", "word"),
    [
        (request(b"{"), 400, "invalid-document"),
        (request(b'{"incarnation": 1}'), 400, "invalid-document"),
        (request(b'{"incarnation": 99, "seq": 1}'), 409, "stale-incarnation"),
        (request(b'{"incarnation": 1, "seq": 1}', agent="nobody"), 404, "not-found"),
    ],
)
async def test_refusals_are_the_same_on_both_paths(one: Any, raw: bytes, status: int, word: str) -> None:
    await one.register()
    async with wire_to(one) as wire:
        wire.send(raw)
        mine = await wire.answer()
        wire.send(raw.replace(b"Host: localhost", b"Host: localhost\r\nAccept-Language: en"))
        other = await wire.answer()
    assert one.server.fast_path.taken == 1
    assert mine[0] == other[0] == status
    assert mine[2] == other[2]
    assert mine[2]["type"].endswith(word)
    assert mine[1]["content-type"] == other[1]["content-type"] == "application/problem+json"


async def test_a_poll_may_arrive_in_any_pieces(one: Any) -> None:
    incarnation = await one.register()
    raw = poll(incarnation, 1)
    head = raw.index(b"\r\n\r\n") + 4
    for taken, cut in enumerate((head, head + 1, len(raw) - 1), start=1):
        async with wire_to(one) as wire:
            wire.send(raw[:cut])
            await one.until(lambda: any(each._request for each in one.server._runner.server.connections))
            wire.send(raw[cut:])
            assert (await wire.answer())[0] == 200
        assert one.server.fast_path.taken == taken
    async with wire_to(one) as wire:  # a cut head goes the other way
        for byte in range(len(raw)):
            wire.send(raw[byte : byte + 1])
            await asyncio.sleep(0)
        assert (await wire.answer())[0] == 200


async def test_polls_sent_ahead_are_answered_in_order(one: Any) -> None:
    incarnation = await one.register()
    async with wire_to(one) as wire:
        wire.send(poll(incarnation, 1) + poll(incarnation, 2) + poll(incarnation, 3)[:-2])
        for _ in range(2):
            assert (await wire.answer())[0] == 200
        wire.send(poll(incarnation, 3)[-2:])
        assert (await wire.answer())[0] == 200


class Transport(asyncio.Transport):
    """Takes what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""

    def write(self, data: Any) -> None:
        self.written += bytes(data)

    def is_closing(self) -> bool:
        return False

    def pause_reading(self) -> None:
        """Nothing is read here."""

    resume_reading = close = abort = pause_reading


@pytest.mark.parametrize("first", ["poll", "register"])
async def test_a_request_may_be_there_before_anybody_waits_for_it(one: Any, first: str) -> None:
    """Some event loops hand the first bytes over in the turn in which the connection is made."""
    incarnation = await one.register()
    body = msgspec.json.encode({"name": "a1", "instance": "i" * 8, "resources": {"cpu": 2}})
    head = "POST /v1/agents HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    head += f"Content-Length: {len(body)}"
    made, transport = one.server.admission.admit(), Transport()
    made.connection_made(transport)
    if first == "register":
        made.data_received(head.encode() + b"\r\n\r\n" + body)
        await one.until(lambda: transport.written.endswith(b"}"))
        transport.written = b""
    made.data_received(poll(incarnation, 1))
    await one.until(lambda: transport.written.startswith(b"HTTP/1.1 200"))
    assert one.server.fast_path.taken == 1
    made.connection_lost(None)


class Eager(Transport):
    """Talks to a client that sends its next request the moment it has an answer."""

    def __init__(self, *requests: bytes) -> None:
        super().__init__()
        self.requests = list(requests)
        self.connection: Any = None

    def write(self, data: Any) -> None:
        super().write(data)
        if self.requests:
            asyncio.get_running_loop().call_soon(self.connection.data_received, self.requests.pop(0))


@pytest.mark.parametrize("pieces", [1, 2])
async def test_a_poll_directly_after_an_answer_stays_on_the_fast_path(one: Any, pieces: int) -> None:
    """The framework waits for the next message only a turn after its answer has gone out."""
    incarnation = await one.register()
    look = b"GET /v1/agents/a1 HTTP/1.1\r\nHost: localhost\r\n\r\n"
    raw = poll(incarnation, 1)
    transport = Eager(raw[:-1] if pieces == 2 else raw)
    made = transport.connection = one.server.admission.admit()
    made.connection_made(transport)
    made.data_received(look)
    if pieces == 2:
        await one.until(lambda: bool(made._protocol and (made._protocol._between or made._protocol._request)))
        made.data_received(raw[-1:])
    await one.until(lambda: transport.written.count(b"HTTP/1.1 200") == 2)
    assert one.server.fast_path.taken == 1
    made.connection_lost(None)


async def test_data_goes_to_the_framework_if_it_never_waits_for_a_message(
    one: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection_module.ApiConnection, "_is_between_messages", lambda self: bool(self._fast_path))
    incarnation = await one.register()
    async with wire_to(one) as wire:
        wire.send(poll(incarnation, 1))
        assert (await wire.answer())[0] == 200
    assert one.server.fast_path.taken == 0


async def test_a_poll_inside_the_body_of_another_request_is_not_answered(one: Any) -> None:
    incarnation = await one.register()
    hidden = poll(incarnation, 1)
    outer = (
        b"POST /v1/workflows HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        b"Content-Length: " + str(len(hidden)).encode() + b"\r\n\r\n"
    )
    for first, second in ((outer, hidden), (outer[:20], outer[20:] + hidden)):
        async with wire_to(one) as wire:
            wire.send(first)
            await asyncio.sleep(0.05)
            wire.send(second)
            assert (await wire.answer())[0] == 400
            wire.send(hidden)  # a connection whose messages came in pieces stays off the fast path
            assert (await wire.answer())[0] == 200
    assert one.server.fast_path.taken == 0


@pytest.mark.parametrize("more", ["Transfer-Encoding: chunked", "Content-Length: 0", "Expect: 100-continue", "X : y"])
async def test_ambiguous_framing_is_left_to_the_framework(one: Any, more: str) -> None:
    incarnation = await one.register()
    async with wire_to(one) as wire:
        wire.send(poll(incarnation, 1, more))
        await wire.reader.read(12)
    assert one.server.fast_path.taken == 0


async def test_the_token_is_needed(serve: Any) -> None:
    one = await serve(token="secret-token")
    async with wire_to(one) as wire:
        for more in ((), ("Authorization: Bearer wrong",), ("Authorization: Basic secret-token",)):
            wire.send(poll(1, 1, *more))
            assert (await wire.answer())[0] == 401
        assert one.server.fast_path.taken == 0
        wire.send(poll(1, 1, "Authorization: Bearer secret-token"))
        assert (await wire.answer())[0] == 404
        assert one.server.fast_path.taken == 1


async def test_a_poll_that_never_arrives_closes_its_connection(one: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection_module, "BODY_TIMEOUT_S", 0.05)
    async with wire_to(one) as wire:
        wire.send(poll(1, 1)[:-1])
        assert await wire.closed()


async def test_an_idle_connection_is_closed_and_a_polling_one_is_not(
    serve: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_module, "KEEPALIVE_S", 0.3)
    one = await serve()
    incarnation = await one.register()
    async with wire_to(one) as wire:
        for seq in range(1, 4):
            wire.send(poll(incarnation, seq, wait_ms=200))
            assert (await wire.answer())[0] == 200
        assert await wire.closed()


async def test_bytes_sent_ahead_are_bounded(one: Any) -> None:
    incarnation = await one.register()
    async with wire_to(one) as wire:
        wire.send(poll(incarnation, 1, wait_ms=5_000))
        await one.until(lambda: one.replica.poll_service.held == 1)
        wire.send(b"x" * (connection_module.AHEAD_BYTES_MAX + 1))
        assert await wire.closed()


async def test_a_large_poll_is_refused_by_the_framework(serve: Any) -> None:
    one = await serve(limits=Limits(poll_bytes=4096))
    async with wire_to(one) as wire:
        wire.send(request(b"x" * 5000))
        status, _, body = await wire.answer()
    assert (status, body["limit"], one.server.fast_path.taken) == (413, 4096, 0)


async def test_a_held_poll_is_answered_at_the_end(one: Any) -> None:
    incarnation = await one.register()
    async with wire_to(one) as wire:
        wire.send(poll(incarnation, 1, wait_ms=1_000))
        await one.until(lambda: one.replica.poll_service.held == 1)
        stopping = asyncio.ensure_future(one.stop())
        assert (await wire.answer())[0] == 200
        await stopping


async def test_a_held_poll_is_sent_to_the_new_leader(trio: Any) -> None:
    cluster = await trio()
    leader = await cluster.leader()
    other = cluster.followers()[0]
    incarnation = await leader.register()
    async with wire_to(leader) as wire:
        wire.send(poll(incarnation, 1, wait_ms=20_000))
        await leader.until(lambda: leader.replica.poll_service.held == 1)
        assert (await leader.post("/v1/members/transfer", {"to": other.config.name})).status == 200
        status, headers, body = await wire.answer()
    assert (status, body, leader.server.fast_path.taken) == (307, None, 1)
    assert headers["location"] == f"{other.url}/v1/agents/a1/poll"


async def test_an_internal_error_is_answered_with_a_request_id_only(
    one: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> Any:
        raise LookupError("secret")

    monkeypatch.setattr(poll_service, "instructions_for", broken)
    incarnation = await one.register()
    async with wire_to(one) as wire:
        wire.send(poll(incarnation, 1))
        status, headers, body = await wire.answer()
    assert (status, one.server.fast_path.taken) == (500, 1)
    assert headers["x-request-id"] in body["detail"]
    assert "secret" not in body["detail"]


async def test_hundreds_of_polls_sent_ahead_do_not_recurse(one: Any) -> None:
    incarnation = await one.register()
    async with wire_to(one) as wire:
        wire.send(b"".join(poll(incarnation, seq) for seq in range(400)))
        for _ in range(400):
            assert (await wire.answer())[0] == 200
    assert one.server.fast_path.taken == 400


async def test_a_follower_says_where_the_leader_is(trio: Any) -> None:
    cluster = await trio()
    leader = await cluster.leader()
    incarnation = await leader.register()
    follower = cluster.followers()[0]
    async with wire_to(follower) as wire:
        wire.send(poll(incarnation, 1))
        status, headers, _ = await wire.answer()
    assert (status, follower.server.fast_path.taken) == (307, 0)
    assert headers["location"].endswith("/v1/agents/a1/poll")


def submission(body: bytes, *more: str, length: int | None = None) -> bytes:
    lines = [
        "POST /v1/workflows HTTP/1.1",
        "Host: localhost",
        "Content-Type: application/json",
        f"Content-Length: {len(body) if length is None else length}",
        *more,
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


WORKFLOW = b'{"name": "w", "tasks": [{"id": "t", "command": ["true"]}]}'
OTHER_WAY = "Accept-Language: en"


async def test_a_submission_takes_either_path_and_is_carried_out_once(one: Any) -> None:
    async with wire_to(one) as wire:
        answers = []
        for more in ((), (OTHER_WAY,), ()):
            wire.send(submission(WORKFLOW, "Idempotency-Key: k1", *more))
            answers.append(await wire.answer())
    assert one.server.fast_path.taken == 2
    first = answers[0]
    assert first[0] == 201
    assert first[1]["location"] == f"/v1/workflows/{first[2]['id']}".lower()
    assert all((status, body) == (201, first[2]) for status, _, body in answers)
    assert answers[0][1].keys() == answers[1][1].keys() - {"server"}
    assert len(one.replica.machine.state.workflows) == 1


@pytest.mark.parametrize(
    ("body", "status", "word"),
    [
        (b"{", 400, "invalid-document"),
        (b"[" * 100 + b"]" * 100, 400, "invalid-document"),
        (b'{"name": "w", "tasks": []}', 400, "invalid-document"),
        (b"\xff", 400, "invalid-document"),
    ],
)
async def test_a_submission_is_refused_alike_on_both_paths(one: Any, body: bytes, status: int, word: str) -> None:
    async with wire_to(one) as wire:
        wire.send(submission(body))
        mine = await wire.answer()
        wire.send(submission(body, OTHER_WAY))
        other = await wire.answer()
    assert one.server.fast_path.taken == 1
    assert mine[0] == other[0] == status
    assert mine[2] == other[2]
    assert mine[2]["type"].endswith(word)


@pytest.mark.parametrize(
    "more",
    ["Idempotency-Key: not one", "Idempotency-Key: a b", "Origin: http://elsewhere", "Idempotency-Key:"],
)
async def test_odd_submissions_are_left_to_the_framework(one: Any, more: str) -> None:
    async with wire_to(one) as wire:
        wire.send(submission(WORKFLOW, more))
        await wire.answer()
    assert one.server.fast_path.taken == 0


async def test_a_submission_in_pieces_is_left_to_the_framework(one: Any) -> None:
    raw = submission(WORKFLOW)
    async with wire_to(one) as wire:
        wire.send(raw[:-5])
        await one.until(lambda: any(each._current_request for each in one.server._runner.server.connections))
        wire.send(raw[-5:])
        assert (await wire.answer())[0] == 201
    assert one.server.fast_path.taken == 0


async def test_a_submission_whose_leader_steps_down_is_forwarded(trio: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leadership is lost between reading the request and proposing it: the framework passes it on."""
    cluster = await trio()
    old = await cluster.leader()
    step_down = old.server.fast_path.answer

    async def answer(request: Any, body: bytes, address: str) -> bytes | None:
        assert await old.replica.hand_over()
        await cluster.leader(other_than=old.config.name)
        await old.until(lambda: old.replica.cluster.find_leader() is not None)
        return await step_down(request, body, address)

    monkeypatch.setattr(old.server.fast_path, "answer", answer)
    async with wire_to(old) as wire:
        wire.send(submission(WORKFLOW, "Idempotency-Key: k1"))
        status, headers, body = await wire.answer()
        wire.send(submission(WORKFLOW, "Idempotency-Key: k1"))
        again = await wire.answer()
    assert (status, again[0], again[2]) == (201, 201, body)
    assert headers["x-raftflow-leader"] != old.config.name
