"""A data directory is moved, removed or replaced while its replica runs: the replica stops within moments."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from raftflow.local.cluster import LocalCluster

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]


def replaced(directory: Path) -> None:
    directory.rename(directory.with_name("moved"))
    shutil.copytree(directory.with_name("moved"), directory)


TAKEN: dict[str, Callable[[Path], object]] = {
    "removed": shutil.rmtree,
    "moved": lambda directory: directory.rename(directory.with_name("moved")),
    "replaced": replaced,
    "journal removed": lambda directory: shutil.rmtree(directory / "journal"),
}


@pytest.mark.parametrize("how", TAKEN)
def test_a_replica_stops_when_its_data_directory_is_taken_away(
    make_cluster: Callable[..., LocalCluster], how: str
) -> None:
    """What a replica acknowledges afterwards is on no disk, so it must not go on; the other two do."""
    cluster = make_cluster(agents=0)
    name = cluster.wait_leader()
    directory = cluster.directory / name
    TAKEN[how](directory)
    cluster._wait(lambda: cluster.pid_of(name) is None, 15.0, f"{name} goes on without its directory")
    assert "was moved, removed or replaced while" in cluster.log_file(name).read_text()
    with cluster.client() as client:
        created = client.submit({"name": "w", "tasks": [{"id": "t", "command": ["true"]}]})
        if how != "moved":
            return
        assert not directory.exists()  # nothing was written in its place while it stopped
        directory.with_name("moved").rename(directory)
        cluster.start_replica(name)
        cluster.wait_ready()
        cluster.wait_equal()
        assert client.workflow(created.id).id == created.id
