"""Every format that was ever written is read, and comes to what was recorded. See `scripts/make_golden`."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import msgspec
import pytest
from golden_replica import (
    CLUSTER,
    GIVEN_UP,
    GOLDEN,
    MEMBERS,
    NAME,
    PEER_STARTS,
    PEERS,
    SEGMENT_BYTES,
    START_MS,
    STEP_LIMITS,
    opened,
    parts_of,
)

from raftflow.coordinator.audit.verify import verify_audit
from raftflow.domain.commands import AnyCommand, RaiseFeatureLevel, Supported, decode_entry, encode_entry
from raftflow.domain.features import FIELD_NEEDS, LEVEL, LEVEL_FIRST, NEEDS, NEXT_LEVEL, FeatureLevelError
from raftflow.machine.machine import Machine
from raftflow.replication.errors import LogFailedError
from raftflow.replication.members import membership
from raftflow.replication.members.birth_file import BirthFile, BirthRecord
from raftflow.replication.members.identity import DataDir, read_identity
from raftflow.replication.members.introducer import Introducer
from raftflow.replication.members.introductions import Introduction
from raftflow.replication.members.starts import PeerRecord, ReplicaStart, StartHistory
from raftflow.replication.messages import envelope
from raftflow.replication.real_files import RealFileSystem
from raftflow.replication.storage.journal import Journal
from raftflow.replication.storage.snapshot_store import SnapshotStore

SETS = sorted(path.name for path in GOLDEN.iterdir())
NEWEST = f"level-{LEVEL}"


def digest_of(machine: Machine) -> str:
    """Return the digest of the state. A level that adds fields to a snapshot leaves them out here for older sets."""
    return hashlib.sha256(b"".join(machine.snapshot())).hexdigest()


class Golden:
    """One set: the recorded values, the entries, and a copy of the data directory that may be changed."""

    def __init__(self, name: str, place: Path) -> None:
        self.recorded = json.loads((GOLDEN / name / "recorded.json").read_text())
        self.level = self.recorded["level"]
        self.entries = [path.read_bytes() for path in sorted((GOLDEN / name / "entries").iterdir())]
        self.directory = place / "n1"
        shutil.copytree(GOLDEN / name / "replica", self.directory)

    def check(self, machine: Machine) -> None:
        assert machine.chain.hex() == self.recorded["chain"]
        assert digest_of(machine) == self.recorded["state"]


def apply_all(machine: Machine, entries: list[bytes]) -> None:
    for index, data in enumerate(entries, 1):
        machine.apply(index, 1, data)


@pytest.fixture(params=SETS)
def golden(request: Any, tmp_path: Path) -> Golden:
    return Golden(request.param, tmp_path)


def test_the_newest_set_has_every_command() -> None:
    recorded = json.loads((GOLDEN / NEWEST / "recorded.json").read_text())
    tags = sorted(kind.__struct_config__.tag for kind in AnyCommand.__args__)
    assert recorded["tags"] == tags, "run scripts/make_golden for the new command, and commit what it writes"


@pytest.mark.parametrize("name", SETS)
def test_what_a_set_lacks_needs_a_higher_level(name: str) -> None:
    """A line that was forgotten in `NEEDS` or `FIELD_NEEDS` would stop every older replica in a rolling upgrade."""
    recorded = json.loads((GOLDEN / name / "recorded.json").read_text())
    for kind in AnyCommand.__args__:
        tag, level = kind.__struct_config__.tag, recorded["level"]
        if tag not in recorded["tags"]:
            assert NEEDS.get(kind, LEVEL_FIRST) > level, (
                f"{tag} is newer than level {level}: it lacks a line in NEEDS"
            )
        elif added := set(parts_of(kind)) - set(recorded["parts"][tag]):
            needs = FIELD_NEEDS.get(kind, ())
            assert any(need.level > level for need in needs), f"{tag}: {added} lack a line in FIELD_NEEDS"


def test_entries_are_read_and_written_as_they_were(golden: Golden) -> None:
    for data in golden.entries:
        assert encode_entry(decode_entry(data).commands) == data


def test_entries_come_to_the_recorded_state(golden: Golden) -> None:
    """The indexes are those of the recording: 1 and 2 were no-ops of the log."""
    machine = Machine(limits=STEP_LIMITS)
    for index, data in enumerate(golden.entries, golden.recorded["applied_index"] - len(golden.entries) + 1):
        machine.apply(index, 1, data)
    golden.check(machine)


def test_the_identity_and_the_peers(golden: Golden) -> None:
    fs = RealFileSystem()
    data = DataDir.open(fs, golden.directory, CLUSTER, NAME)
    assert data.has_journal
    introducer = Introducer(fs, golden.directory, level=1)
    introducer.open()
    for peer in PEERS:
        for disk, accepted in ((f"disk-{peer}", True), ("another", False)):
            frame = msgspec.msgpack.encode(Introduction(format=1, disk=disk, level=1))
            assert introducer.judge_disk(peer, introducer.read(frame)).accepted == accepted
    data.close()
    fs.close()


@pytest.mark.parametrize("name", [name for name in SETS if (GOLDEN / name / "replica" / "birth").exists()])
def test_the_birth_and_the_starts(name: str, tmp_path: Path) -> None:
    golden, fs = Golden(name, tmp_path), RealFileSystem()
    disk = read_identity(fs, golden.directory).disk_id
    founders = {NAME: disk, **{peer: f"disk-{peer}" for peer in PEERS}}
    mark = BirthRecord(format=1, disk=disk, stage="born", met=True, whole=True, level=golden.level, founders=founders)
    assert BirthFile(fs, golden.directory).read(disk) == mark
    assert mark.born
    starts = StartHistory(fs, golden.directory)
    starts.open()
    assert {peer: starts.peer_record(peer) for peer in PEERS} == PEER_STARTS
    lost = GIVEN_UP.start.number
    assert starts.mine.number == lost + 2  # it gave that one up, and was started once more here
    assert starts.find_rollback(GIVEN_UP, GIVEN_UP.term, GIVEN_UP.index) == ""
    assert starts.find_rollback(GIVEN_UP, 0, 0) == ""
    recorded = PeerRecord(start=ReplicaStart(lost + 1, "another"))
    assert "another start" in starts.find_rollback(recorded, 0, 0)
    fs.close()


def test_the_newest_set_has_every_file() -> None:
    names = {path.name for path in (GOLDEN / NEWEST / "replica").iterdir()}
    assert names == {"audit", "birth", "identity", "journal", "members", "peers", "snapshots", "starts"}


@pytest.mark.parametrize("name", [name for name in SETS if (GOLDEN / name / "membership.bin").exists()])
def test_the_members(name: str, tmp_path: Path) -> None:
    data = (GOLDEN / name / "membership.bin").read_bytes()
    envelope.check(data)
    assert membership.decode(data[1:]) == MEMBERS
    assert membership.command_of(MEMBERS) == data
    golden, fs = Golden(name, tmp_path), RealFileSystem()
    assert membership.load_first(fs, golden.directory, MEMBERS) == membership.Membership.of((NAME,))
    fs.close()


def test_the_journal(golden: Golden) -> None:
    fs = RealFileSystem()
    files = len(list((golden.directory / "journal").iterdir()))
    journal = Journal.open(
        fs, golden.directory / "journal", check_command=envelope.check, segment_bytes=SEGMENT_BYTES, must_exist=True
    )
    assert files > 1
    assert (journal.last_index, journal.getCurrentTerm(), journal.getVotedForNodeId()) == (
        golden.recorded["journal_entries"],
        1,
        NAME,
    )
    sealed = {envelope.seal(entry) for entry in golden.entries}
    assert sum(command in sealed for command, _, _ in journal) > len(golden.entries) // 3
    journal.close()
    fs.close()


def test_the_snapshots(golden: Golden) -> None:
    """Each, and the entries behind it."""
    fs = RealFileSystem()
    good, damaged = SnapshotStore(fs, golden.directory / "snapshots").valid()
    assert len(good) == 2 and damaged == []
    first = golden.recorded["applied_index"] - len(golden.entries) + 1
    for info in good:
        machine = Machine(limits=STEP_LIMITS)
        machine.restore(SnapshotStore(fs, golden.directory / "snapshots").read(info))
        assert machine.applied_index == info.index
        for index, data in enumerate(golden.entries, first):
            if index > info.index:
                machine.apply(index, 1, data)
        golden.check(machine)
    fs.close()


async def test_a_replica_starts_on_it(golden: Golden) -> None:
    """The whole directory, the audit too: every record is compared with what the log gives again."""
    async with opened(golden.directory, LEVEL) as replica:
        golden.check(replica.machine)
        assert replica.failures == []
        check = await verify_audit(replica.audit, NAME, replica.machine)
        assert check.problems == []
        assert check.last_index == golden.recorded["applied_index"]
        assert check.gaps == []


async def test_an_older_program_refuses_a_directory_of_a_higher_level(tmp_path: Path) -> None:
    golden = Golden(NEWEST, tmp_path)
    raised = RaiseFeatureLevel(
        at_ms=START_MS, actor="leader:n1", level=NEXT_LEVEL, supported=(Supported("n1", NEXT_LEVEL),)
    )
    async with opened(golden.directory, NEXT_LEVEL) as replica:
        await replica.log.submit(encode_entry((raised,)), 10.0)
        assert replica.machine.state.feature_level == NEXT_LEVEL
    with pytest.raises(LogFailedError) as refused:
        async with opened(golden.directory, LEVEL):
            pass
    assert "feature level" in str(refused.value)
    assert "the data is kept" in str(refused.value)
    with pytest.raises(FeatureLevelError):
        apply_all(Machine(limits=STEP_LIMITS), [*golden.entries, encode_entry((raised,))])
