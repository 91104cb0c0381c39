"""The examples end with the right answer while a leader and an agent are killed."""

from __future__ import annotations

import importlib
import time
from pathlib import Path
from typing import Any

import pytest

import raftflow
from raftflow.local.cluster import LocalCluster
from raftflow.local.cluster_file import ClusterOptions

OPTIONS = ClusterOptions(lease_ms=2_000)


def arguments(name: str, folder: Path) -> tuple[Any, ...]:
    return {"data_analysis": (str(folder), 40), "machine_learning": (4,), "game_world": (8,)}[name]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["data_analysis", "machine_learning", "game_world"])
def test_an_example_ends_right_though_a_leader_and_an_agent_die(
    cluster: LocalCluster, client: raftflow.Client, tmp_path: Path, name: str
) -> None:
    example = importlib.import_module(f"raftflow.examples.{name}")
    run = client.start(example.main, *arguments(name, tmp_path / "cluster"))
    deadline = time.monotonic() + 60
    while client.workflow(run.id).tasks.succeeded < 5:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    leader, agent = cluster.wait_leader(), cluster.agent_names[0]
    cluster.kill(leader)
    cluster.kill(agent)
    assert run.status() == "running", "it ended before the two were killed"
    assert run.result(timeout=90) == example.expected(*arguments(name, tmp_path / "here"))
    cluster.start_replica(leader)
    cluster.start_agent(agent)
    cluster.wait_equal()
    cluster.wait_agents()
