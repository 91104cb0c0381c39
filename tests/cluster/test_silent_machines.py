"""Machines that fall silent on a real cluster: a leader that stands still, a fleet that is cut off repeatedly."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from typing import Any

import pytest

from raftflow.local.cluster import LocalCluster

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

NEXT = {"name": "next", "tasks": [{"id": "t", "command": ["true"]}]}
RUNS_WITHIN_S = 3.0
"""On a machine that does other things too; `raftflow bench failover` measures it."""
LEASE_MS = 1_000
CUTS = 3


def run_one(cluster: LocalCluster, timeout_s: float) -> float:
    """Run a task; returns how long that took."""
    began = time.monotonic()
    with cluster.client() as client:
        assert client.wait(client.submit(NEXT).id, timeout_s=timeout_s).state == "succeeded"
    return time.monotonic() - began


def test_a_stopped_leader_delays_the_next_task_little(
    make_cluster: Callable[..., LocalCluster], record_property: Callable[[str, object], None]
) -> None:
    """Its connections are open and it answers nothing, until it goes on and finds that it was replaced."""
    cluster = make_cluster(agents=2, lease_ms=10_000)
    run_one(cluster, 20.0)
    for number in range(2):
        leader = cluster.wait_leader()
        assert cluster.signal(leader, signal.SIGSTOP)
        try:
            took_s = run_one(cluster, 20.0)
        finally:
            cluster.signal(leader, signal.SIGCONT)
        record_property(f"seconds {number}", round(took_s, 3))
        assert took_s < RUNS_WITHIN_S, f"the next task ran after {took_s:.2f} s"
        cluster.wait_ready()
    cluster.wait_equal()
    with cluster.client() as client:
        assert {agent.state for agent in client.agents()} == {"up"}


def test_agents_that_are_cut_off_repeatedly_work_again_at_once(
    online: Callable[..., LocalCluster],
    eventually: Callable[..., Any],
    record_property: Callable[[str, object], None],
) -> None:
    """Nobody is in quarantine for it: stopped agents are silent for longer than their leases, then go on."""
    cluster = online(agents=3, lease_ms=LEASE_MS)
    with cluster.client() as client:
        for number in range(CUTS):
            for name in cluster.agent_names:
                cluster.signal(name, signal.SIGSTOP)
            try:
                eventually(lambda: {agent.state for agent in client.agents()} == {"lost"}, what="the mass loss")
            finally:
                for name in cluster.agent_names:
                    cluster.signal(name, signal.SIGCONT)
            took_s = run_one(cluster, 20.0)
            record_property(f"seconds {number}", round(took_s, 3))
            assert took_s < RUNS_WITHIN_S, f"work went on after {took_s:.2f} s"
            cluster.wait_agents()
        assert [agent.losses for agent in client.agents()] == [0, 0, 0]
    cluster.wait_equal()
