"""The operating system's files, and that the simulated disk forgets what it should."""

from __future__ import annotations

import asyncio
import errno
import threading
from contextlib import closing
from pathlib import Path
from random import Random

import pytest

from raftflow.replication import real_files
from raftflow.replication.real_files import RealFileSystem
from raftflow.simulation.world.disk import FaultyFileSystem, Loss, Misplacement, SimulatedCrash


@pytest.fixture
def real() -> RealFileSystem:
    return RealFileSystem()


async def test_real_files(real: RealFileSystem, tmp_path: Path) -> None:
    directory = tmp_path / "a" / "b"
    real.make_dir(directory)
    real.make_dir(directory)
    file = real.open(directory / "x", create=True)
    with pytest.raises(FileExistsError):
        real.open(directory / "x", create=True)
    file.write_at(3, b"abc")
    await file.sync_off_loop()
    file.truncate(8)
    file.sync()
    assert file.size() == 8
    assert file.read_at(2, 3) == b"\0ab"
    assert file.read_at(6, 100) == b"\0\0"
    assert real.read(directory / "x") == b"\0\0\0abc\0\0"
    real.rename(directory / "x", directory / "y")
    real.sync_dir(directory)
    assert real.list_dir(directory) == ["y"]
    real.remove(directory / "y")
    real.remove(directory / "y")
    file.close()
    file.close()
    with pytest.raises(OSError, match="the file is closed"):
        file.sync()
    assert await real.off_loop(threading.get_ident) != threading.get_ident()
    assert await real.off_loop(threading.get_ident, urgent=True) != await real.off_loop(threading.get_ident)
    real.close()


def test_real_lock(real: RealFileSystem, tmp_path: Path) -> None:
    lock = real.lock(tmp_path / "lock")
    with pytest.raises(BlockingIOError):
        real.lock(tmp_path / "lock")
    lock.close()
    lock.close()
    real.lock(tmp_path / "lock").close()
    real.close()


PATH = Path("/d/x")


@pytest.fixture
def disk() -> FaultyFileSystem:
    fs = FaultyFileSystem()
    fs.make_dir(PATH.parent)
    return fs


def test_simulated_names_need_a_directory_sync(disk: FaultyFileSystem) -> None:
    disk.open(PATH, create=True).sync()
    disk.restart(Loss.ALL, Random(0))
    assert disk.list_dir(PATH.parent) == []
    disk.open(PATH, create=True)
    disk.sync_dir(PATH.parent)
    disk.rename(PATH, PATH.with_name("y"))
    disk.restart(Loss.ALL, Random(0))
    assert disk.list_dir(PATH.parent) == ["x"]


def test_simulated_writes_need_a_sync(disk: FaultyFileSystem) -> None:
    file = disk.open(PATH, create=True)
    disk.sync_dir(PATH.parent)
    file.write_at(0, b"a" * 1024)
    file.sync()
    file.write_at(0, b"b" * 1024)
    seen = set()
    for seed in range(40):
        copy = FaultyFileSystem()
        copy.make_dir(PATH.parent)
        other = copy.open(PATH, create=True)
        copy.sync_dir(PATH.parent)
        other.write_at(0, b"a" * 1024)
        other.sync()
        other.write_at(0, b"b" * 1024)
        copy.restart(Loss.SOME, Random(seed))
        content = copy.read(PATH)
        seen.add((content[0], content[1023]))
        assert len(set(content[:512])) == len(set(content[512:])) == 1
    assert len(seen) == 4
    disk.restart(Loss.ALL, Random(0))
    assert disk.read(PATH) == b"a" * 1024
    with pytest.raises(SimulatedCrash):
        file.size()


def test_a_simulated_failed_sync_leaves_a_ghost(disk: FaultyFileSystem) -> None:
    """The next sync succeeds and the cache shows the bytes, but the disk does not have them."""
    file = disk.open(PATH, create=True)
    disk.sync_dir(PATH.parent)
    file.write_at(0, b"old")
    file.sync()
    file.write_at(0, b"new")
    disk.fail = lambda operation, path: errno.EIO if operation == "sync" else None
    with pytest.raises(OSError, match="Input/output"):
        file.sync()
    disk.fail = lambda operation, path: None
    file.sync()
    assert file.read_at(0, 3) == b"new"
    assert disk.read(PATH) == b"old"


@pytest.mark.parametrize(
    ("place", "happens", "expected"),
    [
        (None, True, b"first...\0\0\0\0\0\0\0\0third..."),
        (0, True, b"second..\0\0\0\0\0\0\0\0third..."),
        (None, False, b"first...second..third..."),
    ],
)
def test_a_simulated_write_is_lost_or_misdirected_once_a_later_one_is_durable(
    disk: FaultyFileSystem, place: int | None, *, happens: bool, expected: bytes
) -> None:
    path = PATH
    whole = b"first...second..third..."
    with closing(disk.open(path, create=True)) as file:
        disk.sync_dir(PATH.parent)
        file.write_at(0, whole[:8])
        file.sync()
        disk.misplace_next = Misplacement(PATH.name, lambda _offset: place, lambda: happens)
        file.write_at(8, whole[8:16])
        file.sync()
        assert disk.content(path) == whole[:16], "the end of a file is never lost"
        file.write_at(16, whole[16:])
        assert disk.content(path) == whole[:16]
        file.sync()
        assert file.read_at(0, 24) == whole, "the page cache shows what was written"
        assert disk.content(path) == expected
        assert disk.read(path) == expected


def test_a_simulated_write_that_shares_its_sync_with_the_next_one_is_not_lost(disk: FaultyFileSystem) -> None:
    """Nothing would prove that it had been durable."""
    path = PATH
    file = disk.open(path, create=True)
    disk.sync_dir(PATH.parent)
    disk.misplace_next = Misplacement(PATH.name, lambda _offset: None, lambda: True)
    file.write_at(0, b"first")
    file.write_at(5, b"second")
    file.sync()
    disk.restart(Loss.ALL, Random(1))
    assert disk.content(path) == b"firstsecond"


async def test_small_syncs_are_done_at_once_while_the_disk_is_quick(
    real: RealFileSystem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(real_files, "QUICK_STREAK", 3)
    monkeypatch.setattr(real_files, "QUICK_SYNC_S", 60.0)
    synced: list[int] = []
    monkeypatch.setattr(real_files.os, "fdatasync", lambda _fd: synced.append(threading.get_ident()))
    file = real.open(tmp_path / "x", create=True)
    assert not file.sync_if_quick(), "nothing is known of the disk yet"
    for _ in range(3):
        await file.sync_off_loop()
    here = threading.get_ident()
    assert here not in synced
    assert file.sync_if_quick()
    assert synced[3:] == [here]
    release = threading.Event()
    busy = asyncio.ensure_future(real.off_loop(release.wait))
    await asyncio.sleep(0)
    assert not file.sync_if_quick(), "other work may write a lot"
    release.set()
    await busy
    assert file.sync_if_quick()
    monkeypatch.setattr(real_files, "QUICK_SYNC_S", -1.0)
    assert file.sync_if_quick(), "it could not be known beforehand"
    assert not file.sync_if_quick(), "one slow sync is enough"
    file.close()
    real.close()
