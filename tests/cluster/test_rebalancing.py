"""Work under way on a real cluster is watched: moved, backed up, given more memory, drained, and explained."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from raftflow.local.cluster import LocalCluster

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

LEASE_MS = 4_000


def sleeps(count: int, seconds: float, **more: object) -> list[dict[str, Any]]:
    return [{"id": f"t{number}", "python": "time:sleep", "args": [seconds], **more} for number in range(count)]


def seconds(record: Any) -> float:
    return datetime.fromisoformat(record.at).timestamp()


def raftflow(cluster: LocalCluster, *words: str) -> Any:
    """Run the command line, and return what it prints as JSON."""
    argv = [sys.executable, "-m", "raftflow", *words, "--peers", ",".join(cluster.urls), "-o", "json"]
    return json.loads(subprocess.run(argv, check=True, capture_output=True, timeout=60).stdout)


def test_a_joining_agent_gets_work_that_waits_at_another(
    online: Callable[..., LocalCluster],
    moves: Callable[..., Any],
    audit: Callable[..., Any],
    eventually: Callable[..., Any],
) -> None:
    cluster = online(agents=1, agent_cpus=1, prefetch=16, lease_ms=LEASE_MS)
    with cluster.client() as client:
        workflow = client.submit({"name": "bag", "tasks": sleeps(13, 1.5)}).id
        eventually(lambda: client.agent("a1").queued >= 11, what="a full queue")
        assert not client.workflow(workflow).tasks.waiting
        cluster.add_agent("a2", ["--cpus", "1"])
        assert client.wait(workflow, timeout_s=90).state == "succeeded"
        assert client.ledger_verify(cluster.url_of(cluster.wait_leader())).ok
    records = audit(cluster)
    joined = next(record for record in records if record.command == "agent.register" and record.subject == "a2")
    record, first = next((record, move) for record, move in moves(cluster, "started") if move.agent == "a2")
    took_s = seconds(record) - seconds(joined)
    recalls = [record for record in records if record.command == "attempts.recall"]
    print(f"\nthe first task started {took_s:.2f} s after the agent joined, {len(recalls)} recalls")  # noqa: T201 - for -s
    assert took_s <= 1.0
    assert recalls
    assert all(record.subject in {"a1", "a2"} for record in recalls)
    given = [move.task_id for _, move in moves(cluster, "released")]
    assert first.task_id in given, "it waited at the other one before"
    done = [move.agent for _, move in moves(cluster, "succeeded")]
    assert len(done) == 13
    assert done.count("a2") >= 5, "the queue was shared evenly"


def test_an_attempt_that_hangs_gets_a_backup(
    online: Callable[..., LocalCluster], moves: Callable[..., Any], eventually: Callable[..., Any], tmp_path: Path
) -> None:
    cluster = online(agents=2, agent_cpus=2, lease_ms=LEASE_MS)
    marker, pid = tmp_path / "marker", tmp_path / "pid"
    # Only the first attempt hangs; the program is known by its kind, from tasks that take half a second.
    hangs = f"if mkdir {marker}; then echo $$ > {pid}; exec sleep 600; fi; sleep 0.5; echo 7 > $RAFTFLOW_RESULT"
    with cluster.client() as client:
        usual = [{"id": f"u{n}", "command": ["sh", "-c", "sleep 0.5"], "kind": "step"} for n in range(8)]
        known = client.submit({"name": "known", "tasks": usual}).id
        assert client.wait(known, timeout_s=60).state == "succeeded"
        late = {"id": "late", "command": ["sh", "-c", hangs], "kind": "step", "backup": True}
        workflow = client.submit({"name": "late", "tasks": [late]}).id
        assert client.wait(workflow, timeout_s=60).state == "succeeded"
        view = client.task(workflow, "late")
        assert view.result == 7
        outcomes = {attempt.outcome: attempt for attempt in view.history}
        assert set(outcomes) == {"superseded", "succeeded"}
        assert outcomes["superseded"].agent != outcomes["succeeded"].agent
        assert outcomes["superseded"].attempt < outcomes["succeeded"].attempt
        program = Path(f"/proc/{int(pid.read_text())}")
        eventually(lambda: not program.exists(), what="the end of the program that lost")
        assert client.ledger_verify(cluster.url_of(cluster.wait_leader())).ok
    (started,) = moves(cluster, "backup_started")
    (ended,) = moves(cluster, "backup_ended")
    assert started[0].command == "backups.commit"
    assert (started[1].task_id, ended[1].task_id) == ("late", "late")
    assert ended[1].agent == outcomes["superseded"].agent
    assert "it is late, tasks of the kind step take 0." in started[0].detail
    took_s = seconds(ended[0]) - seconds(started[0])
    print(f"\nthe backup won after {took_s:.2f} s")  # noqa: T201 - for -s


def test_only_tasks_that_allow_a_backup_run_twice(
    online: Callable[..., LocalCluster], moves: Callable[..., Any], eventually: Callable[..., Any], tmp_path: Path
) -> None:
    """Late attempts of all sorts beside an idle agent: each notes every run of its program."""
    cluster = online(agents=2, agent_cpus=8, agent_memory="2GiB", lease_ms=LEASE_MS)

    def late(name: str, rest: str, **more: Any) -> dict[str, Any]:
        return {"id": name, "command": ["sh", "-c", f"echo run >>{tmp_path / name}; {rest}"], "kind": "quick", **more}

    quick = [{"id": f"q{n}", "command": ["true"], "kind": "quick"} for n in range(6)]
    passes = [{"id": f"p{n}", "command": ["python3", "-c", "pass"]} for n in range(6)]
    charge = f"import time; open({str(tmp_path / 'charge')!r}, 'a').write('run\\n'); time.sleep(5)"
    hold = "exec python3 -c 'import time; kept = bytearray(b\"x\") * (200 << 20); time.sleep(4)'"
    room = {"cpu": 1, "memory": "100MiB"}
    with cluster.client() as client:
        assert (
            client.wait(client.submit({"name": "quick", "tasks": quick + passes}).id, timeout_s=60, check=False).state
            == "succeeded"
        )
        documents: dict[str, dict[str, Any]] = {
            "charge": {"tasks": [{"id": "charge", "command": ["python3", "-c", charge]}]},
            "known": {"tasks": [late("known", "sleep 5")]},
            "limited": {"tasks": [late("limited", "sleep 5", backup=True)], "max_parallel": 1},
            "hidden": {"tasks": [late("hidden", "sleep 5; exit 1", backup=True)]},
            "grows": {"tasks": [late("grows", hold, backup=True, resources=room, memory_max="400MiB")]},
        }
        ids = {name: client.submit({"name": name, **document}).id for name, document in documents.items()}
        eventually(
            lambda: "`backup = true`" in client.explain(ids["known"], "known").reason, what="why there is none"
        )
        eventually(
            lambda: "because attempt 1 on" in client.explain(ids["hidden"], "hidden").reason, what="why there is one"
        )
        states = {name: client.wait(workflow, timeout_s=60, check=False).state for name, workflow in ids.items()}
        assert states == {**dict.fromkeys(documents, "succeeded"), "hidden": "failed"}
        ends = {name: [each.outcome for each in client.task(ids[name], name).history] for name in ids}
        assert client.ledger_verify(cluster.url_of(cluster.wait_leader())).ok
    runs = {name: (tmp_path / name).read_text().count("run") for name in ids}
    assert {name: runs[name] for name in ("charge", "known", "limited", "hidden")} == {
        "charge": 1,
        "known": 1,
        "limited": 1,
        "hidden": 2,
    }
    assert sorted(ends["hidden"]) == ["failed", "superseded"]
    assert ends["grows"][0] == "outgrown" and runs["grows"] <= 6, ends["grows"]
    assert {move.task_id for _, move in moves(cluster, "backup_started")} <= {"hidden", "grows"}


def test_a_task_that_outgrows_its_memory_gets_more_or_fails(
    online: Callable[..., LocalCluster], moves: Callable[..., Any]
) -> None:
    cluster = online(agents=1, agent_cpus=4, agent_memory="2GiB", lease_ms=LEASE_MS)
    hold = {"python": "raftflow.burn:burn", "kwargs": {"cpu_seconds": 0, "memory_mib": 150, "seconds": 5}}
    with cluster.client() as client:
        grows = {"id": "grows", **hold, "resources": {"cpu": 1, "memory": "64MiB"}, "retries": 0}
        limited = {"id": "limited", **hold, "resources": {"cpu": 1, "memory": "64MiB"}, "retries": 0}
        first = client.submit({"name": "grows", "tasks": [grows]}).id
        second = client.submit({"name": "limited", "tasks": [{**limited, "memory_max": "100MiB"}]}).id
        assert client.wait(first, timeout_s=90).state == "succeeded"
        assert client.wait(second, timeout_s=90, check=False).state == "failed"
        view = client.task(first, "grows")
        assert [attempt.outcome for attempt in view.history][-1] == "succeeded"
        assert {attempt.outcome for attempt in view.history[:-1]} == {"outgrown"}
        assert "the next attempt gets" in view.history[0].error, view.history
        failed = client.task(second, "limited")
        assert "outgrew all the memory that it may have" in failed.detail, failed
        assert {attempt.outcome for attempt in failed.history} == {"outgrown"}
    grown = [(record.command, move.task_id) for record, move in moves(cluster, "outgrown")]
    assert ("attempts.report", "grows") in grown
    assert [move.task_id for _, move in moves(cluster, "failed_final")] == ["limited"]


def test_a_drain_with_a_deadline_moves_what_is_left(
    online: Callable[..., LocalCluster],
    moves: Callable[..., Any],
    audit: Callable[..., Any],
    eventually: Callable[..., Any],
    tmp_path: Path,
) -> None:
    cluster = online(agents=1, agent_cpus=2, lease_ms=LEASE_MS)
    marker, gate = tmp_path / "marker", tmp_path / "gate"
    endless = f"if mkdir {marker}; then exec sleep 600; fi"
    short = f"while [ ! -e {gate} ]; do sleep 0.02; done"
    with cluster.client() as client:
        tasks = [{"id": "long", "command": ["sh", "-c", endless]}, {"id": "short", "command": ["sh", "-c", short]}]
        workflow = client.submit({"name": "work", "tasks": tasks}).id
        eventually(lambda: client.workflow(workflow).tasks.running == 2)
        eventually(marker.exists)
        behind = client.submit({"name": "behind", "tasks": [{"id": "q", "command": ["true"]}]}).id
        eventually(lambda: client.agent("a1").queued == 1)
        cluster.add_agent("a2", ["--cpus", "2"])
        deadline_s = 3.0
        drained = client.drain("a1", deadline_s)
        assert (drained.state, drained.drain_deadline is not None) == ("draining", True)
        states = {agent["name"]: agent for agent in raftflow(cluster, "agent", "list")}
        assert states["a1"]["state"] == "draining"
        assert states["a1"]["drain_deadline"]
        # What waited goes elsewhere at once, what can end does, and the rest is moved at the deadline.
        assert client.wait(behind, timeout_s=30).state == "succeeded"
        assert client.task(behind, "q").agent == "a2"
        gate.touch()
        assert client.wait(workflow, timeout_s=60).state == "succeeded"
        short_view, long_view = client.task(workflow, "short"), client.task(workflow, "long")
        assert (short_view.agent, len(short_view.history)) == ("a1", 1)
        assert long_view.agent == "a2"
        assert [attempt.outcome for attempt in long_view.history] == ["moved", "succeeded"]
        left = client.agent("a1")
        assert (left.state, left.running, left.drain_deadline) == ("draining", 0, None)
        assert client.resume_agent("a1").state == "up"
    records = audit(cluster)
    drain = next(record for record in records if record.command == "agent.drain")
    ((moved, move),) = moves(cluster, "moved")
    took_s = seconds(moved) - seconds(drain)
    print(f"\nmoved {took_s:.2f} s after the drain, its deadline was {deadline_s} s")  # noqa: T201 - for -s
    assert (move.task_id, move.agent) == ("long", "a1")
    assert took_s >= deadline_s
    assert any("the drain of agent a1 is over" in record.detail for record in records)
    assert not moves(cluster, "failed_retry"), "it cost no retry"


def test_task_explain_says_why_a_task_runs_where_it_does(
    online: Callable[..., LocalCluster], moves: Callable[..., Any], eventually: Callable[..., Any]
) -> None:
    cluster = online(agents=2, agent_cpus=1, prefetch=0, lease_ms=LEASE_MS)
    with cluster.client() as client:
        first = client.submit({"name": "two", "tasks": sleeps(2, 600)}).id
        eventually(lambda: client.workflow(first).tasks.running == 2)
        why = client.explain(first, "t0")
        assert why.agent in {"a1", "a2"}
        (placed,) = [record for record, move in moves(cluster, "started") if move.task_id == "t0"]
        assert why.index == placed.index, "the index of the decision in the log"
        assert why.candidates[0].agent == why.agent, "the best one was chosen"
        assert {candidate.agent for candidate in why.candidates} == {"a1", "a2"}
        assert all(candidate.where == "run" and candidate.score and candidate.why for candidate in why.candidates)

        waits = [
            {"id": "room", "command": ["true"]},
            {"id": "after", "command": ["true"], "needs": ["room"]},
            {"id": "gpu", "command": ["true"], "resources": {"gpu": 1}},
            {"id": "zone", "command": ["true"], "constraints": {"labels": {"zone": "b"}}},
        ]
        second = client.submit({"name": "waits", "tasks": waits}).id
        found = {task["id"]: client.explain(second, str(task["id"])) for task in waits}
        assert {name: told.waiting for name, told in found.items()} == {
            "room": "no-room",
            "after": "needs",
            "gpu": "never-fits",
            "zone": "never-fits",
        }
        assert all(told.reason and told.agent is None for told in found.values())
        assert found["after"].waits_for == ["room"]
        assert "cpu" in found["room"].reason
        assert "gpu" in found["gpu"].reason
        assert raftflow(cluster, "task", "explain", second, "gpu")["waiting"] == "never-fits"
        client.cancel(first)
        client.cancel(second)
