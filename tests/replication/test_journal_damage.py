"""The journal on a disk that lies, loses or is full: never silently wrong."""

from __future__ import annotations

import asyncio
import errno
import os
from random import Random
from typing import TYPE_CHECKING

import pytest
from journal_driver import DIRECTORY, Driver
from test_journal_crash import SCENARIOS, run

from raftflow.replication.errors import LogFailedError
from raftflow.replication.storage import records
from raftflow.replication.storage.journal import Journal, JournalCorruptError
from raftflow.simulation.world.disk import FaultyFileSystem, Loss

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path


def filled(*, close: bool) -> Driver:
    """A journal of three segments, all of it synced; closed cleanly, or cut off right after the last sync."""
    driver = Driver(FaultyFileSystem(), segment_bytes=1400)
    driver.open()
    driver.add(1)
    driver.vote(3, "a:1")
    driver.sync_now()
    for size in (40, 700, 300, 400, 20, 1100, 500, 60):
        driver.add(size)
        driver.sync_now()
    assert len(segments(driver)) == 3
    if close:
        driver.journal.close()
    driver.fs.restart(Loss.NONE, Random(0))
    return driver


def segments(driver: Driver) -> list[Path]:
    return [DIRECTORY / name for name in driver.fs.list_dir(DIRECTORY) if name.endswith(".segment")]


def opened(driver: Driver) -> bool:
    """Whether it opens, with everything that was promised; False if it is refused."""
    try:
        driver.open()
    except JournalCorruptError as error:
        return "move the directory away" not in str(error)
    assert driver.observed() == driver.model
    driver.journal.close()
    return True


@pytest.mark.parametrize("close", [True, False])
def test_every_flipped_byte_is_found_or_harmless(*, close: bool) -> None:
    """Only bytes behind the records (zeros, the seal of a finished segment) may change unnoticed."""
    sizes = {path: len(filled(close=close).fs.content(path)) for path in segments(filled(close=close))}
    refused = accepted = 0
    for path, size in sizes.items():
        driver = filled(close=close)
        used = len(driver.fs.content(path).rstrip(b"\0"))
        for offset in [*range(used), *range(used, size, 37)]:
            mask = 1 << (offset % 8)
            driver.fs.flip(path, offset, mask)
            if not opened(driver):
                refused += 1
                driver.fs.restart(Loss.NONE, Random(0))
                driver.fs.flip(path, offset, mask)
            else:
                accepted += 1
                driver = filled(close=close)
    assert refused > 3500
    assert accepted < 600


@pytest.mark.parametrize("close", [True, False])
def test_every_cut_off_file_is_found_or_harmless(*, close: bool) -> None:
    for position in range(3):
        size = len(filled(close=close).fs.content(segments(filled(close=close))[position]))
        for length in range(0, size, 61):
            driver = filled(close=close)
            file = driver.fs.open(segments(driver)[position])
            file.truncate(length)
            file.sync()
            driver.fs.restart(Loss.ALL, Random(0))
            opened(driver)


def test_zeroed_sectors_below_the_proven_end_are_found() -> None:
    for position in range(3):
        driver = filled(close=True)
        used = len(driver.fs.content(segments(driver)[position]).rstrip(b"\0"))
        last_synced = used - 120  # behind it: the record with the proof, or the seal
        for offset in range(0, last_synced, 512):
            driver = filled(close=True)
            file = driver.fs.open(segments(driver)[position])
            zeros = bytes(min(512, last_synced - offset))
            if file.read_at(offset, len(zeros)) != zeros:
                file.write_at(offset, zeros)
                file.sync()
                assert not opened(driver), (position, offset)


def test_a_zero_sector_that_was_written_is_no_torn_write() -> None:
    """A flip in the last record, which by content holds whole sectors of zeros, is damage all the same."""
    driver = Driver(FaultyFileSystem(), segment_bytes=8192)
    driver.open()
    for entry in ((b"one", 1, 1), (b"x" + bytes(3000) + b"y", 2, 1)):
        driver.journal.add(*entry)
        driver.journal.sync_now()
    path = segments(driver)[0]
    driver.fs.flip(path, driver.fs.content(path).rindex(b"y"), 1)
    driver.fs.restart(Loss.NONE, Random(0))
    with pytest.raises(JournalCorruptError, match="not by a write that was cut short"):
        driver.open()


@pytest.mark.parametrize(
    ("lost", "message"),
    [
        (0, "older segment is missing"),
        (1, "older segment is missing"),
        (2, "after this one was durable and is missing"),
    ],
)
def test_a_missing_segment_is_found(lost: int, message: str) -> None:
    driver = filled(close=True)
    driver.fs.remove(segments(driver)[lost])
    driver.fs.sync_dir(DIRECTORY)
    with pytest.raises(JournalCorruptError, match=message):
        driver.open()


def test_swapped_and_foreign_segments_are_found() -> None:
    driver = filled(close=True)
    first, second, third = segments(driver)
    driver.fs.rename(first, DIRECTORY / "aside")
    driver.fs.rename(second, first)
    driver.fs.rename(DIRECTORY / "aside", second)
    assert not opened(driver)

    other = Driver(FaultyFileSystem(), segment_bytes=1400)
    other.open()
    other.vote(9, "z:1")
    for size in (700, 700, 700, 700, 700):
        other.add(size)
        other.sync_now()
    driver = filled(close=True)
    file = driver.fs.open(third)
    file.truncate(0)
    file.write_at(0, other.fs.content(segments(other)[2]))
    file.sync()
    assert not opened(driver)


def forked(different: int, fill: bytes) -> Driver:
    """Journals that differ in the content of one entry and in nothing else."""
    driver = Driver(FaultyFileSystem(), segment_bytes=1400)
    driver.open()
    for index in range(1, 8):
        command = (fill if index == different else b"x") * (600 if index < 6 else 10)
        driver.journal.add(command, index, 1)
        driver.journal.sync_now()
    driver.journal.close()
    driver.fs.restart(Loss.NONE, Random(0))
    return driver


@pytest.mark.parametrize(("different", "behind"), [(4, 0), (5, 700)])
def test_bytes_from_a_forked_journal_are_found(different: int, behind: int) -> None:
    """A segment or a record from a copy that went on by itself fits in every number; only the chain tells."""
    ours, other = forked(different, b"a"), forked(different, b"b")
    path = segments(ours)[-1]
    assert len(segments(ours)) == 3
    content = other.fs.content(path)
    offset = content.index(records.MAGIC_BYTES, behind) if behind else 0
    file = ours.fs.open(path)
    file.write_at(offset, content[offset:])
    file.sync()
    with pytest.raises(JournalCorruptError, match=r"does not continue|does not follow"):
        ours.open()


def test_a_record_inside_a_command_is_not_taken_for_a_record() -> None:
    """A torn record whose command holds a copy of journal bytes is cut off like any other."""
    driver = Driver(FaultyFileSystem(), segment_bytes=8192)
    driver.open()
    driver.add(1)
    driver.sync_now()
    path = segments(driver)[0]
    copy = driver.fs.content(path).rstrip(b"\0")
    driver.journal.add(copy * 8, 2, 0)
    driver.journal.flush()
    used = driver.journal._writer._offset
    driver.fs.restart(Loss.NONE, Random(0))
    file = driver.fs.open(path)
    file.write_at(used - 512, bytes(512))
    file.sync()
    driver.open()
    assert driver.observed() == driver.model
    assert "unfinished write" in (driver.journal.recovered or "")


def test_commands_outside_the_envelope_are_refused() -> None:
    driver = Driver(FaultyFileSystem())
    driver.open()
    driver.journal.add(b"bad", 1, 0)
    driver.journal.close()
    with pytest.raises(JournalCorruptError, match=r"entry 1 is unknown: not in the envelope"):
        driver.open()


def test_a_newer_format_is_refused_but_not_called_damage(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(records, "FORMAT", 2)
        driver = filled(close=True)
    with pytest.raises(LogFailedError, match="format 2, but this program reads format 1") as caught:
        driver.open()
    assert not isinstance(caught.value, JournalCorruptError)


def test_a_journal_that_is_gone_is_missed() -> None:
    fs = FaultyFileSystem()
    with pytest.raises(JournalCorruptError, match="the journal is missing"):
        Journal.open(fs, DIRECTORY, check_command=lambda command: None, must_exist=True)
    Journal.open(fs, DIRECTORY, check_command=lambda command: None).close()
    Journal.open(fs, DIRECTORY, check_command=lambda command: None, must_exist=True).close()


def test_align_refuses_a_snapshot_older_than_the_log() -> None:
    driver = filled(close=False)
    driver.open()
    driver.compact(5)
    driver.sync_now()
    with pytest.raises(JournalCorruptError, match="what is between them is missing"):
        driver.journal.align((b"p", 3, 1), (b"l", 4, 1))
    assert driver.observed() == driver.model


@pytest.mark.parametrize("error", [errno.EIO, errno.ENOSPC])
@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize("crash", [True, False])
def test_any_operation_fails(scenario: Callable[[Driver], Awaitable[None]], error: int, *, crash: bool) -> None:
    """Each disk operation fails in turn: the journal stops for good, and a new start finds what was promised."""
    whole = FaultyFileSystem()
    run(scenario, Driver(whole))
    failed = 0
    for step in range(1, whole.steps + 1):
        fs = FaultyFileSystem()
        fs.fail = lambda operation, path, fs=fs, step=step: error if fs.steps == step else None
        driver = Driver(fs)
        try:
            run(scenario, driver)
        except LogFailedError as first:
            failed += os.strerror(error) in str(first)
            if hasattr(driver, "journal"):
                with pytest.raises(LogFailedError):
                    driver.journal.flush()
                with pytest.raises(LogFailedError):
                    driver.journal.sync_now()
                driver.journal.close()
        if crash:
            fs.restart(Loss.ALL, Random(step))
        driver.reopen()
    assert failed >= whole.steps - 12, "only failures in the background at the very end may go unnoticed"


async def test_a_failed_sync_wakes_every_waiter() -> None:
    driver = Driver(FaultyFileSystem())
    driver.open()
    driver.add(1)
    driver.fs.fail = lambda operation, path: errno.EIO if operation == "sync" else None
    results = await asyncio.gather(*(driver.journal.sync() for _ in range(3)), return_exceptions=True)
    assert all(isinstance(result, LogFailedError) for result in results)
    driver.fs.fail = lambda operation, path: None
    with pytest.raises(LogFailedError, match="has stopped"):
        await driver.journal.sync()
    assert driver.journal.durable_seq == 0


def fill_up(driver: Driver) -> None:
    for _ in range(100):
        driver.add(200)
        driver.sync_now()


def test_a_full_disk_stops_the_journal_and_loses_nothing() -> None:
    for capacity in range(4200, 9000, 500):
        fs = FaultyFileSystem(capacity_bytes=capacity)
        driver = Driver(fs)
        driver.open()
        driver.add(1)
        with pytest.raises(LogFailedError, match=r"No space left.*Free space"):
            fill_up(driver)
        fs.restart(Loss.NONE, Random(0))
        fs.capacity_bytes = None
        driver.reopen()
        assert len(driver.model.log) > 5
