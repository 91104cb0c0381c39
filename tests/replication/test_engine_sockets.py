"""Three logs in one process over real loopback sockets, real files and real syncs."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from typing import TYPE_CHECKING

import pytest
from virtual_cluster import Machine

from raftflow.replication.config import LogConfig
from raftflow.replication.engine import PySyncObjLog
from raftflow.replication.errors import LogFailedError, NoQuorumError
from raftflow.replication.log import Applied, Role
from raftflow.replication.net.links import StreamLinks
from raftflow.replication.real_files import RealFileSystem

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

NAMES = ("a", "b", "c")
PATIENT = {"election_min_s": 0.5, "election_max_s": 1.0}  # the machine that runs the tests may be busy
SECRET = b"a secret of thirty-two bytes ....."


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


class Replicas:
    """The logs, their machines, and how to start and kill them."""

    def __init__(self, directory: Path, fs: RealFileSystem, **settings: object) -> None:
        self.directory = directory
        self.fs = fs
        self.settings = settings
        self.ports = dict(zip(NAMES, free_ports(3), strict=True))
        self.logs: dict[str, PySyncObjLog] = {}
        self.machines: dict[str, Machine] = {}
        self.changed = asyncio.Event()

    async def start(self, *names: str) -> None:
        for name in names or NAMES:
            others = {other: ("127.0.0.1", port) for other, port in self.ports.items() if other != name}
            links = StreamLinks(
                name=name, cluster_id="test", bind=("127.0.0.1", self.ports[name]), peers=others, secret=SECRET
            )
            self.machines[name] = Machine()
            config = LogConfig(
                name=name, members=NAMES, cluster_id="test", data_dir=self.directory / name, **self.settings
            )
            log = PySyncObjLog(config, self.machines[name], links, self.fs)
            log.on_role_change(lambda _role, _term: self.changed.set())
            await log.start()
            self.logs[name] = log

    async def kill(self, name: str) -> None:
        """Drop a replica as a kill would: nothing is flushed, its sockets and its lock vanish."""
        log = self.logs.pop(name)
        log.abandon()
        for connection in list(log._life._links._up.values()):
            connection.abort()
        await log._life._links.close()
        log.parts.data.close()

    async def leader(self, other_than: str | None = None) -> str:
        async with asyncio.timeout(10):
            while True:
                for name, log in self.logs.items():
                    if log.status().role is Role.LEADER and name != other_than:
                        return name
                self.changed.clear()
                await self.changed.wait()

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(10):
            while not condition():  # noqa: ASYNC110 - the condition is about state without events
                await asyncio.sleep(0.005)

    async def equal(self, count: int) -> None:
        await self.until(lambda: all(len(self.machines[name].entries) == count for name in self.logs))
        first, *others = (self.machines[name].entries for name in self.logs)
        assert all(entries == first for entries in others)


@pytest.fixture
async def replicas(tmp_path: Path) -> AsyncIterator[Replicas]:
    async with made(tmp_path, **PATIENT) as cluster:
        await cluster.start()
        yield cluster


@contextlib.asynccontextmanager
async def made(path: Path, **settings: object) -> AsyncIterator[Replicas]:
    fs = RealFileSystem()
    cluster = Replicas(path, fs, **settings)
    try:
        yield cluster
    finally:
        for log in cluster.logs.values():
            await log.close()
        fs.close()


async def test_killed_leader_is_replaced_and_nothing_is_lost(replicas: Replicas) -> None:
    leader = await replicas.leader()
    for number in range(50):
        assert isinstance(await replicas.logs[leader].submit(b"first-%d" % number, 5.0), Applied)
    killed = time.monotonic()
    await replicas.kill(leader)
    following = await replicas.leader()
    failover_s = time.monotonic() - killed
    assert failover_s < 5.0
    for number in range(50):
        assert isinstance(await replicas.logs[following].submit(b"second-%d" % number, 5.0), Applied)
    await replicas.start(leader)
    await replicas.equal(100)
    assert replicas.machines[leader].entries[:50] == [b"first-%d" % number for number in range(50)]


async def test_all_killed_at_once_come_back_with_everything_acknowledged(replicas: Replicas) -> None:
    leader = await replicas.leader()
    acked: list[bytes] = []

    async def submit(worker: int) -> None:
        for number in range(1000):
            entry = b"%d-%d" % (worker, number)
            if not isinstance(await replicas.logs[leader].submit(entry, 5.0), Applied):
                return
            acked.append(entry)

    log = replicas.logs[leader]
    workers = [asyncio.ensure_future(submit(worker)) for worker in range(8)]
    await replicas.until(lambda: len(acked) > 200)
    for name in NAMES:
        await replicas.kill(name)
    await asyncio.gather(*workers, return_exceptions=True)
    assert log._life.closed
    await replicas.start()
    leader = await replicas.leader()
    await replicas.logs[leader].read_index(5.0)
    present = replicas.machines[leader].entries
    assert set(acked) <= set(present)
    assert len(present) == len(set(present))


async def test_follower_that_fell_behind_installs_a_snapshot(tmp_path: Path) -> None:
    async with made(tmp_path, snapshot_entries=100, **PATIENT) as replicas:
        await replicas.start()
        leader = await replicas.leader()
        behind = next(name for name in NAMES if name != leader)
        await replicas.kill(behind)
        await asyncio.gather(*(replicas.logs[leader].submit(b"%d" % n + b"x" * 5000, 10.0) for n in range(400)))
        await replicas.until(lambda: replicas.logs[leader]._raft.first_index > 100)
        await replicas.start(behind)
        await replicas.equal(400)
        assert replicas.logs[behind].status().snapshot_index > 100
        assert await replicas.logs[leader].transfer_leadership(behind, 5.0)
        assert isinstance(await replicas.logs[behind].submit(b"after", 5.0), Applied)


async def test_leader_without_a_majority_serves_neither_reads_nor_writes(replicas: Replicas) -> None:
    leader = await replicas.leader()
    for name in [name for name in NAMES if name != leader]:
        await replicas.kill(name)
    with pytest.raises(NoQuorumError):
        await replicas.logs[leader].read_index(1.0)
    assert not isinstance(await replicas.logs[leader].submit(b"x", 1.0), Applied)
    await replicas.until(lambda: replicas.logs[leader].status().role is not Role.LEADER)


async def test_graceful_restart_of_every_replica_in_turn(replicas: Replicas) -> None:
    count = 0
    for name in NAMES:
        leader = await replicas.leader()
        if leader == name:
            assert await replicas.logs[name].transfer_leadership(None, 5.0)
        await replicas.logs.pop(name).close()
        leader = await replicas.leader()
        for _ in range(5):
            count += 1
            assert isinstance(await replicas.logs[leader].submit(b"%d" % count, 5.0), Applied)
        await replicas.start(name)
    await replicas.equal(count)


async def test_directory_in_use_is_refused(replicas: Replicas) -> None:
    await replicas.leader()
    with pytest.raises(LogFailedError, match="in use"):
        await replicas.start("a")
