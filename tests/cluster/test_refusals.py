"""A coordinator that must not start says why and what to do, and the rest of the cluster goes on."""

from __future__ import annotations

import signal
from collections.abc import Callable

import pytest

from raftflow.local import processes
from raftflow.local.cluster import LocalCluster

pytestmark = pytest.mark.slow


def refused(cluster: LocalCluster, name: str) -> str:
    """Start a replica that must end by itself; returns what it said."""
    cluster.log_file(name).unlink(missing_ok=True)
    cluster.start_replica(name)
    process = cluster._replica(name).process
    assert processes.wait_end(process, 20.0), "it started although it must not"
    return cluster.log_file(name).read_text()


def test_another_clusters_data_directory(make_cluster: Callable[..., LocalCluster]) -> None:
    first, second = make_cluster(agents=0), make_cluster(agents=0, start=False)
    first.stop("n3")
    (first.directory / "n3").rename(second.directory / "n3")
    words = refused(second, "n3")
    assert "another cluster" in words
    assert str(second.directory / "n3") in words
    assert first.wait_leader()


def test_another_replicas_data_directory(make_cluster: Callable[..., LocalCluster]) -> None:
    cluster = make_cluster(agents=0)
    cluster.stop("n3")
    cluster.stop("n2")
    (cluster.directory / "n3").rename(cluster.directory / "old")
    (cluster.directory / "n2").rename(cluster.directory / "n3")
    assert "n2" in refused(cluster, "n3")


def test_a_corrupt_journal(make_cluster: Callable[..., LocalCluster]) -> None:
    cluster = make_cluster(agents=0)
    with cluster.client() as client:
        for number in range(5):
            client.submit({"name": f"w{number}", "tasks": [{"id": "t", "command": ["true"]}]})
    cluster.wait_equal()
    assert cluster.signal("n3", signal.SIGKILL)
    cluster.stop("n3")
    segment = max((cluster.directory / "n3" / "journal").iterdir(), key=lambda path: path.name)
    data = bytearray(segment.read_bytes())
    # In the middle of what was written, not in the zeros behind it.
    place = data.rindex(b"workflow.submit") // 2
    data[place] ^= 0x40
    segment.write_bytes(bytes(data))
    words = refused(cluster, "n3")
    assert segment.name in words
    assert "Traceback" not in words
    assert cluster.wait_leader()


def test_a_wrong_secret_keeps_a_replica_out_and_is_said(make_cluster: Callable[..., LocalCluster]) -> None:
    cluster = make_cluster(agents=0)
    cluster.stop("n3")
    (cluster.directory / "secret3").touch(mode=0o600)
    (cluster.directory / "secret3").write_text("a secret that is long enough but not theirs\n")
    config = cluster.config_file("n3")
    config.write_text(config.read_text().replace('secret_file = "secret"', 'secret_file = "secret3"'))
    cluster.start_replica("n3")
    leader = cluster.wait_leader()
    others = cluster.log_file(leader)

    def told() -> bool:
        return "secret" in others.read_text() or "secret" in cluster.log_file("n3").read_text()

    assert cluster._wait(told, 20.0, "nobody mentions the secret")
    status = cluster.status_of("n3")
    assert status is None or not status.ready
    with cluster.client() as client:
        assert client.submit({"name": "w", "tasks": [{"id": "t", "command": ["true"]}]}).id
