"""The pages are current: the walk through the tree, the table of rooms, the two glossaries."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
DESIGN = (ROOT / "raftflow" / "DESIGN.md").read_text(encoding="utf-8")


def section(page: str, title: str) -> str:
    """Return the part of a page below a heading."""
    return page.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


STOPS = re.findall(r"^\| `([\w/]+\.py)` \| `(\w+)` \|", section(DESIGN, "A ten-minute walk"), re.MULTILINE)


def test_the_walk_has_stops():
    assert len(STOPS) > 20


@pytest.mark.parametrize(("file", "name"), STOPS, ids=[f"{file}-{name}" for file, name in STOPS])
def test_each_stop_of_the_walk_is_in_its_file(file, name):
    assert re.search(rf"\b{name}\b", (ROOT / "raftflow" / file).read_text(encoding="utf-8"))


def test_the_table_of_rooms_is_current():
    run = subprocess.run(
        [sys.executable, ROOT / "scripts" / "draw_rooms", "--check"], check=False, capture_output=True
    )
    assert run.returncode == 0, run.stdout


def rows(page: str) -> dict[str, str]:
    return dict(re.findall(r"^\| (.+?) \| (.+?) \|$", section(page, "Glossary"), re.MULTILINE))


def test_a_word_of_the_users_glossary_means_the_same_in_the_design():
    users, design = rows((ROOT / "README.md").read_text(encoding="utf-8")), rows(DESIGN)
    assert users
    assert {word: users[word] for word in users if design.get(word) != users[word]} == {}


def test_the_glossary_of_the_design_has_thirty_to_sixty_words_and_begins_with_those_of_users():
    words = [word for word in rows(DESIGN) if word not in {"word", "---"}]
    assert 30 <= len(words) <= 60
    users = ["replica, coordinator", "leader", "term", "agent", "attempt", "fence", "lease", "kind", "ledger"]
    assert words[: len(users) + 2] == [*users, "workflow", "step, record"]
