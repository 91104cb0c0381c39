"""A replica whose data directory was emptied does not come back under its old name."""

from __future__ import annotations

import shutil
from collections.abc import Callable

import pytest

from raftflow.local import processes
from raftflow.local.cluster import LocalCluster

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("victim", ["n1", "n3"])
def test_a_wiped_replica_is_refused_and_both_sides_log_it(
    make_cluster: Callable[..., LocalCluster], victim: str
) -> None:
    """`n1` dials the others, `n3` is dialled by them."""
    cluster = make_cluster(agents=0)
    others = [name for name in cluster.replica_names if name != victim]
    with cluster.client() as client:
        before = client.submit({"name": "before", "tasks": [{"id": "t", "command": ["true"]}]})
        cluster.stop(victim)
        shutil.move(cluster.directory / victim, cluster.directory / "kept")
        cluster.log_file(victim).unlink()
        cluster.start_replica(victim)

        def told() -> bool:
            mine = cluster.log_file(victim).read_text()
            theirs = [cluster.log_file(name).read_text() for name in others]
            return "it refuses this replica" in mine and any("it is refused" in words for words in theirs)

        cluster._wait(told, 30.0, "nobody says why")
        assert "remove" in cluster.log_file(victim).read_text() and "new name" in cluster.log_file(victim).read_text()
        record = cluster._place(victim).process
        assert record is not None and processes.wait_end(record, 10.0), "the emptied replica goes on"
        assert processes.exit_code(record) == 1

        # With the others it would be a majority. It is not one with either of them.
        cluster.stop(others[1])
        cluster.start_replica(others[1])
        cluster._wait(lambda: cluster.leader() in others, 30.0, "the others do not go on")
        after = client.submit({"name": "after", "tasks": [{"id": "t", "command": ["true"]}]})

        # The old directory is welcome.
        cluster.stop(victim)
        shutil.rmtree(cluster.directory / victim)
        shutil.move(cluster.directory / "kept", cluster.directory / victim)
        cluster.start_replica(victim)
        cluster.wait_ready()
        statuses = cluster.wait_equal()
        assert len({status.digest for status in statuses.values()}) == 1 and len(statuses) == 3
        assert client.workflow(before.id).id == before.id
        assert client.workflow(after.id).id == after.id
