"""Strangers, impostors and broken lines: nothing of theirs reaches a handler, and honest peers are served."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
from typing import Any

import pytest

from raftflow.replication.net.handshake import Credentials, Dialer

IDLE = {"peers": ["a"]}


async def serves(world: Any, node: Any, peer: str = "a") -> None:
    """Check that an honest peer still gets through, as the only one ever heard."""
    raw = await (await world.raw(node)).prove(peer, node.name)
    raw.writer.write(raw.frame(b"honest"))
    await node.until_event("frame", peer, b"honest")
    assert {event[1] for event in node.events} == {peer}
    assert set(node.frames) == {b"honest"}


@pytest.mark.parametrize(
    ("options", "reason", "advice"),
    [
        ({"name": "a", "secret": b"some other secret"}, "refused_wrong_secret", "compare the secret files"),
        ({"name": "a", "cluster": "c2"}, "refused_other_cluster", "compare cluster_id"),
        ({"name": "aa"}, "refused_unknown_peer", "compare the peer lists"),
    ],
)
async def test_a_replica_that_does_not_belong_is_refused_and_both_logs_say_why(
    world: Any, caplog: pytest.LogCaptureFixture, options: Any, reason: str, advice: str
) -> None:
    caplog.set_level(logging.WARNING)
    b = await world.node("b", **IDLE)
    other = await world.node(addresses={"b": b.address}, **options)
    await b.until_counted(reason, 3)
    await other.until_counted(reason.replace("refused_", "refused_by_peer_"), 3)
    assert b.events == [] == other.events
    lines = [record.getMessage() for record in caplog.records if advice in record.getMessage()]
    assert len(lines) == 2, "each side says it once, however often it happens"
    assert sum("the peer refuses us" in line for line in lines) == 1
    await serves(world, b)


async def test_an_impostor_with_our_own_name_is_refused(world: Any) -> None:
    b = await world.node("b", **IDLE)
    raw = await world.raw(b)
    with pytest.raises(Exception, match="own_name"):
        await raw.prove("b", "b")
    await b.until_counted("refused_own_name")
    await serves(world, b)


async def test_a_replica_does_not_connect_to_itself(world: Any) -> None:
    """The peer list leads back to this replica, under the peer's name."""
    a = await world.node("a", peers=["b"])
    a.links.set_peers({"b": a.address})
    await a.until_counted("refused_by_peer_own_name", 2)
    assert a.events == []


async def test_a_dialer_refuses_a_listener_without_the_secret(world: Any) -> None:
    """It sees the dialer's proof, and can do nothing with it."""
    b = await world.node("b", peers=["a"], secret=b"some other secret")
    seen = asyncio.Queue()

    async def impostor(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            hello = await reader.readexactly(
                len(Dialer(Credentials(name="a", cluster_id="c1", secret=bytes(16)), "b").first)
            )
            up_reader, up_writer = await asyncio.open_connection(*b.address)
            up_writer.write(hello)
            challenge = await up_reader.readexactly(39)
            writer.write(challenge)
            proof = await reader.readexactly(32)
            writer.write(b"\0" + proof)
            seen.put_nowait(await reader.read())
            up_writer.close()
        writer.close()

    server = await asyncio.start_server(impostor, "127.0.0.1", 0)
    a = await world.node("a", addresses={"b": server.sockets[0].getsockname()})
    assert await asyncio.wait_for(seen.get(), 10) == b""
    await a.until_counted("refused_wrong_secret")
    assert a.events == []
    server.close()


async def test_a_thousand_random_connections_leave_the_port_serving(world: Any) -> None:
    b = await world.node("b", **IDLE)
    hello = Dialer(Credentials(name="a", cluster_id="c1", secret=bytes(16)), "b").first
    dice = random.Random(7)

    async def stranger(number: int) -> None:
        noise = dice.randbytes(dice.choice([1, 10, 203, 1000, 20_000]))
        match number % 4:
            case 1:
                noise = hello[: dice.randrange(len(hello))] + noise
            case 2:
                noise = hello + noise
            case 3:
                noise = len(noise).to_bytes(4, "big") + noise
        raw = await world.raw(b)
        with contextlib.suppress(ConnectionError):
            raw.writer.write(noise)
            raw.writer.write_eof()
        answer = await raw.rest()
        assert len(answer) <= 39 + 33
        raw.writer.close()

    for start in range(0, 1000, 20):
        await asyncio.gather(*(stranger(start + n) for n in range(20)))
    assert b.events == []
    await serves(world, b)
    refused = sum(count for reason, count in b.links.stats.items() if reason != "connected")
    assert refused == 1000


async def test_a_recorded_connection_replayed_gets_nothing(world: Any) -> None:
    b = await world.node("b", **IDLE)
    raw = await (await world.raw(b)).prove("a", "b")
    recorded = b"".join([*raw.sent, raw.frame(b"honest")])
    raw.writer.write(recorded[-26 - 0 :])
    await b.until_event("frame", "a", b"honest")
    raw.writer.close()
    await b.until_event("down", "a")
    events = list(b.events)
    pieces = [raw.sent[0], raw.sent[1], recorded[-26:]]
    thief = await world.raw(b)
    for piece in pieces:
        with contextlib.suppress(ConnectionError):
            thief.writer.write(piece)
            await asyncio.sleep(0.02)
    await thief.rest()
    await b.until_counted("refused_wrong_secret")
    assert b.events == events


async def test_a_replayed_frame_ends_the_connection(world: Any) -> None:
    b = await world.node("b", **IDLE)
    raw = await (await world.raw(b)).prove("a", "b")
    frame = raw.frame(b"pay once")
    raw.writer.write(frame + frame + raw.frame(b"more"))
    await b.until_event("down", "a")
    assert b.frames == [b"pay once"]
    assert b.links.stats["bad_frame"] == 1


@pytest.mark.parametrize("where", ["length", "payload", "tag"])
async def test_a_flipped_bit_ends_the_connection_and_delivers_nothing_of_the_frame(world: Any, where: str) -> None:
    b = await world.node("b", **IDLE)
    raw = await (await world.raw(b)).prove("a", "b")
    good, bad = raw.frame(b"good"), bytearray(raw.frame(b"x" * 100))
    bad[{"length": 3, "payload": 50, "tag": -1}[where]] ^= 1
    raw.writer.write(good + bytes(bad) + raw.frame(b"never"))
    await b.until_event("down", "a")
    assert b.frames == [b"good"]
    assert b.links.stats["bad_frame"] == 1
    assert await raw.rest() == b""


async def test_an_empty_frame_without_its_proof_ends_the_connection(world: Any) -> None:
    b = await world.node("b", **IDLE)
    raw = await (await world.raw(b)).prove("a", "b")
    raw.writer.write(bytes(4 + 16))
    await b.until_event("down", "a")
    assert b.links.stats["bad_frame"] == 1


@pytest.mark.parametrize("size", [1001, 2**31, 2**32 - 1])
async def test_a_length_out_of_bounds_ends_the_connection_before_the_frame_comes(world: Any, size: int) -> None:
    b = await world.node("b", limits=world.limits(frame_bytes_max=1000), **IDLE)
    raw = await (await world.raw(b)).prove("a", "b")
    raw.writer.write(size.to_bytes(4, "big"))
    await b.until_event("down", "a")
    assert b.links.stats["bad_frame"] == 1


async def test_a_frame_cut_off_is_not_delivered(world: Any) -> None:
    b = await world.node("b", **IDLE)
    raw = await (await world.raw(b)).prove("a", "b")
    raw.writer.write(raw.frame(b"whole") + raw.frame(b"cut off")[:-1])
    raw.writer.close()
    await b.until_event("down", "a")
    assert b.frames == [b"whole"]


async def test_frames_that_trickle_in_byte_by_byte_are_delivered_whole(world: Any) -> None:
    b = await world.node("b", **IDLE)
    raw = await (await world.raw(b)).prove("a", "b")
    for byte in raw.frame(b"one") + raw.frame(b"two"):
        raw.writer.write(bytes([byte]))
        await asyncio.sleep(0.001)
    await b.until_event("frame", "a", b"two")
    assert b.frames == [b"one", b"two"]


async def test_an_unproven_peer_cannot_send_frames_ahead_of_its_proof(world: Any) -> None:
    """More bytes than the handshake's next message end it: nothing is kept for later."""
    b = await world.node("b", **IDLE)
    hello = Dialer(Credentials(name="a", cluster_id="c1", secret=bytes(16)), "b").first
    raw = await world.raw(b)
    raw.writer.write(hello + bytes(10_000))
    assert await raw.rest() == b""
    await b.until_counted("refused_garbage")


async def test_slow_handshakes_are_cut_and_do_not_keep_others_out(world: Any) -> None:
    b = await world.node("b", limits=world.limits(handshake_s=0.3, unproven_max=8), **IDLE)
    loris = [await world.raw(b) for _ in range(8)]
    for raw in loris:
        raw.writer.write(b"RFLK")
    await serves(world, b)
    await asyncio.gather(*(raw.rest() for raw in loris))
    assert b.links.stats["handshake_timeout"] >= 7


async def test_the_oldest_stranger_has_to_go_when_there_are_too_many(world: Any) -> None:
    b = await world.node("b", limits=world.limits(handshake_s=30, unproven_max=8), **IDLE)
    strangers = [await world.raw(b) for _ in range(12)]
    await b.until_counted("crowded_out", 4)
    await serves(world, b)
    await asyncio.gather(*(raw.rest() for raw in strangers[:4]))
    assert b.links.stats["crowded_out"] in {4, 5}
    assert len(b.links._unproven) <= 8


async def test_a_dialer_gives_up_on_a_listener_that_says_nothing(world: Any) -> None:
    quiet = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    address = quiet.sockets[0].getsockname()
    a = await world.node("a", addresses={"b": address}, limits=world.limits(handshake_s=0.1))
    await a.until_counted("handshake_timeout", 2)
    assert a.events == []
    quiet.close()


async def test_a_dialer_survives_garbage_from_the_other_side(world: Any) -> None:
    async def babble(_: object, writer: asyncio.StreamWriter) -> None:
        writer.write(os.urandom(5000))
        with contextlib.suppress(ConnectionError):
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(babble, "127.0.0.1", 0)
    a = await world.node("a", addresses={"b": server.sockets[0].getsockname()})
    await a.until_counted("refused_garbage", 3)
    assert a.events == []
    server.close()


async def test_a_tampering_line_between_two_replicas_costs_the_connection_only(world: Any) -> None:
    """A proxy flips one bit far into the stream; the link goes down, comes back, and no frame was wrong."""
    b = await world.node("b", **IDLE)
    budget = iter([3000, 1 << 40])

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, flip_at: int | None = None) -> None:
        passed = 0
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(1000):
                if flip_at is not None and passed <= flip_at < passed + len(data):
                    changed = bytearray(data)
                    changed[flip_at - passed] ^= 4
                    data = bytes(changed)
                passed += len(data)
                writer.write(data)
        writer.close()

    async def proxy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        up_reader, up_writer = await asyncio.open_connection(*b.address)
        await asyncio.gather(pump(reader, up_writer, next(budget)), pump(up_reader, writer))

    server = await asyncio.start_server(proxy, "127.0.0.1", 0)
    a = await world.node("a", addresses={"b": server.sockets[0].getsockname()})
    await a.until_event("up", "b")
    for n in range(50):
        a.links.send("b", bytes([n]) * 100)
    await b.until(lambda: b.ups_and_downs("a") == ["up", "down", "up"])
    await a.until(lambda: a.ups_and_downs("b") == ["up", "down", "up"])
    assert b.frames == [bytes([n]) * 100 for n in range(len(b.frames))]
    assert 10 < len(b.frames) < 50
    assert a.links.send("b", b"after")
    await b.until_event("frame", "a", b"after")
    server.close()
