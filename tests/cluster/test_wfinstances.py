"""Real workflow executions run to their end while the leader is killed in the middle of each.

The files are not shipped: RAFTFLOW_WFINSTANCES names their folder, else it is looked for beside the checkout.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from raftflow.demo.main import read_audit
from raftflow.local.accounts import account_of
from raftflow.local.cluster import LocalCluster

ROOT = Path(__file__).resolve().parents[2]
FOLDER = Path(os.environ.get("RAFTFLOW_WFINSTANCES") or ROOT.parent / "shared" / "wfinstances")
FILES = sorted(FOLDER.glob("*.json"))


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(
    not FILES, reason=f"NO WORKFLOW INSTANCES: {FOLDER} holds none; name their folder with RAFTFLOW_WFINSTANCES"
)
def test_every_instance_ends_succeeded_with_its_leader_killed(make_cluster: Callable[..., LocalCluster]) -> None:
    cluster = make_cluster(agents=2)
    for file in FILES:
        argv = [sys.executable, "-m", "raftflow", "workflow", "submit", str(file), "--wait", "-o", "json"]
        argv += ["--time-scale", "0.001", "--data-dir", str(cluster.directory)]
        submitted = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        killer = threading.Thread(target=_kill_when_begun, args=(cluster, submitted))
        killer.start()
        out, err = submitted.communicate(timeout=300)
        killer.join(timeout=120)
        assert not killer.is_alive()
        assert submitted.returncode == 0, (file.name, out, err)
        shown = json.loads(out)
        assert shown["state"] == "succeeded", (file.name, shown)
        cluster.wait_equal()
        with cluster.client() as client:
            for name in cluster.replica_names:
                url = cluster.url_of(name)
                account = account_of(read_audit(client, url), shown["id"])
                assert account.lost == [], (file.name, name)
                assert account.doubly_completed == [], (file.name, name)
                assert len(account.succeeded) == shown["tasks"]["total"], (file.name, name)
                ledger = client.ledger_verify(url)
                assert ledger.ok, (file.name, name, ledger.problems)


def _kill_when_begun(cluster: LocalCluster, submitted: subprocess.Popen[str]) -> None:
    """Kill the leader once a task of the newest workflow has run, then bring the replica back."""
    with cluster.client() as client:
        known = len(list(client.workflows()))
        while submitted.poll() is None:
            views = list(client.workflows())
            if len(views) > known or (views and views[0].finished_at is None and views[0].tasks.succeeded > 0):
                break
    script = [str(ROOT / "scripts" / "kill_leader"), str(cluster.directory)]
    subprocess.run(script, check=True, timeout=90, capture_output=True)
