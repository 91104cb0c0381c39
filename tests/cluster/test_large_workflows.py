"""Large workflows on a cluster of real processes: taken in piece by piece, whoever leads and whoever dies."""

from __future__ import annotations

import threading
import urllib.request
from collections.abc import Callable
from typing import Any

import pytest

from raftflow.local.cluster import LocalCluster

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

COUNT = 100_000
DOCUMENT = {"name": "large", "tasks": [{"id": f"t{n}", "command": ["true"]} for n in range(COUNT)]}


def metric(url: str, name: str) -> float:
    with urllib.request.urlopen(f"{url}/metrics", timeout=5) as answer:
        lines = answer.read().decode().splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith(f"{name} "))


def test_an_upload_survives_the_death_of_its_leader(
    online: Callable[..., LocalCluster], eventually: Callable[..., Any]
) -> None:
    """The client is none the wiser: the next leader drops what there was, and the repeated request begins anew."""
    cluster = online(agents=0, replica_toml="[limits]\nsnapshot_entries = 100\n")
    answers: list[Any] = []

    def submit() -> None:
        with cluster.client(timeout_s=90.0) as client:
            answers.append(client.submit(DOCUMENT))

    client = threading.Thread(target=submit)
    client.start()
    leader = cluster.wait_leader()
    eventually(lambda: metric(cluster.url_of(leader), "raftflow_uploads"), what="an upload")
    cluster.kill(leader)
    other = next(name for name in cluster.replica_names if name != leader)
    client.join(100.0)
    assert not client.is_alive()
    (created,) = answers
    cluster.start_replica(leader)
    cluster.wait_ready()
    with cluster.client() as reader:
        (shown,) = list(reader.workflows())
        assert (shown.id, shown.tasks.total, shown.tasks.ready) == (created.id, COUNT, COUNT)
        statuses = cluster.wait_equal()
        assert len({status.digest for status in statuses.values()}) == 1
        for name in cluster.replica_names:
            assert reader.ledger_verify(cluster.url_of(name)).problems == []
            assert reader.audit_verify(cluster.url_of(name)).problems == []
            assert metric(cluster.url_of(name), "raftflow_uploads") == 0
        records = reader.audit(cluster.url_of(other), limit=1_000).records
    actions = [line.command for line in records]
    assert actions.count("workflow.begin") == 2
    assert "uploads.drop" in actions
    outcomes = [line.outcome for line in records if line.command == "workflow.finish"]
    assert outcomes.count("ok") == 1
    assert set(outcomes) <= {"ok", "repeated"}, (
        "a client that hears of the new leader may repeat what a replica repeats"
    )
