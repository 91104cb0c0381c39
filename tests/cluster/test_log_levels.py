"""A normal start and stop logs nothing above INFO; a failover one warning for each new term."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from raftflow.local.cluster import LocalCluster

_HEAVY = re.compile(r" (WARNING|ERROR|CRITICAL) ")


def heavy_lines(cluster: LocalCluster, names: list[str]) -> list[str]:
    lines = [line for name in names for line in cluster.log_file(name).read_text().splitlines()]
    return [line for line in lines if _HEAVY.search(line)]


@pytest.mark.slow
def test_starts_and_stops_log_no_warning_and_a_failover_one(
    make_cluster: Callable[..., LocalCluster], eventually: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAFTFLOW_TOKEN", "of another cluster")
    cluster = make_cluster(agents=1, with_token=True)
    everybody = [*cluster.replica_names, *cluster.agent_names]
    cluster.down()
    assert heavy_lines(cluster, everybody) == []
    cluster.start()  # with what is on disk, and another term
    leader = cluster.wait_leader()
    term = (cluster.status_of(leader) or pytest.fail("no status")).term
    assert heavy_lines(cluster, everybody) == []
    cluster.kill(leader)
    others = [name for name in cluster.replica_names if name != leader]
    second = eventually(lambda: (cluster.leader() or leader) != leader and cluster.leader())
    new_term = (cluster.status_of(second) or pytest.fail("no status")).term
    told = [line for line in heavy_lines(cluster, others) if "was elected in term" in line]
    terms = [int(re.findall(r"in term (\d+), as", line)[0]) for line in told]
    assert terms[-1] == new_term > term
    assert len(terms) == len(set(terms))
    assert f"({leader} led in term {term})" in told[-1] or len(terms) > 1
