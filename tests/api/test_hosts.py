"""Names under which a replica answers: a page whose own name points at the replica (DNS rebinding) gets nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from raftflow.api.http.hosts import Hosts, check_origin
from raftflow.api.http.problems import ProblemError
from raftflow.coordinator.config.addresses import Address
from raftflow.coordinator.config.hostnames import HostName, parse_host
from raftflow.coordinator.config.replica_config import CoordinatorConfig, MemberConfig

DOCUMENT = {"name": "w", "tasks": [{"id": "t", "command": ["true"]}]}
MEMBERS = (
    MemberConfig("n1", Address("10.0.0.1", 7101), "http://one.example:7001"),
    MemberConfig("n2", Address("10.0.0.2", 7101), "https://two.example"),
)


def config_of(**changes: Any) -> CoordinatorConfig:
    base = CoordinatorConfig(
        cluster_id="c",
        secret=b"s" * 32,
        members=MEMBERS,
        name="n1",
        data_dir=Path("data"),
        bind=Address("10.0.0.1", 7001),
        peer_bind=Address("10.0.0.1", 7101),
    )
    return msgspec.structs.replace(base, **changes)


def judge(hosts: Hosts, value: str | None, local: str = "") -> int:
    """Return the status of a refusal, 0 for none; the fast path must never accept what the framework refuses."""
    try:
        hosts.check(value, local)
    except ProblemError as error:
        assert value is None or not hosts.is_known(value.encode("latin-1"))
        return error.kind.status
    assert value is not None
    assert hosts.is_known(value.encode("latin-1"))
    return 0


@pytest.mark.parametrize(
    ("value", "status"),
    [
        ("10.0.0.1:7001", 0),
        ("10.0.0.1:7002", 421),
        ("10.0.0.1", 421),
        ("10.0.0.9:7001", 421),
        ("one.example:7001", 0),
        ("ONE.example:7001", 0),
        ("one.example", 421),
        ("two.example", 421),
        ("two.example:443", 0),
        ("three.example:7003", 0),
        ("localhost:7001", 0),
        ("localhost", 0),
        ("LocalHost:1234", 0),
        ("127.0.0.1:7001", 0),
        ("127.8.9.10:7001", 0),
        ("[::1]:7001", 0),
        ("[0:0::1]", 0),
        ("evil.example:7001", 421),
        ("evil.example", 421),
        ("localhost.evil.example:7001", 421),
        ("127.0.0.1.evil.example:7001", 421),
        ("10.0.0.1.evil.example:7001", 421),
        ("evil-localhost:7001", 421),
        ("localhost.:7001", 421),
        ("0x7f000001:7001", 421),
        ("2130706433:7001", 421),
        ("0.0.0.0:7001", 421),
        ("[::]:7001", 421),
        ("[::ffff:10.0.0.1]:7001", 421),
        ("127.0.0.1@evil.example:7001", 400),
        ("evil.example#127.0.0.1", 400),
        ("evil.example/127.0.0.1", 400),
        ("127.0.0.1:7001, evil.example", 400),
        ("127.0.0.1:7001 evil.example", 400),
        ("localhost:", 400),
        ("localhost:port", 400),
        ("localhost:700100", 400),
        ("[::1", 400),
        ("::1", 400),
        ("[12:34]", 400),
        ("l\xf6calhost", 400),
        ("", 400),
        (None, 400),
    ],
)
def test_without_a_token_a_host_is_an_address_a_member_or_this_machine(value: str | None, status: int) -> None:
    hosts = Hosts(config_of(), lambda: 7001, lambda: "http://three.example:7003,nonsense")
    assert judge(hosts, value) == status


def test_the_bound_host_and_the_local_address_are_accepted_names() -> None:
    hosts = Hosts(config_of(bind=Address("0.0.0.0", 7001), insecure=True), lambda: 7001, lambda: "")
    assert judge(hosts, "10.9.9.9:7001") == 421
    assert judge(hosts, "10.9.9.9:7001", "10.9.9.9") == 0
    assert judge(hosts, "10.9.9.8:7001", "10.9.9.9") == 421
    hosts = Hosts(config_of(bind=Address("Host.internal", 7001)), lambda: 7001, lambda: "")
    assert judge(hosts, "host.internal:7001", "10.0.0.1") == 0
    hosts = Hosts(config_of(bind=Address("::", 7001), insecure=True), lambda: 7001, lambda: "")
    assert judge(hosts, "[fd00::7]:7001", "fd00::7") == 0
    assert judge(hosts, "[fe80::7]:7001", "fe80::7%eth0") == 0


def test_names_can_be_configured_with_or_without_a_port() -> None:
    hosts = Hosts(config_of(hosts=("cluster.example", "Proxy.example:8080")), lambda: 7001, lambda: "")
    for value in ("cluster.example", "cluster.example:9", "proxy.example:8080"):
        assert judge(hosts, value) == 0
    for value in ("proxy.example", "x.cluster.example"):
        assert judge(hosts, value) == 421


def test_with_a_token_every_host_is_accepted_unless_hosts_are_listed() -> None:
    free = Hosts(config_of(token="t" * 20), lambda: 7001, lambda: "")
    free.check("evil.example", "")
    free.check(None, "")
    assert free.is_known(b"evil.example")
    listed = Hosts(config_of(token="t" * 20, hosts=("cluster.example",)), lambda: 7001, lambda: "")
    assert judge(listed, "evil.example") == 421
    assert judge(listed, "cluster.example") == 0


def test_the_remembered_hosts_are_bounded() -> None:
    hosts = Hosts(config_of(), lambda: 7001, lambda: "")
    for port in range(1, 2_000):
        hosts.check(f"localhost:{port}", "")
    assert len(hosts._known) <= 256


@pytest.mark.parametrize(
    ("origins", "status"),
    [
        ([], 0),
        (["http://one.example:7001"], 0),
        (["https://ONE.example:7001"], 0),
        (["http://one.example"], 403),
        (["http://evil.example:7001"], 403),
        (["chrome-extension://abcdef"], 403),
        (["null"], 403),
        (["NULL"], 400),
        ([""], 400),
        (["http://"], 400),
        (["one.example:7001"], 400),
        (["http://one.example:7001/"], 400),
        (["http://[one.example"], 400),
        (["http://a@one.example:7001"], 400),
        (["http://one.example:7001", "http://one.example:7001"], 400),
        (["http://one.example:7001 http://evil.example"], 400),
    ],
)
def test_an_origin_other_than_the_replica_is_refused(origins: list[str], status: int) -> None:
    if not status:
        check_origin(origins, "one.example:7001")
        return
    with pytest.raises(ProblemError) as refused:
        check_origin(origins, "one.example:7001")
    assert refused.value.kind.status == status


def test_hosts_are_read_in_one_form() -> None:
    assert parse_host("[FD00:0::1]:80") == HostName("fd00::1", 80)
    assert parse_host("A.example") == HostName("a.example", None)


async def test_a_page_whose_name_points_here_gets_nothing(one: Any) -> None:
    evil = {"Host": f"evil.example:{one.server.port}", "Origin": f"http://evil.example:{one.server.port}"}
    for other in ({}, {"Accept-Language": "en"}):
        answer = await one.post("/v1/workflows", DOCUMENT, headers={**evil, **other})
        assert (answer.status, answer.word) == (421, "wrong-host")
        assert "replica.hosts" in answer.json["detail"]
    for path in ("/v1/workflows", "/v1/status", "/metrics", "/v1/openapi.json", "/v1/nothing"):
        assert (await one.get(path, headers=evil)).status == 421
    assert not one.replica.machine.state.workflows
    assert (await one.get("/healthz", headers={"Host": "any.balancer"})).status == 200
    assert (await one.get("/readyz", headers={"Host": "any.balancer"})).status == 200


async def test_with_a_token_the_name_does_not_matter(serve: Any) -> None:
    one = await serve(token="a token that is good")
    headers = {"Host": "evil.example", "Authorization": "Bearer a token that is good"}
    assert (await one.post("/v1/workflows", DOCUMENT, headers=headers)).status == 201
    assert (await one.post("/v1/workflows", DOCUMENT, headers={"Host": "evil.example"})).status == 401


async def test_pages_of_other_sites_read_nothing_either(one: Any) -> None:
    for path in ("/v1/workflows", "/metrics"):
        answer = await one.get(path, headers={"Origin": "http://evil.example"})
        assert (answer.status, answer.word) == (403, "forbidden")
