"""Budgets and rate limits on a real cluster: a budget pauses, a raise continues, and nothing counts twice."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

import raftflow
from raftflow.local.cluster import LocalCluster
from raftflow.local.cluster_file import ClusterOptions

JOBS = "budget_jobs"
OPTIONS = ClusterOptions(agents=2, agent_cpus=1)
PROGRAMS = Path(__file__).parents[1] / "sdk" / "programs"


def used(client: raftflow.Client, workflow: str) -> dict[str, float]:
    return {line.name: line.used for line in client.budget(workflow).budgets}


def test_a_budget_pauses_and_a_raise_continues_although_the_leader_dies(
    cluster: LocalCluster, client: raftflow.Client, jobs: Any, tmp_path: Path, eventually: Any
) -> None:
    path = tmp_path / "asked"
    with raftflow.Workflow("spenders", budgets={"usd": 10}) as flow:
        for _ in range(2):
            jobs.spender(str(path), 12)
    run = client.submit(flow)
    eventually(lambda: client.workflow(run.id).state == "paused", what="a used up budget")
    eventually(lambda: client.workflow(run.id).tasks.running == 0, what="the attempts have parked")
    spent = used(client, run.id)["usd"]
    assert 10 <= spent <= 11, "each of two slots overspends by one step at most"
    assert len(path.read_text().splitlines()) == spent
    leader = cluster.wait_leader()
    log = (cluster.directory / "logs" / f"{leader}.log").read_text()
    assert f"workflow {run.id}: the soft limit of its budget of usd is reached" in log
    assert f"workflow {run.id}: its budget of usd is used up" in log
    cluster.kill(leader)
    assert client.workflow(run.id).pause_reason == f"budget used up: {spent:.2f} usd of 10.00 usd"
    with pytest.raises(raftflow.Refused, match="budget raise"):
        client.resume(run.id)
    assert client.raise_budget(run.id, add={"usd": 90}).state == "running"
    assert run.results(timeout_s=60) == {"spender": 12, "spender-2": 12}
    assert used(client, run.id) == {"usd": 24} and len(path.read_text().splitlines()) == 24
    assert {task.id: task.spent["usd"] for task in client.budget(run.id).tasks} == {"spender": 12, "spender-2": 12}
    cluster.start()
    cluster.wait_agents()


def test_all_ways_of_spending_count_once(client: raftflow.Client, jobs: Any) -> None:
    client.set_limit("shared", "600/min", burst=3)
    run = client.start(jobs.all_ways.options(budgets={"usd": {"hard": 100, "soft": 1}}))
    told = run.result(timeout=60)
    assert told[0] == "asked" and told[3] == "invalid"
    assert "more than six decimals: round it" in told[1] and "must be 0 to" in told[2]
    spent = used(client, run.id)
    assert spent == {"usd": 1.5, "tokens": 15}, "the step that failed ran twice, everything else once"
    (limit,) = client.limits()
    assert limit.name == "shared" and limit.burst == 3
    client.remove_limit("shared")


def test_what_steps_have_spent_that_are_cancelled_counts(client: raftflow.Client, jobs: Any, eventually: Any) -> None:
    run = client.start(jobs.cut_off.options(budgets={"usd": 5}))
    eventually(lambda: client.workflow(run.id).state == "paused", what="a used up budget")
    eventually(lambda: client.workflow(run.id).tasks.running == 0, what="the task has parked")
    assert used(client, run.id) == {"usd": 5.5}
    client.raise_budget(run.id, {"usd": 100})
    assert run.result(timeout=60) == ["limited", "beside", "after"]
    assert used(client, run.id) == {"usd": 6.25}, "what was cancelled runs again, and spends again"


@pytest.mark.parametrize("program", ["spending.sh", "spending.mjs"])
def test_a_program_spends_and_parks(client: raftflow.Client, program: str, eventually: Any) -> None:
    interpreter = "node" if program.endswith("mjs") else "sh"
    if shutil.which(interpreter) is None:
        pytest.skip(f"NOT TESTED: there is no {interpreter} on the PATH")
    client.set_limit("llm", "100/s")
    task = {"id": "t", "command": [interpreter, str(PROGRAMS / program)]}
    run = client.submit({"name": "program", "budgets": {"usd": 1.5}, "tasks": [task]})
    eventually(lambda: client.workflow(run.id).state == "paused", what="a used up budget")
    eventually(lambda: client.workflow(run.id).tasks.running == 0, what="the program has parked")
    assert used(client, run.id) == {"usd": 1.5}
    client.raise_budget(run.id, {"usd": 3})
    assert run.results(timeout_s=60) == {"t": "done"}
    assert used(client, run.id) == {"usd": 1.75}
