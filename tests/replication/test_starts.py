"""A replica notices that its disk was put back from an older copy, by what its peers remember of its starts."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from raftflow.replication.members import starts as starts_module
from raftflow.replication.members.starts import PeerRecord, ReplicaStart, StartHistory, StartsFileError
from raftflow.replication.real_files import RealFileSystem


def opened(directory: Path) -> StartHistory:
    starts = StartHistory(RealFileSystem(), directory)
    starts.open()
    return starts


def remembered(starts: StartHistory, *, index: int = 0, term: int = 0) -> PeerRecord:
    return PeerRecord(start=starts.mine, index=index, term=term)


def test_every_start_has_a_number_of_its_own_before_it_is_told(tmp_path: Path) -> None:
    first = opened(tmp_path)
    second = opened(tmp_path)
    assert (first.mine.number, second.mine.number) == (1, 2)
    assert second.find_rollback(remembered(first), 1, 1) == ""
    assert second.find_rollback(remembered(second), 1, 1) == ""


@pytest.mark.parametrize("starts_after", [1, 2, 5])
def test_an_older_copy_is_noticed_however_often_it_was_started(tmp_path: Path, starts_after: int) -> None:
    disk, copy = tmp_path / "disk", tmp_path / "copy"
    disk.mkdir()
    opened(disk)
    shutil.copytree(disk, copy)
    opened(disk)
    met = remembered(opened(disk))
    for _ in range(starts_after):
        old = opened(copy)
    assert old.find_rollback(met, 1, 1) != ""
    # It gives up what it lacks, once: neither that nor any other of the lost starts is held against it again.
    old.accept_loss(met)
    assert old.mine.number > met.start.number
    again = opened(copy)
    assert again.find_rollback(met, 1, 1) == ""
    assert again.find_rollback(PeerRecord(start=ReplicaStart(2, "of a life that is lost")), 1, 1) == ""
    # A copy of before that is noticed as ever.
    assert again.find_rollback(PeerRecord(start=ReplicaStart(again.mine.number + 1, "later")), 1, 1) != ""


def test_a_copy_of_the_same_life_is_noticed_by_what_it_acknowledged_or_by_its_term(tmp_path: Path) -> None:
    one = opened(tmp_path)
    assert "entry 20" in one.find_rollback(remembered(one, index=20), 3, 10)
    assert "term 4" in one.find_rollback(remembered(one, term=4), 3, 10)
    assert one.find_rollback(remembered(one, index=10, term=3), 3, 10) == ""
    assert one.find_rollback(remembered(one, index=20, term=4), 3, 10, repairing=True) == ""
    one.accept_loss(remembered(one, index=20, term=4))
    assert one.find_rollback(remembered(one, index=20, term=4), 3, 10) == ""


def test_peers_are_remembered_over_restarts_and_an_older_start_is_told_from_a_newer(tmp_path: Path) -> None:
    one = opened(tmp_path)
    assert not one.dirty
    assert one.note_start("b", ReplicaStart(7, "x"))
    assert one.dirty
    assert not one.note_start("b", ReplicaStart(7, "x"))
    one.note_progress("b", index=5, term=2)
    one.note_progress("stranger", index=5)
    one.save()
    again = opened(tmp_path)
    assert again.peer_record("b") == PeerRecord(start=ReplicaStart(7, "x"), index=5, term=2)
    assert again.peer_record("stranger") is None
    assert again.is_older("b", ReplicaStart(6, "y"))
    assert again.is_older("b", ReplicaStart(7, "y"))
    assert not again.is_older("b", ReplicaStart(7, "x"))
    assert not again.is_older("b", ReplicaStart(8, "y"))
    again.forget_peers(["b"])
    assert again.peer_record("b") is None


def test_the_oldest_starts_are_forgotten_one_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(starts_module, "NONCES_MAX", 3)
    lives = [opened(tmp_path) for _ in range(5)]
    assert len(lives[-1]._content.nonces) == 3
    for life in lives:  # what is forgotten is not held against the replica
        assert lives[-1].find_rollback(remembered(life), 1, 1) == ""
    assert lives[-1].find_rollback(PeerRecord(start=ReplicaStart(3, "another")), 1, 1) != ""


def test_a_newer_format_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    starts = opened(tmp_path)
    starts._content.format = starts_module.FORMAT + 1
    starts.save()
    with pytest.raises(StartsFileError, match="reads format"):
        opened(tmp_path)


@pytest.mark.parametrize("at", [0, 10, 30, -3])
def test_a_damaged_memory_is_refused_and_says_what_to_do(tmp_path: Path, at: int) -> None:
    opened(tmp_path)
    data = bytearray((tmp_path / "starts").read_bytes())
    data[at] ^= 1
    (tmp_path / "starts").write_bytes(bytes(data))
    with pytest.raises(StartsFileError, match="Remove the file and start again"):
        opened(tmp_path)
    (tmp_path / "starts").unlink()
    assert opened(tmp_path).find_rollback(PeerRecord(start=ReplicaStart(1, "of before")), 1, 1) != ""
