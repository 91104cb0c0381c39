"""Certificates in the place of tokens: who is let in and for what, at every door of the API."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest

from raftflow.authority.folder import AuthorityFolder
from raftflow.certified_names import CertifiedName
from raftflow.coordinator.config.replica_config import Tls
from raftflow.domain.contract.identities.grants import is_granted
from raftflow.domain.contract.operation import Access
from raftflow.domain.contract.operations import OPERATIONS
from raftflow.domain.contract.views import HEADER_FORWARDED_IDENTITY
from raftflow.domain.values.roles import ROLES

HOLD_MS = 10_000
DOCUMENT = {"name": "w", "tasks": [{"id": "t", "command": ["true"]}]}
PARTS = {"id": "agent1", "name": "x1", "task": "t", "digest": "0" * 64, "fence": "1"}
NAMES = {role: f"{role}1" for role in (*ROLES, "replica")}


class People:
    """An authority, and connections of those that have its certificates."""

    def __init__(self, path: Path) -> None:
        self.folder = AuthorityFolder(path)
        self.folder.create()
        for name in ("n1", "n2", "n3"):
            self.folder.issue(CertifiedName("replica", name), ("127.0.0.1",))
        for role, name in NAMES.items():
            self.folder.issue(CertifiedName(role, name), ("127.0.0.1",) if role == "replica" else ())

    def tls(self, name: str) -> Tls:
        path = self.folder.path
        cert, key, ca = path / f"{name}.pem", path / f"{name}.key", path / "ca.pem"
        return Tls(
            api_cert=cert,
            api_key=key,
            api_ca=ca,
            api_client_ca=ca,
            peer_cert=cert,
            peer_key=key,
            peer_ca=ca,
            crl=path / "crl.pem",
        )

    def context(self, name: str | None, *, of: AuthorityFolder | None = None) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=self.folder.path / "ca.pem")
        if name is not None:
            files = (of or self.folder).path
            context.load_cert_chain(files / f"{name}.pem", files / f"{name}.key")
        return context


@pytest.fixture
def people(tmp_path: Path) -> People:
    return People(tmp_path / "ca")


async def wrong_cells(served: Any, people: People, who: dict[str, tuple[str | None, str | None]]) -> list[str]:
    """Ask for every operation as each of them. Return the cells that are not as declared.

    `who` has for each the name of its certificate and its role, None if it is to be refused.
    """
    wrong = []
    for about, (name, role) in who.items():
        context = people.context(name)
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context)) as session:
            for operation in OPERATIONS:
                if operation.name == "show_leader" or (operation.access is Access.OPEN):
                    continue
                target = served.url + operation.path.format(**PARTS)
                async with session.request(operation.method, target, allow_redirects=False) as answer:
                    status = answer.status
                if role is None:
                    fits = status == 401
                elif is_granted(role, operation.access):
                    fits = status not in {401, 403}
                else:
                    fits = status == 403
                if not fits:
                    wrong.append(f"{operation.name} as {about}: {status}")
    return wrong


def everybody() -> dict[str, tuple[str | None, str | None]]:
    who: dict[str, tuple[str | None, str | None]] = {role: (NAMES[role], role) for role in ROLES}
    return who | {"nobody": (None, None), "a replica": ("replica1", "replica")}


async def test_every_operation_lets_in_the_roles_that_it_declares(serve: Any, people: People) -> None:
    served = await serve(tls=people.tls("n1"))
    people.folder.issue(CertifiedName("admin", "gone"))
    people.folder.revoke("gone")
    served.certificates.reload()
    assert await wrong_cells(served, people, everybody() | {"a revoked one": ("gone", None)}) == []


@pytest.mark.slow
async def test_a_replica_that_forwards_lets_in_the_same(trio: Any, people: People) -> None:
    cluster = await trio(tls=people.tls)
    await cluster.leader()
    assert await wrong_cells(cluster.followers()[0], people, everybody()) == []


async def test_the_leader_knows_who_asked_a_follower(trio: Any, people: People) -> None:
    cluster = await trio(tls=people.tls)
    leader = await cluster.leader()
    follower = cluster.followers()[0]
    answer = await follower.post("/v1/workflows", DOCUMENT, ssl=people.context("submit1"))
    assert answer.status == 201, answer.body
    answer = await leader.get("/v1/audit", ssl=people.context("read1"))
    assert "client:submit1" in [line["actor"] for line in answer.json["records"]]
    # Nobody but a replica is believed.
    for identity in ("1 raftflow://admin/a", " raftflow://replica/n2", "raftflow://replica/n2"):
        forged = await leader.get(
            "/v1/audit", ssl=people.context(None), headers={HEADER_FORWARDED_IDENTITY: identity}
        )
        assert forged.status == 401
        forged = await leader.call(
            "POST", "/v1/tokens", {"name": "x", "role": "admin"}, ssl=people.context("read1"),
            headers={HEADER_FORWARDED_IDENTITY: identity},
        )  # fmt: skip
        assert forged.status == 403


async def test_the_fast_path_knows_certificates(serve: Any, people: People) -> None:
    served = await serve(tls=people.tls("n1"))
    before = served.server.fast_path.taken
    answer = await served.post("/v1/workflows", DOCUMENT, ssl=people.context("submit1"))
    assert answer.status == 201
    assert served.server.fast_path.taken == before + 1
    assert (await served.post("/v1/workflows", DOCUMENT, ssl=people.context("read1"))).status == 403
    assert (await served.post("/v1/workflows", DOCUMENT, ssl=people.context(None))).status == 401
    poll = {"incarnation": 1, "seq": 1, "seen": 0, "ends": [], "wait_ms": 0}
    agent = people.context("agent1")
    assert (await served.post("/v1/agents/agent2/poll", poll, ssl=agent)).status == 403
    assert (await served.post("/v1/agents/agent1/poll", poll, ssl=agent)).status not in {401, 403}
    request = {"name": "agent2", "instance": "i" * 8, "resources": {"cpu": 1}, "home": "h"}
    assert (await served.post("/v1/agents", request, ssl=agent)).status == 403
    assert (await served.post("/v1/agents", request | {"name": "agent1"}, ssl=agent)).status == 200


async def test_a_token_counts_before_a_certificate(serve: Any, people: People) -> None:
    served = await serve(tls=people.tls("n1"), token="the shared token")
    both = {"Authorization": "Bearer the shared token"}
    assert (await served.get("/v1/tokens", ssl=people.context("read1"))).status == 403
    assert (await served.get("/v1/tokens", ssl=people.context("read1"), headers=both)).status == 200
    wrong = {"Authorization": "Bearer another token"}
    assert (await served.get("/v1/workflows", ssl=people.context("admin1"), headers=wrong)).status == 401


@pytest.mark.parametrize("how", ["foreign", "expired", "of itself", "old TLS"])
async def test_what_is_no_certificate_of_the_cluster_gets_no_connection(
    serve: Any, people: People, tmp_path: Path, how: str
) -> None:
    served = await serve(tls=people.tls("n1"))
    other = AuthorityFolder(tmp_path / "other")
    other.create()
    other.issue(CertifiedName("admin", "admin1"))
    if how == "foreign":
        context = people.context("admin1", of=other)
    elif how == "expired":
        people.folder.issue(CertifiedName("admin", "short"), valid=timedelta(seconds=1))
        context = people.context("short")
        await asyncio.sleep(1.1)  # the clock itself has to go on
    elif how == "of itself":
        context = people.context(None)
        context.load_cert_chain(other.path / "ca.pem", other.path / "ca.key")
    else:
        context = people.context("admin1")
        context.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(aiohttp.ClientError):
        await served.get("/v1/workflows", ssl=context)


async def until_closed(reader: asyncio.StreamReader) -> None:
    async with asyncio.timeout(60):
        while await reader.read(65536):
            pass


@pytest.fixture
def held(people: People) -> Iterator[Callable[[Any, str], Any]]:
    """Return a function that opens a connection with a request that is held."""
    writers = []

    async def hold(served: Any, name: str) -> asyncio.StreamReader:
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", served.server.port, ssl=people.context(name), server_hostname="127.0.0.1"
        )
        target = f"/v1/leader?term={served.replica.status().term}&wait_ms={HOLD_MS}"
        writer.write(f"GET {target} HTTP/1.1\r\nHost: 127.0.0.1:{served.server.port}\r\n\r\n".encode())
        writers.append(writer)
        await writer.drain()
        return reader

    yield hold
    for writer in writers:
        writer.close()


async def test_a_revoked_certificate_ends_held_answers(
    serve: Any, people: People, held: Callable[[Any, str], Any]
) -> None:
    served = await serve(tls=people.tls("n1"))
    people.folder.issue(CertifiedName("agent", "agent2"))
    taken = served.server.fast_path.taken
    revoked, other = await held(served, "agent1"), await held(served, "agent2")
    await served.until(lambda: served.server.fast_path.taken == taken + 2)
    people.folder.revoke("agent1")
    served.certificates.reload(changed_only=True)
    await until_closed(revoked)
    assert (await served.get("/v1/workflows", ssl=people.context("agent1"))).status == 401
    assert not other.at_eof()
    assert served.server.fast_path.taken == taken + 2


async def test_a_certificate_that_ends_ends_its_connection(
    serve: Any, people: People, held: Callable[[Any, str], Any]
) -> None:
    served = await serve(tls=people.tls("n1"))
    people.folder.issue(CertifiedName("agent", "short"), valid=timedelta(seconds=3))
    began_s = time.monotonic()
    await until_closed(await held(served, "short"))
    assert time.monotonic() - began_s < HOLD_MS / 1000  # when the answer would come


async def test_new_authorities_count_without_a_restart(serve: Any, people: People) -> None:
    served = await serve(tls=people.tls("n1"))
    old = people.context("submit1")
    people.folder.rotate()
    people.folder.renew(("submit1",))
    served.certificates.reload(changed_only=True)
    assert (await served.get("/v1/workflows", ssl=old)).status == 200
    assert (await served.get("/v1/workflows", ssl=people.context("submit1"))).status == 200


async def test_a_certificate_that_could_not_be_revoked_is_nobodys(serve: Any, people: People) -> None:
    served = await serve(tls=people.tls("n1"))
    names = (("URI", "raftflow://admin/a"),)
    identities = served.server._identities
    assert identities.of_certificate({"subjectAltName": names, "serialNumber": "0A"}).serial == 10
    assert identities.of_certificate({"subjectAltName": names, "serialNumber": "00"}) is None
    assert identities.of_certificate({"subjectAltName": names * 2, "serialNumber": "0A"}) is None
    assert identities.of_certificate({}) is None


async def test_a_replica_that_forwards_trusts_the_present_authorities_alone(trio: Any, people: People) -> None:
    trusted = people.folder.path.parent / "trusted.pem"
    ours = (people.folder.path / "ca.pem").read_bytes()
    trusted.write_bytes(ours)
    cluster = await trio(tls=lambda name: msgspec.structs.replace(people.tls(name), api_ca=trusted))
    await cluster.leader()
    follower, client = cluster.followers()[0], people.context("submit1")
    assert (await follower.post("/v1/workflows", DOCUMENT, ssl=client)).status == 201
    other = AuthorityFolder(people.folder.path.parent / "other")
    other.create()
    for authority, status in ((other.path / "ca.pem").read_bytes(), 503), (ours, 201):
        trusted.write_bytes(authority)
        follower.certificates.reload(changed_only=True)
        assert (await follower.post("/v1/workflows", DOCUMENT, ssl=client)).status == status
