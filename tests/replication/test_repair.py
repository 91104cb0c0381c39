"""Repair of a damaged replica: what is known for certain, what is refused, and that it never votes too early."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest
from journal_driver import DIRECTORY, Driver
from virtual_cluster import run_virtual, running

from raftflow.replication.errors import LogFailedError
from raftflow.replication.members.identity import DataDir
from raftflow.replication.messages import envelope
from raftflow.replication.repair.repair import RepairError, StorageOpener, last_hard_state
from raftflow.replication.storage.journal import JournalCorruptError
from raftflow.simulation.world.disk import FaultyFileSystem, Loss, SimulatedCrash

PATH = Path("/n1")


def segments(fs: FaultyFileSystem, directory: Path) -> list[Path]:
    return [directory / name for name in fs.list_dir(directory) if name.endswith(".segment")]


def journal_of(*, close: bool) -> Driver:
    """Three segments, with a vote in the middle and another one at the end."""
    driver = Driver(FaultyFileSystem(), segment_bytes=1400)
    driver.open()
    driver.vote(3, "a:1")
    for size in (40, 700, 300, 400, 20, 1100, 500, 60):
        driver.add(size)
        driver.sync_now()
    driver.vote(7, "b:1")
    driver.sync_now()
    if close:
        driver.journal.close()
    driver.fs.restart(Loss.NONE, Random(0))
    return driver


@pytest.mark.parametrize("close", [True, False])
def test_the_last_promises_are_known_or_said_to_be_unknown(*, close: bool) -> None:
    """For a flip anywhere: never an older term or vote."""
    known = unknown = 0
    fs = journal_of(close=close).fs
    assert last_hard_state(fs, DIRECTORY) is not None
    for path in segments(fs, DIRECTORY):
        used = len(fs.content(path).rstrip(b"\0"))
        for offset in range(0, used, 3):
            fs.flip(path, offset, 1 << offset % 8)
            found = last_hard_state(fs, DIRECTORY)
            fs.flip(path, offset, 1 << offset % 8)
            if found is None:
                unknown += 1
            else:
                known += 1
                assert (found.term, found.vote) == (7, "b:1"), (path, offset)
    assert known > 600 and unknown > 20


def test_a_journal_that_was_cut_off_hides_promises() -> None:
    driver = journal_of(close=False)
    for path in segments(driver.fs, DIRECTORY)[-1:]:
        size = len(driver.fs.content(path))
        for length in range(0, size, 37):
            again = journal_of(close=False)
            file = again.fs.open(path)
            file.truncate(length)
            file.sync()
            assert last_hard_state(again.fs, DIRECTORY) is None


def opener(fs: FaultyFileSystem, data: DataDir, members: int = 3) -> StorageOpener:
    return StorageOpener(
        fs, data, check_command=lambda _command: None, segment_bytes=4096, clock=lambda: 0.0, members=members
    )


def damaged_replica() -> FaultyFileSystem:
    fs = FaultyFileSystem()
    data = DataDir.open(fs, PATH, "c", "n1", new_disk_id=lambda: "disk")
    storage = opener(fs, data).open()
    journal = storage.journal
    for index in range(1, 20):
        journal.add(envelope.seal(b"x" * 50), index, 4)
        journal.sync_now()
    journal.setCurrentTerm(5, "n2")
    journal.close()
    data.close()
    fs.restart(Loss.NONE, Random(0))
    fs.flip(segments(fs, PATH / "journal")[0], 900, 4)
    return fs


def test_a_repair_goes_on_after_a_crash_at_any_step() -> None:
    """The promises are kept whatever happens, and nothing of the damaged journal comes back."""
    crashes = 0
    for steps in range(1, 200):
        fs = damaged_replica()
        crashed = False
        fs.crash_at = fs.steps + steps
        try:
            data = DataDir.open(fs, PATH, "c", "n1")
            opener(fs, data).open()
        except SimulatedCrash:
            crashed = True
        fs.crash_at = None
        fs.restart(list(Loss)[steps % len(Loss)], Random(steps))
        data = DataDir.open(fs, PATH, "c", "n1")
        storage = opener(fs, data).open()
        assert storage.repair is not None and storage.repair.term == 5
        assert (storage.journal.getCurrentTerm(), storage.journal.getVotedForNodeId()) == (5, "n2")
        assert [entry[1:] for entry in storage.journal] == [(1, 0)]
        storage.journal.close()
        if not crashed:
            break
        crashes += 1
    assert crashes > 10


def test_one_that_never_promised_anything_needs_no_repair() -> None:
    """A fresh replica with a damaged journal is as fresh as before: a repair would let it pass for one with data."""
    for steps in range(1, 200):
        fs = FaultyFileSystem()
        data = DataDir.open(fs, PATH, "c", "n1")
        journal = opener(fs, data).open().journal
        journal.add(envelope.seal(b"no-op"), 1, 0)
        journal.sync_now()
        journal.sync_now()
        journal.close()
        data.close()
        fs.restart(Loss.NONE, Random(0))
        fs.flip(segments(fs, PATH / "journal")[0], 100, 4)
        fs.crash_at = fs.steps + steps
        crashed = False
        try:
            storage = opener(fs, DataDir.open(fs, PATH, "c", "n1")).open()
        except SimulatedCrash:
            crashed = True
        if crashed:
            fs.crash_at = None
            fs.restart(list(Loss)[steps % len(Loss)], Random(steps))
            storage = opener(fs, DataDir.open(fs, PATH, "c", "n1")).open()
        assert storage.repair is None
        assert (storage.journal.getCurrentTerm(), storage.journal.getVotedForNodeId()) == (0, None)
        if not crashed:
            break
    assert "repair" not in fs.list_dir(PATH)
    assert steps > 10 and any(".damaged-" in name for name in fs.list_dir(PATH / "journal"))


def test_the_end_of_a_repair_is_remembered() -> None:
    fs = damaged_replica()
    data = DataDir.open(fs, PATH, "c", "n1")
    storage = opener(fs, data).open()
    storage.repair.finish()
    storage.journal.close()
    data.close()
    fs.restart(Loss.ALL, Random(1))
    assert opener(fs, DataDir.open(fs, PATH, "c", "n1")).open().repair is None


def test_refused_where_no_majority_is_left() -> None:
    fs = damaged_replica()
    data = DataDir.open(fs, PATH, "c", "n1")
    with pytest.raises(RepairError, match="no majority without it"):
        opener(fs, data, members=2).open()
    assert "repair" not in fs.list_dir(PATH)


def test_a_journal_of_a_newer_program_is_not_given_up() -> None:
    fs = damaged_replica()
    fs.flip(segments(fs, PATH / "journal")[0], 900, 4)  # whole again
    data = DataDir.open(fs, PATH, "c", "n1")

    def refuse(_command: bytes) -> None:
        raise ValueError("unknown")

    strict = StorageOpener(fs, data, check_command=refuse, segment_bytes=4096, clock=lambda: 0.0, members=3)
    with pytest.raises(JournalCorruptError, match="newer version"):
        strict.open()
    assert "repair" not in fs.list_dir(PATH)


def test_a_damaged_mark_is_refused() -> None:
    fs = damaged_replica()
    data = DataDir.open(fs, PATH, "c", "n1")
    opener(fs, data).open().journal.close()
    data.close()
    fs.restart(Loss.NONE, Random(0))
    fs.flip(PATH / "repair", 30, 1)
    with pytest.raises(LogFailedError, match="repair is damaged"):
        opener(fs, DataDir.open(fs, PATH, "c", "n1")).open()


def test_a_replica_under_repair_hears_a_leader_of_an_older_term_than_its_own() -> None:
    run_virtual(_older_leader())


async def _older_leader() -> None:
    """One that heard nobody stood for election alone, again and again, and is damaged then. It may not stand now."""
    async with running(seed=4) as cluster:
        leader = await cluster.elect()
        lonely = next(name for name in cluster.names if name != leader)
        for _ in range(10):
            await cluster.put(leader)
        await cluster.settle()
        term = cluster.logs[leader].status().term
        cluster.network.drop = lambda source, target, _frame: lonely in {source, target}
        await cluster.stand_alone(lonely, term + 2)
        await cluster.logs.pop(lonely).close()
        disk = cluster.disks[lonely]
        disk.flip(next(path for path in disk._names if path.name.endswith(".segment")), 700, 1)
        cluster.network.drop = lambda _source, _target, _frame: False
        assert (cluster.leader(), cluster.logs[leader].status().term) == (leader, term)
        await cluster.start(lonely)
        log = cluster.logs[lonely]
        assert log.repairing
        assert await cluster.wait(lambda: not log.repairing)
        assert await cluster.settle()
