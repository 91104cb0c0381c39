"""The command line against real processes: what the fakes of the other tests cannot notice when it drifts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import raftflow.formats

EXAMPLES = Path(raftflow.formats.__file__).parent / "examples"

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]


def raftflow_command(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("RAFTFLOW_")}
    argv = [sys.executable, "-m", "raftflow", *arguments]
    return subprocess.run(argv, capture_output=True, text=True, timeout=120, env=environment, check=False)


def in_json(*arguments: str, code: int = 0) -> Any:
    done = raftflow_command(*arguments, "-o", "json")
    assert done.returncode == code, (arguments, done.stdout, done.stderr)
    return json.loads(done.stdout)


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[str]:
    place = str(tmp_path / "cluster")
    done = raftflow_command("cluster", "up", "--data-dir", place, "--nodes", "3", "--agents", "2")
    try:
        assert done.returncode == 0, done.stderr
        yield place
    finally:
        assert raftflow_command("cluster", "down", "--data-dir", place).returncode == 0


def test_every_noun(directory: str) -> None:
    where = ("--data-dir", directory)
    status = in_json("cluster", "status", *where)
    assert status["leader"] in {replica["name"] for replica in status["replicas"]} == {"n1", "n2", "n3"}
    assert {agent["name"] for agent in status["agents"] if agent["state"] == "up" and agent["pid"]} == {"a1", "a2"}

    for example in sorted(EXAMPLES.iterdir()):
        scale = ("--time-scale", "0.01") if "wfformat" in example.name else ()
        shown = in_json("workflow", "submit", str(example), "--wait", *scale, *where)
        assert shown["state"] == "succeeded", example
        if example.name == "sum.toml":
            results = {task["id"]: task["result"] for task in in_json("task", "list", shown["id"], *where)}
            assert results == {"six": 6, "twenty": 20, "sum": 26}
        if example.name == "report.yaml":
            logs = raftflow_command("task", "logs", shown["id"], "report", "--follow", *where)
            assert logs.stdout.startswith("builtin modules: ")
            assert in_json("task", "explain", shown["id"], "report", *where)["state"] == "succeeded"
    assert len(in_json("workflow", "list", "--state", "succeeded", *where)) == 4

    key = ("--idempotency-key", "k-1")
    file = str(EXAMPLES / "sum.toml")
    assert (
        in_json("workflow", "submit", file, *key, *where)["id"]
        == in_json("workflow", "submit", file, *key, *where)["id"]
    )

    assert in_json("agent", "drain", "a1", *where)["state"] == "draining"
    assert in_json("agent", "resume", "a1", *where)["state"] == "up"
    assert [each["name"] for each in in_json("member", "list", *where)["members"]] == ["n1", "n2", "n3"]
    heir = next(name for name in ("n1", "n2") if name != in_json("member", "list", *where)["leader"])
    in_json("member", "transfer", heir, *where)
    assert in_json("member", "list", *where)["leader"] == heir
    assert len(in_json("ledger", "show", *where)["agents"]) == 2
    verdict = in_json("ledger", "verify", *where)
    assert (verdict["ok"], verdict["problems"], len(verdict["replicas"])) == (True, [], 3)
    assert in_json("audit", "verify", *where)["ok"]
    commands = [record["command"] for record in in_json("audit", "list", "--all", *where)]
    assert commands.count("workflow.submit") == 6, "the repeated one is in the audit as repeated"
    refused = raftflow_command("workflow", "show", "wf-none", *where)
    assert (refused.returncode, refused.stdout) == (4, "")
