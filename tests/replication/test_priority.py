"""A replica asks for a better niceness, and runs without it where it may not have it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from raftflow.replication.elections import priority

ASK = (
    "import os; from raftflow.replication.elections import priority; "
    "print(priority.ask_for_priority(), os.getpriority(os.PRIO_PROCESS, 0), priority.session_niceness())"
)


def ask(*, own_session: bool) -> tuple[bool, int, str]:
    """Ask in a process of its own, since a priority cannot be given back without rights."""
    done = subprocess.run(
        [sys.executable, "-c", ASK], capture_output=True, text=True, check=True, start_new_session=own_session
    )
    allowed, niceness, session = done.stdout.split()
    return allowed == "True", int(niceness), session


def test_it_asks_for_a_better_niceness_of_its_process_and_its_session() -> None:
    allowed, niceness, session = ask(own_session=True)
    assert allowed == (niceness <= priority.NICENESS)
    if allowed:
        assert session in {str(priority.NICENESS), "None"}


def test_the_session_of_a_shell_is_not_changed() -> None:
    before = priority.session_niceness()
    assert ask(own_session=False)[2] == str(before)


def test_it_runs_where_it_is_not_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "setpriority", refuse)
    monkeypatch.setattr(os, "getpriority", lambda *_: 0)
    assert not priority.ask_for_priority()


@pytest.fixture
def own_group(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Stand in for the group of this process's session."""
    group = tmp_path / "autogroup"
    monkeypatch.setattr(priority, "SESSION_GROUP", group)
    monkeypatch.setattr(os, "getsid", lambda _pid: os.getpid())
    monkeypatch.setattr(os, "setpriority", lambda *_: pytest.fail("it has a better one already"))
    monkeypatch.setattr(os, "getpriority", lambda *_: -15)
    return group


def test_a_better_niceness_is_kept(own_group: Path) -> None:
    own_group.write_text("/autogroup-7 nice -12\n")
    assert priority.ask_for_priority()
    assert own_group.read_text() == "/autogroup-7 nice -12\n"


def test_the_session_gets_it_beside_a_process_that_has_it(own_group: Path) -> None:
    """A service manager sets the niceness of the process alone (`Nice=`)."""
    own_group.write_text("/autogroup-7 nice 0\n")
    assert priority.ask_for_priority()
    assert own_group.read_text() == str(priority.NICENESS)


def test_it_runs_without_groups_of_sessions(own_group: Path) -> None:
    assert not own_group.exists()
    assert priority.ask_for_priority()


def test_it_runs_where_its_session_has_no_group(own_group: Path) -> None:
    """The file of a container's first session is empty."""
    own_group.write_text("")
    assert priority.ask_for_priority()
    assert own_group.read_text() == ""
