"""Effects on a real cluster: nothing is called twice, whoever dies; what nobody knows, a person decides."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

import raftflow
from raftflow.local.cluster import LocalCluster

JOBS = "effect_jobs"
PROGRAMS = Path(__file__).parents[1] / "sdk" / "programs"


def calls(path: Path) -> list[str]:
    """The keys with which the service was called."""
    return [line.split()[0] for line in path.read_text().splitlines()] if path.exists() else []


def test_an_agent_and_a_leader_that_die_in_the_call(
    cluster: LocalCluster, client: raftflow.Client, jobs: Any, tmp_path: Path, eventually: Any
) -> None:
    path, gate = tmp_path / "sent", tmp_path / "gate"
    run = client.start(jobs.mails, str(path), str(gate))
    eventually(lambda: len(calls(path)) == 1, what="the call")
    (task,) = client.tasks(run.id)
    cluster.kill(task.agent)
    cluster.kill(cluster.wait_leader())
    key = f"{run.id}/{task.id}/mail/1"
    assert run.result(timeout=60) == ["1", f"found {key}", "2"]
    assert calls(path) == [key], "it was called once"
    cluster.start()
    cluster.wait_agents()


def test_a_worker_that_dies_in_the_call(client: raftflow.Client, jobs: Any, tmp_path: Path) -> None:
    path = tmp_path / "sent"
    assert client.run(jobs.mails, str(path))[1].startswith("found wf-")
    assert len(calls(path)) == 1
    path = tmp_path / "charged"
    first, *others = client.run(jobs.charges, str(path))
    assert calls(path) == [first, first] and others == ["0", "1", "2", "3", "4"]


def uncertain(client: raftflow.Client, run: Any, eventually: Any) -> Any:
    """Wait until the effect of a run is uncertain and its task is parked; return the effect."""
    eventually(lambda: client.tasks(run.id)[0].state == "parked", what="the task parks")
    (effect,) = client.effects(workflow=run.id)
    assert effect.state == "uncertain"
    return effect


def test_a_person_resolves_what_nobody_knows(
    client: raftflow.Client, jobs: Any, tmp_path: Path, eventually: Any
) -> None:
    path = tmp_path / "paid"
    run = client.start(jobs.blind, str(path))
    effect = uncertain(client, run, eventually)
    reason = client.explain(run.id, effect.task).reason
    assert f"resolve it with `raftflow effect resolve {effect.id}`" in reason
    assert calls(path) == [effect.idempotency_key], "nobody guessed"
    client.resolve_effect(effect.id, "done", result="receipt 7")
    assert run.result(timeout=60) == "receipt 7" and len(calls(path)) == 1
    with pytest.raises(raftflow.Refused, match="is done by"):
        client.resolve_effect(effect.id, "retry")


def test_a_person_lets_it_be_called_again_or_fail(
    client: raftflow.Client, jobs: Any, tmp_path: Path, eventually: Any
) -> None:
    again, failed = (client.start(jobs.blind, str(tmp_path / name)) for name in ("again", "failed"))
    effect = uncertain(client, again, eventually)
    client.resolve_effect(effect.id, "retry")
    assert again.result(timeout=60) == effect.idempotency_key
    assert calls(tmp_path / "again") == [effect.idempotency_key] * 2
    client.resolve_effect(uncertain(client, failed, eventually).id, "fail", detail="refunded by hand")
    with pytest.raises(raftflow.TaskFailed, match="effect 'pay' failed: refunded by hand"):
        failed.result(timeout=60)
    assert len(calls(tmp_path / "failed")) == 1


def run_program(client: raftflow.Client, *command: str) -> Any:
    """Run a program whose first attempt dies in the call, and return the result of the second one."""
    task = {"id": "t", "command": list(command), "retries": 1, "retry_delay": 0}
    workflow = client.submit({"name": "program", "tasks": [task]}).id
    client.wait(workflow, timeout_s=60)
    (found,) = client.tasks(workflow)
    assert found.attempt == 2
    return workflow, found.result


def test_a_shell_script_has_effects(client: raftflow.Client, tmp_path: Path) -> None:
    path = tmp_path / "sent"
    workflow, result = run_program(client, str(PROGRAMS / "effects.sh"), str(path))
    assert result == calls(path) == [f"{workflow}/t/mail/1"]


def test_a_node_program_has_effects(client: raftflow.Client, tmp_path: Path) -> None:
    node = shutil.which("node")
    if node is None:
        pytest.skip("NOT TESTED: there is no node on the PATH, so the protocol is not tried from JavaScript")
    path = tmp_path / "sent"
    workflow, result = run_program(client, node, str(PROGRAMS / "effects.mjs"), str(path))
    assert result == calls(path) == [f"{workflow}/t/mail/1"]
