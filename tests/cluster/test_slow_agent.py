"""An agent that has become ten times as slow costs next to nothing: the fast one does the work."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from raftflow.client import Client
from raftflow.local.cluster import LocalCluster
from raftflow.local.faults.slowdown import Slowdown
from raftflow.local.processes import record_of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

TASKS, CPUS, STEPS, STEP_S = 200, 4, 30, 0.01
FACTOR = 10
LIMIT = 1.1
ROUNDS = 3
"""A round that other tests have disturbed is repeated. A bag that waits for the slow agent takes as long in each."""

WORK = """
import time
def work(steps, step_s):
    for _ in range(steps):
        time.sleep(step_s)
"""


def bag(kind: str) -> dict[str, Any]:
    """Tasks that go on step by step, so that standing still holds them up. A kind of their own: nothing is known."""
    task = {"python": "stepwork:work", "kwargs": {"steps": STEPS, "step_s": STEP_S}, "kind": kind, "backup": True}
    return {"name": kind, "tasks": [{"id": f"t{number}", **task} for number in range(TASKS)]}


def took_s(client: Client, document: dict[str, Any]) -> float:
    begun_s = time.monotonic()
    view = client.wait(client.submit(document).id, timeout_s=120, check=False)
    assert view.state == "succeeded"
    return time.monotonic() - begun_s


class Round(NamedTuple):
    """The bag with the fast agent alone, with the slow one beside it, and alone again."""

    alone_s: float
    both_s: float
    again_s: float
    ran: float
    """Share of the time for which the slow one ran."""

    @property
    def ratio(self) -> float:
        return self.both_s / max(self.alone_s, self.again_s)


def one_round(cluster: LocalCluster, client: Client, number: int, alone_s: float) -> Round:
    slow = f"slow{number}"
    cluster.add_agent(slow, ["--cpus", str(CPUS)])
    cluster.wait_agents()
    pid = cluster.pid_of(slow)
    assert pid is not None
    with Slowdown(record_of(pid), FACTOR) as slowdown:
        both_s = took_s(client, bag(f"both{number}"))
    cluster.stop(slow)
    assert client.agent(slow).state == "left"
    again_s = took_s(client, bag(f"again{number}"))
    return Round(alone_s, both_s, again_s, slowdown.ran_s / (slowdown.ran_s + slowdown.stood_s))


def test_a_bag_of_tasks_does_not_wait_for_a_slow_agent(
    online: Callable[..., LocalCluster],
    moves: Callable[..., Any],
    audit: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "stepwork.py").write_text(WORK)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    cluster = online(agents=1, agent_cpus=CPUS)
    with cluster.client() as client:
        took_s(client, {"name": "warm", "tasks": bag("warm")["tasks"][: 2 * CPUS]})
        rounds = [one_round(cluster, client, 0, took_s(client, bag("alone")))]
        while rounds[-1].ratio > LIMIT and len(rounds) < ROUNDS:
            rounds.append(one_round(cluster, client, len(rounds), rounds[-1].again_s))
    placed = Counter(move.agent for _, move in moves(cluster, "started", "queued"))
    done = Counter(move.agent for _, move in moves(cluster, "succeeded"))
    commands = Counter(record.command for record in audit(cluster))
    backups = len(moves(cluster, "backup_started"))
    print(  # noqa: T201 - shown with -s
        f"\n{rounds}; placed {dict(placed)}, done {dict(done)}, backups {backups}, "
        f"recalls {commands['attempts.recall']}"
    )
    assert all(each.ran < 1.3 / FACTOR for each in rounds), "it was not slow"
    assert commands["attempts.recall"] or backups, "nothing was moved: it proves little"
    assert min(each.ratio for each in rounds) <= LIMIT, rounds
