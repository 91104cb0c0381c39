"""Clusters of real processes, always taken down again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from raftflow.local.cluster import LocalCluster, Options


@pytest.fixture
def make_cluster(tmp_path: Path) -> Iterator[Callable[..., LocalCluster]]:
    """Return a function that makes (and with `start=True` starts) a cluster; `Options` fields are its keywords."""
    made: list[LocalCluster] = []

    def make(*, start: bool = True, **options: object) -> LocalCluster:
        cluster = LocalCluster.create(tmp_path / f"cluster{len(made)}", Options(**options))
        made.append(cluster)
        if start:
            cluster.start()
        return cluster

    yield make
    for cluster in made:
        cluster.down()
