"""A flood of requests that are bad, then heavy, costs the leader no term and a good client no answer."""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import urlsplit

import pytest

from raftflow.bench.benchmarks import flood
from raftflow.bench.load import hostile_load
from raftflow.bench.load.workers import generators
from raftflow.local.cluster import LocalCluster

SECONDS = 4.0
PER_S = 20_000
SLOW_ELECTIONS = {"election_min_ms": 1_500, "election_max_ms": 3_000, "heartbeat_ms": 100}
"""A machine that runs other tests beside this one may give nobody a core for some 100 ms."""


@pytest.mark.parametrize("kind", ["bad", "heavy"])
def test_a_flood_costs_no_term_and_no_answer(kind: str, make_cluster: Callable[..., LocalCluster]) -> None:
    cluster = make_cluster(start=True, agents=0, with_token=True, lease_ms=600_000, timing=SLOW_ELECTIONS)
    leader, token = cluster.wait_leader(), cluster.token
    assert token is not None
    url, host = cluster.url_of(leader), urlsplit(cluster.url_of(leader)).netloc
    with generators(2) as pool:
        large = pool.submit(flood.fill, url, token, 300).result(timeout=60)
        requests = {
            "bad": hostile_load.bad_requests(host, token),
            "heavy": hostile_load.heavy_requests(host, token, large),
        }[kind]
        before = cluster.status_of(leader)
        assert before is not None
        attack = pool.submit(hostile_load.hostile_load, url, requests, PER_S, SECONDS)
        behaved = pool.submit(flood.behave, url, token, kind, SECONDS).result(timeout=90)
        tally = attack.result(timeout=90)
    after = cluster.status_of(leader)
    assert after is not None
    assert (after.role, after.term) == ("leader", before.term), "the leader keeps its term"
    assert tally["answered"] > 0
    assert behaved["client_errors"] == 0
    assert behaved["submitted"] >= 5, behaved
    assert behaved["ended_per_s"] > 0, "agents work on"
