"""Recovering from a survivor: what it has, what may be missing, and when the command refuses."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from raftflow.coordinator.build import build_replica
from raftflow.coordinator.config.replica_config import CoordinatorConfig
from raftflow.domain import commands as c
from raftflow.domain.tasks.program import CommandLine
from raftflow.domain.tasks.workflow import TaskSpec, WorkflowSpec
from raftflow.machine.machine import Machine
from raftflow.recovery.cluster_snapshot import ClusterSnapshotFile
from raftflow.recovery.restore import restore_replica
from raftflow.recovery.survivor import RecoveryRefusedError, Survivor, answering_addresses, check_alone
from raftflow.recovery.verification import verify_snapshot
from raftflow.replication.errors import LogFailedError
from raftflow.replication.log import Role
from raftflow.replication.members.starts import ReplicaStart, StartHistory
from raftflow.replication.messages import envelope
from raftflow.replication.real_files import RealFileSystem
from raftflow.replication.storage.journal import Journal

NOW_MS = 1_790_003_600_000


def submission(name: str) -> c.SubmitWorkflow:
    spec = WorkflowSpec(name=name, tasks=(TaskSpec(id="t", program=CommandLine(("true",))),))
    return c.SubmitWorkflow(at_ms=NOW_MS + 5, actor="client:test", workflow_id=f"wf-{name}", spec=spec)


@pytest.fixture
async def survivor(machine: Machine, save: Callable[..., Path], config_of: Any) -> CoordinatorConfig:
    """Return the configuration of a replica that ran and was stopped. Its file names two others."""
    alone = config_of(names=("n1",))
    fs = RealFileSystem()
    restore_replica(alone, save(machine), fs, now_ms=NOW_MS)
    replica = build_replica(alone, fs)
    leads = asyncio.Event()
    replica.log.on_role_change(lambda role, _term: leads.set() if role is Role.LEADER else None)
    await replica.start()
    await asyncio.wait_for(leads.wait(), 10)
    for name in ("one", "two"):
        await replica.propose(submission(name))
    await replica.stop()
    fs.close()
    return config_of()  # type: ignore[no-any-return]


def read(config: CoordinatorConfig) -> Survivor:
    fs = RealFileSystem()
    try:
        return Survivor(config, fs)
    finally:
        fs.close()


def append(config: CoordinatorConfig, *commands: c.AnyCommand, term: int | None = None) -> None:
    """Write entries of which nobody knows whether they were committed."""
    fs = RealFileSystem()
    journal = Journal.open(fs, config.data_dir / "journal", check_command=envelope.check)
    for command in commands:
        payload = envelope.seal(c.encode_entry((command,)))
        journal.add(payload, journal.last_index + 1, term or journal.getCurrentTerm())
    if term:
        journal.setCurrentTerm(term, None)
    commit = journal.getRaftCommitIndex()
    journal.close()
    assert commit < journal.last_index
    fs.close()


def test_everything_that_it_has_is_kept(survivor: CoordinatorConfig, tmp_path: Path) -> None:
    before = {path: path.read_bytes() for path in survivor.data_dir.rglob("*") if path.is_file()}
    append(survivor, submission("three"), term=90)
    found = read(survivor)
    report = found.report({})
    assert (report.replica, report.workflows, report.last_term, report.term) == ("n1", 4, 90, 90)
    assert report.last_index == report.committed + 1
    assert any("it is not known whether they were acknowledged" in sentence for sentence in report.missing)
    label = found.save(tmp_path / "out", NOW_MS + 10_000)
    assert (label.recovered, label.index, label.term) == (True, report.last_index, 90)
    assert label.chain == found.machine.chain.hex()
    check = verify_snapshot(tmp_path / "out")
    assert (check.ok, check.workflows) == (True, 4)
    unchanged = [path for path, data in before.items() if "journal" not in path.parts and path.read_bytes() != data]
    assert unchanged == []


def test_what_the_others_had_acknowledged_beyond_it_is_told(survivor: CoordinatorConfig) -> None:
    fs = RealFileSystem()
    starts = StartHistory(fs, survivor.data_dir)
    starts.open()
    starts.note_start("n2", ReplicaStart(1, "x"))
    starts.note_progress("n2", index=500, term=3)
    starts.save()
    fs.close()
    report = read(survivor).report({})
    assert [(other.name, other.acknowledged) for other in report.others] == []  # it was alone by its own log
    several = msgspec.structs.replace(survivor)
    found = read(several)
    found._others = lambda: ["n2", "n3"]  # type: ignore[method-assign]
    report = found.report({"n3": ["127.0.0.1:1"]})
    assert [(other.name, other.acknowledged, other.answers) for other in report.others] == [
        ("n2", 500, []),
        ("n3", 0, ["127.0.0.1:1"]),
    ]
    assert report.missing[0].startswith(f"n2 had acknowledged entry 500: at least {500 - report.last_index}")


def test_it_refuses_while_a_quorum_could_come_back(survivor: CoordinatorConfig) -> None:
    found = read(survivor)
    found._others = lambda: ["n2", "n3"]  # type: ignore[method-assign]
    report = found.report({})
    with pytest.raises(RecoveryRefusedError, match="n2, n3 do not answer, and they may come back"):
        check_alone(report, others_gone=False)
    check_alone(report, others_gone=True)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        answering = answering_addresses(
            {"n2": [address, f"http://{address}"], "n3": ["127.0.0.1:1", "https://[::1]"]}
        )
    assert answering == {"n2": [address, f"http://{address}"]}
    with pytest.raises(RecoveryRefusedError, match="of the old cluster answers: stop it first"):
        check_alone(found.report(answering), others_gone=True)


def test_a_directory_that_is_not_this_replicas_is_refused(
    survivor: CoordinatorConfig, config_of: Any, tmp_path: Path
) -> None:
    other = msgspec.structs.replace(config_of("n2"), data_dir=survivor.data_dir)
    with pytest.raises(RecoveryRefusedError, match="directory of replica n1, not of n2"):
        read(other)
    with pytest.raises(LogFailedError, match="has no identity file"):
        read(msgspec.structs.replace(survivor, data_dir=tmp_path))
    fs = RealFileSystem()
    lock = fs.lock(survivor.data_dir / "lock")
    with pytest.raises(LogFailedError, match="is in use: stop that replica first"):
        read(survivor)
    lock.close()
    fs.close()


def test_an_altered_log_is_found_by_the_audit(survivor: CoordinatorConfig) -> None:
    """The last entry was replaced by another one that is as good."""
    fs = RealFileSystem()
    journal = Journal.open(fs, survivor.data_dir / "journal", check_command=envelope.check)
    last = journal[-1]
    journal.deleteEntriesFrom(len(journal) - 1)
    journal.add(envelope.seal(c.encode_entry((submission("other"),))), last[1], last[2])
    journal.close()
    fs.close()
    with pytest.raises(RecoveryRefusedError, match="tell different histories"):
        read(survivor)


def test_a_damaged_journal_is_told(survivor: CoordinatorConfig) -> None:
    (segment,) = (survivor.data_dir / "journal").iterdir()
    data = bytearray(segment.read_bytes())
    data[300] ^= 1
    segment.write_bytes(data)
    with pytest.raises(LogFailedError, match=segment.name):
        read(survivor)


def test_the_snapshot_makes_a_new_cluster(survivor: CoordinatorConfig, config_of: Any, tmp_path: Path) -> None:
    read(survivor).save(tmp_path / "out", NOW_MS + 10_000)
    with ClusterSnapshotFile(tmp_path / "out") as file:
        origin = file.label.cluster
    later = origin.replace("T151320Z", "T151400Z")
    assert later != origin
    survivor.data_dir.rename(tmp_path / "kept")
    fs = RealFileSystem()
    made = [
        restore_replica(config_of(name, later), tmp_path / "out", fs, now_ms=NOW_MS + 60_000)
        for name in ("n1", "n2", "n3")
    ]
    fs.close()
    assert len({each.digest for each in made}) == 1
    assert (made[0].workflows, made[0].origin) == (3, origin)
