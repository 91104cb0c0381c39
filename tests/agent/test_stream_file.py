"""One stream on disk: its head and a ring with its tail, as it is read while it is written and after."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from raftflow.agent.output import stream_file
from raftflow.agent.output.stream_file import LiveFile, StreamFile, keep_stream, read_stream
from raftflow.agent.workdir.files import CaptureFolder, UnfitFileError, opened_folder

Read = Callable[[int, int], stream_file.StreamPiece]


def reader(folder: Path) -> Read:
    def read(offset: int, count: int) -> stream_file.StreamPiece:
        with opened_folder(str(folder), "the folder") as fd:
            assert fd is not None
            return read_stream(fd, "stdout", "the output", offset, count)

    return read


def everything(read: Read, count: int) -> tuple[bytes, list[tuple[int, int]]]:
    """Return what there is, and where how many bytes are missing."""
    data, gaps, at = b"", [], 0
    while True:
        found = read(at, count)
        if found.offset > at:
            gaps.append((at, found.offset - at))
        data += found.data
        at = found.offset + len(found.data)
        if at >= found.size or not found.data:
            return data, gaps


def pattern(size: int) -> bytes:
    return bytes(random.Random(size).choices(range(32, 127), k=size))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "attempts").mkdir()
    (tmp_path / "trash").mkdir()
    return tmp_path / "attempts" / "7"


@pytest.mark.parametrize("chunk", [1, 7, 100, 1_000, 5_000])
@pytest.mark.parametrize("size", [0, 1, 99, 100, 101, 200, 201, 999, 5_000])
@pytest.mark.parametrize("way", ["written", "copied"])
def test_head_and_tail_are_kept_to_the_byte(folder: Path, way: str, size: int, chunk: int) -> None:
    whole = pattern(size)
    if way == "written":
        stream = StreamFile(CaptureFolder(str(folder)), "stdout", 200)
        for at in range(0, size, chunk):
            stream.write(whole[at : at + chunk])
        assert (stream.total, stream.is_cut) == (size, size > 200)
        stream.close()
    else:
        source = folder.parent.parent / "source"
        source.write_bytes(whole)
        with source.open("rb") as file:
            assert keep_stream(file.fileno(), CaptureFolder(str(folder)), "stdout", 200) == (size, size > 200)
    if not size:
        assert not folder.exists(), "what wrote nothing costs nothing"
        return
    data, gaps = everything(reader(folder), chunk)
    if size <= 200:
        assert (data, gaps) == (whole, [])
    else:
        assert (data, gaps) == (whole[:100] + whole[-100:], [(100, size - 200)])


def test_a_character_is_not_cut_by_the_gap(folder: Path) -> None:
    stream = StreamFile(CaptureFolder(str(folder)), "stdout", 200)
    stream.write(
        ("x" + "工作流" * 300).encode()
    )  # the head ends in a character, and so does what lies before the tail
    data, ((at, count),) = everything(reader(folder), 64)
    assert data.decode() == "x" + "工作流工作流" * 11 + "工" * 0 + data.decode()[67:]
    assert at + count + len(data[at:]) == 2_701
    assert at == 100
    stream.close()
    other = folder.parent / "8"
    stream = StreamFile(CaptureFolder(str(other)), "stdout", 200)
    stream.write("工作流".encode() * 300)
    data, ((at, count),) = everything(reader(other), 64)
    data.decode()
    assert (at, count, len(data)) == (99, 2_700 - 99 - 99, 198)
    stream.close()


def test_a_follower_reads_all_that_it_is_fast_enough_for(folder: Path) -> None:
    whole = pattern(3_000)
    stream = StreamFile(CaptureFolder(str(folder)), "stdout", 200)
    read, seen, at = reader(folder), b"", 0
    for start in range(0, len(whole), 50):
        stream.write(whole[start : start + 50])
        found = read(at, 1_000)
        assert found.offset == at, "nothing is missed"
        seen += found.data
        at += len(found.data)
    assert seen == whole
    stream.close()


def test_what_was_overwritten_when_the_writer_died_is_not_shown(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It had said that it would overwrite 60 bytes, and had written some of them."""
    whole = pattern(1_000)
    stream = StreamFile(CaptureFolder(str(folder)), "stdout", 200)
    stream.write(whole[:900])
    write, calls = os.pwrite, 0

    def die(fd: int, data: bytes, offset: int) -> int:
        nonlocal calls
        calls += 1
        if calls == 2:
            write(fd, bytes(data)[:30], offset)
            raise OSError(5, "the machine stops")
        return write(fd, data, offset)

    monkeypatch.setattr(os, "pwrite", die)
    with pytest.raises(OSError, match="the machine stops"):
        stream.write(whole[900:960])
    stream.close()
    data, gaps = everything(reader(folder), 64)
    assert (data, gaps) == (whole[:100] + whole[860:900], [(100, 760)])


@pytest.mark.parametrize("damage", [b"", b"x" * 10, b"rftail1\n" + b"\xff" * 32, b"rftail1\n" + b"\0" * 32])
def test_a_damaged_tail_is_told(folder: Path, damage: bytes) -> None:
    stream = StreamFile(CaptureFolder(str(folder)), "stdout", 200)
    stream.write(pattern(500))
    stream.close()
    (folder / "stdout.tail").write_bytes(damage)
    with pytest.raises(UnfitFileError, match="its tail is damaged"):
        reader(folder)(0, 10)


def test_a_file_that_a_worker_writes_gives_back_its_middle(tmp_path: Path) -> None:
    whole = pattern(5 << 20)
    with (tmp_path / "out").open("ab+", buffering=0) as file:
        live = LiveFile(file.fileno(), 1 << 20)
        for at in range(0, len(whole), 1 << 19):
            file.write(whole[at : at + (1 << 19)])
            live.cut()
        used = os.fstat(file.fileno()).st_blocks * 512
        data, ((at, count),) = everything(live.read, 1 << 17)
        assert used < 1 << 21
        assert data == whole[:at] + whole[at + count :]
        assert at == 1 << 19
        assert count > 3 << 20


def test_where_files_have_no_holes_the_loss_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_file, "_punch", lambda *_: False)
    with (tmp_path / "out").open("ab+", buffering=0) as file:
        live = LiveFile(file.fileno(), 1 << 20)
        for _ in range(4):
            file.write(b"x" * (1 << 20))
            live.cut()
        assert live.lost + os.fstat(file.fileno()).st_size == 4 << 20


def test_times_of_a_stream(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = 1_000.0
    monkeypatch.setattr(stream_file.time, "time", lambda: now_s)
    stream = StreamFile(CaptureFolder(str(folder)), "stdout", 1 << 20)
    for number in range(3_000):
        stream.note_time()
        stream.write(b"%06d\n" % number)
        now_s += 0.25
    stream.close()
    os.utime(folder / "stdout", (now_s, now_s))
    assert (folder / "stdout.times").stat().st_size == 16 * 750

    def start(since_s: float) -> int | None:
        with opened_folder(str(folder), "the folder") as fd:
            assert fd is not None
            return stream_file.stream_start(fd, "stdout", "the output", int(since_s * 1000))

    assert start(0) == start(1_000) == start(1_000.9) == 0
    assert start(1_001) == start(1_001.9) == 4 * 7
    assert start(1_749) == 4 * 749 * 7
    assert start(now_s) == 4 * 749 * 7
    assert start(now_s + 0.001) is None


def test_times_grow_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = 1_000.0
    monkeypatch.setattr(stream_file.time, "time", lambda: now_s)
    times, noted = stream_file.StreamTimes(), []
    for offset in range(0, 7 * 86_400, 10):
        noted += times.note(offset)
        now_s += 10
    assert 2_000 < len(noted) < 8_000
    assert all(offset == at_ms // 1000 - 1_000 for offset, at_ms in noted)
