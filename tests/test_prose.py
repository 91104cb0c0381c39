"""`scripts/prose` finds idioms in pages, texts, docstrings and comments, and nothing in code."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def prose() -> ModuleType:
    loader = importlib.machinery.SourceFileLoader("prose", str(ROOT / "scripts" / "prose"))
    spec = importlib.util.spec_from_loader("prose", loader)
    assert spec
    module = importlib.util.module_from_spec(spec)
    sys.modules["prose"] = module
    sys.dont_write_bytecode, before = True, sys.dont_write_bytecode
    loader.exec_module(module)
    sys.dont_write_bytecode = before
    return module


def tree(root: Path, **files: str) -> Path:
    """Return a repository with these files: `module` is a module of raftflow, `page` a page."""
    subprocess.run(["git", "init", "-q", root], check=True)
    places = {"module": root / "raftflow" / "pkg" / "module.py", "page": root / "PAGE.md"}
    for name, text in files.items():
        places[name].parent.mkdir(parents=True, exist_ok=True)
        places[name].write_text(text)
    return root


def found(prose: ModuleType, root: Path) -> list[tuple[str, int, str, str]]:
    return [(it.file, it.line, it.kind, it.idiom) for it in sorted(prose.findings(root, prose.listed(root)))]


def test_each_kind_of_prose_is_read_with_its_line(prose, tmp_path):
    module = '"""Start\n\n    anew.\n"""\n\n\n# Tell whoever\n# asks.\nTEXT = "must be a text"\n'
    root = tree(tmp_path, module=module, page="plain\nthe books balance\n")
    assert found(prose, root) == [
        ("PAGE.md", 2, "page", "the books"),
        ("raftflow/pkg/module.py", 3, "docstring", "anew"),
        ("raftflow/pkg/module.py", 7, "comment", "whoever"),
        ("raftflow/pkg/module.py", 9, "text", "must be a text"),
    ]


def test_an_idiom_is_found_across_a_line_break(prose, tmp_path):
    root = tree(tmp_path, module='"""A value that is\n    no text."""\n')
    assert found(prose, root) == [("raftflow/pkg/module.py", 1, "docstring", "is no t")]


def test_code_and_quoted_names_are_not_prose(prose, tmp_path):
    root = tree(tmp_path, module="anew = 1\n", page="The field `anew` is a number.\n```\nanew\n```\n")
    assert found(prose, root) == []


@pytest.mark.parametrize(
    ("place", "text", "kind"),
    [
        ("module", '"""Tell whoever asks."""\n', "docstring"),
        ("module", "# Whoever asks is told.\n", "comment"),
        ("module", 'TEXT = "whoever asks"\n', "text"),
        ("page", "Whoever asks is told.\n", "page"),
    ],
)
def test_a_planted_idiom_in_any_kind_of_prose_fails_the_check(prose, tmp_path, capsys, *, place, text, kind):
    root = tree(tmp_path, **{place: text})
    assert prose.main([], root) == 1
    assert f": {kind}: " in capsys.readouterr().out


def test_the_check_of_the_repository_runs_it():
    assert "run .venv/bin/python scripts/prose\n" in (ROOT / "scripts" / "check").read_text(encoding="utf-8")


def test_the_count_has_a_row_for_each_package(prose, tmp_path, capsys):
    root = tree(tmp_path, module='"""Tell whoever asks."""\n')
    assert prose.main(["--count"], root) == 0
    rows = capsys.readouterr().out.splitlines()
    assert rows[1].split() == ["raftflow/pkg", "-", "-", "1", "-", "whoever", "1"]
