"""Durable steps on a real cluster: what a task has recorded does not run again, whoever dies."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

import raftflow
from raftflow.local.cluster import LocalCluster

JOBS = "step_jobs"
PROGRAMS = Path(__file__).parents[1] / "sdk" / "programs"


def lines(path: Path) -> list[str]:
    return path.read_text().split()


def test_a_killed_agent_and_a_killed_leader_lose_no_step(
    cluster: LocalCluster, client: raftflow.Client, jobs: Any, tmp_path: Path, eventually: Any
) -> None:
    path, gate = tmp_path / "done", tmp_path / "gate"
    run = client.start(jobs.loop, str(path), 40, str(gate))
    eventually(lambda: path.exists() and len(lines(path)) == 21, what="the first half")
    (task,) = client.tasks(run.id)
    cluster.kill(task.agent)
    leader = cluster.wait_leader()
    cluster.kill(leader)
    gate.touch()
    assert run.result(timeout=60) == [str(number) for number in range(40)]
    assert lines(path) == [str(number) for number in range(40)], "each step ran once, in order"
    cluster.start()
    cluster.wait_agents()


def test_all_sorts_of_steps_come_back(client: raftflow.Client, jobs: Any, tmp_path: Path) -> None:
    path = tmp_path / "seen"
    result = client.run(jobs.dies_between, str(path))
    seen = path.read_text().splitlines()
    assert len(seen) == 3 and len({line.partition(" ")[2] for line in seen}) == 1
    assert result["pair"] == [1, {"a": None}] and result["slept"] < 0.4
    assert result["again"][0] > result["now"] and result["again"][1] != result["random"]


def test_steps_of_one_event_loop(client: raftflow.Client, jobs: Any, tmp_path: Path) -> None:
    path = tmp_path / "asked"
    assert client.run(jobs.gather, str(path)) == [str(number) for number in range(20)]
    assert sorted(lines(path), key=int) == [str(number) for number in range(20)]


def test_a_step_that_fails_keeps_its_occurrence(client: raftflow.Client, jobs: Any, tmp_path: Path) -> None:
    path = tmp_path / "tried"
    assert client.run(jobs.flaky, str(path)) == "works"
    assert lines(path) == ["fails", "works"]


def test_another_function_under_the_same_key_is_an_error(client: raftflow.Client, jobs: Any) -> None:
    with pytest.raises(raftflow.TaskFailed) as failed:
        client.run(jobs.other_function)
    assert "was recorded by time:time, and is now run by posix:getpid: give the new step" in str(failed.value)


def test_steps_of_threads_and_of_forked_processes(client: raftflow.Client, jobs: Any, tmp_path: Path) -> None:
    path = tmp_path / "done"
    expected = [*(f"t{number}" for number in range(40)), *(f"f{number}" for number in range(6))]
    assert client.run(jobs.forks, str(path)) == expected
    assert sorted(lines(path)) == sorted(expected)


def test_values_that_cannot_be_recorded(client: raftflow.Client, jobs: Any) -> None:
    told = client.run(jobs.bad_values)
    assert [text.split(":")[0] for text in told[:3]] == ["step 'bad'"] * 3
    assert "not JSON" in told[0] and "return its name" in told[2]
    assert [text.split(":")[0] for text in told[3:]] == ["invalid"] * 3


def run_program(client: raftflow.Client, *command: str) -> Any:
    """Run a program whose first attempt fails, and return the result of the second one."""
    task = {"id": "t", "command": list(command), "retries": 1, "retry_delay": 0}
    workflow = client.submit({"name": "program", "tasks": [task]}).id
    client.wait(workflow, timeout_s=60)
    (found,) = client.tasks(workflow)
    assert found.attempt == 2
    return found.result


def test_a_shell_script_has_steps(client: raftflow.Client, tmp_path: Path) -> None:
    path = tmp_path / "ran"
    assert run_program(client, str(PROGRAMS / "steps.sh"), str(path)) == ["one done", "two done"]
    assert lines(path) == ["one", "two"]


def test_a_node_program_has_steps(client: raftflow.Client, tmp_path: Path) -> None:
    node = shutil.which("node")
    if node is None:
        pytest.skip("NOT TESTED: there is no node on the PATH, so the protocol is not tried from JavaScript")
    path = tmp_path / "ran"
    result = run_program(client, node, str(PROGRAMS / "steps.mjs"), str(path))
    assert result == [{"text": text} for text in ("a", "b", "c", "last")]
    ran = lines(path)
    assert sorted(ran[:3]) == ["a", "b", "c"] and ran[3] == ran[4] and ran[5:] == ["last"]


def test_a_child_of_a_python_task_has_the_socket_too(client: raftflow.Client, jobs: Any, tmp_path: Path) -> None:
    ask = "import os,socket;a=socket.socket(socket.AF_UNIX);a.connect(os.environ['RAFTFLOW_SOCKET']);"
    ask += 'a.sendall(b\'{"call":"step","name":"s"}\\n\');print(a.recv(100).decode(),end=\'\')'
    told = client.run(jobs.child_program, [sys.executable, "-c", ask])
    assert told == '{"id":null,"ok":{"known":false,"occurrence":1}}\n'
