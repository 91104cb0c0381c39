"""Tables fit the terminal, and nothing in them can steer it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from click.testing import Result
from rich.cells import cell_len

Run = Callable[..., Result]
TASK = {
    "id": "a-task-with-a-name",
    "state": "failed",
    "attempt": 2,
    "agent": "日本語の名前",
    "started_at": "2026-01-01T00:00:00Z",
    "detail": "Traceback (most recent call last):\n  File x\nValueError: \x1b[31mred " + "long " * 40,
}


@pytest.mark.parametrize("width", [20, 40, 60, 80, 120])
def test_a_table_fits_the_width_and_says_what_was_cut(
    run: Run, fake: Any, monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    fake.routes["GET", "/v1/workflows/w/tasks"] = {"tasks": [TASK, TASK]}
    monkeypatch.setenv("COLUMNS", str(width))
    result = run("task", "list", "w")
    assert max(cell_len(line) for line in result.stdout.splitlines()) <= max(width, len("ID a-task-with-a-name"))
    assert result.stdout.count("a-task-with-a-name") == 2
    assert "\x1b" not in result.stdout
    assert "cut to the width of the terminal" in result.stderr


def test_nothing_is_cut_in_a_pipe(run: Run, fake: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    fake.routes["GET", "/v1/workflows/w/tasks"] = {"tasks": [TASK]}
    monkeypatch.delenv("COLUMNS", raising=False)
    result = run("task", "list", "w")
    titles, row = result.stdout.splitlines()
    assert row.endswith("ValueError: \\x1b[31mred " + ("long " * 40).rstrip())
    assert "2026-01-01  " in row
    assert result.stderr == ""
    assert titles.index("STARTED") == cell_len(row[: row.index("2026-01-01")])
