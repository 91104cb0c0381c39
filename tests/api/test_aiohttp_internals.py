"""Private names of aiohttp: one module uses them, and it says clearly when the installed version lacks one."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import raftflow.api
from raftflow.api.http import aiohttp_internals
from raftflow.api.http.aiohttp_internals import InternalsError, ObservedHandler, require_names

API = Path(raftflow.api.__file__).parent
INTERNALS = Path(aiohttp_internals.__file__)
PUBLIC = {"aiohttp", "aiohttp.web"}


def imported_modules(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def private_attributes_of_others(file: Path) -> Iterator[str]:
    """Yield `X._name` where X is not `self` or `cls` and the module does not define `_name`.

    `_replace` is the documented method of named tuples.
    """
    tree = ast.parse(file.read_text())
    own = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute) and _is_self(node.value)}
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Attribute)
            and re.match(r"_[a-z]", node.attr)
            and not _is_self(node.value)
            and node.attr not in own | {"_replace"}
        ):
            yield f"{file.name}:{node.lineno}: {node.attr}"


def _is_self(node: ast.expr) -> bool:
    return isinstance(node, ast.Name) and node.id in {"self", "cls"}


def test_one_module_alone_uses_what_aiohttp_does_not_document() -> None:
    for file in API.rglob("*.py"):
        if file == INTERNALS:
            continue
        modules = {name for name in imported_modules(file) if name.split(".")[0] == "aiohttp"}
        assert modules <= PUBLIC, f"{file}: import it in {INTERNALS.name}"
        assert not list(private_attributes_of_others(file))


def test_no_subclass_uses_a_private_name_of_aiohttp_directly() -> None:
    private = set(aiohttp_internals._HANDLER_NAMES) - {"_loop", "peername"}
    text = (API / "connection.py").read_text()
    assert not [name for name in private if re.search(rf"\bself\.{name}\b", text)]


def test_a_missing_name_is_told_with_the_version_and_the_cure() -> None:
    with pytest.raises(InternalsError, match=r"aiohttp [\d.]+ lacks .*_gone.*pip install 'aiohttp>="):
        require_names(ObservedHandler, ("_waiter", "_gone"))


def test_the_cure_names_the_range_of_the_project() -> None:
    project = tomllib.loads((API.parent.parent / "pyproject.toml").read_text())["project"]
    range_text = next(text for text in project["dependencies"] if text.startswith("aiohttp"))
    assert f"'{range_text}'" in aiohttp_internals.CURE
