"""A coordinator that must not start says why and what to do, and the rest of the cluster goes on."""

from __future__ import annotations

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


def test_the_data_directory_of_another_cluster_is_refused(make_cluster: Callable[..., LocalCluster]) -> None:
    first, second = make_cluster(agents=0), make_cluster(agents=0, start=False)
    first.stop("n3")
    (first.directory / "n3").rename(second.directory / "n3")
    words = refused(second, "n3")
    assert "another cluster" in words
    assert str(second.directory / "n3") in words
    assert first.wait_leader()


def test_the_data_directory_of_another_replica_is_refused(make_cluster: Callable[..., LocalCluster]) -> None:
    cluster = make_cluster(agents=0)
    cluster.stop("n3")
    cluster.stop("n2")
    (cluster.directory / "n3").rename(cluster.directory / "old")
    (cluster.directory / "n2").rename(cluster.directory / "n3")
    assert "n2" in refused(cluster, "n3")


def test_a_journal_with_a_damaged_end_is_refused(make_cluster: Callable[..., LocalCluster]) -> None:
    """There the last vote may have stood, so it cannot repair itself."""
    cluster = make_cluster(agents=0)
    cluster.stop("n3")
    segment = max((cluster.directory / "n3" / "journal").glob("*.segment"), key=lambda path: path.name)
    data = bytearray(segment.read_bytes())
    data[len(data.rstrip(b"\0")) - 30] ^= 0x40
    segment.write_bytes(bytes(data))
    words = refused(cluster, "n3")
    assert segment.name in words
    assert "It cannot repair itself" in words
    assert "under a new name" in words
    assert "Traceback" not in words
    assert cluster.wait_leader()


def test_a_replica_with_a_wrong_secret_is_refused(make_cluster: Callable[..., LocalCluster]) -> None:
    cluster = make_cluster(agents=0)
    cluster.stop("n3")
    (cluster.directory / "secret3").touch(mode=0o600)
    (cluster.directory / "secret3").write_text("a secret that is long enough but not theirs\n")
    config = cluster.config_file("n3")
    config.write_text(config.read_text().replace('secret_file = "secret"', 'secret_file = "secret3"'))
    words = refused(cluster, "n3")
    assert "another secret" in words
    assert "secret_file" in words
    with cluster.client() as client:
        assert client.submit({"name": "w", "tasks": [{"id": "t", "command": ["true"]}]}).id
