"""Hostile tasks beside innocent workflows on the same two agents: both end as they should."""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from raftflow.client import Client
from raftflow.client.errors import WaitTimeout
from raftflow.local.cluster import LocalCluster
from tests.cluster.hostile_tasks import QUIET, ROUGH, Hostile

pytestmark = pytest.mark.slow

INNOCENT_MAX_S = 20.0
HOSTILE_MAX_S = 30.0
_SCRIPT = 'cat "$RAFTFLOW_INPUTS" >"$RAFTFLOW_RESULT"; echo said'
_RETRIES = {"retries": 8, "retry_delay": "50ms", "retry_delay_max": "100ms", "timeout": "4s", "grace": "200ms"}


REMOVERS = {
    "attempts removed",
    "attempts is a file",
    "workers and trash removed",
    "work directory removed",
    "work directory renamed",
}
"""They remove the folders of other attempts: a result that is removed before its agent reads it looks like none
(`raftflow/agent/SECURITY.md`). So each runs alone."""


def hostile_document(task: Hostile) -> dict[str, Any]:
    """Return a workflow of one hostile task, which gets no second chance by itself."""
    timeout = "1500ms" if task.words == "timeout" else "10s"
    limits = {"retries": 0, "timeout": timeout, "grace": "200ms", "resources": {"cpu": 1}}
    name = re.sub(r"[^a-z]+", "-", task.name.lower())
    return {"name": name, "tasks": [{"id": "t", "kind": name, **limits, **task.work}]}


def innocent_document(number: int) -> dict[str, Any]:
    """Return a workflow whose results tell whether anything of it was touched."""
    add = {"python": "builtins:sum", "args": [[number, 1]]}
    tasks = [
        {"id": "a", **add},
        {"id": "b", "command": ["sh", "-c", _SCRIPT], "needs": ["a"]},
        {"id": "c", "python": "builtins:dict", "kwargs": {"x": {"$result": "b"}}, "needs": ["b"]},
        {"id": "d", "command": ["sh", "-c", _SCRIPT]},
    ]
    return {"name": f"innocent-{number}", "priority": 50, "defaults": _RETRIES, "tasks": tasks}


class Innocents(threading.Thread):
    """Runs one innocent workflow after the other until told to stop."""

    def __init__(self, cluster: LocalCluster) -> None:
        super().__init__(daemon=True)
        self._cluster = cluster
        self.done = threading.Event()
        self.took_s: list[float] = []
        self.faults: list[str] = []

    def run(self) -> None:
        try:
            with self._cluster.client() as client:
                while not self.done.is_set():
                    self.run_one(client, len(self.took_s))
        except Exception as error:  # noqa: BLE001 - told by the test
            self.faults.append(repr(error))

    def run_one(self, client: Client, number: int) -> None:
        began_s = time.monotonic()
        created = client.submit(innocent_document(number))
        state = client.wait(created.id, timeout_s=2 * INNOCENT_MAX_S, check=False).state
        self.took_s.append(time.monotonic() - began_s)
        results = {task.id: task.result for task in client.tasks(created.id)}
        right = {"a": number + 1, "b": {"a": number + 1}, "c": {"x": {"a": number + 1}}, "d": {}}
        if state != "succeeded" or results != right:
            tasks = [client.task(created.id, name) for name in right]
            errors = {task.id: [past.error for past in task.history] for task in tasks}
            self.faults.append(f"{state} {results} {errors}")


def run_all(cluster: LocalCluster, tasks: tuple[Hostile, ...]) -> list[str]:
    """Run hostile tasks; returns what ended otherwise than it should."""
    wrong: list[str] = []
    with cluster.client() as client:
        created = [(task, client.submit(hostile_document(task)).id) for task in tasks]
        for task, workflow in created:
            try:
                state = client.wait(workflow, timeout_s=HOSTILE_MAX_S, check=False).state
            except WaitTimeout:
                state = "without an end"
            history = client.task(workflow, "t").history
            said = f"{history[-1].outcome} {history[-1].error}" if history else ""
            if (task.state not in ("any", state)) or task.words not in said:
                wrong.append(f"{task.name}: {state}, {said}")
    return wrong


def left_behind(directory: Path) -> list[str]:
    """Return the processes that tasks of this cluster's agents have left."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                environ = (entry / "environ").read_bytes()
            except OSError:
                continue
            if b"RAFTFLOW_FENCE=" in environ and str(directory).encode() in environ:
                found.append((entry / "cmdline").read_bytes().decode(errors="replace"))
    return found


def test_hostile_tasks_harm_no_other_workflow(
    make_cluster: Callable[..., LocalCluster], eventually: Callable[..., Any]
) -> None:
    assert len(QUIET) + len(ROUGH) >= 60
    cluster = make_cluster(agents=2, agent_cpus=6.0)
    pids = {agent.name: agent.process.pid for agent in cluster._file.content.agents}
    innocents = Innocents(cluster)
    innocents.start()
    wrong = run_all(cluster, QUIET) + run_all(cluster, tuple(task for task in ROUGH if task.name not in REMOVERS))
    innocents.done.set()
    innocents.join(60)
    for task in ROUGH:
        if task.name in REMOVERS:
            wrong += run_all(cluster, (task,))
    with cluster.client() as client:
        innocents.run_one(client, 1_000)
    logs = "\n".join(cluster.log_file(name).read_text(errors="replace")[-9000:] for name in pids)
    assert not wrong, "\n".join((*wrong, logs))
    assert not innocents.faults, "\n".join((*innocents.faults, logs))
    assert max(innocents.took_s) < INNOCENT_MAX_S
    assert len(innocents.took_s) >= 3
    for name, pid in pids.items():
        os.kill(pid, 0)
        log = cluster.log_file(name).read_text(errors="replace")
        assert log.count("registered as") == 1, log[-4000:]
        assert "Exception in callback" not in log, log[-4000:]
    eventually(lambda: not left_behind(cluster.directory), 10.0, f"the end of {left_behind(cluster.directory)}")
    with cluster.client() as client:
        for url in cluster.urls:
            assert client.ledger_verify(url).ok
