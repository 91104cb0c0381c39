"""Where an agent works, and what it refuses to work in."""

import os
import stat
from pathlib import Path

import pytest

from raftflow.agent.config import AgentConfigError, default_path
from raftflow.agent.output.store import OutputStore
from raftflow.agent.workdir.directory import WorkDirectory


def test_the_default_is_below_the_users_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert default_path("a", {"XDG_STATE_HOME": "/s"}) == Path("/s/raftflow/agents/a")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert default_path("a", {"HOME": str(tmp_path)}) == Path("/var/lib/raftflow/agents/a")
    assert default_path("a", {"XDG_STATE_HOME": "relative"}) == Path("/var/lib/raftflow/agents/a")
    monkeypatch.setattr(os, "geteuid", lambda: 4_000_000_000)
    home = tmp_path.resolve()
    assert default_path("a", {"HOME": str(tmp_path)}) == home / ".local/state/raftflow/agents/a"
    for env in ({}, {"HOME": ""}, {"HOME": "/"}, {"HOME": "/no/such/home"}, {"HOME": "relative"}):
        with pytest.raises(AgentConfigError, match="no home directory"):
            default_path("a", env)


def test_missing_parts_are_made_private(tmp_path: Path) -> None:
    work = WorkDirectory(tmp_path / "x" / "y" / "agent")
    work.close()
    for path in (tmp_path / "x", tmp_path / "x" / "y" / "agent", tmp_path / "x" / "y" / "agent" / "exchange"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700


@pytest.mark.parametrize("part", ["above", "above/agent"])
def test_links_are_not_followed(tmp_path: Path, part: str) -> None:
    real = tmp_path / "real"
    (real / "agent").mkdir(parents=True)
    if part == "above":
        (tmp_path / "above").symlink_to(real)
    else:
        (tmp_path / "above").mkdir()
        (tmp_path / part).symlink_to(real / "agent")
    with pytest.raises(AgentConfigError, match=f"is a symbolic link, not a directory; give the real path: {real}"):
        WorkDirectory(tmp_path / "above" / "agent")


def test_parts_that_others_may_write_to_are_refused(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    (shared / "agent").mkdir(parents=True)
    shared.chmod(0o777)
    with pytest.raises(AgentConfigError, match=r"shared may be written to by others \(mode 777\)"):
        WorkDirectory(shared / "agent")
    shared.chmod(0o1777)  # like /tmp: nobody else can rename what is in it
    WorkDirectory(shared / "agent").close()
    with pytest.raises(AgentConfigError, match="choose a private one"):
        WorkDirectory(shared)
    (shared / "file").write_text("")
    with pytest.raises(AgentConfigError, match="is a regular file, not a directory"):
        WorkDirectory(shared / "file" / "agent")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give directories away")
def test_parts_of_other_users_are_refused(tmp_path: Path) -> None:
    his = tmp_path / "his"
    (his / "agent").mkdir(parents=True)
    os.chown(his, 12_345, -1)
    with pytest.raises(AgentConfigError, match="belongs to user 12345"):
        WorkDirectory(his / "agent")
    shared = tmp_path / "shared"
    (shared / "agent").mkdir(parents=True)
    shared.chmod(0o1777)
    os.chown(shared / "agent", 12_345, -1)
    with pytest.raises(AgentConfigError, match="belongs to another user"):
        WorkDirectory(shared / "agent")


def test_one_agent_at_a_time(tmp_path: Path) -> None:
    work = WorkDirectory(tmp_path / "agent")
    with pytest.raises(AgentConfigError, match="in use by another agent"):
        WorkDirectory(tmp_path / "agent")
    (tmp_path / "agent").rename(tmp_path / "away")
    work.restore()  # the new one is locked as well
    with pytest.raises(AgentConfigError, match="in use by another agent"):
        WorkDirectory(tmp_path / "agent")
    work.close()
    WorkDirectory(tmp_path / "agent").close()


def test_a_lock_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "agent").mkdir()
    (tmp_path / "agent" / "lock").symlink_to("/dev/null")
    with pytest.raises(AgentConfigError, match="cannot be used"):
        WorkDirectory(tmp_path / "agent")
    (tmp_path / "agent" / "lock").unlink()
    os.mkfifo(tmp_path / "agent" / "lock")
    with pytest.raises(AgentConfigError, match="lock is a FIFO: remove it"):
        WorkDirectory(tmp_path / "agent")


def test_what_an_agent_left_is_removed_at_the_next_start(tmp_path: Path) -> None:
    work = WorkDirectory(tmp_path / "agent")
    for part in ("exchange", "attempts", "workers", "inputs", "code", "trash"):
        (tmp_path / "agent" / part / "old" / "older").mkdir(parents=True)
        (tmp_path / "agent" / part / "file").write_text("")
    work.close()
    work = WorkDirectory(tmp_path / "agent")
    store = OutputStore(work, count_max=10, bytes_max=1 << 20, age_max_s=60, output_bytes_max=1 << 20)
    work.trash.close(10)
    assert sorted(path.name for path in (tmp_path / "agent").rglob("*")) == [
        "attempts", "code", "exchange", "inputs", "lock", "logs.index", "trash", "workers",
    ]  # fmt: skip
    store.close()
    work.close()
