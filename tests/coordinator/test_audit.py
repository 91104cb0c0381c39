"""The audit file over restarts, torn tails, damage, snapshots and failing disks."""

from __future__ import annotations

import itertools
import random
from pathlib import Path
from typing import Any

import pytest

from raftflow.coordinator.audit import audit_file as audit_module
from raftflow.coordinator.audit import frames
from raftflow.coordinator.audit import verify as verify_module
from raftflow.coordinator.audit.audit_file import AuditFile
from raftflow.coordinator.audit.frames import GAP, AuditError, Frame, decode_gap, record_of
from raftflow.coordinator.audit.verify import verify_audit
from raftflow.machine.rules.audit_chain import CHAIN_START
from raftflow.replication.real_files import RealFileSystem
from raftflow.simulation.world.disk import FaultyFileSystem, Loss, SimulatedCrash
from tests.coordinator.audit_history import History, feed, indexes, open_audit, write_raw


async def test_list_pages_by_whole_entries(fs: Any, tmp_path: Path, history: History) -> None:
    audit = open_audit(fs, tmp_path)
    feed(audit, history, 1, 20)
    frames, following = await audit.read(3, 3)
    assert ([frame.index for frame in frames], following) == ([3, 3, 4, 4], 5)
    frames, following = await audit.read(20, 10)
    assert ([record_of(frame).position for frame in frames], following) == ([0, 1], None)
    assert await indexes(audit, 21) == []
    check = await verify_audit(audit, "n1", history)  # type: ignore[arg-type]
    assert (check.ok, check.records, check.first_index, check.last_index) == (True, 40, 1, 20)
    await audit.close()


async def test_replay_after_a_restart_is_compared_and_not_doubled(fs: Any, tmp_path: Path, history: History) -> None:
    audit = open_audit(fs, tmp_path)
    feed(audit, history, 1, 10)
    await audit.close()
    audit = open_audit(fs, tmp_path)
    audit.restored(4, history.chains[4])
    feed(audit, history, 5, 20)
    assert await indexes(audit) == [index for index in range(1, 21) for _ in range(2)]
    assert (await verify_audit(audit, "n1", history)).ok  # type: ignore[arg-type]
    await audit.close()


async def test_a_replay_that_differs_is_refused(fs: Any, tmp_path: Path, history: History) -> None:
    audit = open_audit(fs, tmp_path)
    feed(audit, history, 1, 10)
    await audit.close()
    other = History(salt="!")
    other.grow(10)
    audit = open_audit(fs, tmp_path)
    with pytest.raises(AuditError, match="history was changed"):
        feed(audit, other, 1, 1)
    await audit.close()


async def test_a_snapshot_of_another_history_is_refused(fs: Any, tmp_path: Path, history: History) -> None:
    audit = open_audit(fs, tmp_path)
    feed(audit, history, 1, 10)
    with pytest.raises(AuditError, match="tell different histories"):
        audit.restored(5, b"x" * 32)
    await audit.close()


@pytest.mark.parametrize("cut", range(1, 60, 7))
async def test_a_torn_tail_is_cut_and_made_again(fs: Any, tmp_path: Path, history: History, cut: int) -> None:
    audit = open_audit(fs, tmp_path)
    feed(audit, history, 1, 10)
    path = (await audit.segments())[0]
    await audit.close()
    path.write_bytes(path.read_bytes()[:-cut])
    audit = open_audit(fs, tmp_path)
    audit.restored(2, history.chains[2])
    feed(audit, history, 3, 20)
    assert await indexes(audit) == [index for index in range(1, 21) for _ in range(2)]
    assert (await verify_audit(audit, "n1", history)).ok  # type: ignore[arg-type]
    await audit.close()


async def test_a_segment_without_a_whole_frame_is_removed(fs: Any, tmp_path: Path, history: History) -> None:
    audit = open_audit(fs, tmp_path)
    feed(audit, history, 1, 1)
    path = (await audit.segments())[0]
    await audit.close()
    path.write_bytes(path.read_bytes()[:12])
    audit = open_audit(fs, tmp_path)
    assert not path.exists()
    feed(audit, history, 1, 3)
    assert (await indexes(audit)) == [1, 1, 2, 2, 3, 3]
    await audit.close()


async def test_an_installed_snapshot_leaves_a_gap(fs: Any, tmp_path: Path, history: History) -> None:
    audit = open_audit(fs, tmp_path)
    feed(audit, history, 1, 3)
    audit.restored(12, history.chains[12])
    feed(audit, history, 13, 20)
    check = await verify_audit(audit, "n1", history)  # type: ignore[arg-type]
    assert (check.ok, check.gaps, check.problems) == (True, [[4, 12]], [])
    await audit.close()
    audit = open_audit(fs, tmp_path)
    audit.restored(12, history.chains[12])
    feed(audit, history, 13, 20)
    assert (await verify_audit(audit, "n1", history)).ok  # type: ignore[arg-type]
    await audit.close()
    # The snapshot was lost in a crash, and the entries come after all: they are covered by the gap.
    audit = open_audit(fs, tmp_path)
    audit.restored(2, history.chains[2])
    feed(audit, history, 3, 20)
    assert (await verify_audit(audit, "n1", history)).gaps == [[4, 12]]  # type: ignore[arg-type]
    await audit.close()


async def test_segments_roll(fs: Any, tmp_path: Path, history: History, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit_module, "SEGMENT_BYTES", 600)
    audit = open_audit(fs, tmp_path)
    feed(audit, history, 1, 20)
    assert len(await audit.segments()) > 3
    await audit.sync()
    assert await indexes(audit, 11, 4) == [11, 11, 12, 12]
    await audit.close()
    audit = open_audit(fs, tmp_path)
    audit.restored(15, history.chains[15])
    feed(audit, history, 16, 20)
    assert (await verify_audit(audit, "n1", history)).ok  # type: ignore[arg-type]
    await audit.close()


async def test_every_flipped_byte_is_found(fs: Any, tmp_path: Path, history: History) -> None:
    audit = open_audit(fs, tmp_path)
    feed(audit, history, 1, 20)
    path = (await audit.segments())[0]
    good = path.read_bytes()
    for offset in range(0, len(good), 97):
        path.write_bytes(good[:offset] + bytes([good[offset] ^ 0x10]) + good[offset + 1 :])
        check = await verify_audit(audit, "n1", history)  # type: ignore[arg-type]
        assert not check.ok, offset
        assert check.problems
    path.write_bytes(good)
    await audit.close()


async def test_records_missing_at_the_end_are_found(fs: Any, tmp_path: Path, history: History) -> None:
    audit = open_audit(fs, tmp_path)
    feed(audit, history, 1, 19)
    check = await verify_audit(audit, "n1", history)  # type: ignore[arg-type]
    assert ["missing at the end" in problem for problem in check.problems] == [True]
    await audit.close()


async def test_a_write_that_fails_stops_the_replica(fs: Any, tmp_path: Path, history: History) -> None:
    failures: list[Exception] = []
    audit = open_audit(fs, tmp_path, failures)
    feed(audit, history, 1, 1)
    assert audit._file is not None

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    audit._file.write_at = fail  # type: ignore[method-assign]
    audit._flush_later()
    assert len(failures) == 1
    assert "cannot be written" in str(failures[0])
    with pytest.raises(AuditError, match="must stop"):
        feed(audit, history, 2, 2)
    await audit.close()


async def test_two_processes_cannot_share_it(fs: Any, tmp_path: Path) -> None:
    audit = open_audit(fs, tmp_path)
    with pytest.raises(AuditError, match="in use"):
        open_audit(fs, tmp_path)
    await audit.close()


async def test_a_foreign_file_is_refused(fs: Any, tmp_path: Path) -> None:
    (tmp_path / "audit-old.log").write_bytes(b"")
    with pytest.raises(AuditError, match="move it away"):
        open_audit(fs, tmp_path)


async def test_a_newer_format_is_refused_and_kept(fs: Any, tmp_path: Path, history: History) -> None:
    audit = open_audit(fs, tmp_path)
    feed(audit, history, 1, 5)
    await audit.close()
    (file,) = tmp_path.glob("audit-*")  # noqa: ASYNC240 - nothing else runs
    data = file.read_bytes().replace(frames.MAGIC, b"RFAUDIT2", 1)
    file.write_bytes(data)
    with pytest.raises(AuditError, match="audit format 2"):
        open_audit(fs, tmp_path)
    assert file.read_bytes() == data


@pytest.mark.parametrize("left", [b"", b"RFAU", b"RFAUDIT", b"RFAUDIT\0\0\0", bytes(20)])
async def test_a_first_write_that_was_cut_short_is_no_format(
    fs: Any, tmp_path: Path, history: History, left: bytes
) -> None:
    (tmp_path / "audit-00000001-00000000000000000003.log").write_bytes(left)
    audit = open_audit(fs, tmp_path)
    feed(audit, history, 1, 5)
    assert await indexes(audit) == [n for n in range(1, 6) for _ in range(2)]
    await audit.close()


async def test_verify_finds_what_checksums_cannot(fs: Any, tmp_path: Path, history: History) -> None:
    """Whole frames in the wrong place, with checksums that hold."""
    import msgspec

    entries = history.entries
    gap = msgspec.msgpack.encode(frames.Gap(9, 10, history.chains[10]))
    cases: list[tuple[list[tuple[int, int, bytes]], str]] = [
        ([(1, 1, entries[1][0]), (1, 1, entries[1][0])], "out of order"),
        ([(1, 1, entries[1][0]), (1, 2, entries[2][0])], "the chain does not fit"),
        ([(1, 7, entries[1][0]), (1, 7, entries[1][1])], "holds the record of index 1"),
        ([(1, 1, entries[1][0]), (1, 1, entries[1][1]), (GAP, 10, gap)], "does not follow on index 1"),
        ([(1, 1, b"no record")], "cannot be read"),
    ]
    for number, (written, problem) in enumerate(cases):
        directory = tmp_path / str(number)
        directory.mkdir()
        audit = open_audit(fs, directory)
        await write_raw(audit, *written)
        check = await verify_audit(audit, "n1", history)  # type: ignore[arg-type]
        assert not check.ok
        assert any(problem in text for text in check.problems), (problem, check.problems)
        await audit.close()


def test_a_gap_round_trips() -> None:
    import msgspec

    gap = frames.Gap(1, 2, b"c")
    assert decode_gap(Frame(GAP, 2, msgspec.msgpack.encode(gap))) == gap


SMALL = 1500
"""What is kept in the tests of dropping; segments have about 600 bytes, two or three entries."""


async def shortened(fs: Any, directory: Path, history: History) -> AuditFile:
    audit = open_audit(fs, directory, bytes_max=SMALL)
    audit.restored(0, CHAIN_START)
    feed(audit, history, 1, 20)
    await audit.compact()
    return audit


async def test_the_oldest_segments_go_and_the_rest_is_still_sealed(
    fs: Any, tmp_path: Path, history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit_module, "SEGMENT_BYTES", 600)
    audit = await shortened(fs, tmp_path, history)
    anchor = audit.anchor
    assert 5 < anchor.index < 20 and anchor.chain == history.chains[anchor.index]
    files = list(tmp_path.glob("audit-*"))  # noqa: ASYNC240 - nothing else runs
    assert sum(file.stat().st_size for file in files) <= SMALL
    rest = [index for index in range(anchor.index + 1, 21) for _ in range(2)]
    assert await indexes(audit) == rest
    check = await verify_audit(audit, "n1", history)  # type: ignore[arg-type]
    assert (check.ok, check.anchor_index, check.first_index) == (True, anchor.index, anchor.index + 1)
    await audit.close()
    # A restart from a snapshot before the anchor: what was dropped is not compared, the rest is.
    audit = open_audit(fs, tmp_path, bytes_max=SMALL)
    audit.restored(3, history.chains[3])
    feed(audit, history, 4, 20)
    assert await indexes(audit) == rest
    history.grow(40)
    feed(audit, history, 21, 40)
    await audit.compact()
    assert audit.anchor.index > 20
    assert (await verify_audit(audit, "n1", history)).ok  # type: ignore[arg-type]
    await audit.close()
    # One at the anchor itself, which is also compared.
    audit = open_audit(fs, tmp_path, bytes_max=SMALL)
    with pytest.raises(AuditError, match="different histories"):
        audit.restored(audit.anchor.index, b"x" * 32)
    audit.restored(audit.anchor.index, audit.anchor.chain)
    await audit.close()


async def test_an_anchor_that_is_not_the_records_is_found(
    fs: Any, tmp_path: Path, history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit_module, "SEGMENT_BYTES", 600)
    audit = await shortened(fs, tmp_path, history)
    audit.anchor = audit_module.Anchor(audit.anchor.index, b"x" * 32, audit.anchor.segment)
    check = await verify_audit(audit, "n1", history)  # type: ignore[arg-type]
    assert any("the chain does not fit" in problem for problem in check.problems)
    await audit.close()
    (tmp_path / "anchor").write_bytes(b"{}")
    with pytest.raises(AuditError, match="anchor is damaged"):
        open_audit(fs, tmp_path)


async def test_a_damaged_segment_is_not_dropped(
    fs: Any, tmp_path: Path, history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit_module, "SEGMENT_BYTES", 600)
    audit = open_audit(fs, tmp_path, bytes_max=SMALL)
    audit.restored(0, CHAIN_START)
    feed(audit, history, 1, 20)
    files = await audit.segments()
    for file in files[:-1]:
        file.write_bytes(file.read_bytes()[:-1] + b"?")
    await audit.compact()
    assert audit.anchor.index == 0
    assert await audit.segments() == files
    await audit.close()


@pytest.mark.parametrize("loss", list(Loss))
async def test_power_may_fail_at_any_step_of_dropping(
    history: History, monkeypatch: pytest.MonkeyPatch, loss: Loss
) -> None:
    monkeypatch.setattr(audit_module, "SEGMENT_BYTES", 600)
    directory = Path("/audit")
    crashes = 0
    for step in itertools.count(1):
        disk = FaultyFileSystem()
        disk.make_dir(directory)
        audit = open_audit(disk, directory, bytes_max=SMALL)
        audit.restored(0, CHAIN_START)
        feed(audit, history, 1, 20)
        await audit.sync()
        disk.crash_at = disk.steps + step
        try:
            await audit.compact()
        except SimulatedCrash:
            crashes += 1
            disk.restart(loss, random.Random(step))
        else:
            disk.crash_at = None
            await audit.close()
        audit = open_audit(disk, directory, bytes_max=SMALL)
        audit.restored(4, history.chains[4])
        feed(audit, history, 5, 20)
        check = await verify_audit(audit, "n1", history)  # type: ignore[arg-type]
        assert check.ok, (step, check.problems)
        assert check.last_index == 20
        await audit.close()
        if disk.crash_at is None and crashes < step:
            break
    assert crashes > 5


async def test_the_chain_after_an_entry_is_known_unless_a_gap_or_the_limit_hides_it(
    fs: RealFileSystem, tmp_path: Path, history: History
) -> None:
    audit = open_audit(fs, tmp_path)
    audit.restored(0, CHAIN_START)
    feed(audit, history, 1, 8)
    audit.restored(12, history.chains[12])
    feed(audit, history, 13, 20)
    for index in (1, 5, 8, 12, 13, 19, 20):
        assert await audit.chain_after(index) == history.chains[index], index
    for index in (0, 9, 10, 11):
        assert await audit.chain_after(index) is None, index
    await audit.close()


async def test_chains_are_found_over_segments(
    fs: RealFileSystem, tmp_path: Path, history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit_module, "SEGMENT_BYTES", 600)
    audit = open_audit(fs, tmp_path)
    audit.restored(0, CHAIN_START)
    feed(audit, history, 1, 8)
    audit.restored(12, history.chains[12])
    feed(audit, history, 13, 20)
    assert len(await audit.segments()) > 3
    for index in range(1, 21):
        expected = None if 9 <= index <= 11 else history.chains[index]
        assert await audit.chain_after(index) == expected, index
    await audit.close()


async def test_no_chain_is_told_by_a_segment_that_is_damaged_or_gone(
    fs: RealFileSystem, tmp_path: Path, history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit_module, "SEGMENT_BYTES", 600)
    audit = open_audit(fs, tmp_path)
    audit.restored(0, CHAIN_START)
    feed(audit, history, 1, 20)
    first, second = (await audit.segments())[:2]
    data = bytearray(second.read_bytes())
    data[-5] ^= 1
    second.write_bytes(bytes(data))
    first.unlink()
    chains = [await audit.chain_after(index) for index in range(1, 21)]
    known = [chain is not None for chain in chains]
    assert not known[0] and known[-1] and 2 <= known.count(False) < 15
    assert all(chain == history.chains[index] for index, chain in enumerate(chains, 1) if chain is not None)
    await audit.close()


async def test_verify_tells_no_chain_before_a_gap_at_the_beginning(
    fs: RealFileSystem, tmp_path: Path, history: History
) -> None:
    audit = open_audit(fs, tmp_path)
    audit.restored(0, CHAIN_START)
    audit.restored(12, history.chains[12])
    feed(audit, history, 13, 20)
    found = await verify_audit(audit, "n1", history)
    assert (found.ok, found.gaps, found.before_gaps) == (True, [[1, 12]], [])
    await audit.close()


async def test_verify_tells_the_chain_before_every_gap(
    fs: RealFileSystem, tmp_path: Path, history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = History(salt="of another history")
    other.grow(6)
    audit = open_audit(fs, tmp_path)
    audit.restored(0, CHAIN_START)
    feed(audit, other, 1, 6)
    audit.restored(12, history.chains[12])
    feed(audit, history, 13, 15)
    audit.restored(18, history.chains[18])
    feed(audit, history, 19, 20)
    found = await verify_audit(audit, "n1", history)
    assert found.ok
    assert found.gaps == [[7, 12], [16, 18]]
    assert found.before_gaps == [(6, other.chains[6].hex()), (15, history.chains[15].hex())]
    monkeypatch.setattr(verify_module, "GAPS_MAX", 1)
    assert (await verify_audit(audit, "n1", history)).before_gaps == [(15, history.chains[15].hex())]
    await audit.close()
