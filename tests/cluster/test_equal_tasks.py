"""Equal tasks on a real cluster: they run once, their result is shared, and it survives the leader."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from raftflow.client import Client
from raftflow.demo.main import read_audit
from raftflow.local.cluster import LocalCluster

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]


def traced(trace: Path, seconds: float = 0) -> list[str]:
    """A command that notes each of its runs in a file and has a result."""
    script = f'echo run >> {trace}; sleep {seconds}; echo \'{{"made": 1}}\' > "$RAFTFLOW_RESULT"'
    return ["sh", "-c", script]


def bag(name: str, command: list[str], count: int) -> dict[str, Any]:
    """A workflow of equal cached tasks, and one that needs them."""
    tasks: list[dict[str, Any]] = [
        {"id": f"t{n}", "command": command, "kind": "traced", "cache": True} for n in range(count)
    ]
    return {
        "name": name,
        "tasks": [*tasks, {"id": "end", "command": ["true"], "needs": [f"t{n}" for n in range(count)]}],
    }


def counts(client: Client, workflow: str) -> tuple[int, int]:
    tasks = client.workflow(workflow).tasks
    return tasks.succeeded, tasks.cached


def test_equal_tasks_run_once_and_share_their_result(
    make_cluster: Callable[..., LocalCluster], eventually: Callable[..., Any], tmp_path: Path
) -> None:
    cluster = make_cluster(agents=2, agent_cpus=2)
    trace = tmp_path / "trace"
    with cluster.client() as client:
        cluster.wait_leader()
        first = client.submit(bag("first", traced(trace, 4), 5)).id
        second = client.submit(bag("second", traced(trace, 4), 3)).id
        eventually(lambda: client.workflow(first).tasks.running == 1)
        assert client.explain(second, "t0").waits_for == [f"{first}/t0"]

        # The leader dies while the owner runs: the line is part of what is replicated.
        cluster.kill(cluster.wait_leader())
        for workflow in (first, second):
            assert client.wait(workflow, timeout_s=60).state == "succeeded"
        assert trace.read_text() == "run\n", "equal tasks ran more than once"
        assert (counts(client, first), counts(client, second)) == ((6, 4), (4, 3))
        assert client.task(second, "t2").result == {"made": 1}

        # A third one has it at once.
        third = client.submit(bag("third", traced(trace, 4), 2)).id
        assert client.wait(third, timeout_s=60).state == "succeeded"
        assert counts(client, third) == (3, 2)
        assert trace.read_text() == "run\n"
        (entry,) = client.cached_results()
        assert (entry.workflow_id, entry.task_id, entry.hits) == (first, "t0", 9)

        # When it is forgotten, the next one runs.
        assert client.clear_cache(prefix="sha256:").cleared == 1
        fourth = client.submit(bag("fourth", traced(trace, 4), 1)).id
        assert client.wait(fourth, timeout_s=60).state == "succeeded"
        assert trace.read_text() == "run\nrun\n"

        moved = [
            transition
            for record in read_audit(client, cluster.url_of(cluster.wait_leader()))
            for transition in record.transitions
            if transition.event == "cached"
        ]
        assert len(moved) == 9, "each is in the audit"
        learnt = {kind.kind: kind for kind in client.kinds()}
        assert learnt["traced"].count == 2 and learnt["traced"].mean_s > 1.5


def test_when_the_owner_fails_or_its_agent_dies_another_runs(
    make_cluster: Callable[..., LocalCluster], eventually: Callable[..., Any], tmp_path: Path
) -> None:
    cluster = make_cluster(agents=1, agent_cpus=2, lease_ms=1_500)
    trace = tmp_path / "trace"
    with cluster.client() as client:
        cluster.wait_leader()
        failing = {"id": "a", "command": ["sh", "-c", f"echo bad >> {trace}; exit 3"], "cache": {"key": "one"}}
        good = {"id": "b", "command": traced(trace, 4), "cache": {"key": "one"}}
        first = client.submit({"name": "first", "priority": 60, "tasks": [failing]}).id
        second = client.submit({"name": "second", "tasks": [good]}).id
        third = client.submit({"name": "third", "tasks": [good]}).id
        assert client.wait(first, timeout_s=60, check=False).state == "failed"
        eventually(lambda: client.workflow(second).tasks.running == 1)
        assert client.explain(third, "b").waits_for == [f"{second}/b"]

        cluster.kill("a1")
        cluster.add_agent("a2", ["--cpus", "2"])
        for workflow in (second, third):
            assert client.wait(workflow, timeout_s=60).state == "succeeded"
        assert client.task(second, "b").agent == "a2"
        assert (counts(client, second), counts(client, third)) == ((1, 0), (1, 1))
        assert trace.read_text().splitlines() == ["bad", "run", "run"], "once on each agent"
