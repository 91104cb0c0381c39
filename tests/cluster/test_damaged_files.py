"""A replica whose files are damaged repairs itself from its peers, under load, and loses nothing acknowledged."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from raftflow.domain.features import LEVEL
from raftflow.local.cluster import LocalCluster
from raftflow.local.load import Acknowledged, Reporter, SubmissionLoad, Writer
from tests.cluster.audited import assert_nothing_lost

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

VICTIM = "n3"


def journal(directory: Path) -> Path:
    return max((directory / "journal").glob("*.segment"), key=lambda path: path.name)


def snapshot(directory: Path) -> Path:
    return max((directory / "snapshots").glob("*.snapshot"), key=lambda path: path.name)


@pytest.mark.parametrize("choose", [journal, snapshot])
def test_a_replica_with_a_damaged_file_repairs_itself(
    make_cluster: Callable[..., LocalCluster], choose: Callable[[Path], Path]
) -> None:
    cluster = make_cluster(agents=0, replica_toml="[limits]\nsnapshot_entries = 150\n")
    acknowledged = Acknowledged()
    directory = cluster.directory / VICTIM
    with (
        Reporter(cluster.urls, acknowledged, name="reporter"),
        SubmissionLoad(cluster.urls, acknowledged, prefix="load"),
    ):
        cluster._wait(lambda: list((directory / "snapshots").glob("*.snapshot")), 60.0, "no snapshot is written")
        time.sleep(1.0)
        cluster.stop(VICTIM)
        damaged = choose(directory)
        flip(damaged)
        cluster.start_replica(VICTIM)
        cluster.wait_ready()
    assert "is whole again" in cluster.log_file(VICTIM).read_text()
    assert damaged.with_name(f"{damaged.name}.damaged-1").exists()
    assert not (directory / "repair").exists()
    assert_nothing_lost(cluster, acknowledged)


def test_a_damaged_journal_is_repaired_while_members_change(make_cluster: Callable[..., LocalCluster]) -> None:
    """It repairs itself while a replica joins and another one is removed; lists of members come with the log."""
    cluster = make_cluster(agents=0, replica_toml="[limits]\nsnapshot_entries = 150\n")
    acknowledged = Acknowledged()
    directory = cluster.directory / VICTIM
    with Writer(lambda: cluster.urls, acknowledged, prefix="load"):
        cluster._wait(lambda: levels(cluster) == {LEVEL}, 60.0, "the feature level does not rise")
        cluster._wait(lambda: list((directory / "snapshots").glob("*.snapshot")), 60.0, "no snapshot is written")
        cluster.stop(VICTIM)
        heir = cluster.add_replica()  # a change that the damaged one has not seen
        flip(journal(directory))
        cluster.start_replica(VICTIM)
        removed = next(name for name in ("n1", "n2") if name != cluster.wait_leader())
        cluster.remove_replica(removed)
        second = cluster.add_replica()
        cluster.wait_ready()
        cluster._wait(lambda: not (directory / "repair").exists(), 60.0, "the repair does not end")
    assert "is whole again" in cluster.log_file(VICTIM).read_text()
    names = {"n1", "n2", VICTIM, heir, second} - {removed}
    statuses = cluster.wait_equal()
    assert set(statuses) == names
    assert len({status.digest for status in statuses.values()}) == 1
    with cluster.client() as client:
        for name in names:
            assert client.audit_verify(cluster.url_of(name)).problems == []
        assert {member.name for member in client.members().members if member.voting} == names
        assert set(acknowledged.workflows) <= {view.id for view in client.workflows()}


def flip(path: Path) -> None:
    """Change one bit in the middle of what is written, but not of the zeros with which records are filled up."""
    data = bytearray(path.read_bytes())
    middle = len(data.rstrip(b"\0")) // 2
    data[next(place for place in range(middle, len(data)) if data[place])] ^= 0x10
    path.write_bytes(bytes(data))


def levels(cluster: LocalCluster) -> set[int]:
    return {status.feature_level for status in cluster.statuses().values() if status is not None}
