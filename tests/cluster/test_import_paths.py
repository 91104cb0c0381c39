"""What lies in the working directory, or in PYTHONPATH, is never imported by raftflow's own processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import pytest

from raftflow.local.cluster import LocalCluster

NAMES = ("orjson", "msgspec", "aiohttp", "click", "pickle", "pysyncobj", "multiprocessing")
"""Modules of raftflow's dependencies and of Python."""
FIRST = ("runpy", "raftflow")
"""`python -m raftflow` finds these before the first line of raftflow."""


def plant(folder: Path, marks: Path, names: tuple[str, ...]) -> None:
    """Lay out modules that write down who imports them, and then fail."""
    folder.mkdir()
    for name in names:
        note = f"open({str(marks)!r}, 'a').write('{name} in ' + str(os.getpid()) + chr(10))"
        code = f"import os\n{note}\nraise ImportError('planted')\n"
        (folder / f"{name}.py").write_text(code)


@pytest.mark.slow
@pytest.mark.parametrize("program", [["raftflow"], ["-m", "raftflow"]])
def test_no_process_of_a_cluster_imports_from_the_working_directory(tmp_path: Path, program: list[str]) -> None:
    marks, folder, other = tmp_path / "marks", tmp_path / "here", tmp_path / "path"
    plant(folder, marks, NAMES if program[0] == "-m" else NAMES + FIRST)
    if program[0] == "raftflow":
        plant(
            other, marks, NAMES + FIRST
        )  # an interpreter that is started as such obeys PYTHONPATH before raftflow's first line
    else:
        other.mkdir()
    (folder / "users_code.py").write_text("def double(x):\n    return 2 * x\n")
    (other / "more_code.py").write_text("import sys\nhere = sys.path[0]\ndef where():\n    return here\n")
    script = Path(sysconfig.get_path("scripts"), "raftflow")
    start = [sys.executable, "-E", str(script)] if program[0] == "raftflow" else [sys.executable, *program]
    environment = {**os.environ, "PYTHONPATH": str(other), "PYTHONSTARTUP": str(folder / "orjson.py")}

    def run(*arguments: str) -> None:
        command = [*start, "cluster", *arguments, "--data-dir", str(tmp_path / "c")]
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, timeout=100, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr

    run("up", "--nodes", "1", "--agents", "1")
    try:
        cluster = LocalCluster.load(tmp_path / "c")
        many = [{"id": f"t{number}", "command": ["true"], "needs": []} for number in range(3_000)]
        with cluster.client() as client:
            small = client.submit(
                {
                    "name": "users",
                    "tasks": [
                        {"id": "mine", "python": "users_code:double", "args": [21]},
                        {"id": "path", "python": "more_code:where"},
                        {"id": "command", "command": ["true"]},
                    ],
                }
            )
            large = client.submit({"name": "large", "tasks": many})
            done: Any = client.wait(small.id, timeout_s=60, check=False)
            results = {task.id: client.task(small.id, task.id).result for task in client.tasks(small.id)}
            assert client.workflow(large.id).id == large.id
        assert done.state == "succeeded"
        assert results["mine"] == 42 or json.loads(results["mine"]) == 42
        assert str(folder) in str(results["path"])
        assert not marks.exists(), marks.read_text()
    finally:
        run("down")
