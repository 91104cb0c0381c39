"""Replicas' links on loopback, and raw connections that play honest or hostile peers."""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections.abc import Callable
from typing import Any

import pytest
import uvloop

from raftflow.replication.net.connection import LinkLimits
from raftflow.replication.net.handshake import Credentials, Dialer
from raftflow.replication.net.links import StreamLinks

SECRET = b"the secret of this cluster"
WAIT_S = 20.0
LOOK_S = 0.01


@pytest.hookimpl(optionalhook=True)
def pytest_asyncio_loop_factories(config: Any, item: Any) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Run every test on both loops: they differ in how transports fail."""
    return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


class Node:
    """A replica's links with a record of everything that its handlers were told."""

    def __init__(
        self, name: str, *, peers: Any = (), secret: bytes = SECRET, cluster: str = "c1", **options: Any
    ) -> None:
        self.name = name
        self.events = []
        self.changed = asyncio.Event()
        unreachable = dict.fromkeys(peers, ("127.0.0.1", 1))
        self.links = StreamLinks(
            name=name,
            cluster_id=cluster,
            bind=("127.0.0.1", options.pop("port", 0)),
            peers=unreachable | options.pop("addresses", {}),
            secret=secret,
            **options,
        )
        self.links.set_handlers(
            lambda peer, frame: self.note("frame", peer, frame),
            lambda peer: self.note("up", peer),
            lambda peer: self.note("down", peer),
        )

    def note(self, *event: object) -> None:
        self.events.append(event)
        self.changed.set()

    @property
    def address(self) -> tuple[str, int]:
        return ("127.0.0.1", self.links.port)

    @property
    def frames(self) -> list[bytes]:
        return [event[2] for event in self.events if event[0] == "frame"]

    def ups_and_downs(self, peer: str) -> list[str]:
        return [kind for kind, name, *_ in self.events if kind != "frame" and name == peer]

    async def until(self, predicate: Callable[[], bool]) -> None:
        """Wait until `predicate()` holds; looked at after every event and now and then for counters.

        Bounded by looks rather than by the clock, so that a machine that stands still for a while fails no test.
        """
        for _ in range(round(WAIT_S / LOOK_S)):
            if predicate():
                return
            self.changed.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.changed.wait(), LOOK_S)
        raise AssertionError(f"{self.name} waited in vain; {dict(self.links.stats)}; {self.events[-20:]}")

    async def until_event(self, *event: object) -> None:
        await self.until(lambda: event in self.events)

    async def until_counted(self, reason: str, count: int = 1) -> None:
        await self.until(lambda: self.links.stats[reason] >= count)

    def is_up(self, peer: str) -> bool:
        return self.ups_and_downs(peer)[-1:] == ["up"]


class RawPeer:
    """A bare connection to a replica's port: bytes as the test wants them."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.session = None

    async def prove(self, name: str, target: str, *, secret: bytes = SECRET, cluster: str = "c1") -> RawPeer:
        """Complete the handshake as an honest dialer; record what was sent."""
        dialer = Dialer(Credentials(name=name, cluster_id=cluster, secret=secret), target)
        self.sent = [dialer.first]
        self.writer.write(dialer.first)
        while dialer.session is None:
            reply = dialer.step(await self.exactly(dialer.need))
            if reply:
                self.sent.append(reply)
                self.writer.write(reply)
        self.session = dialer.session
        return self

    async def exactly(self, count: int) -> bytes:
        return await asyncio.wait_for(self.reader.readexactly(count), WAIT_S)

    def frame(self, payload: bytes) -> Any:
        """Return the bytes of the next valid frame."""
        return b"".join(self.session.seal((payload,), len(payload)))

    async def receive(self) -> bytes:
        (size,) = struct.unpack(">I", await self.exactly(4))
        payload, tag = await self.exactly(size), await self.exactly(16)
        assert self.session.open(payload, tag)
        return payload

    async def rest(self) -> bytes:
        """Return everything that still comes, until the other side closes."""
        with contextlib.suppress(ConnectionResetError):
            return await asyncio.wait_for(self.reader.read(), WAIT_S)
        return b""


def check_promise(node: Node) -> None:
    """Ups and downs alternate per peer, end with down, and frames come only between them."""
    for peer in {event[1] for event in node.events}:
        history = node.ups_and_downs(peer)
        assert history == ["up", "down"] * (len(history) // 2), (node.name, peer, history)
        up = False
        for event in node.events:
            if event[1] == peer:
                assert event[0] != "frame" or up, "a frame outside of a connection"
                up = event[0] == "up" or (up and event[0] == "frame")


@pytest.fixture
async def world() -> Any:
    """Make nodes and raw peers; everything is closed at the end, and the handlers' promise is checked."""

    class World:
        limits = staticmethod(LinkLimits)

        def __init__(self) -> None:
            self.nodes = []
            self.raws = []

        async def node(self, name: str, **options: Any) -> Node:
            node = Node(name, **options)
            self.nodes.append(node)
            await node.links.start()
            return node

        async def cluster(self, *names: Any, **options: Any) -> Any:
            """Start replicas that know each other, the last first so that every dialer finds its peer."""
            nodes = {}
            for name in sorted(names, reverse=True):
                known = {other: node.address for other, node in nodes.items()}
                peers = [peer for peer in names if peer != name]
                nodes[name] = await self.node(name, peers=peers, addresses=known, **options)
            for name, node in nodes.items():
                for peer in nodes.keys() - {name}:
                    await node.until_event("up", peer)
            return [nodes[name] for name in names]

        async def raw(self, node: Any, **options: Any) -> RawPeer:
            raw = RawPeer(*await asyncio.open_connection(*node.address, **options))
            self.raws.append(raw)
            return raw

        async def close(self) -> None:
            for raw in self.raws:
                raw.writer.transport.abort()
            for node in self.nodes:
                await node.links.close()
            for _ in range(3):
                await asyncio.sleep(0)  # what was aborted here and there is closed in the next turns of the loop

    world = World()
    yield world
    await world.close()
    for node in world.nodes:
        check_promise(node)
