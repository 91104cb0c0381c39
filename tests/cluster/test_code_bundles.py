"""Code that travels with workflows to agents that have never seen it, while a leader and an agent die."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import raftflow
from raftflow.local.cluster import LocalCluster
from raftflow.local.cluster_file import ClusterOptions
from raftflow.recovery.bundle_files import folder_beside
from raftflow.sdk.code import FolderCode


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    made = LocalCluster.create(tmp_path_factory.mktemp("code") / "cluster", ClusterOptions())
    made.start()
    made.wait_leader()
    made.wait_agents()
    yield made
    made.down()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    (folder / "lib").mkdir(parents=True)
    (folder / "mine.py").write_text(
        "import os, time\n"
        "from lib.part import factor\n"
        "def scale(x):\n"
        "    time.sleep(0.05)\n"
        "    return factor * x\n"
        "def spoil():\n"
        "    path = os.path.join(os.environ['RAFTFLOW_CODE'], 'lib', 'part.py')\n"
        "    os.chmod(path, 0o644)\n"
        "    with open(path, 'w') as file:\n"
        "        file.write('factor = 666')\n"
    )
    (folder / "lib" / "__init__.py").touch()
    (folder / "lib" / "part.py").write_text("factor = 2\n")
    return folder


def client_of(cluster: LocalCluster, folder: Path | None = None) -> raftflow.Client:
    return raftflow.Client(cluster.urls, token=cluster.token, environ={}, code=folder)


def scaled(numbers: range, call: str = "mine:scale") -> dict[str, Any]:
    tasks = [{"id": str(number), "python": call, "args": [number]} for number in numbers]
    return {"name": "scale", "tasks": tasks}


def test_code_runs_where_it_has_never_been_while_a_leader_and_an_agent_die(
    cluster: LocalCluster, folder: Path, eventually: Callable[..., Any]
) -> None:
    with client_of(cluster, folder) as client:
        run = client.submit(scaled(range(80)))
        eventually(lambda: client.workflow(run.id).tasks.succeeded >= 5, what="a few calls")
        leader, agent = cluster.wait_leader(), cluster.agent_names[0]
        cluster.kill(leader)
        cluster.kill(agent)
        cluster.start_agent(agent)
        assert run.results(timeout_s=60) == {str(number): 2 * number for number in range(80)}
        (bundle,) = client.bundles()
        cluster.start_replica(leader)
        for name in cluster.replica_names:
            kept = cluster.config_file(name).parent / name / "bundles" / bundle.digest
            eventually(kept.exists, what=f"the bundle on {name}")
        cluster.wait_equal()


def test_an_edit_counts_from_the_next_submission_on(cluster: LocalCluster, folder: Path) -> None:
    with client_of(cluster, folder) as client:
        before = client.submit(scaled(range(4)))
        (folder / "lib" / "part.py").write_text("factor = 10\n")
        after = client.submit(scaled(range(4)))
        assert before.results(timeout_s=30) == {str(number): 2 * number for number in range(4)}
        assert after.results(timeout_s=30) == {str(number): 10 * number for number in range(4)}
        codes = {client.workflow(run.id).code for run in (before, after)}
        assert len(codes) == 2


def test_a_bundle_that_the_cluster_has_forgotten_is_sent_again(cluster: LocalCluster, folder: Path) -> None:
    (folder / "lib" / "part.py").write_text("factor = 7\n")
    with client_of(cluster, folder) as client:
        client._client._sent.add(FolderCode(folder).bundle().digest)
        assert client.submit(scaled(range(2))).results(timeout_s=30) == {"0": 0, "1": 7}


def test_what_a_task_does_to_its_code_changes_no_other_attempt(cluster: LocalCluster, folder: Path) -> None:
    """The task runs as the agent's own user, so nothing keeps it from writing."""
    with client_of(cluster, folder) as client:
        for _ in range(2):
            spoilt = client.submit({"name": "spoil", "tasks": [{"id": "a", "python": "mine:spoil"}]})
            spoilt.wait(timeout_s=30)
            assert client.submit(scaled(range(8))).results(timeout_s=30) == {str(x): 2 * x for x in range(8)}


def test_the_command_line_sends_a_folder_and_says_what_it_left_out(cluster: LocalCluster, folder: Path) -> None:
    (folder / ".git").mkdir()
    (folder / ".git" / "config").touch()
    read = 'cp "$RAFTFLOW_CODE/answer.json" "$RAFTFLOW_RESULT"'
    (folder / "answer.json").write_text("[42]")
    document = {
        "name": "commands",
        "tasks": [
            {"id": "sh", "command": ["sh", "-c", read]},
            {
                "id": "py",
                "command": [
                    sys.executable,
                    "-c",
                    "import os, sys; sys.path[:0] = [os.environ['RAFTFLOW_CODE']]; import mine",
                ],
            },
        ],
    }
    file = folder.parent / "wf.json"
    file.write_text(json.dumps(document))
    script = Path(sysconfig.get_path("scripts"), "raftflow")
    peers = {"RAFTFLOW_PEERS": ",".join(cluster.urls), "RAFTFLOW_TOKEN": cluster.token or ""}
    command = [
        sys.executable,
        str(script),
        "workflow",
        "submit",
        str(file),
        "--code",
        str(folder),
        "--wait",
        "-o",
        "json",
    ]
    done = subprocess.run(
        command, env={**os.environ, **peers}, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 files" in done.stderr
    assert "left out: .git/" in done.stderr
    with client_of(cluster) as client:
        assert client.results(json.loads(done.stdout)["id"])["sh"] == [42]
        spoilt = list(cluster.config_file("n1").parent.rglob("code/*/**/__pycache__"))
        assert spoilt == [], "a command that imports from its code leaves no bytecode there"


def test_a_restored_cluster_names_missing_code_and_a_task_says_that_it_waits_for_it(
    cluster: LocalCluster, folder: Path, tmp_path: Path, eventually: Callable[..., Any]
) -> None:
    """The task fits no agent of the old cluster, so that it is there when the new one begins."""
    saved, place = tmp_path / "saved", tmp_path / "restored"
    (folder / "lib" / "part.py").write_text("factor = 11\n")
    with client_of(cluster, folder) as client:
        task = {"id": "a", "python": "mine:scale", "args": [2], "resources": {"cpu": 7}}
        run = client.submit({"name": "scale", "tasks": [task]})
        code = client.workflow(run.id).code
    peers = {"RAFTFLOW_PEERS": ",".join(cluster.urls), "RAFTFLOW_TOKEN": cluster.token or ""}
    environment = {**os.environ, **peers}
    command_line("snapshot", "save", str(saved), env=environment)
    (folder_beside(saved) / code).unlink()
    options = ("--nodes", "1", "--agents", "1", "--agent-cpus", "8", "--data-dir", str(place))
    told = command_line("cluster", "up", "--restore", str(saved), *options, env=environment)
    restored = LocalCluster.load(place)
    try:
        assert f"the code bundle {code} is missing: its tasks wait" in told.stderr
        with client_of(restored) as client:
            waits = f"it has not started: its agent fetches its code bundle {code}, which is missing on this replica"
            eventually(lambda: waits in client.explain(run.id, "a").reason, what="the explanation")
            client.send_bundle(folder)
            client.wait(run.id, timeout_s=30)
            assert client.results(run.id) == {"a": 22}
    finally:
        restored.down()


def command_line(*arguments: str, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    script = Path(sysconfig.get_path("scripts"), "raftflow")
    return subprocess.run(
        [sys.executable, str(script), *arguments], env=env, capture_output=True, text=True, timeout=60, check=True
    )
