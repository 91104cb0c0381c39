"""A replica asks for a better niceness, and runs without it where it may not have it."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from raftflow.replication.elections import priority

ASK = (
    "import os; from raftflow.replication.elections.priority import ask_for_priority; "
    "print(ask_for_priority(), os.getpriority(os.PRIO_PROCESS, 0))"
)


def test_it_asks_for_a_better_niceness() -> None:
    """In a process of its own, since a priority cannot be given back without rights."""
    done = subprocess.run([sys.executable, "-c", ASK], capture_output=True, text=True, check=True)
    allowed, niceness = done.stdout.split()
    assert (allowed == "True") == (int(niceness) <= priority.NICENESS)


def test_it_runs_where_it_is_not_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "setpriority", refuse)
    monkeypatch.setattr(os, "getpriority", lambda *_: 0)
    assert not priority.ask_for_priority()


def test_a_better_niceness_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "setpriority", lambda *_: pytest.fail("it has a better one already"))
    monkeypatch.setattr(os, "getpriority", lambda *_: -15)
    assert priority.ask_for_priority()
