"""An agent that sleeps through its lease comes back to find its work given away."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from raftflow.demo.main import read_audit
from raftflow.domain.contract.views import AuditLine
from raftflow.local.accounts import account_of
from raftflow.local.cluster import LocalCluster

LEASE_MS = 1_500


@pytest.mark.slow
def test_reports_of_a_paused_agent_are_refused_recorded_and_change_nothing(
    make_cluster: Callable[..., LocalCluster], eventually: Callable[..., Any], tmp_path: Path
) -> None:
    cluster = make_cluster(agents=1, agent_cpus=2, prefetch=0, lease_ms=LEASE_MS)
    with cluster.client() as client:
        # The attempts end while their agent is paused, so that it has something to report when it wakes.
        paused = tmp_path / "paused"
        command = [
            "sh",
            "-c",
            f"touch {tmp_path}/started-$RAFTFLOW_TASK; while [ ! -e {paused} ]; do sleep 0.05; done",
        ]
        tasks = [{"id": f"t{n}", "command": command, "retries": 0} for n in range(2)]
        workflow = client.submit({"name": "paused", "tasks": tasks}).id
        # The ledger counts an attempt as running from its placement on, before its agent has heard of it.
        eventually(lambda: len(list(tmp_path.glob("started-*"))) == 2)
        assert cluster.signal("a1", signal.SIGSTOP)
        paused.touch()
        eventually(lambda: client.agent("a1").state == "lost")
        second = client.submit({"name": "other", "tasks": [{"id": "x", "command": ["true"]}]})
        url = cluster.url_of(cluster.wait_leader())

        # Another agent takes the work over.
        cluster.add_agent("a2", ["--cpus", "2"])
        assert client.wait(workflow, timeout_s=30).state == "succeeded"
        assert client.wait(second.id, timeout_s=30).state == "succeeded"
        before = {task.id: task for task in client.tasks(workflow)}
        index_before = client.status(url).applied_index

        assert cluster.signal("a1", signal.SIGCONT)

        def refusals() -> list[AuditLine]:
            """What a1 reports under its old incarnation, or offers under a new one if it first heard of its loss."""
            return [
                record
                for record in read_audit(client, url)
                if record.index > index_before
                and (
                    (record.command == "attempts.report" and record.outcome == "stale_incarnation")
                    or record.command == "attempts.offer"
                )
            ]

        refused = eventually(refusals)
        assert all(record.transitions == [] for record in refused)
        eventually(lambda: client.agent("a1").up)
        assert {task.id: task for task in client.tasks(workflow)} == before
        assert {task.agent for task in before.values()} == {"a2"}
        account = account_of(read_audit(client, url), workflow)
        assert account.doubly_completed == []
        assert account.lost == []
        assert dict(account.rerun_agents()) == {"a1": 2}
        assert client.ledger_verify(url).ok
