"""The checks in `scripts/checks`: each finds what is planted in a small tree, and nothing in a clean one."""

from __future__ import annotations

import importlib
import itertools
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

CHECKS = Path(__file__).resolve().parent.parent / "scripts" / "checks"


@pytest.fixture
def checks(monkeypatch):
    """Return a function that imports a check by its name."""
    monkeypatch.syspath_prepend(str(CHECKS))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield importlib.import_module
    for name in ("sources", *(file.stem for file in CHECKS.glob("*.py"))):
        sys.modules.pop(name, None)


@pytest.fixture
def tree(tmp_path):
    """Return a function that writes files into an empty repository and returns its folder."""
    subprocess.run(["git", "init", "-q", tmp_path], check=True)

    def write(files: dict[str, str]) -> Path:
        for name, text in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return tmp_path

    return write


class TestClassNames:
    @pytest.fixture
    def names(self, checks) -> ModuleType:
        return checks("class_names")

    def test_a_name_of_two_classes_is_told_with_both_places(self, names, tree):
        root = tree({"raftflow/a.py": "class Lane: ...\n", "raftflow/b.py": "\nclass _Lane: ...\n"})
        assert list(names.faults(root, ())) == ["raftflow/a.py:1: class Lane is also in raftflow/b.py:2"]

    def test_classes_inside_functions_and_classes_count(self, names, tree):
        root = tree({"raftflow/a.py": "class Lane:\n    class Lane: ...\n"})
        assert list(names.faults(root, ())) == ["raftflow/a.py:1: class Lane is also in raftflow/a.py:2"]

    def test_an_exception_is_allowed_while_it_is_needed(self, names, tree):
        root = tree({"raftflow/a.py": "class Lane: ...\n", "raftflow/b.py": "class Lane: ...\n"})
        assert list(names.faults(root, {"Lane"})) == []
        assert list(names.faults(root, {"Lane", "Other"})) == ["class_names.py: Other needs no exception"]


class TestSizes:
    @pytest.fixture
    def sizes(self, checks) -> ModuleType:
        return checks("sizes")

    def test_a_file_of_501_lines_is_too_long(self, sizes, tree):
        root = tree(
            {
                "raftflow/a.py": "x = 1\n" * 501,
                "raftflow/b.py": "x = 1\n" * 500,
                "raftflow/c.py": "",
                "raftflow/d.py": "",
            }
        )
        assert [fault for fault in sizes.faults(root) if "median" not in fault] == [
            "raftflow/a.py: 501 lines, at most 500; split it by concern"
        ]

    def test_fifteen_modules_are_too_many_for_a_folder(self, sizes, tree):
        root = tree({"raftflow/pkg/__init__.py": "", **{f"raftflow/pkg/m{number}.py": "" for number in range(15)}})
        assert list(sizes.faults(root)) == ["raftflow/pkg: 15 modules, at most 14; make rooms by concern"]
        (root / "raftflow/pkg/m0.py").unlink()
        assert list(sizes.faults(root)) == []

    def test_half_of_the_files_are_below_200_lines(self, sizes, tree):
        root = tree({"raftflow/a.py": "x = 1\n" * 200, "raftflow/b.py": "x = 1\n" * 200, "raftflow/c.py": "x = 1\n"})
        assert list(sizes.faults(root)) == ["raftflow: the median file has 200 lines, it must have fewer than 200"]


class TestCycles:
    numbers = itertools.count()

    @pytest.fixture
    def package(self, tmp_path, monkeypatch):
        """Return a function that writes a package of these modules and returns its name."""
        name = f"cycles_of_test_{next(self.numbers)}"
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("")
        monkeypatch.syspath_prepend(str(tmp_path))

        def write(**modules: str) -> str:
            for module, text in modules.items():
                (tmp_path / name / f"{module}.py").write_text(text.replace("PKG", name))
            return name

        return write

    def test_modules_that_import_each_other_around_a_corner_are_found(self, checks, package):
        name = package(
            a="from PKG import b", b="from PKG import c", c="def f():\n    from PKG import a", d="from PKG import a"
        )
        assert list(checks("cycles").faults(name)) == [
            f"modules import each other: {name}.a, {name}.b, {name}.c",
        ]

    def test_a_diamond_is_no_cycle(self, checks, package):
        name = package(a="from PKG import b, c", b="from PKG import d", c="from PKG import d", d="")
        assert list(checks("cycles").faults(name)) == []


class TestPrivateWords:
    @pytest.fixture
    def found(self, checks, tree):
        def found(files: dict[str, str]) -> list[str]:
            root = tree(files)
            return [fault.split("; say")[0] for fault in checks("private_words").faults(root)]

        return found

    @pytest.mark.parametrize(
        "name",
        [
            "seat_of",
            "_Seat",
            "AgentSeat",
            "SEATS_MAX",
            "Step",
            "PIECES_MOST",
            "go_on",
            "_may",
            "void_fences",
            "let_go",
            "hurry",
        ],
    )
    def test_an_identifier_of_the_old_language_is_found(self, found, name):
        assert [fault.split(" is private")[0] for fault in found({"raftflow/a.py": f"\n{name} = 1\n"})] == [
            f"raftflow/a.py:2: {name}"
        ]

    @pytest.mark.parametrize(
        "name", ["step", "seatbelt", "workflow", "line", "may_wait", "take_prefix", "flow", "ledger"]
    )
    def test_everyday_names_are_free(self, found, name):
        assert found({"raftflow/a.py": f"{name} = 1\n"}) == []

    def test_file_names_of_modules_and_tests_are_looked_at(self, found):
        assert found({"raftflow/flow.py": "", "tests/test_doorway.py": "", "tests/test_workflow.py": ""}) == [
            "raftflow/flow.py: flow is private (flow)",
            "tests/test_doorway.py: doorway is private (doorway)",
        ]

    def test_docstrings_comments_and_pages_are_looked_at_but_not_texts(self, found):
        module = '"""Take\n\nan errand."""\n\nTEXT = "errand"  # errands\n'
        assert found({"raftflow/a.py": module, "raftflow/PAGE.md": "plain\nThe Doorman.\n"}) == [
            "raftflow/PAGE.md:2: Doorman is private (doorman)",
            "raftflow/a.py:3: errand is private (errand)",
            "raftflow/a.py:5: errands is private (errand)",
        ]

    def test_every_word_of_the_list_finds_itself(self, checks):
        words = checks("private_words")
        patterns = words.Patterns()
        for key, word in words.WORDS.items():
            assert key.lower() == key or not word.prose, "the quick look at prose needs keys in lower case"
            names = (key, key.replace(" ", "_"), f"_{key}", key.title(), f"_{key}s")
            assert any(patterns.file.fullmatch(name) for name in (*names, "HeldPolls")), key


class TestReferences:
    @pytest.fixture
    def faults(self, checks, tree):
        return lambda files: list(checks("references").faults(tree(files)))

    def test_a_file_that_moved_is_told_where_it_is_mentioned(self, faults):
        module = '"""See old/place.py and\n\nnew/place.py."""\n\nx = 1  # as other.py says\n'
        assert faults({"raftflow/pkg/new/place.py": module, "raftflow/elsewhere/other.py": ""}) == [
            "raftflow/pkg/new/place.py:1: there is no file old/place.py",
            "raftflow/pkg/new/place.py:5: there is no file other.py",
        ]

    def test_a_page_is_read_with_its_pictures(self, faults):
        page = (
            "```\n jobs.py ──► gone.py\n```\n`gone.py`, `pkg/here.py`, [x.py](raftflow/pkg/here.py), `scripts/gone`\n"
        )
        assert faults({"PAGE.md": page, "raftflow/pkg/here.py": ""}) == [
            "PAGE.md:2: there is no file gone.py",
            "PAGE.md:4: there is no file gone.py",
            "PAGE.md:4: there is no file scripts/gone",
        ]

    def test_a_test_that_was_renamed_is_told_where_it_is_mentioned(self, faults):
        module = '"""See test_old_name and test_new_name in test_subject.py."""\n'
        tests = "def test_new_name(): ...\n"
        assert faults({"raftflow/pkg/place.py": module, "tests/pkg/test_subject.py": tests}) == [
            "raftflow/pkg/place.py:1: there is no test test_old_name",
        ]


class TestUnsafeCalls:
    @pytest.fixture
    def unsafe(self, checks) -> ModuleType:
        return checks("unsafe_calls")

    @pytest.mark.parametrize(
        ("text", "what"),
        [
            ("import pickle\n", "pickle"),
            ("from marshal import loads\n", "marshal"),
            ("import xml.etree.ElementTree as tree\n", "xml"),
            ("import gzip\n", "gzip"),
            ("import yaml\nyaml.load(text)\n", "yaml.load"),
            ("import yaml\nyaml.parse(text, Loader=yaml.FullLoader)\n", "yaml.FullLoader"),
            ("from yaml import unsafe_load\n", "yaml.unsafe_load"),
            ("eval(text)\n", "eval"),
            ("import os\nos.system(text)\n", "os.system"),
            ("run(text, shell=True)\n", "shell="),
            ("import zlib\nzlib.decompress(data)\n", "zlib.decompress"),
            ("if given == self._token:\n    pass\n", "=="),
            ("ok = mac != expected\n", "=="),
        ],
    )
    def test_what_runs_or_inflates_what_it_reads_is_told(self, unsafe, tree, text, what):
        found = list(unsafe.faults(tree({"raftflow/api/a.py": text}), {}))
        assert [each.split(" ")[1] for each in found] == [what], found

    @pytest.mark.parametrize(
        "text",
        [
            "import re\nre.compile(text)\n",
            "import yaml\nyaml.parse(text, Loader=yaml.SafeLoader)\n",
            "run(text, shell=False)\n",
            "from zlib import crc32\n",
            "if token == '':\n    pass\n",
            "hmac.compare_digest(token, given)\n",
        ],
    )
    def test_what_does_not_is_passed_over(self, unsafe, tree, text):
        assert list(unsafe.faults(tree({"raftflow/api/a.py": text}), {})) == []

    def test_a_secret_of_its_own_may_be_compared_anyhow(self, unsafe, tree):
        assert list(unsafe.faults(tree({"raftflow/client/a.py": "changed = token != before\n"}), {})) == []

    def test_an_exception_is_allowed_while_it_is_needed(self, unsafe, tree):
        root = tree({"raftflow/a.py": "eval(text)\n"})
        assert list(unsafe.faults(root, {("raftflow/a.py", "eval"): "why"})) == []
        left = list(unsafe.faults(root, {("raftflow/a.py", "eval"): "why", ("raftflow/a.py", "exec"): "why"}))
        assert left == ["unsafe_calls.py: exec in raftflow/a.py needs no exception"]
