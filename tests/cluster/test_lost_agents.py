"""Agents that die on a real cluster: what they had comes first, flapping costs, a mass loss is taken calmly."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from datetime import datetime
from itertools import takewhile
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest

from raftflow.coordinator.leader.mass_loss import FIRST_PER_S
from raftflow.local.cluster import LocalCluster

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

LEASE_S = 2.0
LEASE_MS = int(LEASE_S * 1000)
PLACED = ("started", "queued")


def sleeps(count: int, seconds: float, **more: object) -> list[dict[str, Any]]:
    return [
        {"id": f"t{number}", "python": "time:sleep", "args": [seconds], "kind": "sleep", **more}
        for number in range(count)
    ]


def kill_group(cluster: LocalCluster, name: str) -> float:
    """SIGKILL an agent with all that is in its process group; returns the time of that."""
    pid = cluster.pid_of(name)
    assert pid is not None
    at_s = time.time()
    os.killpg(pid, signal.SIGKILL)
    return at_s


def seconds(record: Any) -> float:
    return datetime.fromisoformat(record.at).timestamp()


def removals(records: list[Any]) -> list[Any]:
    return [record for record in records if record.command == "agent.remove" and record.outcome == "ok"]


def test_what_a_killed_agent_had_is_placed_first_and_in_time(
    online: Callable[..., LocalCluster],
    moves: Callable[..., Any],
    audit: Callable[..., Any],
    eventually: Callable[..., Any],
) -> None:
    cluster = online(agents=2, agent_cpus=2, prefetch=1, lease_ms=LEASE_MS)
    with cluster.client() as client:
        workflow = client.submit({"name": "bag", "tasks": sleeps(100, 0.25)}).id
        eventually(lambda: client.workflow(workflow).tasks.succeeded >= 8)
        eventually(lambda: (held := client.agent("a1")).running == 2 and held.queued)
        killed_s = kill_group(cluster, "a1")
        eventually(lambda: client.agent("a1").state == "lost")
        (removal,) = removals(audit(cluster))
        lost = {move.task_id for move in removal.transitions if move.event == "agent_lost"}
        assert 2 <= len(lost) <= 3, "both that ran, and what waited"
        eventually(lambda: all(client.task(workflow, task).attempt >= 2 for task in lost), what="their next attempts")
        assert client.workflow(workflow).state == "running"
        # It comes back, and works again. (Before, it would be given fresh work: what was lost with it keeps away.)
        cluster.start_agent("a1")
        eventually(lambda: client.agent("a1").state == "returned", what="the word for its return")
        assert client.wait(workflow, timeout_s=90).state == "succeeded"
        assert client.agent("a1").state == "up", "the first success has shown that it is well"
        assert client.ledger_verify(cluster.url_of(cluster.wait_leader())).ok
    after = [(record, move) for record, move in moves(cluster, *PLACED) if record.index > removal.index]
    under_way = list(takewhile(lambda each: each[1].task_id not in lost, after))
    assert len(under_way) <= 3, "on their way into the log when the agent was removed; the other has three places"
    after = after[len(under_way) :]
    first = [move.task_id for _, move in after[: len(lost)]]
    assert set(first) == lost, f"fresh work came before {lost}: {first}"
    in_s = max(seconds(record) for record, move in after[: len(lost)]) - killed_s
    print(f"\n{len(lost)} tasks placed again {in_s:.2f} s after the kill, lease {LEASE_S} s")  # noqa: T201 - for -s
    assert in_s <= LEASE_S + 1.0
    assert {move.agent for _, move in after[: len(lost)]} == {"a2"}
    again = [move for record, move in moves(cluster, "succeeded") if record.index > removal.index]
    assert "a1" in {move.agent for move in again}


def test_an_agent_that_is_lost_again_is_put_into_quarantine(
    online: Callable[..., LocalCluster], audit: Callable[..., Any], eventually: Callable[..., Any]
) -> None:
    cluster = online(agents=1, agent_cpus=2, lease_ms=LEASE_MS)
    # Another one that is up, and too small for the tasks: no quarantine holds while nobody is up.
    cluster.add_agent("a2", ["--cpus", "0.1", "--memory", "64MiB"])
    cluster.wait_agents()
    with cluster.client() as client:
        for state in ("returned", "quarantine"):
            kill_group(cluster, "a1")
            eventually(lambda: client.agent("a1").state == "lost")
            cluster.start_agent("a1")
            eventually(lambda wanted=state: client.agent("a1").state == wanted, what=state)
        view = client.agent("a1")
        assert view.losses == 2
        assert view.quarantine_until is not None
        workflow = client.submit({"name": "waits", "tasks": sleeps(1, 0.1)}).id
        told = client.explain(workflow, "t0")
        assert (told.waiting, told.agent) == ("agents-away", None)
        assert "quarantine" in told.reason
        # It ends by itself, and the agent works.
        assert client.wait(workflow, timeout_s=60).state == "succeeded"
        assert client.task(workflow, "t0").agent == "a1"
        # A third loss brings a longer one, which an operator may end.
        kill_group(cluster, "a1")
        eventually(lambda: client.agent("a1").state == "lost")
        cluster.start_agent("a1")
        eventually(lambda: client.agent("a1").state == "quarantine")
        assert client.resume_agent("a1").state in {"up", "returned"}
        workflow = client.submit({"name": "at-once", "tasks": sleeps(1, 0.1)}).id
        assert client.wait(workflow, timeout_s=60).state == "succeeded"
    details = [record.detail for record in audit(cluster)]
    assert any("in quarantine for 10 s: lost 2 times" in detail for detail in details), details
    assert any("in quarantine for 20 s: lost 3 times" in detail for detail in details), details
    assert any("the quarantine of agent a1 is over" in detail for detail in details)


def test_a_mass_loss_is_handled_slowly(
    online: Callable[..., LocalCluster],
    moves: Callable[..., Any],
    audit: Callable[..., Any],
    eventually: Callable[..., Any],
) -> None:
    count, tasks = 10, 80
    cluster = online(agents=count, agent_cpus=1, prefetch=2, lease_ms=LEASE_MS)
    dead = cluster.agent_names[: count // 2]
    with cluster.client() as client:
        leader = cluster.wait_leader()
        before = client.status(cluster.url_of(leader))
        workflow = client.submit({"name": "bag", "tasks": sleeps(tasks, 0.4)}).id
        eventually(lambda: all(client.agent(name).running for name in dead), what="work on each of them")
        for name in dead:
            kill_group(cluster, name)
        assert client.wait(workflow, timeout_s=120).state == "succeeded"
        eventually(lambda: all(client.agent(name).state == "lost" for name in dead))
        after = client.status(cluster.url_of(leader))
        assert (after.role, after.term) == (before.role, before.term), "the leader did not change"
        assert client.ledger_verify(cluster.url_of(leader)).ok
        with urlopen(cluster.url_of(leader) + "/metrics", timeout=10) as answer:
            metrics = answer.read().decode()
        assert "raftflow_mass_losses_total 1" in metrics.splitlines(), "operators are told"
    gone = removals(audit(cluster))
    assert sorted(record.subject for record in gone) == sorted(dead)
    times = [seconds(record) for record in gone]
    print(f"\ngiven up after {[round(at - times[0], 2) for at in times]} s")  # noqa: T201 - shown with -s
    assert times[-1] - times[0] >= (len(dead) - 1) / FIRST_PER_S * 0.8, "they were given up all at once"
    succeeded = [move.task_id for _, move in moves(cluster, "succeeded")]
    assert sorted(succeeded) == sorted(f"t{number}" for number in range(tasks)), "each exactly once"


def test_an_agent_that_was_paused_brings_its_result_back(
    online: Callable[..., LocalCluster],
    moves: Callable[..., Any],
    audit: Callable[..., Any],
    eventually: Callable[..., Any],
    tmp_path: Path,
) -> None:
    """The agent's own process is stopped, its program ends within the lease; nobody else could have run it."""
    cluster = online(agents=1, agent_cpus=1, lease_ms=LEASE_MS)
    trace, gate = tmp_path / "trace", tmp_path / "gate"
    script = f'echo run >> {trace}; while [ ! -e {gate} ]; do sleep 0.02; done; echo 7 > "$RAFTFLOW_RESULT"'
    with cluster.client() as client:
        workflow = client.submit({"name": "one", "tasks": [{"id": "t", "command": ["sh", "-c", script]}]}).id
        eventually(trace.exists)
        eventually(lambda: client.workflow(workflow).tasks.running == 1)
        cluster.signal("a1", signal.SIGSTOP)
        gate.touch()
        eventually(lambda: client.agent("a1").state == "suspect", what="suspicion")
        eventually(lambda: client.agent("a1").state == "lost")
        assert client.explain(workflow, "t").waiting == "no-agent"
        cluster.signal("a1", signal.SIGCONT)
        assert client.wait(workflow, timeout_s=60).state == "succeeded"
        assert client.task(workflow, "t").result == 7
    assert trace.read_text() == "run\n", "it ran once"
    ((record, move),) = moves(cluster, "offered")
    assert (record.command, move.task_id, move.agent) == ("attempts.offer", "t", "a1")
    assert not moves(cluster, "failed_retry")
