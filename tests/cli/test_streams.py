"""Closed pipes, full disks, closed streams, small character sets and interrupts: one line, and an exit code."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

Run = Callable[..., Result]
VIEW = {"id": "wf-1", "name": "w", "state": "running", "tasks": {"total": 2}, "submitted_at": "2026-01-01T00:00:00Z"}


@pytest.fixture
def shell(fake: Any, tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run a shell line in which `raftflow` is the command line, with the fake replica as its cluster."""
    (tmp_path / "good.toml").write_text('name = "w"\n[[tasks]]\nid = "a"\ncommand = ["true"]\n')
    fake.routes["POST", "/v1/workflows"] = (201, {"id": "wf-1"})
    fake.routes["GET", "/v1/workflows"] = {"workflows": [{**VIEW, "id": f"wf-{n}"} for n in range(2_000)]}
    fake.routes["GET", "/v1/workflows/wf-1"] = VIEW

    def call(line: str, **env: str) -> subprocess.CompletedProcess[str]:
        whole = f'raftflow() {{ "{sys.executable}" -m raftflow "$@"; }}\nset -o pipefail\n{line}'
        environment = {**os.environ, "RAFTFLOW_PEERS": fake.url, **env}
        argv = ["bash", "-c", whole]
        return subprocess.run(
            argv,
            capture_output=True,
            text=True,
            errors="replace",
            cwd=tmp_path,
            env=environment,
            timeout=60,
            check=False,
        )

    return call


def test_a_reader_that_has_seen_enough_is_no_news(shell: Any) -> None:
    done = shell("raftflow workflow list -o jsonl | head -1")
    assert (done.returncode, done.stderr) == (141, "")
    assert json.loads(done.stdout)["id"] == "wf-0"


WHERE = {">/dev/full": "No space left on device", ">&-": "closed", "| true": "Broken pipe"}


@pytest.mark.parametrize("where", WHERE)
@pytest.mark.parametrize("form", ["table", "json"])
def test_the_id_of_what_was_submitted_is_never_lost(shell: Any, where: str, form: str) -> None:
    done = shell(f"raftflow workflow submit good.toml -o {form} {where}")
    assert done.returncode == 141
    (line,) = done.stderr.splitlines()
    told = json.loads(line)["error"]["message"] if form == "json" else line
    assert "submitted as wf-1" in told
    assert WHERE[where] in told
    if form == "json":
        assert json.loads(line)["error"]["id"] == "wf-1"
        assert json.loads(line)["error"]["kind"] == "output-closed"


@pytest.mark.parametrize("line", ["workflow list", "workflow list -o json", "--help", "--version", "workflow --help"])
@pytest.mark.parametrize("where", [">/dev/full", ">&-"])
def test_what_cannot_be_printed_is_one_line(shell: Any, line: str, where: str) -> None:
    done = shell(f"raftflow {line} {where}")
    assert done.returncode == 141
    assert len(done.stderr.splitlines()) == 1
    assert "standard output" in done.stderr


def test_nothing_to_write_to_at_all(shell: Any) -> None:
    done = shell("raftflow workflow submit good.toml >&- 2>&-")
    assert (done.returncode, done.stdout, done.stderr) == (141, "", "")
    done = shell("raftflow workflow wait wf-9 <&- 2>/dev/full")
    assert done.returncode == 4


def test_standard_input_that_is_closed(shell: Any) -> None:
    done = shell("raftflow workflow submit - --format json <&-")
    assert done.returncode == 2
    assert done.stderr.splitlines() == ["raftflow: standard input is closed"]


def test_the_id_is_told_before_the_waiting_begins(shell: Any) -> None:
    done = shell("raftflow workflow submit good.toml --wait --timeout 100ms -o json")
    assert done.returncode == 5
    first, last = done.stderr.splitlines()
    assert first == "submitted wf-1"
    assert json.loads(last)["error"] == {
        "kind": "timed-out",
        "exit_code": 5,
        "message": "wf-1 has not ended within 0.1 s; it is running",
    }


def test_an_interrupted_submission_can_be_settled(fake: Any, tmp_path: Path) -> None:
    """Nobody knows whether it arrived: the message has the key that makes it safe to repeat."""
    arrived, answer = threading.Event(), threading.Event()

    def hold(_query: dict[str, str]) -> Any:
        arrived.set()
        answer.wait(60)
        return 201, {"id": "wf-1"}

    fake.routes["POST", "/v1/workflows"] = hold
    (tmp_path / "good.toml").write_text('name = "w"\n[[tasks]]\nid = "a"\ncommand = ["true"]\n')
    argv = [sys.executable, "-m", "raftflow", "--peers", fake.url, "workflow", "submit", str(tmp_path / "good.toml")]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert arrived.wait(30)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    answer.set()
    key = fake.requests[0][3]["Idempotency-Key"]
    assert (process.returncode, out) == (130, "")
    assert len(err.splitlines()) == 1
    assert f"--idempotency-key {key}" in err


def test_an_interrupt_at_any_moment_is_tidy(fake: Any) -> None:
    """From the first import of ours to the end: the importer is stopped in places all over the start."""
    fake.routes["GET", "/v1/workflows"] = {"workflows": [VIEW]}
    code = (
        "import os, signal, sys\n"
        "left = int(sys.argv.pop(1))\n"
        "class Hook:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        global left\n"
        "        left -= 1\n"
        "        if not left: os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.meta_path.insert(0, Hook())\n"
        "from raftflow.cli.entry import main\n"
        "main()\n"
    )
    for left in (8, 40, 150, 300, 500):
        argv = [sys.executable, "-c", code, str(left), "--peers", fake.url, "workflow", "list"]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
        assert "Traceback" not in done.stderr, (left, done.stderr)
        assert done.returncode in (130, -signal.SIGINT, 0), (left, done.returncode)
        assert len(done.stderr.splitlines()) <= 1


ODD = {
    "id": "t",
    "state": "failed",
    "attempt": 1,
    "agent": "a1",
    "detail": "größer \x1b[31m日本語\nsecond line",
    "result": {"big": 10**30, "text": "é\u202e"},
}


@pytest.mark.parametrize("env", [{"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C"}, {"PYTHONIOENCODING": "latin-1"}])
def test_small_character_sets(shell: Any, fake: Any, env: dict[str, str]) -> None:
    fake.routes["GET", "/v1/workflows/wf-1/tasks"] = {"tasks": [ODD]}
    done = shell("raftflow task list wf-1 -o json; raftflow task list wf-1 2>&1 >/dev/null", **env)
    assert done.returncode == 0
    assert done.stderr == ""
    (told,) = json.loads(done.stdout)
    assert ODD.items() <= told.items()
    table = shell("raftflow task list wf-1", **env)
    assert (table.returncode, table.stderr) == (0, "")
    assert "\x1b" not in table.stdout
    assert "second line" in table.stdout


def test_json_of_any_value(run: Run, capsys: Any) -> None:
    from raftflow.cli.terminal.output import print_json

    values = {"big": 10**5000, "alone": "\ud800x", "pair": "😀", "none": None, "deep": [[[1]]]}
    print_json(values, indent=False)
    sys.set_int_max_str_digits(0)
    try:
        assert json.loads(capsys.readouterr().out) == values
    finally:
        sys.set_int_max_str_digits(4300)


def test_a_fault_of_our_own_is_one_line(run: Run, fake: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import raftflow.cli.cluster_commands.operation_verbs

    def broken(*_args: Any) -> None:
        raise KeyError("x")

    monkeypatch.setattr(raftflow.cli.cluster_commands.operation_verbs, "connect", broken)
    result = run("workflow", "list", "-o", "json")
    assert result.exit_code == 70
    error = json.loads(result.stderr)["error"]
    assert error["kind"] == "internal-error"
    assert "KeyError: 'x' (test_streams.py:" in error["message"]
    assert "RAFTFLOW_TRACEBACK=1" in error["message"]


def test_an_interrupt_while_waiting_names_the_workflow(fake: Any) -> None:
    fake.routes["GET", "/v1/workflows/wf-1"] = VIEW
    argv = [sys.executable, "-m", "raftflow", "--peers", fake.url, "workflow", "watch", "wf-1", "-o", "json"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["id"] == "wf-1"  # lines come as they are printed
        deadline = time.monotonic() + 30
        while len(fake.requests) < 3:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert json.loads(err)["error"]["kind"] == "interrupted"
    assert "wf-1 continues" in json.loads(err)["error"]["message"]
