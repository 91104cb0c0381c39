"""Replicas in one process, served over real loopback sockets."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest

from raftflow.api.server import HttpServer
from raftflow.certificates import CertificateReloader
from raftflow.coordinator.build import build_replica
from raftflow.coordinator.config.addresses import Address
from raftflow.coordinator.config.replica_config import CoordinatorConfig, Limits, MemberConfig, Timing, Tls
from raftflow.coordinator.replica import Replica
from raftflow.domain.features import LEVEL
from raftflow.replication.memory import MemoryLog
from raftflow.replication.real_files import RealFileSystem

SECRET = b"0123456789abcdef0123456789abcdef"


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


async def until(true: Callable[[], bool], timeout_s: float = 10.0) -> None:
    """Wait for something that no event announces."""
    async with asyncio.timeout(timeout_s):
        while not true():  # noqa: ASYNC110 - see above
            await asyncio.sleep(0.005)


class Answered:
    """An answer, read whole."""

    def __init__(self, response: aiohttp.ClientResponse, body: bytes) -> None:
        self.status = response.status
        self.headers = response.headers
        self.body = body

    @property
    def json(self) -> Any:
        return msgspec.json.decode(self.body)

    @property
    def word(self) -> str:
        """The problem's type word."""
        assert self.headers["Content-Type"].startswith("application/problem+json"), self.body
        return str(self.json["type"]).rsplit("/", 1)[1]


class Served:
    """One replica with its HTTP server and a client that talks to it."""

    until = staticmethod(until)

    def __init__(self, config: CoordinatorConfig, make: Callable[..., Replica]) -> None:
        self.config = config
        self.fs = RealFileSystem()
        self.certificates = CertificateReloader()
        self.replica = make(config, self.fs, self.certificates)
        self.server = HttpServer(self.replica, certificates=self.certificates)
        self.ssl: ssl.SSLContext | bool = True
        """How its client trusts it, and the certificate that the client shows."""
        self.session: aiohttp.ClientSession | None = None
        self.stopped = False

    @property
    def url(self) -> str:
        scheme = "http" if self.config.tls.api_cert is None else "https"
        return f"{scheme}://127.0.0.1:{self.server.port}"

    async def start(self) -> None:
        await self.replica.start()
        await self.server.start()
        self.session = aiohttp.ClientSession()
        for _ in range(
            20
        ):  # turns of the loop, in which a replica that leads alone does what a new leader does first
            await asyncio.sleep(0)

    async def stop(self) -> None:
        if self.stopped:
            return
        self.stopped = True
        if self.session is not None:
            await self.session.close()
        self.replica.answer_held()
        await self.server.stop()
        await self.replica.stop()
        self.fs.close()

    async def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        headers: dict[str, str] | None = None,
        raw: bytes | None = None,
        redirects: bool = False,
        ssl: ssl.SSLContext | None = None,
    ) -> Answered:
        sent = dict(headers or {})
        data = raw
        if body is not None:
            data = msgspec.json.encode(body)
        if data is not None:
            sent.setdefault("Content-Type", "application/json")
        assert self.session is not None
        async with self.session.request(
            method, self.url + path, data=data, headers=sent, allow_redirects=redirects, ssl=ssl or self.ssl
        ) as response:
            return Answered(response, await response.read())

    async def get(self, path: str, **options: Any) -> Answered:
        return await self.call("GET", path, **options)

    async def post(self, path: str, body: Any = None, **options: Any) -> Answered:
        return await self.call("POST", path, body, **options)

    async def submit(self, *tasks: dict[str, Any], name: str = "w", **document: Any) -> str:
        answer = await self.post("/v1/workflows", {"name": name, "tasks": list(tasks), **document})
        assert answer.status == 201, answer.body
        return str(answer.json["id"])

    async def register(
        self, name: str = "a1", *, cpu: float = 2, prefetch: int = 0, instance: str = "i" * 8, home: str = "home"
    ) -> int:
        resources = {"cpu": cpu}
        answer = await self.post(
            "/v1/agents",
            {"name": name, "instance": instance, "resources": resources, "prefetch": prefetch, "home": home},
        )
        assert answer.status == 200, answer.body
        return int(answer.json["incarnation"])

    async def poll(self, name: str = "a1", **fields: Any) -> Answered:
        return await self.post(f"/v1/agents/{name}/poll", fields)


def config_of(
    directory: Path,
    *,
    names: tuple[str, ...] = ("n1",),
    name: str = "n1",
    ports: list[int] | None = None,
    token: str | None = None,
    timing: Timing | None = None,
    limits: Limits | None = None,
    log_store: str = "",
    tls: Tls | None = None,
) -> CoordinatorConfig:
    ports = ports or [0, 1] * len(names)
    scheme = "http" if tls is None else "https"
    members = tuple(
        MemberConfig(n, Address("127.0.0.1", ports[2 * i]), f"{scheme}://127.0.0.1:{ports[2 * i + 1]}")
        for i, n in enumerate(names)
    )
    place = names.index(name)
    return CoordinatorConfig(
        cluster_id="test",
        secret=SECRET,
        members=members,
        name=name,
        data_dir=directory / name,
        bind=Address("127.0.0.1", ports[2 * place + 1] if len(names) > 1 else 0),
        peer_bind=members[place].peer,
        token=token,
        timing=timing or Timing(lease_ms=5_000, poll_wait_ms=1_000),
        limits=limits or Limits(),
        log_store=log_store,
        tls=tls or Tls(),
    )


def in_memory(
    config: CoordinatorConfig, fs: RealFileSystem, certificates: CertificateReloader, level: int = LEVEL
) -> Replica:
    del certificates
    fs.make_dir(config.data_dir / "audit")
    return Replica(config, lambda machine, _audit: MemoryLog(machine, name=config.name), fs, level=level)


def on_disk(config: CoordinatorConfig, fs: RealFileSystem, certificates: CertificateReloader) -> Replica:
    return build_replica(config, fs, certificates=certificates)


@pytest.fixture
async def serve(tmp_path: Path) -> AsyncIterator[Callable[..., Any]]:
    """Start single replicas on a log in memory; all are stopped at the end."""
    started: list[Served] = []

    async def start(*, level: int = LEVEL, **options: Any) -> Served:
        made = partial(in_memory, level=level)
        served = Served(config_of(tmp_path / str(len(started)), **options), made)
        started.append(served)
        await served.start()
        return served

    yield start
    for served in started:
        await served.stop()


@pytest.fixture
async def one(serve: Callable[..., Any]) -> Served:
    """A replica that leads alone."""
    return await serve()  # type: ignore[no-any-return]


class Trio:
    """Three real replicas in this process."""

    def __init__(
        self,
        directory: Path,
        timing: Timing,
        token: str | None,
        limits: Limits,
        tls: Callable[[str], Tls] | None = None,
    ) -> None:
        names = ("n1", "n2", "n3")
        ports = free_ports(6)
        self.configs = {
            name: config_of(
                directory,
                names=names,
                name=name,
                ports=ports,
                timing=timing,
                token=token,
                limits=limits,
                tls=None if tls is None else tls(name),
            )
            for name in names
        }
        self.live: dict[str, Served] = {}

    async def start(self, *names: str) -> None:
        for name in names or tuple(self.configs):
            served = Served(self.configs[name], on_disk)
            await served.start()
            self.live[name] = served

    async def stop(self, name: str) -> None:
        await self.live.pop(name).stop()

    async def leader(self, *, other_than: str | None = None) -> Served:
        """Wait until one leads, and the others know it."""
        async with asyncio.timeout(15):
            while True:
                for name, served in self.live.items():
                    if name == other_than or not served.replica.leader.leading:
                        continue
                    views = [one.replica.status() for one in self.live.values()]
                    if all(view.ready and view.leader == name for view in views):
                        return served
                await asyncio.sleep(0.01)

    def followers(self) -> list[Served]:
        return [served for served in self.live.values() if not served.replica.leader.leading]


@pytest.fixture
async def trio(tmp_path: Path) -> AsyncIterator[Callable[..., Any]]:
    """Start a cluster of three."""
    clusters: list[Trio] = []

    async def start(
        *,
        token: str | None = None,
        limits: Limits | None = None,
        tls: Callable[[str], Tls] | None = None,
        **timing: int,
    ) -> Trio:
        chosen = Timing(**{"lease_ms": 5_000, "poll_wait_ms": 1_000, **timing})
        cluster = Trio(tmp_path, chosen, token, limits or Limits(), tls)
        clusters.append(cluster)
        await cluster.start()
        return cluster

    yield start
    for cluster in clusters:
        for served in list(cluster.live.values()):
            await served.stop()
