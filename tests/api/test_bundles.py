"""Code bundles over HTTP: kept by a majority before they are acknowledged, and by every replica soon after."""

from __future__ import annotations

import asyncio
import errno
import threading
from collections.abc import Callable
from typing import Any

import pytest

from raftflow.coordinator.bundles import replication
from raftflow.coordinator.commit.submitter import NoLeaderError
from raftflow.domain.values.code_bundle import BundleFile, digest_of, make_bundle
from raftflow.replication.members.membership import ChangeRefusedError

BUNDLE = make_bundle([BundleFile("mine.py", b"def double(x): return 2 * x\n" * 50_000)])
DIGEST = digest_of(BUNDLE)
BINARY = {"Content-Type": "application/octet-stream"}


async def send(served: Any, bundle: bytes = BUNDLE, digest: str | None = None) -> Any:
    return await served.post(f"/v1/bundles/{digest or digest_of(bundle)}", raw=bundle, headers=BINARY)


async def content(served: Any, digest: str = DIGEST) -> bytes:
    found = b""
    while True:
        answer = await served.get(f"/v1/bundles/{digest}/content?offset={len(found)}")
        assert answer.status == 200, answer.body
        if not answer.body:
            return found
        found += answer.body


def kept(served: Any, digest: str = DIGEST) -> Any:
    return served.config.data_dir / "bundles" / digest


async def test_a_bundle_that_was_sent_can_be_named_and_read(one: Any) -> None:
    refused = await one.post("/v1/workflows", {"name": "w", "code": DIGEST, "tasks": [{"id": "a", "command": ["x"]}]})
    assert (refused.status, refused.word) == (404, "not-found")
    assert (await one.get(f"/v1/bundles/{DIGEST}")).status == 404
    assert (await one.get(f"/v1/bundles/{DIGEST}/content")).word == "behind"
    answer = await send(one)
    assert (answer.status, answer.json["digest"], answer.json["size"]) == (200, DIGEST, len(BUNDLE))
    workflow = await one.submit({"id": "a", "command": ["x"]}, code=DIGEST)
    assert (await one.get(f"/v1/workflows/{workflow}")).json["code"] == DIGEST
    listed = (await one.get("/v1/bundles")).json["bundles"]
    assert [(each["digest"], each["workflows"]) for each in listed] == [(DIGEST, 1)]
    assert await content(one) == BUNDLE
    assert kept(one).read_bytes() == BUNDLE


@pytest.mark.parametrize(
    ("bundle", "digest", "told"),
    [
        (BUNDLE[:-1], DIGEST, "have the digest"),
        (b"PK\x03\x04 a zip file", None, "not a code bundle"),
        (make_bundle([BundleFile("aa/x", b"")]).replace(b"aa/x", b"../x"), None, "absolute, or leads outside"),
        (make_bundle([BundleFile("x", b"12")]).replace(b'"x",2', b'"x",9'), None, "does not describe"),
        (b"", None, "not a code bundle"),
        (BUNDLE, "latest", "is not a digest"),
    ],
)
async def test_bytes_that_are_not_the_bundle_are_refused(one: Any, bundle: bytes, digest: str, told: str) -> None:
    answer = await send(one, bundle, digest)
    assert (answer.status, answer.word) == (400, "invalid-document"), answer.body
    assert told in answer.json["detail"]
    assert not (one.config.data_dir / "bundles").exists()


async def test_a_bundle_is_sent_as_what_it_is(one: Any) -> None:
    for headers in ({"Content-Type": "application/json"}, {"Content-Type": "text/plain"}):
        answer = await one.post(f"/v1/bundles/{DIGEST}", raw=BUNDLE, headers=headers)
        assert (answer.status, answer.word) == (415, "unsupported-media-type")


async def test_only_replicas_may_place_a_copy(one: Any) -> None:
    for headers in (BINARY, {**BINARY, "X-Raftflow-Forwarded": "n2", "X-Raftflow-Forwarded-Proof": "1.x"}):
        answer = await one.post(f"/v1/bundles/{DIGEST}/copy", raw=BUNDLE, headers=headers)
        assert (answer.status, answer.word) == (403, "forbidden")
    assert not kept(one).exists()


async def test_a_connection_that_is_cut_leaves_nothing(one: Any) -> None:
    _, writer = await asyncio.open_connection("127.0.0.1", one.server.port)
    head = f"POST /v1/bundles/{DIGEST} HTTP/1.1\r\nHost: 127.0.0.1:{one.server.port}\r\n"
    writer.write(f"{head}Content-Type: application/octet-stream\r\nContent-Length: {len(BUNDLE)}\r\n\r\n".encode())
    writer.write(BUNDLE[:100_000])
    await writer.drain()
    writer.close()
    await writer.wait_closed()
    assert (await send(one)).status == 200
    assert [path.name for path in kept(one).parent.iterdir()] == [DIGEST]


async def test_a_bundle_is_on_a_majority_before_it_is_acknowledged_and_soon_everywhere(
    trio: Callable[..., Any],
) -> None:
    cluster = await trio(token="secret" * 4)
    leader = await cluster.leader()
    follower, other = cluster.followers()
    await cluster.stop(other.config.name)
    token = {"Authorization": f"Bearer {'secret' * 4}"}
    answer = await follower.post(f"/v1/bundles/{DIGEST}", raw=BUNDLE, headers=BINARY | token)
    assert answer.status == 200, answer.body
    assert kept(leader).read_bytes() == kept(follower).read_bytes() == BUNDLE
    await cluster.start(other.config.name)
    late = cluster.live[other.config.name]
    await late.until(lambda: kept(late).exists())
    assert kept(late).read_bytes() == BUNDLE


async def test_without_a_majority_nothing_is_registered(
    trio: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = await trio()
    leader = await cluster.leader()

    async def refuse(digest: str, bundle: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    for follower in cluster.followers():
        monkeypatch.setattr(follower.replica.bundles, "keep", refuse)
    answer = await send(leader)
    assert (answer.status, answer.word) == (503, "no-leader")
    assert answer.json["detail"].count("No space left on device") == 2
    assert (await leader.get("/v1/bundles")).json["bundles"] == []


async def test_a_full_disk_of_one_follower_costs_nothing(
    trio: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = await trio()
    leader = await cluster.leader()
    full, _ = cluster.followers()
    puts = full.replica.bundles.store.put

    async def refuse(digest: str, bundle: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(full.replica.bundles.store, "put", refuse)
    assert (await send(leader)).status == 200
    assert (await full.get(f"/v1/bundles/{DIGEST}/content")).word == "behind"
    monkeypatch.setattr(full.replica.bundles.store, "put", puts)
    await full.until(lambda: full.replica.bundles.store.has(DIGEST))
    assert await content(full) == BUNDLE


async def test_a_full_disk_of_the_leader_is_said(one: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(one.fs, "open", refuse)
    answer = await send(one)
    assert (answer.status, answer.word) == (500, "internal")
    assert "No space left on device" in answer.json["detail"]


async def test_two_clients_at_once_send_the_same(trio: Callable[..., Any]) -> None:
    cluster = await trio()
    await cluster.leader()
    answers = await asyncio.gather(*(send(served) for served in cluster.live.values()))
    assert [answer.status for answer in answers] == [200, 200, 200]
    for served in cluster.live.values():
        await served.until(lambda served=served: served.replica.bundles.store.has(DIGEST))
        assert await content(served) == BUNDLE


async def test_a_damaged_or_removed_copy_is_fetched_again(trio: Callable[..., Any]) -> None:
    cluster = await trio()
    leader = await cluster.leader()
    assert (await send(leader)).status == 200
    damaged, removed = (served.config.name for served in cluster.followers())
    for name in (damaged, removed):
        served = cluster.live[name]
        await served.until(lambda served=served: kept(served).exists())
        await cluster.stop(name)
    kept(_Config(cluster, damaged)).write_bytes(BUNDLE[:-1] + b"!")
    kept(_Config(cluster, removed)).unlink()
    await cluster.start(damaged, removed)
    for name in (damaged, removed):
        served = cluster.live[name]
        await served.until(lambda served=served: served.replica.machine.tables.bundles.get(DIGEST) is not None)
        answer = await served.get(f"/v1/bundles/{DIGEST}/content")
        assert answer.status == 200 or answer.word == "behind", "never what is damaged"
        await served.until(lambda served=served: served.replica.bundles.store.has(DIGEST))
        assert await content(served) == BUNDLE


async def test_members_change_only_when_a_majority_has_every_bundle(
    trio: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = await trio()
    leader = await cluster.leader()
    assert (await send(leader)).status == 200
    stores = [served.replica.bundles.store for served in (leader, *cluster.followers())]
    for served in cluster.followers():
        await served.until(lambda served=served: served.replica.bundles.store.has(DIGEST))
        # They do not heal themselves.
        monkeypatch.setattr(served.replica.bundles, "_fetch_missing", lambda: asyncio.sleep(0, result=True))

    def count() -> int:
        return sum(store.has(DIGEST) for store in stores)

    change = leader.replica.membership
    for store in stores[1:]:
        await store.remove(DIGEST)
    with pytest.raises(ChangeRefusedError):
        await change.remove("nobody")
    assert count() >= 2, "the leader has sent it"
    await stores[0].remove(DIGEST)
    for store in stores[2:]:
        await store.remove(DIGEST)
    await stores[1].put(DIGEST, BUNDLE)
    with pytest.raises(ChangeRefusedError):
        await change.remove("nobody")
    assert stores[0].has(DIGEST) and count() >= 2, "the leader has fetched it from the only one that had it"

    for store in stores:
        await store.remove(DIGEST)
    with pytest.raises(ChangeRefusedError):
        await change.remove("nobody")
    assert count() == 0, "it is lost: that must not stop changes for ever"

    peers = leader.replica.bundles.peers

    async def silent(*_: object) -> bool:
        raise replication.BundlePeerError("no answer")

    monkeypatch.setattr(peers, "has", silent)
    with pytest.raises(NoLeaderError, match="none gives it now"):
        await change.remove("nobody")


class _Config:
    """A replica that does not run."""

    def __init__(self, cluster: Any, name: str) -> None:
        self.config = cluster.configs[name]


async def test_what_the_log_does_not_name_is_removed_after_a_while(one: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert await one.replica.bundles.keep(DIGEST, BUNDLE) is None
    assert kept(one).exists()
    monkeypatch.setattr(replication, "UNREGISTERED_S", 0.0)
    monkeypatch.setattr(replication, "LOOK_S", 0.05)
    one.replica.bundles._wake.set()
    await one.until(lambda: not kept(one).exists())
    assert (await send(one)).status == 200
    one.replica.bundles._wake.set()
    await asyncio.sleep(0)
    assert kept(one).exists()


async def test_a_bundle_that_comes_again_is_not_removed_behind_its_write(
    one: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundles = one.replica.bundles
    assert await bundles.keep(DIGEST, BUNDLE) is None
    bundles._unregistered[DIGEST] -= 2 * replication.UNREGISTERED_S
    write, written, may_end = bundles.store.write, threading.Event(), threading.Event()

    def slow(digest: str, bundle: bytes) -> None:
        write(digest, bundle)
        written.set()
        assert may_end.wait(20)

    monkeypatch.setattr(bundles.store, "write", slow)
    keeping = asyncio.create_task(bundles.keep(DIGEST, BUNDLE))
    await asyncio.to_thread(written.wait, 20)
    removing = asyncio.create_task(bundles._remove_unregistered())
    await asyncio.sleep(0)
    may_end.set()
    async with asyncio.timeout(20):
        assert await keeping is None
        await removing
    assert await asyncio.to_thread(kept(one).read_bytes) == BUNDLE


async def test_a_bundle_that_nobody_has_is_told_once(one: Any, caplog: pytest.LogCaptureFixture) -> None:
    assert (await send(one)).status == 200
    bundles = one.replica.bundles
    await bundles.store.remove(DIGEST)
    with caplog.at_level("INFO", "raftflow.coordinator.bundles"):
        for _ in range(3):
            assert not await bundles._fetch_missing()
        assert (await send(one)).status == 200
        assert await bundles._fetch_missing()
    told = [record.levelname for record in caplog.records if DIGEST in record.getMessage()]
    assert told == ["WARNING"]


async def test_no_more_than_a_few_are_taken_in_at_once(one: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replication, "RECEIVED_MAX", 0)
    answer = await send(one)
    assert (answer.status, answer.word) == (429, "queue-full")


async def test_one_that_is_not_used_makes_room(one: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raftflow.domain.limits.BUNDLES_MAX", 1)
    assert (await send(one)).status == 200
    other = make_bundle([BundleFile("other.py", b"")])
    answer = await send(one, other)
    assert (answer.status, answer.word) == (413, "too-large")
    assert not kept(one, digest_of(other)).exists()
    monkeypatch.setattr(replication, "BUNDLE_UNUSED_MIN_MS", 0)
    assert (await send(one, other)).status == 200
    assert [each["digest"] for each in (await one.get("/v1/bundles")).json["bundles"]] == [digest_of(other)]
