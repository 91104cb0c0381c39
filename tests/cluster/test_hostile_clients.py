"""Clients without a token do what they can, while a good client goes on: no new term, no replica stops, no error."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from raftflow.client import Client
from raftflow.local.cluster import LocalCluster
from tests.cluster.hostile_clients import KINDS

SECONDS = 1.5
PROGRAM = Path(__file__).parent / "hostile_clients.py"
SLOW_ELECTIONS = {"election_min_ms": 1_500, "election_max_ms": 3_000, "heartbeat_ms": 100}
"""A machine that runs other tests beside this one may give nobody a core for some 100 ms."""
WORK = {"name": "good", "tasks": [{"id": "t", "command": ["true"]}]}
RUNS_S = 30.0


def attack(cluster: LocalCluster, kind: str, seconds: float) -> subprocess.Popen[str]:
    names = cluster.replica_names
    peers = ",".join(":".join(map(str, cluster.peer_of(name))) for name in names)
    urls = ",".join(cluster.url_of(name) for name in names)
    return subprocess.Popen(
        [sys.executable, str(PROGRAM), kind, str(seconds), urls, peers],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def behave(client: Client, hostile: subprocess.Popen[str]) -> list[float]:
    """Submit small workflows until the attack is over; returns how long each answer took, in seconds."""
    took, ids = [], []
    while hostile.poll() is None or len(took) < 3:
        began = time.monotonic()
        ids.append(client.submit(WORK).id)
        took.append(time.monotonic() - began)
        time.sleep(0.01)
    for workflow in (ids[0], ids[-1]):
        assert client.wait(workflow, timeout_s=RUNS_S).state == "succeeded"
    return took


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_no_client_without_a_token_takes_anything_down(
    make_cluster: Callable[..., LocalCluster], record_property: Callable[[str, object], None]
) -> None:
    cluster = make_cluster(agents=1, lease_ms=10_000, timing=SLOW_ELECTIONS)
    leader = cluster.wait_leader()
    before = cluster.status_of(leader)
    assert before is not None
    pids = {name: cluster.pid_of(name) for name in cluster.replica_names}
    with cluster.client() as client:
        for kind in KINDS:
            hostile = attack(cluster, kind, SECONDS)
            took = behave(client, hostile)
            told, wrong = hostile.communicate(timeout=RUNS_S)
            assert hostile.returncode == 0, (kind, wrong)
            tally = json.loads(told)
            assert tally.get("tries", 0) + tally.get("held", 0) >= 10, (kind, tally)
            after = cluster.status_of(leader)
            assert after is not None, (kind, "the leader does not answer")
            assert (after.role, after.term) == ("leader", before.term), (kind, "the leader keeps its term", tally)
            record_property(f"worst_{kind}_s", round(max(took), 3))
    assert {name: cluster.pid_of(name) for name in cluster.replica_names} == pids
    assert all(status is not None and status.ready for status in cluster.statuses().values())


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_idle_connections_leave_descriptors_for_the_log(tmp_path: Path) -> None:
    directory = tmp_path / "c"
    up = [sys.executable, "-m", "raftflow", "cluster", "up", "--nodes", "3", "--agents", "1", "--data-dir"]
    shell = ["sh", "-c", 'ulimit -n 300; exec "$@"', "sh", *up, str(directory)]
    subprocess.run(shell, check=True, timeout=60, capture_output=True)
    cluster = LocalCluster.load(directory)
    sockets: list[socket.socket] = []
    try:
        leader = cluster.wait_leader()
        before = cluster.status_of(leader)
        assert before is not None
        for name in cluster.replica_names:
            host, port = re.fullmatch(r"http://(.*):(\d+)", cluster.url_of(name)).groups()  # type: ignore[union-attr]
            sockets += [socket.create_connection((host, int(port)), timeout=5) for _ in range(290)]
        large = {"name": "x", "tasks": [{"id": "t", "command": ["true", "y" * 60_000]}]}
        journal = directory / leader / "journal"
        segments = {path.name for path in journal.glob("*.segment")}
        with cluster.client() as client:
            for _ in range(400):
                client.submit(large)
                if {path.name for path in journal.glob("*.segment")} - segments:
                    break
            assert {path.name for path in journal.glob("*.segment")} - segments, "the log went on to another segment"
            assert client.wait(client.submit(WORK).id, timeout_s=RUNS_S).state == "succeeded"
        after = cluster.status_of(leader)
        assert after is not None
        assert (after.role, after.term) == ("leader", before.term)
        assert "limits.connections is 50000" in cluster.log_file(leader).read_text()
    finally:
        for sock in sockets:
            sock.close()
        cluster.down()
