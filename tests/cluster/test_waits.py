"""Tasks that wait for signals and people, on a real cluster: whoever dies."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from subprocess import PIPE
from typing import Any

import pytest

import raftflow
from raftflow import helpers
from raftflow.local.cluster import LocalCluster
from raftflow.local.cluster_file import ClusterOptions

JOBS = "wait_jobs"
PROGRAMS = Path(__file__).parents[1] / "sdk" / "programs"
OPTIONS = ClusterOptions(agents=2, agent_cpus=4)


def until(look: Callable[[], Any], why: str, timeout_s: float = 30.0) -> Any:
    """Poll until something is seen."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        found = look()
        if found:
            return found
        time.sleep(0.02)
    raise AssertionError(why)


def parked(client: raftflow.Client, run: Any, count: int = 1) -> bool:
    return client.workflow(run.id).tasks.parked == count


def test_a_signal_wakes_a_task(client: raftflow.Client, jobs: Any) -> None:
    run = client.start(jobs.waits, "go")
    until(lambda: parked(client, run) or client.workflow(run.id).finished_at, "the task does not wait")
    assert parked(client, run), client.task(run.id, "waits")
    assert client.send_signal(run.id, "go", {"n": 1}, key="k").state == "delivered"
    assert client.send_signal(run.id, "go", {"n": 1}, key="k").state == "delivered", "the first answer"
    assert run.result(timeout=30) == {"n": 1}
    assert client.task(run.id, "waits").attempt == 2


def test_timeouts_and_defaults(client: raftflow.Client, jobs: Any) -> None:
    assert client.run(jobs.times_out) == ["default", "no signal 'never' came in time", "deny", None]


def test_an_approval(client: raftflow.Client, jobs: Any) -> None:
    run = client.start(jobs.asks, "ship it?")
    (asked,) = until(lambda: [each for each in client.approvals() if each.workflow == run.id], "nothing is asked")
    assert (asked.title, asked.task) == ("ship it?", "asks")
    client.decide(asked.id, "approve", comment="fine", payload={"text": "edited"})
    with pytest.raises(raftflow.Refused, match="decided before: 'approve', by client:api"):
        client.decide(asked.id, "deny")
    assert run.result(timeout=30) == ["approve", True, "fine", {"text": "edited"}, "client:api"]


def test_of_two_approvers_at_the_command_line_one_counts_and_both_are_told(
    client: raftflow.Client, cluster: LocalCluster, jobs: Any
) -> None:
    run = client.start(jobs.asks, "both?")
    (asked,) = until(lambda: [each for each in client.approvals() if each.workflow == run.id], "nothing is asked")
    peers = ["--peers", ",".join(cluster.urls)]
    commands = [helpers.command("raftflow", "approval", verb, asked.id, *peers) for verb in ("approve", "deny")]
    both = [subprocess.Popen(command, stdout=PIPE, stderr=PIPE, text=True) for command in commands]
    told = [process.communicate(timeout=60) for process in both]
    codes = [process.returncode for process in both]
    assert sorted(codes) == [0, 4], told
    first, second = codes.index(0), codes.index(4)
    choice = ("approve", "deny")[first]
    assert told[first][0] == f"{asked.id} {choice}: both?\n"
    assert f"approval {asked.id} was decided before: '{choice}', by client:api at 20" in told[second][1]
    assert run.result(timeout=30)[0] == choice


@pytest.mark.parametrize("program", ["waits.sh", "waits.mjs"])
def test_a_program_waits_for_a_signal_and_for_a_person(client: raftflow.Client, program: str) -> None:
    interpreter = "node" if program.endswith("mjs") else "sh"
    if shutil.which(interpreter) is None:
        pytest.skip(f"NOT TESTED: there is no {interpreter} on the PATH")
    command = [interpreter, str(PROGRAMS / program)]
    run = client.submit({"name": "program", "tasks": [{"id": "t", "command": command}]})
    until(lambda: parked(client, run) or client.workflow(run.id).finished_at, "the program does not wait")
    with pytest.raises(raftflow.ClientError, match="does not fit what the task expects"):
        client.send_signal(run.id, "review", 5)
    assert client.send_signal(run.id, "review", {"stars": 5}).state == "delivered"
    (asked,) = until(lambda: [each for each in client.approvals() if each.workflow == run.id], "nothing is asked")
    until(lambda: parked(client, run), "the program does not wait for a person")
    client.decide(asked.id, "approve")
    assert run.results(timeout_s=60) == {"t": "approve with 5 stars"}
    assert client.task(run.id, "t").attempt == 3


def test_several_waits_in_one_loop(client: raftflow.Client, jobs: Any) -> None:
    run = client.start(jobs.waits_for_two)
    until(lambda: parked(client, run), "the task does not wait")
    client.send_signal(run.id, "b", 2)
    until(lambda: client.task(run.id, "waits_for_two").attempt == 2 and parked(client, run), "it was not woken")
    client.send_signal(run.id, "a", 1)
    assert run.result(timeout=30) == [1, 2]


def test_a_graph_of_commands_with_a_signal_and_an_approval_in_its_middle(client: raftflow.Client) -> None:
    flow = raftflow.Workflow("release")
    built = flow.task("built", ["true"])
    tested = flow.task("tested", needs=[built], wait={"signal": "tested", "timeout": "1h"})
    wait = {"approval": "Publish?", "details": {"v": 2}, "timeout": "1h", "on_timeout": "deny"}
    asked = flow.task("asked", needs=[tested], wait=wait)
    quick = flow.task("quick", needs=[built], wait={"signal": "never", "timeout": 0.05, "on_timeout": ["late"]})
    flow.task("told", ["sh", "-c", 'cp "$RAFTFLOW_INPUTS" "$RAFTFLOW_RESULT"'], needs=[tested, asked, quick])
    run = client.submit(flow)
    assert client.send_signal(run.id, "tested", {"ok": True}).state in {"kept", "delivered"}
    (found,) = until(lambda: [each for each in client.approvals() if each.workflow == run.id], "nothing is asked")
    assert (found.title, found.task, found.details) == ("Publish?", "asked", {"v": 2})
    assert client.task(run.id, "asked").attempt == 0 and client.task(run.id, "asked").state == "parked"
    client.decide(found.id, "approve", comment="fine")
    decision = {"choice": "approve", "comment": "fine", "payload": None, "by": "client:api"}
    assert run.results()["told"] == {"tested": {"ok": True}, "asked": decision, "quick": ["late"]}
