"""The proxies that stand before the replicas of a chaos run where network namespaces are not allowed."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from raftflow.chaos.proxy import ANYBODY, ReplicaProxies, owner_of
from raftflow.coordinator.config.loading import load_config
from raftflow.local.cluster import LocalCluster
from raftflow.local.cluster_file import ClusterOptions
from raftflow.local.replica_files import free_ports

SOON_S = 20.0
CLIENT = "client"


class Ends(NamedTuple):
    """A connection of `client`, which is this process, through a proxy to `n1`, which answers in capitals."""

    proxies: ReplicaProxies
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def answer(self) -> bytes:
        return await asyncio.wait_for(self.reader.read(100), SOON_S)


async def eventually(condition: Callable[[], bool]) -> None:
    async def wait() -> None:
        while True:
            await asyncio.sleep(0.001)
            if condition():
                return

    await asyncio.wait_for(wait(), SOON_S)


@pytest.fixture
async def ends() -> AsyncIterator[Ends]:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.CancelledError):  # the test ends
            while piece := await reader.read(100):
                writer.write(piece.upper())
        writer.close()

    port, behind = free_ports(2)
    server = await asyncio.start_server(answer, "127.0.0.1", behind)
    proxies = ReplicaProxies(lambda: {os.getpid(): CLIENT})
    await proxies.listen("n1", port, behind)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    yield Ends(proxies, reader, writer)
    writer.close()
    await proxies.close()
    server.close()


async def test_owner_of_a_connection_is_found_by_its_port(ends: Ends) -> None:
    port = ends.writer.get_extra_info("sockname")[1]
    assert owner_of(port, {os.getpid(): CLIENT}) == CLIENT
    assert owner_of(port, {}) == ANYBODY
    assert owner_of(free_ports(1)[0], {os.getpid(): CLIENT}) == ANYBODY


@pytest.mark.parametrize("way", [(CLIENT, "n1"), ("n1", CLIENT), (ANYBODY, "n1"), ("n1", ANYBODY)])
async def test_cut_holds_what_is_sent_and_its_end_lets_it_pass(ends: Ends, way: tuple[str, str]) -> None:
    ends.writer.write(b"one")
    assert await ends.answer() == b"ONE"
    ends.proxies.cut([way])
    ends.writer.write(b"two")
    answer = asyncio.ensure_future(ends.answer())
    await eventually(lambda: ends.proxies.held > 0)
    assert not answer.done()
    ends.proxies.join([way])
    assert await answer == b"TWO"


async def test_cuts_of_other_processes_hold_nothing(ends: Ends) -> None:
    ends.proxies.cut([("n2", "n1"), ("n1", "n3"), ("a1", ANYBODY)])
    ends.writer.write(b"one")
    assert await ends.answer() == b"ONE"
    assert ends.proxies.held == 0


async def test_connection_that_is_opened_in_a_cut_waits(ends: Ends) -> None:
    port = ends.writer.get_extra_info("peername")[1]
    ends.proxies.cut([(CLIENT, "n1")])
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"one")
    await eventually(lambda: ends.proxies.held > 0)
    ends.proxies.join([(CLIENT, "n1")])
    assert await asyncio.wait_for(reader.read(100), SOON_S) == b"ONE"
    writer.close()


async def test_delays_and_rates_make_what_a_process_sends_late(ends: Ends) -> None:
    proxies = ends.proxies
    for switch in (
        lambda amount: proxies.delay(CLIENT, amount * 0.05),
        lambda amount: proxies.slow(CLIENT, amount * 60.0),
    ):
        switch(1)
        before, began = proxies.late, time.monotonic()
        ends.writer.write(b"one")
        assert await ends.answer() == b"ONE"
        assert proxies.late == before + 1
        assert time.monotonic() - began >= 0.049
        switch(0)


async def test_delayed_pieces_travel_side_by_side_and_in_order(ends: Ends) -> None:
    ends.proxies.delay(CLIENT, 0.8)
    began = time.monotonic()
    for number in range(5):
        ends.writer.write(str(number).encode())
        await eventually(lambda wanted=number: ends.proxies.late > wanted)
    got = b""
    while len(got) < 5:
        got += await ends.answer()
    assert got == b"01234"
    assert time.monotonic() - began < 3.0, "they would take 4 s one after the other"


async def test_losses_stall_or_break_the_connection(ends: Ends) -> None:
    ends.proxies.lose(CLIENT, 1.0)
    began = time.monotonic()
    ends.writer.write(b"one")
    answer = await ends.answer()
    assert ends.proxies.late == 1
    assert answer == b"" or time.monotonic() - began >= 0.19
    assert answer in {b"", b"ONE"}


def test_proxied_replicas_listen_behind_their_addresses(tmp_path: Path) -> None:
    cluster = LocalCluster.create(tmp_path / "cluster", ClusterOptions(nodes=3, agents=0, proxied=True))
    names = [*cluster.replica_names, cluster.plan_replica()]
    taken: set[int] = set()
    for name in names:
        config = load_config(cluster.config_file(name), environ={})
        (port, behind), (peer_port, peer_behind) = cluster.ports_behind(name)
        assert (config.bind.port, config.peer_bind.port) == (behind, peer_behind)
        assert (port, peer_port) == (int(cluster.url_of(name).rpartition(":")[2]), cluster.peer_of(name)[1])
        taken |= {port, behind, peer_port, peer_behind}
    assert len(taken) == 4 * len(names)


def test_other_replicas_listen_at_their_addresses(tmp_path: Path) -> None:
    cluster = LocalCluster.create(tmp_path / "cluster", ClusterOptions(nodes=1, agents=0))
    assert cluster.ports_behind("n1") == []
    assert load_config(cluster.config_file("n1"), environ={}).bind.port == int(
        cluster.url_of("n1").rpartition(":")[2]
    )


async def test_replica_that_does_not_listen_refuses(ends: Ends) -> None:
    port, behind = free_ports(2)
    await ends.proxies.listen("n2", port, behind)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    assert await asyncio.wait_for(reader.read(1), SOON_S) == b""
    writer.close()
