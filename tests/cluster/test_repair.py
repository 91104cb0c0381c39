"""A replica whose files are damaged repairs itself from its peers, under load, and loses nothing acknowledged."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from raftflow.local.cluster import LocalCluster
from raftflow.local.load import Acknowledged, Ledger, Reporter, Submissions

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

VICTIM = "n3"


def journal(directory: Path) -> Path:
    return max((directory / "journal").glob("*.segment"), key=lambda path: path.name)


def snapshot(directory: Path) -> Path:
    return max((directory / "snapshots").glob("*.snapshot"), key=lambda path: path.name)


@pytest.mark.parametrize("choose", [journal, snapshot])
def test_a_damaged_file(make_cluster: Callable[..., LocalCluster], choose: Callable[[Path], Path]) -> None:
    cluster = make_cluster(agents=0, replica_toml="[limits]\nsnapshot_entries = 150\n")
    acknowledged = Acknowledged()
    directory = cluster.directory / VICTIM
    with (
        Reporter(cluster.urls, acknowledged, name="reporter"),
        Submissions(cluster.urls, acknowledged, prefix="load"),
    ):
        cluster._wait(lambda: list((directory / "snapshots").glob("*.snapshot")), 60.0, "no snapshot is written")
        time.sleep(1.0)
        cluster.stop(VICTIM)
        damaged = choose(directory)
        data = bytearray(damaged.read_bytes())
        data[len(data.rstrip(b"\0")) // 2] ^= 0x10
        damaged.write_bytes(bytes(data))
        cluster.start_replica(VICTIM)
        cluster.wait_ready()
    assert "is whole again" in cluster.log_file(VICTIM).read_text()
    assert damaged.with_name(f"{damaged.name}.damaged-1").exists()
    assert not (directory / "repair").exists()
    statuses = cluster.wait_equal()
    assert len({status.digest for status in statuses.values()}) == 1
    ledger = Ledger()
    with cluster.client() as client:
        for name in cluster.replica_names:
            ledger.read(client, cluster.url_of(name))
            assert client.audit_verify(cluster.url_of(name)).problems == []
    assert ledger.missing(acknowledged) == []
