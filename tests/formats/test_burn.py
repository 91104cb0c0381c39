"""The burner costs what it says, as the kernel measures it."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import pytest

from raftflow.burn import burn, main


def test_cpu_time_is_really_used() -> None:
    before = time.process_time()
    result = burn(0.1)
    assert 0.1 <= time.process_time() - before < 0.3
    assert 100 <= result["cpu_ms"] < 200


def test_threads_share_the_cpu_time() -> None:
    before = time.process_time()
    assert burn(0.1, threads=2)["cpu_ms"] >= 100
    assert 0.1 <= time.process_time() - before < 0.3


def test_the_rest_of_the_time_is_waited_for() -> None:
    before, started = time.process_time(), time.monotonic()
    burn(0.0, seconds=0.05)
    assert time.monotonic() - started >= 0.05
    assert time.process_time() - before < 0.04


def test_memory_is_really_touched() -> None:
    """In a process of its own, whose peak the kernel reports when it has ended."""
    command = [sys.executable, "-m", "raftflow.burn", "--memory-mib", "200"]
    subprocess.run(command, check=True, timeout=30)
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss >= 200 * 1024


def test_as_a_program_it_writes_its_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAFTFLOW_RESULT", str(tmp_path / "result"))
    assert main(["--cpu-seconds", "0.01", "--memory-mib", "1", "--threads", "2", "--seconds", "0.02"]) == 0
    assert json.loads((tmp_path / "result").read_text())["memory_mib"] == 1


@pytest.mark.parametrize("arguments", [["--cpu-seconds", "-1"], ["--threads", "0"], ["--seconds", "inf"]])
def test_wrong_usage(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert capsys.readouterr().err


def test_memory_that_is_not_there(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (8 * 1024**3, hard))
    try:
        assert main(["--memory-mib", str(64 * 1024)]) == 1
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
    assert "no 65536 MiB" in capsys.readouterr().err
