"""Honest replicas: frames arrive whole and in order, and connections come back."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import socket
from typing import Any

import pytest

from raftflow.replication.errors import LogFailedError


async def test_two_replicas_exchange_frames_in_order(world: Any) -> None:
    a, b = await world.cluster("a", "b")
    sent = [bytes([n]) * size for n, size in enumerate([1, 200, 65_536, 70_000, 3_000_000, 5])]
    for frame in sent:
        assert a.links.send("b", frame)
        assert b.links.send("a", [frame[:1], b"", frame[1:]])
    await a.until(lambda: len(a.frames) == len(sent))
    await b.until(lambda: len(b.frames) == len(sent))
    assert a.frames == sent == b.frames


async def test_a_frame_of_the_largest_size_arrives_and_larger_ones_are_the_caller_s_mistake(world: Any) -> None:
    a, b = await world.cluster("a", "b", limits=world.limits(frame_bytes_max=1000))
    assert a.links.send("b", bytes(1000))
    await b.until_event("frame", "a", bytes(1000))
    for bad in (bytes(1001), b"", [b"", b""]):
        with pytest.raises(ValueError, match="1 to 1000 bytes"):
            a.links.send("b", bad)
    assert a.is_up("b")


async def test_three_replicas_have_one_connection_per_pair(world: Any) -> None:
    nodes = await world.cluster("a", "b", "c")
    for node in nodes:
        for peer in nodes:
            if peer is not node:
                assert node.links.send(peer.name, node.name.encode())
    for node in nodes:
        await node.until(lambda node=node: len(node.frames) == 2)
        assert sorted(node.frames) == sorted(peer.name.encode() for peer in nodes if peer is not node)
        assert node.links.stats["connected"] == 2


async def test_sending_to_nobody_is_false(world: Any) -> None:
    a = await world.node("a", peers=["b"])
    assert not a.links.send("b", b"x")
    assert not a.links.send("stranger", b"x")
    assert a.links.buffered("b") == 0
    a.links.reset("b")
    assert a.events == []


@pytest.mark.parametrize("resetter", ["a", "b"])
async def test_a_reset_link_is_down_at_once_and_comes_back(world: Any, resetter: str) -> None:
    nodes = dict(zip("ab", await world.cluster("a", "b"), strict=True))
    one, other = nodes[resetter], nodes["ab".replace(resetter, "")]
    one.links.reset(other.name)
    assert one.ups_and_downs(other.name) == ["up", "down"]
    assert not one.links.send(other.name, b"x")
    await one.until(lambda: one.is_up(other.name))
    await other.until(lambda: other.ups_and_downs(one.name) == ["up", "down", "up"])
    assert one.links.send(other.name, b"again")
    await other.until_event("frame", one.name, b"again")


async def test_a_restarted_replica_is_connected_again(world: Any) -> None:
    a, b = await world.cluster("a", "b")
    port = b.links.port
    await b.links.close()
    await a.until_event("down", "b")
    await a.until_counted("unreachable", 2)
    again = await world.node("b", peers=["a"], port=port)
    await a.until(lambda: a.is_up("b"))
    assert a.links.send("b", b"welcome back")
    await again.until_event("frame", "a", b"welcome back")


async def test_close_writes_out_what_waits(world: Any) -> None:
    a, b = await world.cluster("a", "b")
    sent = [n.to_bytes(4) * 10_000 for n in range(200)]
    for frame in sent:
        assert a.links.send("b", frame)
    assert a.links.buffered("b") > 0
    await a.links.close()
    await a.links.close()
    await b.until_event("down", "a")
    assert b.frames == sent


async def test_close_does_not_wait_for_a_peer_that_reads_nothing(world: Any) -> None:
    b = await world.node("b", peers=["a"])
    raw = await world.raw(b, limit=1000)
    await raw.prove("a", "b")
    await b.until_event("up", "a")
    while b.links.buffered("a") < 2_000_000:
        assert b.links.send("a", bytes(500_000))
    async with asyncio.timeout(2):
        await b.links.close()


async def test_a_peer_that_does_not_read_is_reset_at_the_buffer_limit(world: Any) -> None:
    b = await world.node("b", peers=["a"], limits=world.limits(buffer_bytes_max=1_000_000))
    raw = await world.raw(b, limit=1000)
    await raw.prove("a", "b")
    await b.until_event("up", "a")
    sent = 0
    while b.links.send("a", bytes(100_000)):
        sent += 1
        assert b.links.buffered("a") <= 1_000_000
        assert sent < 1000
        await asyncio.sleep(0)
    assert b.ups_and_downs("a") == ["up", "down"]
    assert b.links.stats["overflow"] == 1
    assert b.links.buffered("a") == 0


async def test_a_silent_link_is_reset_and_a_talking_one_is_not(world: Any) -> None:
    b = await world.node("b", peers=["a", "aa"], limits=world.limits(idle_s=0.3))
    silent, talking = await world.raw(b), await world.raw(b)
    await silent.prove("a", "b")
    await talking.prove("aa", "b")

    async def talk() -> None:
        while True:
            talking.writer.write(talking.frame(b"here"))
            await asyncio.sleep(0.05)

    task = asyncio.create_task(talk())
    await b.until_event("down", "a")
    assert b.is_up("aa")
    assert b.links.stats["idle"] == 1
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    await b.until_event("down", "aa")


async def test_two_peers_with_nothing_to_say_stay_connected(world: Any) -> None:
    """As two followers do: signs of life go both ways and reach nobody's handler."""
    a, b = await world.cluster("a", "b", limits=world.limits(idle_s=0.15))
    await asyncio.sleep(0.6)
    for node, peer in ((a, "b"), (b, "a")):
        assert node.ups_and_downs(peer) == ["up"]
        assert all(event[0] != "frame" for event in node.events)


async def test_a_newer_connection_replaces_the_older_one(world: Any) -> None:
    """Frames of the old connection, already on their way, are not delivered to the new one's receiver."""
    b = await world.node("b", peers=["a"])
    old = await (await world.raw(b)).prove("a", "b")
    old.writer.write(old.frame(b"old 1"))
    await b.until_event("frame", "a", b"old 1")
    new = await (await world.raw(b)).prove("a", "b")
    with contextlib.suppress(ConnectionError):
        old.writer.write(old.frame(b"old 2"))
    new.writer.write(new.frame(b"new 1"))
    await b.until_event("frame", "a", b"new 1")
    assert await old.rest() == b""
    assert b.events == [("up", "a"), ("frame", "a", b"old 1"), ("down", "a"), ("up", "a"), ("frame", "a", b"new 1")]
    assert b.links.stats["replaced"] == 1
    assert b.links.send("a", b"to the new one")
    assert await new.receive() == b"to the new one"


async def test_nothing_is_delivered_after_a_reset_from_inside_a_handler(world: Any) -> None:
    b = await world.node("b", peers=["a"])
    raw = await (await world.raw(b)).prove("a", "b")

    def on_frame(peer: str, frame: bytes) -> None:
        b.note("frame", peer, frame)
        b.links.reset(peer)

    b.links.set_handlers(on_frame, lambda peer: b.note("up", peer), lambda peer: b.note("down", peer))
    raw.writer.write(raw.frame(b"1") + raw.frame(b"2") + raw.frame(b"3"))
    await b.until_event("down", "a")
    assert await raw.rest() == b""
    assert b.frames == [b"1"]


async def test_frames_that_come_with_the_last_handshake_message_are_delivered(world: Any) -> None:
    """An acceptor may send as soon as the dialer has proved itself, in the same packet as its own proof."""
    b = await world.node("b", peers=["a"])
    b.links.set_handlers(
        lambda peer, frame: b.note("frame", peer, frame),
        lambda peer: (b.note("up", peer), b.links.send(peer, b"hello")),
        lambda peer: b.note("down", peer),
    )
    a = await world.node("a", addresses={"b": b.address})
    await a.until_event("frame", "b", b"hello")


async def test_peers_can_come_and_go(world: Any) -> None:
    a, b, c = await world.cluster("a", "b", "c")
    a.links.set_peers({"c": c.address})
    assert a.ups_and_downs("b") == ["up", "down"]
    await b.until_event("down", "a")
    assert a.links.send("c", b"still here")
    await c.until_event("frame", "a", b"still here")
    a.links.set_peers({"b": b.address, "c": c.address})
    await a.until(lambda: a.is_up("b"))
    with pytest.raises(ValueError, match="its own peer"):
        a.links.set_peers({"a": a.address})


@pytest.mark.parametrize("address", [("no such host.invalid", 1), ("x" * 70 + ".", 1), ("127.0.0.1", 70_000)])
async def test_a_peer_address_that_makes_no_sense_is_tried_again_and_can_be_corrected(
    world: Any, address: tuple[str, int]
) -> None:
    b = await world.node("b", peers=["a"])
    a = await world.node("a", addresses={"b": address}, limits=world.limits(dial_s=0.2))
    await a.until_counted("unreachable", 2)
    a.links.set_peers({"b": b.address})
    await a.until_event("up", "b")


async def test_an_address_in_use_is_refused_with_advice(world: Any) -> None:
    a = await world.node("a")
    with pytest.raises(LogFailedError, match=f"127.0.0.1:{a.links.port} cannot be bound.*choose another port"):
        await world.node("b", port=a.links.port)


async def test_tls_contexts_come_in_pairs(world: Any) -> None:
    import ssl

    with pytest.raises(ValueError, match="or neither"):
        await world.node("a", tls_server=ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))


async def test_the_listener_survives_running_out_of_file_descriptors(world: Any) -> None:
    b = await world.node("b", peers=["a"], limits=world.limits(handshake_s=5.0))
    client = socket.socket()
    client.settimeout(0)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    hold = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 200), hard))
    try:
        with contextlib.suppress(OSError):
            while True:
                hold.append(socket.socket())
        await asyncio.get_running_loop().sock_connect(client, b.address)
        await b.until_counted("accept_failed")
    finally:
        for sock in hold:
            sock.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    client.close()
    raw = await (await world.raw(b)).prove("a", "b")
    raw.writer.write(raw.frame(b"served"))
    await b.until_event("frame", "a", b"served")
