"""What the journal offers to the engine, beside surviving crashes."""

from __future__ import annotations

import asyncio
import contextlib
import errno
from pathlib import Path
from random import Random

import pytest
from journal_driver import DIRECTORY, Driver

from raftflow.replication.errors import LogFailedError
from raftflow.replication.real_files import RealFileSystem
from raftflow.replication.storage import writer
from raftflow.replication.storage.journal import Journal
from raftflow.simulation.world.disk import FaultyFileSystem, Loss


@pytest.fixture
def driver() -> Driver:
    driver = Driver(FaultyFileSystem())
    driver.open()
    return driver


def test_a_new_journal_is_what_the_library_expects(driver: Driver) -> None:
    journal = driver.journal
    assert (len(journal), journal.getCurrentTerm(), journal.getVotedForNodeId(), journal.getRaftCommitIndex()) == (
        0,
        0,
        None,
        1,
    )
    journal.add(b"\x01", 1, 0)
    assert journal[0] == journal[-1] == (b"\x01", 1, 0)
    assert journal[0:] == [(b"\x01", 1, 0)]


async def test_sequence_numbers_follow_changes_and_syncs(driver: Driver) -> None:
    journal = driver.journal
    journal.add(b"a", 1, 1)
    journal.setCurrentTerm(2, "a:1")
    journal.add(b"b", 2, 2)
    assert (journal.write_seq, journal.term_seq, journal.durable_seq, journal.durable_index) == (3, 2, 0, 0)
    journal.setRaftCommitIndex(2)
    assert journal.write_seq == 3, "the commit index is advisory"
    await journal.sync()
    assert (journal.write_seq, journal.durable_seq, journal.durable_index) == (3, 3, 2)
    journal.deleteEntriesFrom(1)
    assert (journal.write_seq, journal.durable_seq, journal.durable_index) == (4, 3, 1)
    journal.add(b"c", 2, 3)
    assert journal.durable_index == 1


async def test_a_truncation_during_a_sync_is_not_reported_as_durable(driver: Driver) -> None:
    """The entry that a sync has just covered was cut and replaced meanwhile: its successor is not on disk."""
    journal = driver.journal
    for index in (1, 2, 3):
        journal.add(b"a", index, 1)
    sync = asyncio.ensure_future(journal.sync())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    journal.deleteEntriesFrom(1)
    journal.add(b"b", 2, 2)
    journal.flush()
    await sync
    assert journal.durable_seq == 3
    assert journal.durable_index == 1
    await journal.sync()
    assert journal.durable_index == 2


async def test_callers_share_syncs(driver: Driver) -> None:
    journal = driver.journal
    before = len(driver.fs.trace)

    async def append(index: int) -> None:
        journal.add(b"x", index, 1)
        await journal.sync()
        assert journal.durable_seq >= index

    await asyncio.gather(*(append(index) for index in range(1, 51)))
    syncs = [operation for operation in driver.fs.trace[before:] if operation.endswith("1.segment")]
    assert syncs.count(f"sync {DIRECTORY / '0000000000000001.segment'}") <= 2


async def test_a_cancelled_caller_does_not_end_the_sync_of_others(driver: Driver) -> None:
    journal = driver.journal
    journal.add(b"x", 1, 1)
    first, second = asyncio.ensure_future(journal.sync()), asyncio.ensure_future(journal.sync())
    await asyncio.sleep(0)
    first.cancel()
    await second
    assert first.cancelled()
    assert journal.durable_index == 1


async def test_a_blocking_sync_overtakes_the_start_of_a_segment(driver: Driver) -> None:
    """What is buffered while a segment is about to be started is on disk when `sync_now` returns."""
    driver.add(2100)
    task = asyncio.ensure_future(driver.journal.sync())
    for _ in range(2):
        await asyncio.sleep(0)
    assert driver.journal._writer.starting
    driver.add(20)
    driver.flush()
    driver.sync_now()
    assert driver.journal.durable_index == 2
    driver.add(2100)
    driver.flush()
    await task
    assert len(driver.journal._writer._segments) == 2
    await driver.sync()
    driver.fs.restart(Loss.ALL, Random(0))
    driver.reopen()
    assert driver.journal.last_index == 3


async def test_a_reset_that_is_not_durable_removes_nothing(driver: Driver) -> None:
    """A snapshot is installed while a sync is under way: the old segments must stay until the reset is on disk."""
    driver.add(1)
    for _ in range(6):
        driver.add(900)
        await driver.sync()
    driver.add(10)
    task = asyncio.ensure_future(driver.sync())
    for _ in range(2):
        await asyncio.sleep(0)
    driver.install(50)
    driver.flush()
    with contextlib.suppress(AssertionError):  # the driver's own check: the index is durable no more
        await task
    for _ in range(10):
        await asyncio.sleep(0)
    driver.fs.restart(Loss.ALL, Random(0))
    driver.reopen()
    assert driver.journal.last_index == 8


async def test_a_segment_started_during_a_sync_is_not_taken_for_durable(driver: Driver) -> None:
    """A sync of the old segment says nothing about the new one: a torn write there is still cut off."""
    driver.add(100)
    task = asyncio.ensure_future(driver.sync())
    for _ in range(2):
        await asyncio.sleep(0)
    driver.add(2100)
    driver.sync_now()
    await task
    driver.add(100)
    driver.flush()
    assert driver.journal._writer._durable_offset < driver.journal._writer._offset
    assert driver.journal._writer._watermark == driver.journal._writer._durable_offset < 300


async def test_what_a_killed_compaction_left_is_removed(driver: Driver) -> None:
    """The removals of two segments reached the disk in the other order, the first not at all."""
    driver.add(1)
    for _ in range(8):
        driver.add(900)
        driver.sync_now()
    names = [name for name in driver.fs.list_dir(DIRECTORY) if name.endswith(".segment")]
    driver.fs.fail = lambda operation, path: errno.EIO if operation == "remove" else None
    driver.compact(len(driver.model.log) - 2)
    with pytest.raises(LogFailedError):
        driver.sync_now()
    driver.fs.fail = lambda operation, path: None
    driver.fs.remove(DIRECTORY / names[1])
    driver.fs.sync_dir(DIRECTORY)
    driver.fs.restart(Loss.ALL, Random(0))
    driver.reopen()
    assert names[0] not in driver.fs.list_dir(DIRECTORY)


def test_one_batch_is_one_write(driver: Driver) -> None:
    steps = driver.fs.steps
    for index in range(1, 101):
        driver.journal.add(b"x" * 10, index, 1)
    driver.journal.setCurrentTerm(1, "a:1")
    driver.journal.flush()
    driver.journal.flush()
    assert driver.fs.steps == steps + 1


async def test_compaction_removes_old_segments_and_the_next_is_prepared(driver: Driver) -> None:
    driver.add(1)
    for _ in range(12):
        driver.add(900)
        await driver.sync()
        await asyncio.sleep(0)
    names = [name for name in driver.fs.list_dir(DIRECTORY) if name.endswith(".segment")]
    assert len(names) >= 4
    driver.compact(len(driver.model.log) - 2)
    await driver.sync()
    for _ in range(10):
        await asyncio.sleep(0)
    left = [name for name in driver.fs.list_dir(DIRECTORY) if name.endswith(".segment")]
    assert left == names[-len(left) :]
    assert len(left) <= 2
    trace = driver.fs.trace
    spares = [position for position, operation in enumerate(trace) if operation.startswith("create")]
    assert len(spares) >= 4
    driver.restart()


def test_the_timer_writes_the_commit_index_and_then_nothing(driver: Driver) -> None:
    for index in range(1, 4):
        driver.journal.add(b"x", index, 1)
    driver.journal.sync_now()
    driver.journal.setRaftCommitIndex(3)
    steps = driver.fs.steps
    for _ in range(5):
        driver.journal.onOneSecondTimer()
    assert driver.fs.steps == steps + 1
    driver.fs.restart(Loss.NONE, Random(0))
    driver.open()
    assert driver.journal.getRaftCommitIndex() == 3


def test_the_commit_index_never_exceeds_the_log(driver: Driver) -> None:
    driver.journal.add(b"x", 1, 1)
    driver.journal.setRaftCommitIndex(9)
    driver.journal.close()
    driver.open()
    assert driver.journal.getRaftCommitIndex() == 1


def test_align(driver: Driver) -> None:
    """The four cases: held, already there, behind, other entries at these indexes."""
    journal = driver.journal
    journal.setCurrentTerm(1, "a:1")
    for index in range(1, 8):
        journal.add(b"%d" % index, index, 1)
    journal.align((b"3", 3, 1), (b"4", 4, 1))
    assert [entry[1] for entry in journal[:]] == [3, 4, 5, 6, 7]
    seq = journal.write_seq
    journal.align((b"3", 3, 1), (b"4", 4, 1))
    assert journal.write_seq == seq
    journal.align((b"3", 3, 1), (b"four", 4, 2))
    assert journal[:] == [(b"3", 3, 1), (b"four", 4, 2)]
    journal.align((b"8", 8, 2), (b"9", 9, 2))
    assert journal[:] == [(b"8", 8, 2), (b"9", 9, 2)]
    assert journal.getRaftCommitIndex() == 9
    assert journal.durable_index == 9
    driver.fs.restart(Loss.ALL, Random(0))
    journal = Journal.open(driver.fs, DIRECTORY, check_command=lambda command: None)
    assert journal[:] == [(b"8", 8, 2), (b"9", 9, 2)]
    assert (journal.getCurrentTerm(), journal.getVotedForNodeId()) == (1, "a:1")


def test_misuse_is_refused(driver: Driver) -> None:
    driver.journal.add(b"x", 1, 1)
    with pytest.raises(LogFailedError, match="entry 3 added where entry 2 must come"):
        driver.journal.add(b"x", 3, 1)
    with pytest.raises(TypeError):
        driver.journal.add("text", 2, 1)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        driver.journal.setCurrentTerm(1, object())  # type: ignore[arg-type]
    with pytest.raises(LogFailedError, match="would leave none"):
        driver.journal.deleteEntriesTo(1)
    driver.journal._destroy()
    driver.journal.close()
    with pytest.raises(LogFailedError, match="closed"):
        driver.journal.flush()


async def test_on_a_real_disk(tmp_path: Path) -> None:
    """The same journal on the operating system: threads, segments, compaction, restart."""
    fs = RealFileSystem()
    directory = tmp_path / "replica" / "journal"
    journal = Journal.open(fs, directory, check_command=lambda command: None, segment_bytes=64 * 1024)

    async def append(first: int) -> None:
        for index in range(first, first + 25):
            journal.add(bytes([index % 256]) * 1000, index, 7)
            await journal.sync()

    journal.setCurrentTerm(7, "b:2")
    for batch in range(8):
        await append(1 + batch * 25)
    journal.deleteEntriesTo(150)
    await journal.sync()
    entries = journal[:]
    journal.close()
    again = Journal.open(fs, directory, check_command=lambda command: None, must_exist=True)
    assert again[:] == entries
    assert (again.getCurrentTerm(), again.getVotedForNodeId(), again.recovered) == (7, "b:2", None)
    assert again.first_index == 151
    again.close()
    fs.close()


async def test_a_quick_disk_is_synced_at_once(driver: Driver) -> None:
    journal, disk = driver.journal, driver.fs
    driver.add(20)
    assert not journal.sync_if_quick(), "the disk is not quick"
    assert journal.durable_seq < journal.write_seq
    disk.quick_s = 0.0
    assert journal.sync_if_quick()
    assert (journal.durable_seq, journal.durable_index) == (journal.write_seq, 1)
    disk.restart(Loss.ALL, Random(1))
    reopened = Driver(disk)
    reopened.open()
    assert reopened.journal.last_index == 1


async def test_what_takes_long_is_never_synced_at_once(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = driver.journal
    driver.fs.quick_s = 0.0
    driver.add(20)
    running = asyncio.ensure_future(journal.sync())
    await asyncio.sleep(0)
    driver.add(20)
    assert not journal.sync_if_quick(), "one sync at a time"
    await running
    monkeypatch.setattr(writer, "SMALL_BYTES", 100)
    driver.add(200)
    assert not journal.sync_if_quick(), "much was written"
    await journal.sync()
    driver.add(driver.segment_bytes)
    monkeypatch.setattr(writer, "SMALL_BYTES", 1 << 20)
    assert not journal.sync_if_quick(), "a segment is to be started"
    await journal.sync()
    assert journal.durable_index == journal.last_index


async def test_a_sync_at_once_that_fails_is_the_end(driver: Driver) -> None:
    journal = driver.journal
    driver.fs.quick_s = 0.0
    driver.add(20)
    driver.fs.fail = lambda operation, _path: errno.EIO if operation == "sync" else None
    with pytest.raises(LogFailedError, match="cannot sync"):
        journal.sync_if_quick()
    driver.fs.fail = lambda _operation, _path: None
    with pytest.raises(LogFailedError):
        journal.sync_if_quick()
    assert journal.durable_index == 0
