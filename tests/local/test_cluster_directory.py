"""The directory of a local cluster: found again, moved, copied. Nothing is started here."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from raftflow.local.cluster import LocalCluster
from raftflow.local.cluster_file import ClusterOptions, LocalClusterError


@pytest.fixture
def made(tmp_path: Path) -> LocalCluster:
    """A cluster of one replica that was never started."""
    return LocalCluster.create(tmp_path / "one", ClusterOptions(nodes=1, agents=0))


def test_a_copy_is_refused_while_its_original_is_there(made: LocalCluster, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(made.directory, copy)
    with pytest.raises(LocalClusterError, match=f"{copy} is a copy of {made.directory}"):
        LocalCluster.load(copy)
    assert LocalCluster.load(made.directory).urls == made.urls
    shutil.rmtree(made.directory)
    assert LocalCluster.load(copy).urls == made.urls
    # It has taken the place: what comes back is the copy now.
    shutil.copytree(copy, made.directory)
    with pytest.raises(LocalClusterError, match=f"{made.directory} is a copy of {copy}"):
        LocalCluster.load(made.directory)


def test_a_directory_that_was_moved_is_the_same_cluster(made: LocalCluster, tmp_path: Path) -> None:
    moved = made.directory.rename(tmp_path / "moved")
    assert LocalCluster.load(moved).urls == made.urls
    # Another cluster where it was before has nothing to do with it.
    LocalCluster.create(tmp_path / "one", ClusterOptions(nodes=1, agents=0))
    assert LocalCluster.load(moved.rename(tmp_path / "moved again")).urls == made.urls


def test_a_link_to_the_directory_is_no_copy(made: LocalCluster, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(made.directory)
    assert LocalCluster.load(link).urls == made.urls
    assert LocalCluster.load(made.directory).urls == made.urls


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b"\xff", b'{"cluster_id": 1}'])
def test_a_damaged_file_is_told(made: LocalCluster, content: bytes) -> None:
    (made.directory / "cluster.json").write_bytes(content)
    with pytest.raises(LocalClusterError, match=r"cluster\.json is damaged"):
        LocalCluster.load(made.directory)
