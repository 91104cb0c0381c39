"""Clusters of real processes, always taken down again."""

from __future__ import annotations

import importlib.util
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import TypeVar

import pytest

import raftflow
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


USER_MODULES = Path(__file__).parents[1] / "sdk"


@pytest.fixture(scope="module")
def cluster(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    """One for all tests of a module, as its OPTIONS say. Its agents find the modules of users in `tests/sdk`."""
    options = getattr(request.module, "OPTIONS", ClusterOptions())
    made = LocalCluster.create(tmp_path_factory.mktemp("cluster") / "cluster", options)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(USER_MODULES))
        made.start()
        made.wait_leader()
        made.wait_agents()
        yield made
        made.down()


@pytest.fixture
def client(cluster: LocalCluster) -> Iterator[raftflow.Client]:
    """A client of that cluster."""
    with cluster.client() as made:
        yield made


@pytest.fixture(scope="module")
def jobs(request: pytest.FixtureRequest) -> Iterator[ModuleType]:
    """The module of a user that the module of the tests names in JOBS, under the name by which agents import it."""
    name: str = request.module.JOBS
    spec = importlib.util.spec_from_file_location(name, USER_MODULES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    del sys.modules[name]


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
