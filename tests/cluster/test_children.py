"""Graphs that grow, on a real cluster: tasks spawn children and wait for them, whoever dies."""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import raftflow
from raftflow.local.cluster import LocalCluster
from raftflow.local.cluster_file import ClusterOptions

JOBS = "child_jobs"
OPTIONS = ClusterOptions(agents=2, agent_cpus=4)
"""The agents have eight slots together."""


def test_the_example_of_the_contract(client: raftflow.Client, jobs: Any) -> None:
    run = client.start(jobs.main, 10)
    assert run.result(timeout=60) == 90
    view = client.workflow(run.id)
    assert (view.tasks.total, view.tasks.succeeded) == (11, 11)
    assert client.task(run.id, "main:double.3").parent == "main"
    assert client.task(run.id, "main").attempt == 2, "it was parked once"


def test_children_of_an_async_task(client: raftflow.Client, jobs: Any) -> None:
    assert client.run(jobs.main_async, 3) == [[2, 4], [0, 2, 4], 4, 2]


def test_a_failed_child_is_for_its_parent_to_handle(client: raftflow.Client, jobs: Any) -> None:
    run = client.start(jobs.handles)
    assert run.result(timeout=60) == [["ChildFailed", True, True], [1, "ChildFailed", 3]]
    assert client.workflow(run.id).tasks.failed == 2
    with pytest.raises(raftflow.TaskFailed, match="ChildFailed: child 'fail'"):
        client.run(jobs.fails_with_its_child)


def test_the_first_wins_a_race_and_the_others_are_cancelled(
    client: raftflow.Client, jobs: Any, tmp_path: Path
) -> None:
    run = client.start(jobs.races, str(tmp_path / "slept"))
    assert run.result(timeout=30) == 7
    assert client.task(run.id, "races:slow").state == "cancelled"
    assert not (tmp_path / "slept").exists()


def test_one_key_is_for_one_task(client: raftflow.Client, jobs: Any) -> None:
    told = client.run(jobs.mismatched)
    assert told.startswith("mismatch: ") and "under the key 'same'" in told


def test_many_parents_that_wait_end_on_few_slots(client: raftflow.Client, jobs: Any) -> None:
    """Each parent takes a whole slot, and there are eight: a parent that held its slot would block the children."""
    assert client.map(jobs.parent, [4] * 64, timeout=120) == [12] * 64
    with client.executor() as executor:
        assert list(executor.map(jobs.parent, [2, 3], timeout=60)) == [2, 6]


def test_a_chain_of_children(client: raftflow.Client, jobs: Any) -> None:
    assert client.run(jobs.chain, 30) == 30


def test_a_fan_of_children(client: raftflow.Client, jobs: Any) -> None:
    assert client.run(jobs.main, 1_000) == 999_000


@pytest.mark.long
@pytest.mark.timeout(1_800)
def test_a_fan_of_a_hundred_thousand_children(client: raftflow.Client, jobs: Any) -> None:
    assert client.run(jobs.main, 100_000) == 9_999_900_000


@pytest.mark.long
@pytest.mark.timeout(1_800)
def test_a_chain_of_ten_thousand_children(client: raftflow.Client, jobs: Any) -> None:
    assert client.run(jobs.chain, 10_000) == 10_000
    run = client.start(jobs.chain_ahead, 10_000)
    assert run.result(timeout=600) == 10_000
    assert client.workflow(run.id).tasks.succeeded == 10_001


def test_a_worker_that_dies_after_its_spawn_doubles_no_child(
    client: raftflow.Client, jobs: Any, tmp_path: Path
) -> None:
    path = tmp_path / "ran"
    assert client.run(jobs.dies_after_spawn, str(path), "") == 15
    ran = Counter(path.read_text().splitlines())
    assert ran == Counter([f"child {number}" for number in range(6)] + ["attempt 1", "attempt 2"])


def test_a_leader_and_an_agent_that_die_lose_no_child(
    cluster: LocalCluster, client: raftflow.Client, jobs: Any, tmp_path: Path, eventually: Any
) -> None:
    path, gate = tmp_path / "ran", tmp_path / "gate"
    run = client.start(jobs.dies_after_spawn, str(path), str(gate))
    eventually(lambda: path.exists() and "child 5" in path.read_text(), what="the last child runs")
    eventually(lambda: client.task(run.id, "dies_after_spawn").state == "parked", what="the parent is parked")
    assert "waits for 1 of 6 children" in client.explain(run.id, "dies_after_spawn").reason
    (held,) = [task.agent for task in client.tasks(run.id) if task.id.endswith("counted-6")]
    cluster.kill(held)
    cluster.kill(cluster.wait_leader())
    gate.touch()
    assert run.result(timeout=60) == 15
    ran = Counter(line for line in path.read_text().splitlines() if line.startswith("child"))
    assert {child: count for child, count in ran.items() if count > 1} == {"child 5": 2}, "its agent died"
    cluster.start()
    cluster.wait_agents()


def test_a_cancelled_parent_takes_its_children_with_it(
    client: raftflow.Client, jobs: Any, tmp_path: Path, eventually: Any
) -> None:
    path = tmp_path / "ran"
    run = client.start(jobs.dies_after_spawn, str(path), str(tmp_path / "never"))
    eventually(lambda: client.task(run.id, "dies_after_spawn").state == "parked", what="the parent is parked")
    run.cancel()
    eventually(lambda: client.workflow(run.id).state == "cancelled", what="it has ended")
    assert client.workflow(run.id).tasks.parked == 0


SHELL = r"""
import json, os, socket
agent = socket.socket(socket.AF_UNIX)
agent.connect(os.environ["RAFTFLOW_SOCKET"])
lines = agent.makefile("rw")
def ask(**request):
    print(json.dumps(request), file=lines, flush=True)
    answer = json.loads(lines.readline())
    return answer.get("ok", answer)
tasks = [{"id": key, "command": ["sh", "-c", 'echo \'"%s"\' > "$RAFTFLOW_RESULT"' % key], "resources": {"cpu": 0.25}}
         for key in ("a", "b")]
ask(call="spawn", tasks=tasks)
ends = ask(call="children", ends=True)["ends"]
if len(ends) < 2:
    assert ask(call="park", keys=["a", "b"]) == {}
    assert ask(call="children")["error"]["type"] == "parked"
else:
    open(os.environ["RAFTFLOW_RESULT"], "w").write(json.dumps([end["result"] for end in ends]))
"""


def test_a_command_spawns_and_parks(client: raftflow.Client) -> None:
    created = client.submit({"name": "shell", "tasks": [{"id": "t", "command": [sys.executable, "-c", SHELL]}]})
    client.wait(created.id, timeout_s=60)
    task = client.task(created.id, "t")
    assert (json.dumps(task.result), task.attempt) == ('["a", "b"]', 2)
    assert [each.outcome for each in task.history] == ["parked", "succeeded"]
