"""An agent that has become ten times as slow costs next to nothing: the fast one does the work."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from raftflow.client import Client
from raftflow.local.cluster import LocalCluster
from raftflow.local.faults.slowdown import Slowdown
from raftflow.local.processes import record_of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

TASKS, CPUS, STEPS, STEP_S = 200, 4, 30, 0.01
FACTOR = 10
LIMIT = 1.5
"""With room for a machine that does other things too. A bag that waits for the slow agent takes much longer."""

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
        alone_s = took_s(client, bag("alone"))
        cluster.add_agent("a2", ["--cpus", str(CPUS)])
        cluster.wait_agents()
        pid = cluster.pid_of("a2")
        assert pid is not None
        with Slowdown(record_of(pid), FACTOR) as slowdown:
            both_s = took_s(client, bag("both"))
        cluster.stop("a2")
        assert client.agent("a2").state == "left"
        again_s = took_s(client, bag("again"))
    ran = slowdown.ran_s / (slowdown.ran_s + slowdown.stood_s)
    placed = Counter(move.agent for _, move in moves(cluster, "started", "queued"))
    done = Counter(move.agent for _, move in moves(cluster, "succeeded"))
    commands = Counter(record.command for record in audit(cluster))
    backups = len(moves(cluster, "backup_started"))
    print(  # noqa: T201 - shown with -s
        f"\nthe fast agent alone {alone_s:.2f} and {again_s:.2f} s, with one that ran {ran:.1%} of the time "
        f"{both_s:.2f} s ({both_s / alone_s:.3f}); placed {dict(placed)}, done {dict(done)}, backups {backups}, "
        f"recalls {commands['attempts.recall']}"
    )
    assert ran < 1.3 / FACTOR, "it was not slow"
    assert commands["attempts.recall"] or backups, "nothing was moved: it proves little"
    assert both_s <= LIMIT * max(alone_s, again_s)
