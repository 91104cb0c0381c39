"""Every script is in the list of scripts, says in its first lines what it does, and explains itself with --help."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path, PurePosixPath

import pytest

ROOT = Path(__file__).resolve().parent.parent
LISTED = subprocess.run(["git", "ls-files", "scripts"], cwd=ROOT, check=True, capture_output=True, text=True)
SCRIPTS = [name for name in LISTED.stdout.split() if not name.endswith((".md", ".txt"))]


def table(folder: str) -> set[str]:
    """Return the first column of the table of scripts in a folder's README."""
    return set(re.findall(r"^\| `([\w/.]+)` \|", (ROOT / folder / "README.md").read_text(), re.MULTILINE))


def test_every_script_is_listed_in_a_readme_and_every_listed_one_exists():
    for folder in ("scripts/bench", "scripts/chaos"):
        listed = {PurePosixPath(name).name for name in SCRIPTS if name.startswith(folder)}
        assert listed - table(folder) == set()
    others = {
        name.removeprefix("scripts/") for name in SCRIPTS if not name.startswith(("scripts/bench", "scripts/chaos"))
    }
    assert table("scripts") == others | {"bench/", "chaos/", "constraints.txt"}


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_says_in_its_first_lines_what_it_does(name):
    first, second, *_ = (ROOT / name).read_text(encoding="utf-8").splitlines()
    says = second if first.startswith("#!") else first
    assert re.match(r'(# |""")[A-Z]', says), says


MODULES = {
    "scripts/checks/sources.py",
    "scripts/chaos/fuzz_doors.py",
    "scripts/chaos/fuzz_mutations.py",
    "scripts/chaos/fuzz_table.py",
    "scripts/chaos/odd_requests_hooks.py",
    "scripts/chaos/kill_lines.py",
    "scripts/chaos/kill_runs.py",
    "scripts/chaos/step_kills_tasks.py",
    "scripts/chaos/wait_kills_people.py",
    "scripts/chaos/wait_kills_tasks.py",
}
"""What other scripts import, or hand to another program."""


@pytest.mark.parametrize("name", [name for name in SCRIPTS if name not in MODULES])
def test_a_script_explains_itself_and_does_nothing_else(name):
    file = ROOT / name
    is_python = "python" in file.read_text(encoding="utf-8").splitlines()[0] or name.endswith(".py")
    command = [sys.executable, str(file), "--help"] if is_python else [str(file), "--help"]
    shown = subprocess.run(command, cwd="/", check=False, capture_output=True, text=True, timeout=60)
    assert (shown.returncode, shown.stderr) == (0, "")
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    first = re.sub(r'^(# |""")', "", lines[1] if lines[0].startswith("#!") else lines[0])
    words = " ".join(first.strip('"').split()[:5])
    assert words in " ".join(shown.stdout.split())
