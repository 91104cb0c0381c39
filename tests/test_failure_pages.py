"""Pages of failure modes: what they quote is what raftflow writes, and what they say to do can be done."""

from __future__ import annotations

import ast
import functools
import re
import shlex
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from raftflow.cli.main import root
from raftflow.cli.terminal.failure_pages import FOLDER, page_names, page_text, page_titles
from raftflow.domain.contract import problem_kinds

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "raftflow"
PAGES = page_names()
DOCTOR = "`raftflow cluster doctor`"
QUOTING = ("log of ", "command line", "HTTP")
"""Rows of "What you see" whose code is what raftflow writes, or a command."""
PROGRAMS = ("agent", "api", "cli", "client", "coordinator", "machine", "recovery", "replication")
"""Packages that write what pages quote."""
PRESSURE = {"cpu-pressure", "io-pressure", "memory-pressure"}
"""Codes that one check gives, from a table."""
LITERAL_MIN = 12
"""Characters of a quotation that are not dots: fewer would be found anywhere."""


def part(page: str, title: str) -> str:
    """Return the part of a page below a heading."""
    return page.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def seen(page: str) -> list[tuple[str, str]]:
    """Return the rows of "What you see"."""
    rows = re.findall(r"^\| (.+?) \| (.+) \|$", part(page, "What you see"), re.MULTILINE)
    return [row for row in rows if row[0] not in {"where", "---"}]


def quoted(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


# --- what raftflow writes


def text_of(node: ast.AST) -> str | None:
    """Return a string of the source, with a zero byte for each part that is filled in."""
    if isinstance(node, ast.JoinedStr):
        return "".join(piece.value if isinstance(piece, ast.Constant) else "\0" for piece in node.values)
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return re.sub(r"%[-+0 #]*[\d.]*[a-zA-Z]|\{\w*\}", "\0", node.value)
    return None


@functools.cache
def written() -> list[str]:
    """Return every string of the product's programs but the docstrings."""
    found = []
    modules = [*SOURCE.glob("*.py"), *(file for package in PROGRAMS for file in (SOURCE / package).rglob("*.py"))]
    for file in modules:
        nodes = list(ast.walk(ast.parse(file.read_text(encoding="utf-8"))))
        docstrings = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
        for node in nodes:
            text = None if id(node) in docstrings else text_of(node)
            if text is not None and len(text) >= LITERAL_MIN:
                found.append(text)
    return found


def is_written(quotation: str) -> bool:
    """Tell whether one string of the source has all literal parts of a quotation, in their order."""
    literals = [literal.strip() for literal in quotation.split("...") if literal.strip()]
    return any(has_in_order(text, literals) for text in written())


def has_in_order(text: str, literals: list[str]) -> bool:
    place = 0
    for literal in literals:
        place = text.find(literal, place)
        if place < 0:
            return False
        place += len(literal)
    return True


def test_a_quotation_is_compared_with_the_source() -> None:
    assert is_written("agent ... (incarnation ...) was silent for longer than its lease")
    assert not is_written("agent ... (incarnation ...) was silent for longer than its leash")
    assert not is_written("was silent for longer than its lease ... agent")


@pytest.mark.parametrize("name", PAGES)
def test_every_quoted_message_is_one_that_raftflow_writes(name: str) -> None:
    words = {kind.word for kind in vars(problem_kinds).values() if isinstance(kind, problem_kinds.ProblemKind)}
    quotations = [
        quotation for where, what in seen(page_text(name)) if where.startswith(QUOTING) for quotation in quoted(what)
    ]
    messages = [each for each in quotations if not each.startswith(("raftflow ", "--")) and each not in words]
    for message in messages:
        if re.fullmatch(r"[\w.]+|[A-Z]+", message):
            assert any(f'"{message}"' in text or message in text for text in sources()), message
            continue
        assert len(message.replace("...", "").replace(" ", "")) >= LITERAL_MIN, f"too short to be found: {message}"
        assert is_written(message), message


@functools.cache
def sources() -> list[str]:
    return [file.read_text(encoding="utf-8") for file in SOURCE.rglob("*.py")]


# --- the parts of a page


@pytest.mark.parametrize("name", PAGES)
def test_a_page_says_what_is_seen_what_raftflow_does_and_what_to_do(name: str) -> None:
    page = page_text(name)
    assert re.findall(r"^## (.+)$", page, re.MULTILINE) == ["What you see", "What raftflow does", "What you do"]
    assert len(seen(page)) >= 2 and len(page.splitlines()) <= 60


@pytest.mark.parametrize("name", PAGES)
def test_a_metric_of_a_page_exists(name: str) -> None:
    metrics = set(re.findall(r"^\| `(\w+)` \|", (SOURCE / "api" / "METRICS.md").read_text(), re.MULTILINE))
    named = {each for each in quoted(page_text(name)) if each.startswith(("raftflow_", "process_"))}
    assert named - metrics == set()


def commands_of(page: str) -> list[str]:
    """Return the commands of a page: those in blocks, and those in its sentences."""
    blocks = re.findall(r"^ *```sh\n(.+?)^ *```$", page, re.MULTILINE | re.DOTALL)
    lines = [line.strip() for block in blocks for line in block.splitlines() if line.strip()]
    return [
        *lines,
        *(each for each in quoted(re.sub(r"```.+?```", "", page, flags=re.DOTALL)) if each.startswith("raftflow ")),
    ]


@pytest.mark.parametrize("name", [*PAGES, "README"])
def test_every_command_of_a_page_exists(name: str) -> None:
    page = (FOLDER / f"{name}.md").read_text(encoding="utf-8")
    for line in commands_of(page):
        check_command(line)


def check_command(line: str) -> None:
    """Fail unless a command line names a command of raftflow and options that it has."""
    program, *words = shlex.split(line)
    assert program == "raftflow", line
    command, context = root, click.Context(root, info_name="raftflow")
    while words and isinstance(command, click.Group) and not words[0].startswith("-"):
        following = command.get_command(context, words.pop(0))
        assert following is not None, line
        command, context = following, click.Context(following, parent=context)
    if words and words[0] == "--help":
        return
    assert not isinstance(command, click.Group), f"{line}: what of it?"
    options = {name for param in command.params if isinstance(param, click.Option) for name in param.opts}
    assert {word.partition("=")[0] for word in words if word.startswith("--")} <= options, line


@pytest.mark.parametrize("name", [*PAGES, "README"])
def test_every_link_of_a_page_leads_somewhere(name: str) -> None:
    page = (FOLDER / f"{name}.md").read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)]+)\)", page):
        path, _, anchor = target.partition("#")
        file = (FOLDER / path).resolve()
        assert file.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.+)$", file.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w -]", "", each.lower()).replace(" ", "-") for each in headings}, target


# --- the index, the doctor and the help


def test_the_index_lists_every_page_with_its_title() -> None:
    index = (FOLDER / "README.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\| \[([\w-]+)\]\(\1\.md\) \| (.+) \|$", index, re.MULTILINE)
    assert sorted(name for name, _ in listed) == PAGES
    titles = dict(page_titles())
    assert [name for name, about in listed if not about.startswith(f"{titles[name]}: ")] == []


def test_the_pages_are_linked_from_the_page_that_operators_open_first() -> None:
    assert "(raftflow/recovery/failures/README.md)" in (ROOT / "README.md").read_text(encoding="utf-8")
    assert "(failures/README.md)" in (FOLDER.parent / "README.md").read_text(encoding="utf-8")


def results_of_checks() -> tuple[set[str], dict[str, set[str]]]:
    """Return the codes that the doctor's checks give, and by page the codes that name it, from the source."""
    codes, by_page = set(), {}
    for file in (SOURCE / "doctor" / "checks").glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            given = {each.arg: each.value for each in node.keywords}
            if "code" not in given:
                continue
            code = strings_in(given["code"])
            codes |= code
            for page in strings_in(given.get("page")):
                by_page.setdefault(page, set()).update(code)
    return codes, by_page


def strings_in(node: ast.AST | None) -> set[str]:
    found = set() if node is None else {each.value for each in ast.walk(node) if isinstance(each, ast.Constant)}
    return {each for each in found if isinstance(each, str) and each}


def test_the_doctor_and_the_pages_name_each_other() -> None:
    codes, by_page = results_of_checks()
    assert set(by_page) - set(PAGES) == set()
    for name in PAGES:
        told = {code for where, what in seen(page_text(name)) if where == DOCTOR for code in quoted(what)}
        assert by_page.get(name, set()) - told == set(), f"{name}: the doctor names this page with these"
        assert told - codes - PRESSURE == set(), f"{name}: no check gives these"


def test_the_page_of_the_doctor_lists_every_code() -> None:
    page = (SOURCE / "doctor" / "README.md").read_text(encoding="utf-8")
    listed = re.findall(r"^\| `([a-z-]+)` \|", page, re.MULTILINE)
    codes, _ = results_of_checks()
    assert sorted(listed) == sorted(codes | PRESSURE)


def test_the_help_prints_a_page_and_lists_all() -> None:
    run = CliRunner().invoke
    assert run(root, ["help", "disk-full"]).output == page_text("disk-full") + "\n"
    listed = run(root, ["help", "failures"]).output
    assert [name for name in PAGES if name not in listed] == []
