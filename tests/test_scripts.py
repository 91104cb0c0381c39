"""Every script is in the list of scripts, and says in its first lines what it does."""

from __future__ import annotations

import re
import subprocess
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
