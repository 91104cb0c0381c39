"""The client as type checkers see it: correct programs pass, wrong uses are errors. Both clients are alike."""

from __future__ import annotations

import inspect
import json
import re
import subprocess
import sys
from collections.abc import AsyncGenerator, Callable, Iterator
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import pytest

from raftflow.client import AsyncClient, AsyncRun, AsyncWorkflowRun, Client, Run, WorkflowRun

ROOT = Path(__file__).parents[2]
PROGRAMS = Path(__file__).parent / "typing"


def type_check(program: Path) -> list[tuple[int, str]]:
    """Return line and code of each error that mypy reports for a user's program."""
    # In a process of its own: mypy changes the limit of recursion.
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--config-file=", "--follow-imports=silent", "--no-error-summary",
         "--hide-error-context", f"--cache-dir={ROOT / '.mypy_cache' / 'client-programs'}", str(program)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    output = done.stdout
    assert not done.stderr
    found = re.findall(rf"{re.escape(program.name)}:(\d+): error: .* \[([\w-]+)\]$", output, re.MULTILINE)
    return [(int(line), code) for line, code in found]


def expected_errors(program: Path) -> list[tuple[int, set[str]]]:
    """Return the lines that are marked as wrong, with the codes of which mypy may report any."""
    lines = enumerate(program.read_text().splitlines(), 1)
    marked = [(number, line.partition("  # error: ")[2]) for number, line in lines]
    return [(number, set(codes.split())) for number, codes in marked if codes]


@pytest.mark.slow
def test_a_correct_program_type_checks():
    assert type_check(PROGRAMS / "correct.py") == []


@pytest.mark.slow
def test_each_wrong_use_is_an_error_and_nothing_else_is():
    program = PROGRAMS / "wrong.py"
    found = type_check(program)
    expected = expected_errors(program)
    assert [line for line, _ in found] == [line for line, _ in expected]
    assert all(code in codes for (_, code), (_, codes) in zip(found, expected, strict=True)), found


def lines_of_pyright(program: Path) -> list[int]:
    """Return the lines in which pyright reports an error."""
    argv = [sys.executable, "-m", "basedpyright", "--outputjson", "--level", "error", "--pythonpath", sys.executable]
    done = subprocess.run([*argv, str(program)], capture_output=True, text=True, check=False, cwd=program.parent)
    found = json.loads(done.stdout)["generalDiagnostics"]
    return sorted({each["range"]["start"]["line"] + 1 for each in found})


@pytest.mark.slow
def test_pyright_agrees_about_both_programs():
    assert lines_of_pyright(PROGRAMS / "correct.py") == []
    program = PROGRAMS / "wrong.py"
    assert lines_of_pyright(program) == [line for line, _ in expected_errors(program)]


def public_methods(kind: type) -> dict[str, Callable[..., Any]]:
    return {name: method for name, method in inspect.getmembers(kind, inspect.isfunction) if not name.startswith("_")}


def parameters_of(method: Callable[..., Any]) -> list[tuple[str, Any, Any, Any]]:
    hints = get_type_hints(method)
    return [
        (each.name, each.kind, each.default, hints.get(each.name))
        for each in inspect.signature(method).parameters.values()
    ]


def awaited(hint: Any) -> Any:
    """Return what the blocking twin of a method returns."""
    if get_origin(hint) is AsyncGenerator:
        return Iterator[get_args(hint)[0]]  # type: ignore[misc]
    if get_origin(hint) is AsyncRun:
        return Run[get_args(hint)[0]]  # type: ignore[misc]
    return {AsyncWorkflowRun: WorkflowRun}.get(hint, hint)


ASYNC_ONLY = {"workflows_page", "tasks_page", "cache_page"}
"""Pages are an asynchronous program's own affair; the blocking client goes through all of them."""


BLOCKING_ONLY = {"executor"}
"""An executor of the standard library is for threads; asynchronous programs start calls and await them."""

PAIRS = [(AsyncClient, Client), (AsyncWorkflowRun, WorkflowRun), (AsyncRun, Run)]


@pytest.mark.parametrize(("asynchronous", "blocking"), PAIRS)
def test_both_clients_have_the_same_methods(asynchronous, blocking):
    assert set(public_methods(asynchronous)) - ASYNC_ONLY == set(public_methods(blocking)) - BLOCKING_ONLY


@pytest.mark.parametrize(
    ("asynchronous", "blocking"),
    [
        pytest.param(method, public_methods(blocking)[name], id=f"{blocking.__name__}.{name}")
        for each, blocking in PAIRS
        for name, method in public_methods(each).items()
        if name not in ASYNC_ONLY and name in public_methods(blocking)
    ],
)
def test_a_method_and_its_blocking_twin_have_the_same_signature(asynchronous, blocking):
    assert parameters_of(asynchronous) == parameters_of(blocking)
    assert awaited(get_type_hints(asynchronous)["return"]) == get_type_hints(blocking)["return"]


def test_both_clients_are_made_from_the_same_settings():
    assert parameters_of(AsyncClient.__init__) == parameters_of(Client.__init__)
