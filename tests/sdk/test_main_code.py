"""What travels with a function of the program itself: a script, or what a notebook's function uses."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SHOW = """
import json as _json
from raftflow.sdk.calls import TaskCalls as _TaskCalls
from raftflow.sdk.errors import UsageError as _UsageError
def show(*functions):
    for function in functions:
        try:
            calls = _TaskCalls(function)
            files = {file.path: bytes(file.content).decode() for file in calls.main_files()}
            print(_json.dumps([calls.python, calls.name, files]))
        except _UsageError as error:
            print(_json.dumps(str(error)))
"""

CELLS = (
    """
import linecache, sys
def cell(source):
    name = f"<cell {len(linecache.cache)}>"
    linecache.cache[name] = (len(source), None, source.splitlines(keepends=True), name)
    exec(compile(source, name, "exec"), globals())
"""
    + SHOW
)


def run(*command: str, cwd: Path) -> list[Any]:
    done = subprocess.run(
        [sys.executable, *command], cwd=cwd, capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def notebook(tmp_path: Path, *cells: str) -> list[Any]:
    calls = "".join(f"cell({cell!r})\n" for cell in cells)
    return run("-c", CELLS + calls, cwd=tmp_path)


def load(files: dict[str, str], python: str) -> Any:
    """Run the module that was made, and return its function."""
    module, name = python.split(":")
    scope: dict[str, Any] = {"__name__": module}
    exec(compile(files[f"{module}.py"], module, "exec", dont_inherit=True), scope)
    return scope[name]


def test_a_script_travels_with_the_modules_below_its_folder(tmp_path: Path) -> None:
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "__init__.py").write_text("")
    (tmp_path / "package" / "part.py").write_text("x = 1\n")
    (tmp_path / "helper.py").write_text("from package import part\n")
    (tmp_path / "unused.py").write_text("")
    (tmp_path / "venv" / "lib").mkdir(parents=True)
    (tmp_path / "venv" / "lib" / "installed.py").write_text("")
    text = (
        "import sys\nsys.path.append('venv/lib')\nimport helper, installed, json\ndef double(x):\n    return 2 * x\n"
    )
    (tmp_path / "train.py").write_text(text + SHOW + "show(double)\n")
    ((python, name, files),) = run("train.py", cwd=tmp_path)
    assert (python, name) == ("train:double", "double")
    assert files.keys() == {"train.py", "helper.py", "package/__init__.py", "package/part.py", ".raftflow-script"}
    assert files[".raftflow-script"] == "train"
    assert files["train.py"].startswith(text)


@pytest.mark.parametrize(
    ("file", "module"),
    [("my-job.py", "script_my_job"), ("json.py", "script_json"), ("class.py", "script_class"), ("1st", "script_1st")],
)
def test_a_script_whose_name_cannot_be_a_modules_gets_another(tmp_path: Path, file: str, module: str) -> None:
    (tmp_path / file).write_text("import sys\ndel sys.path[0]\ndef double(x): ...\n" + SHOW + "show(double)\n")
    ((python, _, files),) = run(file, cwd=tmp_path)
    assert python == f"{module}:double"
    assert f"{module}.py" in files


def test_a_module_that_is_the_program_keeps_its_package(tmp_path: Path) -> None:
    (tmp_path / "pkg").mkdir()
    (tmp_path / "pkg" / "__init__.py").write_text("")
    (tmp_path / "pkg" / "other.py").write_text("")
    (tmp_path / "pkg" / "job.py").write_text("from pkg import other\ndef f(): ...\n" + SHOW + "show(f)\n")
    ((python, _, files),) = run("-m", "pkg.job", cwd=tmp_path)
    assert python == "pkg.job:f"
    assert files.keys() == {"pkg/job.py", "pkg/__init__.py", "pkg/other.py", ".raftflow-script"}


def test_lambdas_and_inner_functions_of_a_script_are_refused(tmp_path: Path) -> None:
    (tmp_path / "s.py").write_text(
        SHOW + "def outer():\n    def inner(): ...\n    return inner\nshow(lambda: 1, outer())\n"
    )
    told = run("s.py", cwd=tmp_path)
    assert "a lambda has no name" in told[0]
    assert "inner is defined inside outer" in told[1]


def test_a_notebooks_function_takes_along_what_it_uses(tmp_path: Path) -> None:
    ((python, name, files),) = notebook(
        tmp_path,
        "import math as m\nfrom collections import Counter\nFACTOR = 3\nTABLE = {'a': [1]}\nunused = object()\n",
        "def helper(x):\n    return m.floor(x) * FACTOR\n",
        "from dataclasses import dataclass\n@dataclass\nclass Row:\n    x: int\n",
        "import raftflow\n@raftflow.task(retries=2)\ndef work(x):\n"
        "    return [helper(Row(x).x + 0.5), Counter('aa')['a'], TABLE, len('four')]\n",
        "show(work)\n",
    )
    assert (python, name, files.keys()) == ("cell_work:work", "work", {"cell_work.py"})
    assert load(files, python).function(2) == [6, 2, {"a": [1]}, 4]
    assert "unused" not in files["cell_work.py"]


def test_a_notebook_with_annotations_as_strings_keeps_them(tmp_path: Path) -> None:
    source = "from __future__ import annotations\ndef f(x: Unknown) -> int:\n    return x\n"
    ((python, _, files),) = notebook(tmp_path, source, "show(f)\n")
    assert load(files, python)(3) == 3


def test_the_newest_cell_counts(tmp_path: Path) -> None:
    first, second = notebook(
        tmp_path, "def f():\n    return 1\n", "show(f)\n", "def f():\n    return 2\n", "show(f)\n"
    )
    assert load(first[2], first[0])() == 1
    assert load(second[2], second[0])() == 2


def test_functions_that_need_each_other_travel_together(tmp_path: Path) -> None:
    source = "def even(n):\n    return n == 0 or odd(n - 1)\ndef odd(n):\n    return n != 0 and even(n - 1)\n"
    ((python, _, files),) = notebook(tmp_path, source, "show(even)\n")
    assert load(files, python)(10) is True


def test_what_a_notebook_cannot_send_is_named(tmp_path: Path) -> None:
    told = notebook(
        tmp_path,
        "model = object()\nlarge = 'x' * 70_000\ndef a():\n    return model\ndef b():\n    return large\n",
        "exec('def c(): ...')\n",
        "show(a, b, c)\n",
    )
    assert told[0].startswith("a uses model, which is a object of this notebook and cannot be sent")
    assert told[1].startswith("b uses large, which is a str of this notebook")
    assert "c has no source that could be sent" in told[2]
