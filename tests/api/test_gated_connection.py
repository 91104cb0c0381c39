"""Gated connections: they wait for their turn to be read, bounded in number and in bytes."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from raftflow.api.admission import gated_connection
from raftflow.api.admission.gated_connection import AdmissionControl
from raftflow.api.admission.load_shedder import WAITING_MAX, LoadShedder, QueueClass
from raftflow.api.figures.request_counts import RequestCounts

GET = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"


async def passes(count: int = 5) -> None:
    """Let the loop turn."""
    for _ in range(count):
        await asyncio.sleep(0)


class Transport(asyncio.Transport):
    """Counts what is done to it."""

    def __init__(self) -> None:
        super().__init__()
        self.reading = True
        self.written = b""
        self.closing = False
        self.aborted = False
        self.waiting_bytes = 0

    def is_closing(self) -> bool:
        return self.closing

    def get_write_buffer_size(self) -> int:
        return self.waiting_bytes

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def write(self, data: Any) -> None:
        self.written += bytes(data)

    def close(self) -> None:
        self.closing = True

    def abort(self) -> None:
        self.closing = self.aborted = True


class Behind(asyncio.Protocol):
    """A stand-in for the protocol behind the gate."""

    def __init__(self) -> None:
        self._reading_paused = False
        self.data = b""
        self.lost = False
        self.step = 1_000
        self.waiting = True
        self.on_resume: Any = None

    def ingest(self, data: bytes) -> bytes:
        self.data += data[: self.step]
        return data[self.step :]

    def may_read_socket(self) -> bool:
        return not self._reading_paused

    def is_reading_paused(self) -> bool:
        return self._reading_paused

    def is_waiting_for_client(self) -> bool:
        return self.waiting

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self.lost = True


class House:
    """Admission control, with the protocols that it made."""

    def __init__(self, connections_max: int = 10) -> None:
        self.made: list[Behind] = []
        self.shedder = LoadShedder(lambda: 0.0)
        self.admission = AdmissionControl(self.shedder, RequestCounts(), self._make, connections_max)  # type: ignore[arg-type]

    def _make(self) -> Behind:
        self.made.append(Behind())
        return self.made[-1]

    def come(self) -> tuple[Any, Transport]:
        door, transport = self.admission.admit(), Transport()
        door.connection_made(transport)
        return door, transport

    def crowd(self) -> None:
        """Use up this turn."""
        while self.shedder.try_enter(QueueClass.DATA):
            pass


async def test_a_connection_costs_nothing_until_something_arrives() -> None:
    house = House()
    door, _ = house.come()
    assert house.made == []
    door.data_received(b"GET /")
    assert [behind.data for behind in house.made] == [b"GET /"]
    door.connection_lost(None)
    assert house.made[0].lost
    assert not house.admission.connections


async def test_in_a_crowd_a_socket_is_not_read_before_its_turn() -> None:
    house = House()
    door, transport = house.come()
    house.crowd()
    door.data_received(b"GET /one")
    assert (transport.reading, house.made) == (False, [])
    door.data_received(b" and more")  # some loops had it already
    assert house.admission.held_bytes == len(b"GET /one and more")
    await passes()
    assert house.made[0].data == b"GET /one and more"
    assert (transport.reading, house.admission.held_bytes) == (True, 0)


async def test_a_protocol_that_paused_reading_by_itself_resumes_it_by_itself() -> None:
    house = House()
    door, transport = house.come()
    door.data_received(b"POST /")
    house.crowd()
    house.made[0]._reading_paused = True
    door.data_received(b"body")
    await passes()
    assert house.made[0].data == b"POST /body"
    assert not transport.reading


async def test_a_connection_that_ends_while_queued_leaves_nothing() -> None:
    house = House()
    door, _ = house.come()
    house.crowd()
    door.data_received(GET)
    door.connection_lost(None)
    assert (house.admission.held_bytes, house.made) == (0, [])
    await passes()
    assert house.made == []


async def test_with_a_full_queue_the_next_connection_is_told_and_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(WAITING_MAX, QueueClass.DATA, 1)
    house = House()
    house.crowd()
    doors = [house.come() for _ in range(2)]
    for door, _ in doors:
        door.data_received(GET)
    refused = doors[1][1]
    assert refused.written.startswith(b"HTTP/1.1 429 Too Many Requests\r\n")
    assert b"\r\nRetry-After: 1\r\n" in refused.written
    assert b"queue-full" in refused.written
    assert refused.closing
    assert (house.admission.shed, house.admission.held_bytes) == (1, len(GET))
    agent, its = house.come()
    agent.data_received(b"POST /v1/agents/a1/poll HTTP/1.1\r\n")
    assert its.written == b"", "agents have a line of their own"


async def test_bytes_that_wait_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gated_connection, "HELD_BYTES_MAX", 100)
    monkeypatch.setattr(gated_connection, "ALL_HELD_BYTES_MAX", 150)
    house = House()
    house.crowd()
    one, its = house.come()
    one.data_received(b"x" * 101)
    assert its.aborted, "too much on one connection"
    one.connection_lost(None)
    (two, _), (three, threes) = house.come(), house.come()
    two.data_received(b"x" * 90)
    three.data_received(b"x" * 90)
    assert threes.aborted, "too much on all of them"


async def test_one_connection_too_many_closes_the_oldest_silent_one(serve: Any) -> None:
    one = await serve()
    admission = one.server.admission
    reader, writer = await asyncio.open_connection("127.0.0.1", one.server.port)
    await one.until(lambda: len(admission.connections) == 1)
    admission.set_connections_max(1)
    other, its = await asyncio.open_connection("127.0.0.1", one.server.port)
    assert await asyncio.wait_for(reader.read(), 5) == b"", "the first one had to go"
    assert admission.shed == 1
    its.write(GET)
    assert (await asyncio.wait_for(other.readline(), 5)).startswith(b"HTTP/1.1 200 ")
    for each in (writer, its):
        each.close()


async def test_silent_connections_end_with_the_server(serve: Any) -> None:
    one = await serve()
    reader, writer = await asyncio.open_connection("127.0.0.1", one.server.port)
    await one.until(lambda: len(one.server.admission.connections) == 1)
    await asyncio.wait_for(one.stop(), 5)
    assert not one.server.admission.connections
    assert await asyncio.wait_for(reader.read(), 5) == b""
    writer.close()


async def test_a_client_that_waits_for_an_answer_is_not_evicted() -> None:
    house = House(connections_max=2)
    for _ in range(2):
        door, _ = house.come()
        door.data_received(GET)
    for behind in house.made:
        behind.waiting = False
    assert not house.admission.make_room(), "both have a request under way"
    house.made[1].waiting = True
    first, second = house.admission.connections
    assert house.admission.make_room()
    assert list(house.admission.connections) == [first]
    assert second._transport.aborted


async def test_the_rest_of_a_step_waits_for_the_next_turn_and_nothing_is_read_meanwhile() -> None:
    house = House()
    door, transport = house.come()
    door.data_received(b"x" * 2_500)
    assert (len(house.made[0].data), transport.reading, house.admission.held_bytes) == (1_000, False, 1_500)
    door.data_received(b"y" * 100)
    await passes()
    assert house.made[0].data == b"x" * 2_500 + b"y" * 100
    assert (transport.reading, house.admission.held_bytes) == (True, 0)


async def test_a_full_protocol_gets_the_rest_when_it_can_take_more() -> None:
    house = House()
    door, transport = house.come()
    door.data_received(b"x" * 100)
    house.made[0]._reading_paused = True
    door.data_received(b"x" * 2_000)
    await passes()
    assert len(house.made[0].data) == 1_100, "no more while it is full"
    transport.resume_reading()  # aiohttp does that by itself
    door.data_received(b"y" * 50)
    assert not transport.reading
    house.made[0]._reading_paused = False
    house.made[0].on_resume()
    await passes()
    assert house.made[0].data == b"x" * 2_100 + b"y" * 50
    assert transport.reading


async def test_a_client_that_does_not_read_is_not_read_and_then_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gated_connection, "UNREAD_S", 0.02)
    house = House()
    door, transport = house.come()
    door.data_received(GET)
    transport.waiting_bytes = 3 * gated_connection.UNREAD_BYTES_MIN
    door.pause_writing()
    assert not transport.reading
    transport.waiting_bytes = gated_connection.UNREAD_BYTES_MIN
    await asyncio.sleep(0.025)
    assert not transport.aborted, "it has read a part"
    await asyncio.sleep(0.05)
    assert transport.aborted
    assert not house.admission.connections
    assert house.admission.unread_bytes == 0


async def test_a_client_that_reads_again_is_read_again() -> None:
    house = House()
    door, transport = house.come()
    door.data_received(GET)
    transport.waiting_bytes = 100_000
    door.pause_writing()
    assert house.admission.unread_bytes == 100_000
    door.resume_writing()
    assert transport.reading
    assert house.admission.unread_bytes == 0


async def test_unread_answers_of_all_connections_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gated_connection, "ALL_UNREAD_BYTES_MAX", 150_000)
    house = House()
    transports = []
    for _ in range(2):
        door, transport = house.come()
        transports.append(transport)
        door.data_received(GET)
        transport.waiting_bytes = 100_000
        door.pause_writing()
    assert [transport.aborted for transport in transports] == [True, False], "the longest unread one goes"
