"""A replica whose directory was put back from an older copy is repaired before it votes."""

from __future__ import annotations

import shutil
from collections.abc import Callable

import pytest

from raftflow.client.errors import NotFound
from raftflow.local.cluster import LocalCluster
from raftflow.local.cluster_file import LocalClusterError
from raftflow.replication.members.starts import StartHistory
from raftflow.replication.real_files import RealFileSystem

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

QUIET_S = 2.0
"""Several election timeouts."""


def submit(cluster: LocalCluster, name: str) -> str:
    with cluster.client() as client:
        return client.submit({"name": name, "tasks": [{"id": "t", "command": ["true"]}]}).id


def is_known(cluster: LocalCluster, workflow: str) -> bool:
    with cluster.client() as client:
        try:
            return client.workflow(workflow).id == workflow
        except NotFound:
            return False


@pytest.mark.parametrize("remembered", [True, False])
def test_a_replica_on_an_older_copy_repairs_itself_before_it_votes(
    make_cluster: Callable[..., LocalCluster], *, remembered: bool
) -> None:
    """n2 is away while n1 and n3 acknowledge; then n1 is away, and n3 comes back with a directory of before.

    If n2 has forgotten that it had met a newer start of n3, the two elect each other, and what was acknowledged is
    lost: that is what the memory of starts is for.
    """
    cluster = make_cluster(agents=0)
    before = submit(cluster, "before")
    cluster.stop("n3")
    shutil.copytree(cluster.directory / "n3", cluster.directory / "copy")
    cluster.start_replica("n3")
    cluster._wait(lambda: words(cluster, "n2").count("link to n3 is up") == 2, 30.0, "n2 does not meet n3 again")
    cluster.wait_ready()
    cluster.stop("n2")
    cluster._wait(lambda: cluster.leader() in ("n1", "n3"), 30.0, "nobody leads")
    acknowledged = submit(cluster, "acknowledged")
    cluster.stop("n3")
    cluster.stop("n1")
    shutil.rmtree(cluster.directory / "n3")
    shutil.move(cluster.directory / "copy", cluster.directory / "n3")
    if not remembered:
        forget(cluster, "n2", "n3")
    cluster.start_replica("n2")
    cluster.start_replica("n3")
    if not remembered:
        cluster._wait(lambda: cluster.leader() in ("n2", "n3"), 30.0, "nobody leads")
        assert is_known(cluster, before)
        assert not is_known(cluster, acknowledged)
        # n1 has another history now. It is not overwritten by a snapshot or by entries: it stops and says so.
        for number in range(5):
            submit(cluster, f"later-{number}")
        cluster.start_replica("n1")
        cluster._wait(lambda: "another history than n2, n3" in words(cluster, "n1"), 30.0, "n1 does not notice")
        # n1 does not know yet what of its log is committed, so it tells n3 first which start of it n1 has met. The
        # repair of n3 needs n1: either it ends before n1 stops, and the two go on, or nobody may lead any more.
        repair = cluster.directory / "n3" / "repair"
        try:
            cluster._wait(lambda: not repair.exists() and cluster.leader() is not None, QUIET_S, "nobody leads")
        except LocalClusterError:
            assert repair.exists()
            assert cluster.leader() is None
        else:
            assert is_known(cluster, submit(cluster, "the-others-go-on"))
        return
    cluster._wait(lambda: "put back from an older copy" in words(cluster, "n3"), 30.0, "n3 does not notice")
    with pytest.raises(LocalClusterError, match="nobody leads"):
        cluster._wait(lambda: cluster.leader() is not None, QUIET_S, "nobody leads")
    assert (cluster.directory / "n3" / "repair").exists()
    cluster.start_replica("n1")
    cluster.wait_ready()
    assert is_known(cluster, before)
    assert is_known(cluster, acknowledged)
    assert "is whole again" in words(cluster, "n3")
    statuses = cluster.wait_equal()
    assert len({status.digest for status in statuses.values()}) == 1
    # It counts again like any other, after a restart as well.
    cluster.stop("n3")
    cluster.start_replica("n3")
    cluster.wait_ready()
    cluster.stop("n1")
    cluster._wait(lambda: cluster.leader() in ("n2", "n3"), 30.0, "nobody leads")
    assert is_known(cluster, submit(cluster, "after"))
    with cluster.client() as client:
        for name in ("n2", "n3"):
            assert client.audit_verify(cluster.url_of(name)).problems == []
    assert "put back from an older copy" not in words(cluster, "n3").partition("is whole again")[2]


def forget(cluster: LocalCluster, name: str, peer: str) -> None:
    """Take what a replica remembers of a peer from its disk: the rule is off."""
    starts = StartHistory(RealFileSystem(), cluster.directory / name)
    starts.open()
    starts.forget_peers([peer])
    starts.save()


def words(cluster: LocalCluster, name: str) -> str:
    return cluster.log_file(name).read_text()
