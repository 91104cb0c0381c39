"""Every failure ends with its exit code and a message that says what to do."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from raftflow import helpers
from raftflow.local.cluster import LocalCluster
from raftflow.local.cluster_file import ClusterOptions
from tests.cli.answers import status

Run = Callable[..., Result]


def view(state: str) -> dict[str, Any]:
    ended = state in ("succeeded", "failed", "cancelled")
    return {
        "id": "wf-1",
        "name": "w",
        "state": state,
        "tasks": {"total": 1},
        "submitted_at": "2026-01-01T00:00:00Z",
        "finished_at": "2026-01-01T00:00:01Z" if ended else None,
    }


@pytest.fixture
def good(tmp_path: Path) -> str:
    file = tmp_path / "good.toml"
    file.write_text('name = "w"\n[[tasks]]\nid = "a"\ncommand = ["true"]\n')
    return str(file)


@pytest.mark.parametrize(("state", "code"), [("succeeded", 0), ("failed", 1), ("cancelled", 1)])
def test_waiting_ends_as_the_workflow_does(run: Run, fake: Any, good: str, state: str, code: int) -> None:
    fake.routes["POST", "/v1/workflows"] = (201, {"id": "wf-1"})
    fake.routes["GET", "/v1/workflows/wf-1"] = [view("running"), view(state)]
    assert run("workflow", "submit", good, "--wait").exit_code == code
    assert run("workflow", "wait", "wf-1").exit_code == code
    assert run("workflow", "watch", "wf-1").exit_code == code
    # Showing is not waiting.
    assert run("workflow", "show", "wf-1").exit_code == 0


def test_giving_up_waiting_has_its_own_code(run: Run, fake: Any) -> None:
    fake.routes["GET", "/v1/workflows/wf-1"] = view("running")
    result = run("workflow", "wait", "wf-1", "--timeout", "100ms")
    assert result.exit_code == 5
    assert "has not ended within 0.1 s" in result.stderr


WRONG = [
    ("nonsense",),
    ("workflow", "nonsense"),
    ("workflow", "show"),
    ("workflow", "list", "-o", "xml"),
    ("workflow", "submit", "/does/not/exist.toml"),
    ("workflow", "submit", "{bad}"),
    ("workflow", "submit", "{text}"),
    ("workflow", "submit", "-"),
    ("workflow", "submit", "{folder}"),
    ("workflow", "submit", "/dev/zero"),
    ("workflow", "submit", "{good}", "--time-scale", "0.5"),
    ("workflow", "submit", "{good}", "--time-scale", "0"),
    ("workflow", "submit", "{good}", "--timeout", "3s"),
    ("workflow", "submit", "{good}", "--priority", "101"),
    ("workflow", "validate", "{bad}"),
    ("workflow", "wait", "wf-1", "--timeout", "soon"),
    ("workflow", "list", "--peers", "nowhere"),
    ("workflow", "list", "--peers", "http://a", "--data-dir", "."),
    ("workflow", "list", "--data-dir", "/does/not/exist"),
    ("workflow", "list", "--request-timeout", "soon"),
    ("workflow", "list", "--cacert", "/does/not/exist"),
    ("cluster", "up"),
    ("cluster", "up", "--data-dir", "{dir}", "--nodes", "2"),
    ("cluster", "down", "--data-dir", "/does/not/exist"),
    ("cluster", "status", "--data-dir", "/does/not/exist"),
    ("coordinator", "run"),
    ("coordinator", "run", "--config", "/does/not/exist"),
    ("coordinator", "run", "--config", "{bad}"),
    ("coordinator", "run", "--config", "{good}", "--set", "lease=3"),
    ("agent", "run", "--resource", "gpu"),
    ("agent", "run", "--label", "a=1", "--label", "a=2"),
    ("agent", "run", "--memory", "much"),
    ("agent", "run", "--config", "/does/not/exist"),
    ("audit", "list", "--replica", "n9"),
    ("bench", "nonsense"),
]


@pytest.mark.parametrize("arguments", WRONG, ids=" ".join)
def test_wrong_usage(run: Run, fake: Any, good: str, tmp_path: Path, arguments: tuple[str, ...]) -> None:
    fake.routes["GET", "/v1/status"] = status(applied=1)
    (tmp_path / "bad.toml").write_text("name = [")
    (tmp_path / "flow.txt").write_text("what is this")
    names = {
        "good": good,
        "bad": tmp_path / "bad.toml",
        "text": tmp_path / "flow.txt",
        "dir": tmp_path / "new",
        "folder": tmp_path,
    }
    result = run(*(argument.format(**names) for argument in arguments))
    assert result.exit_code == 2, result.output
    assert result.stderr.strip()
    assert result.stdout == ""


def test_no_word_about_the_cluster_is_wrong_usage(run: Run) -> None:
    result = run("workflow", "list", env={})
    assert result.exit_code == 2
    assert "--peers" in result.stderr
    assert "RAFTFLOW_PEERS" in result.stderr


UNREACHABLE = [
    ("workflow", "list"),
    ("workflow", "submit", "{good}"),
    ("agent", "list"),
    ("task", "logs", "w", "t"),
    ("ledger", "verify"),
    ("audit", "verify"),
    ("audit", "list"),
    ("cluster", "status"),
]


@pytest.mark.parametrize("arguments", UNREACHABLE, ids=" ".join)
def test_nobody_answers(run: Run, good: str, arguments: tuple[str, ...]) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{probe.getsockname()[1]}"
        env = {"RAFTFLOW_PEERS": url, "RAFTFLOW_REQUEST_TIMEOUT": "200ms"}
        result = run(*(argument.format(good=good) for argument in arguments), env=env)
    assert result.exit_code == 3, result.output
    assert "no coordinator answers" in result.stderr
    assert "connection refused" in result.stderr
    assert result.stdout == ""


def test_no_leader(run: Run, fake: Any, make_problem: Any) -> None:
    fake.routes["GET", "/v1/workflows"] = (503, make_problem("no-leader", 503, detail="an election goes on"))
    result = run("workflow", "list", "--request-timeout", "200ms")
    assert result.exit_code == 3
    assert "no leader" in result.stderr


@pytest.mark.parametrize(("word", "status"), [("conflict", 409), ("not-found", 404), ("unauthorized", 401)])
def test_refused(run: Run, fake: Any, make_problem: Any, word: str, status: int) -> None:
    fake.routes["POST", "/v1/workflows/wf-1/cancel"] = (status, make_problem(word, status, detail="because of this"))
    result = run("workflow", "cancel", "wf-1")
    assert result.exit_code == 4
    assert "because of this" in result.stderr
    assert result.stdout == ""


def test_a_broken_document_is_refused_with_each_fault_on_a_line(
    run: Run, fake: Any, good: str, make_problem: Any
) -> None:
    faults = [{"path": "tasks[0].cpu", "message": "no"}, {"path": "name", "message": "neither"}]
    fake.routes["POST", "/v1/workflows"] = (400, make_problem("invalid-document", 400, detail="x: no", errors=faults))
    result = run("workflow", "submit", good)
    assert result.exit_code == 4
    assert result.stderr.splitlines()[1:] == ["  line 2: tasks[0].cpu: no", "  line 1: name: neither"]


def test_violated_invariants(run: Run, fake: Any) -> None:
    fake.routes["GET", "/v1/status"] = status(applied=1)
    fake.routes["GET", "/v1/ledger/verify"] = {
        "ok": False,
        "index": 4,
        "problems": ["a1 holds 5 of 4"],
        "replica": "n1",
    }
    result = run("ledger", "verify")
    assert result.exit_code == 1
    assert "n1: a1 holds 5 of 4" in result.stdout
    assert "keep all data directories" in result.stderr


def test_an_interrupt_ends_quietly(fake: Any) -> None:
    fake.routes["GET", "/v1/workflows/wf-1"] = view("running")
    argv = [sys.executable, "-m", "raftflow", "--peers", fake.url, "workflow", "wait", "wf-1"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 30
        while len(fake.requests) < 3:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "Traceback" not in err
    assert "wf-1 continues" in err
    assert out == ""


@pytest.mark.parametrize("files", [10, 40])
@pytest.mark.parametrize("program", ["coordinator", "agent"])
def test_too_few_open_files_are_told(tmp_path: Path, program: str, files: int) -> None:
    cluster = LocalCluster.create(tmp_path / "c", ClusterOptions(nodes=1, agents=0))
    arguments = {
        "coordinator": ["--config", str(cluster.config_file("n1"))],
        "agent": ["--peers", cluster.urls[0], "--work-dir", str(tmp_path / "a")],
    }
    command = helpers.command("raftflow", program, "run", *arguments[program])
    limited = ["sh", "-c", 'ulimit -n "$0"; exec "$@"', str(files), *command]
    ended = subprocess.run(limited, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 2, ended.stderr
    assert f"the limit of open files is {files}" in ended.stderr
    assert "Traceback" not in ended.stderr
