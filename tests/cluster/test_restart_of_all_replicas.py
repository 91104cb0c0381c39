"""Power-cut-like loss of every coordinator at once: what was acknowledged is there afterwards."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from typing import Self

import pytest

from raftflow.client.client import Client
from raftflow.client.errors import ClientError
from raftflow.demo.main import read_audit
from raftflow.local.accounts import account_of
from raftflow.local.cluster import LocalCluster

ROUNDS = 20
TASKS = 6


class Load:
    """Submits small workflows until told to stop and remembers which submissions were acknowledged."""

    def __init__(self, cluster: LocalCluster, prefix: str) -> None:
        self.acknowledged: list[str] = []
        self._cluster = cluster
        self._prefix = prefix
        self._stop = threading.Event()
        self._enough = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(timeout=60)
        assert not self._thread.is_alive()

    def wait(self, timeout_s: float = 30.0) -> None:
        """Wait until a few submissions have been acknowledged."""
        assert self._enough.wait(timeout_s), "no submission was acknowledged"

    def _run(self) -> None:
        tasks = [
            {"id": f"t{n}", "python": "raftflow.burn:burn", "kwargs": {"cpu_seconds": 0.0}} for n in range(TASKS)
        ]
        number = 0
        while not self._stop.is_set():
            number += 1
            try:
                with self._cluster.client(timeout_s=2.0) as client:
                    created = client.submit({"name": f"{self._prefix}-{number}", "tasks": tasks})
            except ClientError:
                continue  # not acknowledged: nothing is promised
            self.acknowledged.append(created.id)
            if len(self.acknowledged) >= 3:
                self._enough.set()


def settled(client: Client, workflow_ids: list[str], timeout_s: float = 60.0) -> None:
    """Wait until every workflow has ended, and check that it ended well."""
    deadline = time.monotonic() + timeout_s
    for workflow_id in workflow_ids:
        view = client.wait(workflow_id, timeout_s=deadline - time.monotonic(), check=False)
        assert view.state == "succeeded", view


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_sigkill_of_all_coordinators_loses_nothing_acknowledged(make_cluster: Callable[..., LocalCluster]) -> None:
    cluster = make_cluster(agents=2)
    everything: list[str] = []
    reported: set[tuple[str, str]] = set()
    for round_number in range(ROUNDS):
        with Load(cluster, f"round{round_number}") as load:
            load.wait()
            with cluster.client(timeout_s=10.0) as client:
                # Reports that were acknowledged: a linearizable read has shown their effect.
                deadline = time.monotonic() + 60.0
                while True:
                    for workflow_id in list(load.acknowledged):
                        for task in client.tasks(workflow_id):
                            if task.state == "succeeded":
                                reported.add((workflow_id, task.id))
                    if reported or time.monotonic() >= deadline:
                        break
            for name in cluster.replica_names:
                assert cluster.signal(name, signal.SIGKILL)
            for name in cluster.replica_names:
                cluster.stop(name)
            for name in cluster.replica_names:
                cluster.start_replica(name)
            cluster.wait_ready()
        everything += load.acknowledged
    with cluster.client(timeout_s=60.0) as client:
        settled(client, everything)
        statuses = cluster.wait_equal()
        assert len({status.digest for status in statuses.values()}) == 1
        for name in cluster.replica_names:
            url = cluster.url_of(name)
            ledger = client.ledger_verify(url)
            assert ledger.ok, ledger.problems
            check = client.audit_verify(url)
            assert check.ok, check.problems
            records = read_audit(client, url)
            for workflow_id in everything:
                account = account_of(records, workflow_id)
                assert account.doubly_completed == [], name
                assert account.lost == [], name
                assert len(account.succeeded) == TASKS, (name, workflow_id)
            done = {
                (move.workflow_id, move.task_id)
                for record in records
                for move in record.transitions
                if move.event == "succeeded"
            }
            assert reported <= done
    assert reported, "no report was seen before a kill: the test proves nothing about reports"
