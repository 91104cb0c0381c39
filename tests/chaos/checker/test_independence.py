"""The checker is a program of its own: it imports the standard library and itself."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

from recorded_histories import History, ended

import raftflow.chaos.checker

FOLDER = Path(raftflow.chaos.checker.__file__).parent
PACKAGE = "raftflow.chaos.checker"


def test_imports_are_of_the_standard_library_or_its_own() -> None:
    for file in FOLDER.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                assert node.level == 0, file
                names = [node.module or ""]
            for name in names:
                own = name == PACKAGE or name.startswith(f"{PACKAGE}.")
                assert own or name.split(".")[0] in sys.stdlib_module_names, f"{file.name} imports {name}"


def test_a_run_loads_no_other_module_of_raftflow(tmp_path: Path) -> None:
    history = History().submit(1, 1.1).ran(2, 3).one_final(a=ended((1, 10, "succeeded")))
    program = (
        "import sys, runpy\n"
        "before = set(sys.modules)\n"
        "try: runpy.run_module('raftflow.chaos.checker', run_name='__main__')\n"
        "finally: print(*sorted(set(sys.modules) - before), sep='\\n', file=sys.stderr)\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", program, str(history.write(tmp_path / "history"))],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    loaded = [name for name in run.stderr.split() if name.split(".")[0] not in sys.stdlib_module_names]
    assert PACKAGE in loaded
    parents = {"raftflow", "raftflow.chaos"}
    assert [name for name in loaded if name not in parents and not name.startswith(PACKAGE)] == []


def test_it_runs_as_a_module(tmp_path: Path) -> None:
    history = History().submit(1, 1.1).final()
    run = subprocess.run(
        [sys.executable, "-m", PACKAGE, str(history.write(tmp_path / "history"))],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 1
    assert "lost: workflow 'W1'" in run.stdout
