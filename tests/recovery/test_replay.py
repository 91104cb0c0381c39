"""The state as of an earlier entry, and records that were altered."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path
from typing import Any

import msgspec
import pytest

from raftflow.coordinator.audit.audit_file import AuditFile
from raftflow.coordinator.audit.frames import RECORD, encode_frame, frames_in, record_of
from raftflow.coordinator.host import HostedMachine
from raftflow.domain import commands as c
from raftflow.domain.tasks.program import CommandLine
from raftflow.domain.tasks.workflow import TaskSpec, WorkflowSpec
from raftflow.machine.machine import Machine
from raftflow.machine.rules.audit_chain import seal
from raftflow.recovery.replay import ReplayError, difference, replay_to
from raftflow.replication.config import LogConfig
from raftflow.replication.engine import PySyncObjLog
from raftflow.replication.log import Applied, Role
from raftflow.replication.net.links import StreamLinks
from raftflow.replication.real_files import RealFileSystem

START_MS = 1_790_000_000_000


class Recorded:
    """The directory of a replica that ran, and what its state machine was after each entry."""

    def __init__(self, place: Path) -> None:
        self.directory = place / "n1"
        self.chains: dict[int, str] = {}
        self.tasks: dict[int, dict[str, str]] = {}
        self.snapshots: list[int] = []

    async def run(self, rng: random.Random) -> None:
        fs = RealFileSystem()
        machine = Machine()
        audit = AuditFile(fs, self.directory / "audit", lambda _error: None)
        links = StreamLinks(name="n1", cluster_id="c", bind=("127.0.0.1", 0), peers={}, secret=bytes(32))
        config = LogConfig(
            name="n1",
            members=("n1",),
            cluster_id="c",
            data_dir=self.directory,
            election_min_s=0.2,
            election_max_s=0.3,
        )

        hosted = HostedMachine(machine, audit, lambda result: self._note(machine, result.index))
        log = PySyncObjLog(config, hosted, links, fs, before_compaction=audit.compact)
        leads = asyncio.Event()
        log.on_role_change(lambda role, _term: leads.set() if role is Role.LEADER else None)
        await log.start()
        hosted.open_audit()
        await asyncio.wait_for(leads.wait(), 10)
        for number, command in enumerate(_commands(rng)):
            assert isinstance(await log.submit(c.encode_entry((command,)), 10.0), Applied)
            if number in {40, 90, 130}:
                opened = await log.open_snapshot(10.0)
                self.snapshots.append(opened.info.index)
                opened.file.close()
        await log.close()
        await audit.close()
        fs.close()

    def _note(self, machine: Machine, index: int) -> None:
        self.chains[index] = machine.chain.hex()
        self.tasks[index] = {
            f"{workflow.id}/{task.id}": task.state.name.lower()
            for workflow in machine.state.workflows.values()
            for task in workflow.tasks
        }


def _commands(rng: random.Random) -> list[c.AnyCommand]:
    """Return the life of forty workflows."""
    stamp: dict[str, Any] = {"at_ms": START_MS, "actor": "client:test"}
    commands: list[c.AnyCommand] = [
        c.RegisterAgent(**stamp, name="a1", instance="i", capacity={"cpu": 100_000}, prefetch=8)
    ]
    for number in range(40):
        tasks = tuple(TaskSpec(id=f"t{each}", program=CommandLine(("true",))) for each in range(2))
        name = f"wf-{number}"
        commands.append(c.SubmitWorkflow(**stamp, workflow_id=name, spec=WorkflowSpec(name="w", tasks=tasks)))
        commands.append(c.CommitPlacements(**stamp, placements=(c.Placement(name, 0, "a1", 1),)))
        outcome = rng.choice(("succeeded", "failed"))
        end = c.AttemptEnd(number + 1, name, "t0", outcome, 0, "", b"", 5)
        commands.append(c.ReportAttempts(**stamp, agent="a1", incarnation=1, ends=(end,)))
        commands.append(c.FireTimers(**{**stamp, "at_ms": START_MS + number}))
    return commands


@pytest.fixture
async def recorded(tmp_path: Path) -> Recorded:
    made = Recorded(tmp_path)
    await made.run(random.Random(3))
    return made


def replay(recorded: Recorded, index: int) -> Any:
    fs = RealFileSystem()
    try:
        return replay_to(fs, recorded.directory, index)
    finally:
        fs.close()


def test_a_hundred_random_indexes_give_the_recorded_digests(recorded: Recorded) -> None:
    """From the log where it reaches, from the audit before."""
    sources = set()
    for index in random.Random(1).sample(sorted(recorded.chains), 100):
        state = replay(recorded, index)
        assert (state.index, state.digest, state.recorded) == (index, recorded.chains[index], recorded.chains[index])
        assert state.problems == []
        tasks = {f"{each.id}/{task}": name for each in state.workflows for task, name in each.tasks.items()}
        if state.source == "log":
            assert tasks == recorded.tasks[index]
            assert state.agents == {"a1": "up"}
        else:
            assert tasks.items() <= recorded.tasks[index].items()
            moved = {task for task, name in recorded.tasks[index].items() if name not in {"ready", "cancelled"}}
            assert moved <= tasks.keys()
        sources.add((state.source, state.base))
    assert {source for source, _ in sources} == {"log", "audit"}
    assert {base for source, base in sources if source == "log"} == {recorded.snapshots[-1]}


def test_the_difference_between_two_indexes(recorded: Recorded) -> None:
    last = max(recorded.chains)
    before, after = replay(recorded, last - 3), replay(recorded, last)
    changes = [(change.workflow, change.task, change.before, change.after) for change in difference(before, after)]
    expected = [
        (*name.split("/"), recorded.tasks[last - 3].get(name), state)
        for name, state in recorded.tasks[last].items()
        if recorded.tasks[last - 3].get(name) != state
    ]
    assert changes == expected and changes
    assert list(difference(after, after)) == []


def test_an_index_that_nothing_reaches_is_refused(recorded: Recorded) -> None:
    with pytest.raises(ReplayError, match="has entries up to"):
        replay(recorded, 10_000)
    for file in (recorded.directory / "audit").glob("audit-*"):
        file.unlink()
    with pytest.raises(ReplayError, match=r"nothing in .* reaches entry"):
        replay(recorded, recorded.snapshots[-1] - 5)
    state = replay(recorded, max(recorded.chains))
    assert (state.source, state.recorded) == ("log", "")


@pytest.mark.parametrize("forged", [False, True], ids=["checksum alone", "checksum and chain"])
def test_an_altered_record_is_found(recorded: Recorded, *, forged: bool) -> None:
    """The record is made to look whole. With its own chain forged too, the next record does not fit."""
    (path,) = (recorded.directory / "audit").glob("audit-*")
    frames = list(frames_in(path.read_bytes(), path))
    data, chain = b"RFAUDIT1", bytes(32)
    altered = frames[60].index
    for frame in frames:
        payload = frame.payload
        if frame.index == altered:
            payload = payload.replace(b"client:test", b"client:evil")
            assert payload != frame.payload
            if forged:
                fields = msgspec.structs.replace(record_of(frame), actor="client:evil", chain=b"")
                payload = seal(chain, fields)[1]
        data += encode_frame(RECORD, frame.index, payload)
        chain = record_of(frame).chain
    path.write_bytes(data)
    state = replay(recorded, max(recorded.chains))
    assert state.problems and f"index {altered + forged}, position 0" in state.problems[0]
    assert replay(recorded, altered - 1).problems == []
