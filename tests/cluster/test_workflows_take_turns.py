"""A small workflow beside a large one that came before it, on a cluster of real processes."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from raftflow.local.cluster import LocalCluster

COUNT = 20_000


@pytest.mark.timeout(180)
def test_one_task_does_not_wait_behind_thousands(make_cluster: Callable[..., LocalCluster]) -> None:
    cluster = make_cluster(agents=1, lease_ms=10_000)
    noop = "raftflow.bench.load.noop:noop"
    many = {"name": "many", "tasks": [{"id": f"t{n}", "python": noop, "args": [1]} for n in range(COUNT)]}
    one = {"name": "one", "tasks": [{"id": "t", "python": noop, "args": [1]}]}
    with cluster.client(timeout_s=60.0) as client:
        large = client.submit(many).id
        small = client.submit(one).id
        assert client.wait(small, timeout_s=60.0).state == "succeeded"
        beside = client.workflow(large)
        assert beside.finished_at is None
        assert beside.tasks.succeeded < COUNT // 2
        client.cancel(large)
