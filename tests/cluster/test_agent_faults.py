"""Agents that break in their own ways cost tasks nothing: each repeated attempt says whose fault it was."""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

import pytest

from raftflow.local.cluster import LocalCluster

LEASE_MS = 2_000
WORK = ["sh", "-c", 'sleep 0.$((RAFTFLOW_FENCE % 3 + 1)); echo "$RAFTFLOW_FENCE" > "$RAFTFLOW_RESULT" || exit 3']
EVENTS = {
    "black-hole": {"failed_retry"},
    "full-disk": {"agent_fault"},
    "frozen": {"agent_lost"},
}
"""What may end an attempt there without success, beside what an order of the leader ends."""
ORDERED = {"released", "recalled"}


@pytest.fixture
def disk(mount: Callable[[str], Path]) -> Path:
    """A small disk for an agent."""
    return mount("1m")


@pytest.fixture
def agents(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Return a function that starts an agent with a work directory and a PATH of its own."""
    started: list[subprocess.Popen[bytes]] = []

    def start(cluster: LocalCluster, name: str, work_dir: Path, path: str) -> subprocess.Popen[bytes]:
        with (tmp_path / f"{name}.log").open("wb") as log:
            started.append(
                subprocess.Popen(
                    [sys.executable, "-m", "raftflow", "agent", "run", "--name", name, "--peers",
                     ",".join(cluster.urls), "--work-dir", str(work_dir), "--cpus", "4", "--prefetch", "4"],
                    env={"PATH": path, **({"RAFTFLOW_TOKEN": cluster.token} if cluster.token else {})},
                    stderr=log,
                )
            )  # fmt: skip
        return started[-1]

    yield start
    for agent in started:
        agent.send_signal(signal.SIGCONT)
        agent.kill()
        agent.wait()


class Trouble:
    """Fills and empties a disk, and stops and wakes an agent, until it is told to end."""

    def __init__(self, disk: Path, agent: subprocess.Popen[bytes]) -> None:
        self._over = threading.Event()
        self._disk = disk
        self._agent = agent
        self.fills = self.stops = 0
        self._threads = [threading.Thread(target=each) for each in (self._fill, self._freeze)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _fill(self) -> None:
        dice = random.Random(1)
        filler = self._disk / "filler"
        while not self._over.wait(dice.uniform(1.0, 2.5)):
            with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
                while file.write(bytes(4096)):
                    pass
            self.fills += 1
            self._over.wait(dice.uniform(0.2, 0.6))
            filler.unlink()

    def _freeze(self) -> None:
        lengths = itertools.cycle((0.2, 1.2 * LEASE_MS / 1000, 0.5, 0.9))
        while not self._over.wait(1.0):
            self._agent.send_signal(signal.SIGSTOP)
            self.stops += 1
            self._over.wait(next(lengths))
            self._agent.send_signal(signal.SIGCONT)


@pytest.mark.parametrize(
    ("nodes", "count"), [(1, 200), pytest.param(3, 1_000, marks=pytest.mark.long)], ids=["few", "many"]
)
@pytest.mark.slow
def test_agents_that_break_cost_tasks_no_retry(  # noqa: PLR0917 - fixtures
    online: Callable[..., LocalCluster],
    agents: Callable[..., subprocess.Popen[bytes]],
    disk: Path,
    tmp_path: Path,
    eventually: Callable[..., Any],
    moves: Callable[..., list[Any]],
    nodes: int,
    count: int,
) -> None:
    """One fails all at once, since its shell is broken; a disk fills and empties; one is frozen now and then."""
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "sh").write_text("#!/bin/sh\nexit 127\n")
    (broken / "sh").chmod(0o755)
    cluster = online(nodes=nodes, agents=0, lease_ms=LEASE_MS)
    with cluster.client(timeout_s=60.0) as client:
        agents(cluster, "full-disk", disk / "agent", os.environ["PATH"])
        frozen = agents(cluster, "frozen", tmp_path / "frozen", os.environ["PATH"])
        agents(cluster, "black-hole", tmp_path / "hole", f"{broken}:{os.environ['PATH']}")
        eventually(lambda: sum(agent.up for agent in client.agents()) == 3, what="the agents")
        words: Counter[str] = Counter()
        with Trouble(disk, frozen) as trouble:
            tasks = [{"id": f"t{n}", "command": WORK, "retries": 1} for n in range(count)]
            workflow = client.submit({"name": "work", "on_failure": "continue", "tasks": tasks}).id
            until_s = time.monotonic() + 30 + count / 5
            while client.workflow(workflow).state in {"pending", "running"} and time.monotonic() < until_s:
                words.update(agent.state for agent in client.agents() if agent.state != "up")
                for agent in client.agents():
                    assert (agent.state == "unfit") <= bool(agent.trouble)
                trouble._over.wait(0.1)
        ended = client.workflow(workflow)
        assert ended.state == "succeeded", [
            [task.id, [(past.agent, past.outcome, past.error) for past in client.task(workflow, task.id).history]]
            for task in client.tasks(workflow)
            if task.state != "succeeded"
        ]
        assert min(trouble.fills, trouble.stops) >= 2
        histories = [client.task(workflow, f"t{n}").history for n in range(count)]
    found: Counter[tuple[str, str]] = Counter()
    for _, move in moves(cluster):
        if move.workflow_id == workflow and move.before in {"queued", "running"} and move.after not in {
            "queued", "running", "succeeded"
        }:  # fmt: skip
            found[move.agent, move.event] += 1
    wrong = {key: number for key, number in found.items() if key[1] not in EVENTS[key[0]] | ORDERED}
    assert not wrong, found
    assert found["black-hole", "failed_retry"]
    assert found["full-disk", "agent_fault"]
    assert words["quarantine"], words
    assert words["unfit"], words
    for past in (past for history in histories for past in history if past.outcome == "agent_fault"):
        assert "No space left on device" in past.error
