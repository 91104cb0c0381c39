"""Snapshots: complete or not there, checked at every read, the older one kept until the newer one is durable."""

from __future__ import annotations

import asyncio
import errno
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

import msgspec
import pytest

from raftflow.replication.errors import LogFailedError
from raftflow.replication.real_files import RealFileSystem
from raftflow.replication.storage import snapshot_file
from raftflow.replication.storage.partial_snapshot import SNAPSHOT_BYTES_MAX, PartialSnapshot
from raftflow.replication.storage.snapshot_file import SnapshotCorruptError, SnapshotInfo
from raftflow.replication.storage.snapshot_store import SnapshotStore
from raftflow.simulation.world.disk import FaultyFileSystem, Loss, SimulatedCrash

if TYPE_CHECKING:
    from collections.abc import Iterator

DIRECTORY = Path("/data/snapshots")


def info(index: int) -> SnapshotInfo:
    return SnapshotInfo(
        index=index,
        term=3,
        prev_index=index - 1,
        prev_term=2,
        last_command=b"last",
        prev_command=b"prev",
        members=("a", "b", "c"),
    )


def state(index: int) -> list[bytes]:
    return [b"%d/%d " % (index, number) * 10 for number in range(20)]


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshot_file, "BLOCK_BYTES_MAX", 300)
    monkeypatch.setattr(snapshot_file, "CHUNK_BYTES_MAX", 256)
    monkeypatch.setattr(snapshot_file, "SYNC_STEP_BYTES", 600)


def check(store: SnapshotStore, found: SnapshotInfo | None) -> int:
    """Read a snapshot; returns its index, 0 if there is none."""
    if found is None:
        return 0
    assert b"".join(store.read(found)) == b"".join(state(found.index))
    return found.index


async def written(*indexes: int, fs: FaultyFileSystem | None = None) -> tuple[FaultyFileSystem, SnapshotStore]:
    fs = fs or FaultyFileSystem()
    store = SnapshotStore(fs, DIRECTORY, clock=lambda: 0.0)
    for index in indexes:
        await store.write(info(index), iter(state(index)))
    return fs, store


async def test_what_is_written_is_read() -> None:
    _, store = await written(10)
    found = store.newest()
    assert found is not None
    assert msgspec.structs.replace(found, size=0) == info(10)
    assert found.size > sum(map(len, state(10)))
    assert check(store, found) == 10
    assert store.valid() == ([found], [])


async def test_an_empty_state_is_a_snapshot() -> None:
    fs = FaultyFileSystem()
    store = SnapshotStore(fs, DIRECTORY)
    found = await store.write(info(5), iter([]))
    assert list(store.read(found)) == []


async def test_the_newest_two_are_kept() -> None:
    fs, store = await written(10, 20, 300)
    assert [found.index for found in store.valid()[0]] == [300, 20]
    assert len(fs.list_dir(DIRECTORY)) == 2


async def test_pieces_are_taken_in_slices() -> None:
    """The loop gets a turn after every slice of time, and the pieces are closed at the end."""
    now = 0.0
    turns = 0
    closed = False

    def pieces() -> Iterator[bytes]:
        nonlocal now, closed
        try:
            for _ in range(100):
                now += 0.001
                yield b"x"
        finally:
            closed = True

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    store = SnapshotStore(FaultyFileSystem(), DIRECTORY, clock=lambda: now)
    counting = asyncio.create_task(count())
    await store.write(info(5), pieces(), slice_s=0.005)
    counting.cancel()
    assert turns >= 20
    assert closed


def run(fs: FaultyFileSystem, loss: Loss, rng: Random) -> tuple[int, int]:
    """Write 10, 20, 30 until the crash. Returns the last index that was promised, and the one found after it."""
    promised = 0

    async def main() -> None:
        nonlocal promised
        store = SnapshotStore(fs, DIRECTORY, clock=lambda: 0.0)
        for index in (10, 20, 30):
            await store.write(info(index), iter(state(index)))
            promised = index

    try:
        asyncio.run(main())
    except SimulatedCrash:
        fs.restart(loss, rng)
    store = SnapshotStore(fs, DIRECTORY)
    assert not [name for name in fs.list_dir(DIRECTORY) if name.endswith(".partial")]
    good, damaged = store.valid()
    assert damaged == []
    return promised, check(store, good[0] if good else None)


@pytest.mark.parametrize("loss", Loss)
def test_crash_at_every_step(loss: Loss) -> None:
    """After a crash anywhere the newest promised snapshot is there, or a newer one, and none is damaged."""
    whole = FaultyFileSystem()
    assert run(whole, loss, Random(0)) == (30, 30)
    for step in range(1, whole.steps):  # the last one belongs to the check
        fs = FaultyFileSystem()
        fs.crash_at = step
        promised, found = run(fs, loss, Random(step))
        assert promised <= found <= promised + 10


@pytest.mark.parametrize("error", [errno.EIO, errno.ENOSPC])
async def test_any_operation_fails(error: int) -> None:
    """The caller learns of it, nothing is left behind, and the older snapshot is as it was."""
    fs, store = await written(10)
    before = fs.steps
    await store.write(info(20), iter(state(20)))
    for step in range(1, fs.steps - before + 1):
        fs, store = await written(10)
        start = fs.steps
        fs.fail = lambda operation, path, fs=fs, at=start + step: error if fs.steps == at else None
        with pytest.raises(OSError, match=r"Input/output|No space"):
            await store.write(info(20), iter(state(20)))
        fs.restart(Loss.ALL, Random(step))
        store = SnapshotStore(fs, DIRECTORY)
        assert check(store, store.newest()) in {10, 20}


async def test_a_cancelled_write_leaves_nothing() -> None:
    fs, store = await written(10)
    task = asyncio.create_task(store.write(info(20), iter(state(20))))
    for _ in range(6):
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len(fs.list_dir(DIRECTORY)) == 1


async def test_every_flipped_byte_and_every_cut_is_found() -> None:
    fs, _ = await written(10)
    (name,) = fs.list_dir(DIRECTORY)
    content = fs.content(DIRECTORY / name)
    for offset in range(len(content)):
        fs, store = await written(fs=FaultyFileSystem())
        file = fs.open(DIRECTORY / name, create=True)
        changed = bytearray(content)
        changed[offset] ^= 1 << offset % 8
        file.write_at(0, bytes(changed if offset % 2 else content[:offset]))
        try:
            good, damaged = store.valid()
        except LogFailedError:
            continue
        assert not good
        assert len(damaged) == 1
        assert store.newest() is None or offset % 2


async def test_which_snapshot_to_start_from() -> None:
    """The newest good one, if the journal reaches back to it; else the state would have a hole."""
    fs, store = await written(10, 20)
    older, newer = fs.list_dir(DIRECTORY)
    assert [check(store, store.load_newest(first)) for first in (0, 1, 9, 19)] == [20, 20, 20, 20]
    with pytest.raises(SnapshotCorruptError, match="join again"):
        store.load_newest(20)
    fs.flip(DIRECTORY / newer, 400, 1)
    assert [check(store, store.load_newest(first)) for first in (1, 9)] == [10, 10]
    for first in (0, 10, 19):
        with pytest.raises(SnapshotCorruptError, match=newer):
            store.load_newest(first)
    fs.flip(DIRECTORY / older, 400, 1)
    assert store.load_newest(1) is None, "the journal alone has everything"
    for first in (0, 2):
        with pytest.raises(SnapshotCorruptError):
            store.load_newest(first)
    empty = SnapshotStore(FaultyFileSystem(), DIRECTORY)
    assert empty.load_newest(0) is empty.load_newest(1) is None
    with pytest.raises(SnapshotCorruptError, match="no snapshot that the journal reaches back to"):
        empty.load_newest(7)


async def test_a_newer_format_is_refused_but_not_called_damage(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(snapshot_file, "FORMAT", 2)
        _, store = await written(10)
    with pytest.raises(LogFailedError, match="format 2, but this program reads format 1") as caught:
        store.newest()
    assert not isinstance(caught.value, SnapshotCorruptError)


async def receive(store: SnapshotStore, found: SnapshotInfo, target: SnapshotStore) -> SnapshotInfo:
    receiver = PartialSnapshot(target._fs, target)
    receiver.begin(found.size)
    for chunk in store.open_raw(found):
        assert len(chunk) <= snapshot_file.CHUNK_BYTES_MAX
        receiver.write(chunk)
    return await receiver.finish()


async def test_transfer() -> None:
    _, store = await written(10, 20)
    found = store.newest()
    assert found is not None
    fs, target = await written(5)
    assert await receive(store, found, target) == found
    fs.restart(Loss.ALL, Random(0))
    target = SnapshotStore(fs, DIRECTORY)
    assert target.newest() == found
    assert check(target, found) == 20


async def test_transfer_crash_at_every_step() -> None:
    _, store = await written(20)
    found = store.newest()
    assert found is not None
    whole, target = await written(5)
    start = whole.steps
    await receive(store, found, target)
    for step in range(start + 1, whole.steps + 1):
        for loss in Loss:
            fs, target = await written(5)
            fs.crash_at = step
            with pytest.raises(SimulatedCrash):
                await receive(store, found, target)
            fs.restart(loss, Random(step))
            good, damaged = SnapshotStore(fs, DIRECTORY).valid()
            assert damaged == []
            assert check(SnapshotStore(fs, DIRECTORY), good[0]) in {5, 20}


async def test_a_bad_transfer_installs_nothing() -> None:
    _, store = await written(20)
    found = store.newest()
    assert found is not None
    data = b"".join(store.open_raw(found))
    fs, target = await written()
    for bad in (data[:-1], data + b"x", data[:500] + b"!" + data[501:], b"junk"):
        receiver = PartialSnapshot(target._fs, target)
        receiver.begin(len(bad))
        for at in range(0, len(bad), 256):
            receiver.write(bad[at : at + 256])
        with pytest.raises(SnapshotCorruptError):
            await receiver.finish()
        assert fs.list_dir(DIRECTORY) == []
    receiver = PartialSnapshot(target._fs, target)
    with pytest.raises(ValueError, match="limit"):
        receiver.begin(SNAPSHOT_BYTES_MAX + 1)
    with pytest.raises(ValueError, match="no snapshot is being received"):
        receiver.write(b"x")
    receiver.begin(10)
    with pytest.raises(ValueError, match="more bytes"):
        receiver.write(b"x" * 11)
    receiver.write(b"x" * 5)
    assert receiver.received == 5
    receiver.begin(20)
    assert receiver.received == 0
    receiver.abort()
    receiver.abort()
    with pytest.raises(ValueError, match="no snapshot is being received"):
        await receiver.finish()
    assert fs.list_dir(DIRECTORY) == []


async def test_on_a_real_disk(tmp_path: Path) -> None:
    """A snapshot that is pruned while it travels still arrives."""
    fs = RealFileSystem()
    store, target = SnapshotStore(fs, tmp_path / "a"), SnapshotStore(fs, tmp_path / "b")
    found = await store.write(info(10), iter(state(10)))
    chunks = store.open_raw(found)
    receiver = PartialSnapshot(target._fs, target)
    receiver.begin(found.size)
    receiver.write(next(chunks))
    for index in (20, 30):
        await store.write(info(index), iter(state(index)))
    for chunk in chunks:
        receiver.write(chunk)
    assert check(target, await receiver.finish()) == 10
    assert check(store, store.load_newest(29)) == 30
    fs.close()
