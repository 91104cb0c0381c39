"""Clusters of real processes, always taken down again."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest

from raftflow.demo.main import read_audit
from raftflow.domain.contract.views import AuditLine, AuditTransition
from raftflow.local.cluster import LocalCluster
from raftflow.local.cluster_file import ClusterOptions

T = TypeVar("T")

EVENTUALLY_S = 40.0
_POLL_S = 0.02


@pytest.fixture
def make_cluster(tmp_path: Path) -> Iterator[Callable[..., LocalCluster]]:
    """Return a function that makes (with `start=True` starts) a cluster; its keywords are fields of
    `ClusterOptions`."""
    made: list[LocalCluster] = []

    def make(*, start: bool = True, **options: object) -> LocalCluster:
        cluster = LocalCluster.create(tmp_path / f"cluster{len(made)}", ClusterOptions(**options))
        made.append(cluster)
        if start:
            cluster.start()
        return cluster

    yield make
    for cluster in made:
        cluster.down()


@pytest.fixture
def eventually() -> Callable[..., object]:
    """Return a function that asks until the answer is true, and returns it."""
    return _eventually


def _eventually(condition: Callable[[], T], timeout_s: float = EVENTUALLY_S, what: str = "it") -> T:
    deadline = time.monotonic() + timeout_s
    while True:
        answer = condition()
        if answer:
            return answer
        assert time.monotonic() < deadline, f"{what} did not come true in {timeout_s} s"
        time.sleep(_POLL_S)


@pytest.fixture
def online(make_cluster: Callable[..., LocalCluster]) -> Callable[..., LocalCluster]:
    """Return a function that starts a cluster and waits until it has a leader."""

    def make(**options: object) -> LocalCluster:
        cluster = make_cluster(**options)
        cluster.wait_leader()
        return cluster

    return make


@pytest.fixture
def audit() -> Callable[[LocalCluster], list[AuditLine]]:
    """Return a function that reads the leader's whole audit."""

    def read(cluster: LocalCluster) -> list[AuditLine]:
        with cluster.client() as client:
            return read_audit(client, cluster.url_of(cluster.wait_leader()))

    return read


@pytest.fixture
def moves(audit: Callable[[LocalCluster], list[AuditLine]]) -> Callable[..., list[tuple[AuditLine, AuditTransition]]]:
    """Return a function that lists the transitions of a cluster's tasks in order, each with its record."""

    def read(cluster: LocalCluster, *events: str) -> list[tuple[AuditLine, AuditTransition]]:
        return [
            (record, move)
            for record in audit(cluster)
            for move in record.transitions
            if not events or move.event in events
        ]

    return read
