"""Random histories, restored from random prefixes: equal replicas, and no fence that another cluster gave out.

A cluster runs. A snapshot is taken somewhere, and the cluster goes on until its disks are lost. The snapshot is
restored, the new cluster runs, is lost too, and the *same* snapshot is restored again, later. Agents of all three
clusters try to report to each other's.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from raftflow.coordinator.config.addresses import Address
from raftflow.coordinator.config.replica_config import CoordinatorConfig, MemberConfig
from raftflow.domain import commands as c
from raftflow.domain.replies import AgentAccepted, Placed
from raftflow.domain.tasks.program import CommandLine
from raftflow.domain.tasks.states import AttemptOutcome, TaskState
from raftflow.domain.tasks.workflow import TaskSpec, WorkflowSpec
from raftflow.machine.commands import restoration
from raftflow.machine.machine import Machine
from raftflow.machine.read.invariants import check
from raftflow.recovery.cluster_ids import restored_id
from raftflow.recovery.restore import restore_replica
from raftflow.replication.members.identity import DataDir
from raftflow.replication.messages import envelope
from raftflow.replication.real_files import RealFileSystem
from raftflow.replication.repair.repair import StorageOpener
from raftflow.simulation.world.disk import FaultyFileSystem

START_MS = 1_790_000_000_000
ORIGIN_MS = START_MS + 60_000
"""When the snapshots say that they were taken."""
NAMES = ("n1", "n2", "n3")
SHORT, LONG = 10, 1_000


class RandomCluster:
    """A machine that gets random commands, and what it gave out: every fence with the agent that has it."""

    def __init__(self, rng: random.Random, machine: Machine, now_ms: int) -> None:
        self.rng = rng
        self.machine = machine
        self.now_ms = now_ms
        self.index = machine.applied_index + 1
        self.given: dict[int, tuple[str, int, str, str]] = {}
        """By fence: agent, incarnation, workflow, task."""
        self.incarnations: dict[str, int] = {}

    def apply(self, command: c.AnyCommand) -> Any:
        self.index += 1
        return self.machine.apply(self.index, self.machine.applied_term + 1, c.encode_entry((command,))).replies[0]

    def stamp(self) -> dict[str, Any]:
        self.now_ms += self.rng.randrange(1, 400)
        return {"at_ms": self.now_ms, "actor": "client:test"}

    def run(self, steps: int) -> None:
        for _ in range(steps):
            self.rng.choice(
                (self._register, self._submit, self._place, self._place, self._end, self._end, self._lose)
            )()

    def _register(self) -> None:
        name = self.rng.choice(("a1", "a2", "a3"))
        instance = str(self.rng.random())
        reply = self.apply(
            c.RegisterAgent(
                **self.stamp(), name=name, instance=instance, capacity={"cpu": 3_000}, prefetch=2, home=name
            )
        )
        if isinstance(reply, AgentAccepted):
            self.incarnations[name] = reply.incarnation

    def _submit(self) -> None:
        tasks = tuple(
            TaskSpec(
                id=f"t{number}",
                program=CommandLine(("true",)),
                needs=(f"t{number - 1}",) if number and self.rng.random() < 0.3 else (),
                retries=self.rng.randrange(3),
                retry_delay_ms=self.rng.choice((0, 5_000)),
                backup=self.rng.random() < 0.5,
            )
            for number in range(self.rng.randrange(1, 6))
        )
        number = self.machine.state.workflow_number + 1
        self.apply(
            c.SubmitWorkflow(
                **self.stamp(),
                request_id=f"r{self.now_ms}",
                workflow_id=f"wf-{number}",
                spec=WorkflowSpec(name="w", tasks=tasks),
            )
        )

    def _place(self) -> None:
        ready = [
            (workflow.id, task.position)
            for workflow in self.machine.state.workflows.values()
            for task in workflow.tasks
            if task.state is TaskState.READY
        ]
        if not ready or not self.incarnations:
            return
        name = self.rng.choice(sorted(self.incarnations))
        chosen = self.rng.sample(ready, min(len(ready), 3))
        incarnation = self.incarnations[name]
        placements = tuple(c.Placement(workflow, place, name, incarnation) for workflow, place in chosen)
        reply = self.apply(c.CommitPlacements(**self.stamp(), placements=placements))
        if isinstance(reply, Placed):
            for fence, (workflow, place) in zip(reply.fences, chosen, strict=True):
                if fence:
                    assert fence not in self.given
                    task = self.machine.state.workflows[workflow].tasks[place].id
                    self.given[fence] = (name, incarnation, workflow, task)

    def _end(self) -> None:
        if not self.given:
            return
        fence = self.rng.choice(sorted(self.given))
        name, incarnation, workflow, task = self.given[fence]
        outcome = self.rng.choice((AttemptOutcome.SUCCEEDED, AttemptOutcome.FAILED))
        end = c.AttemptEnd(fence, workflow, task, outcome, 0, "", b"1" if outcome == "succeeded" else b"", 5)
        self.apply(c.ReportAttempts(**self.stamp(), agent=name, incarnation=incarnation, ends=(end,)))

    def _lose(self) -> None:
        if self.rng.random() < 0.3 and self.incarnations:
            name = self.rng.choice(sorted(self.incarnations))
            self.apply(
                c.RemoveAgent(**self.stamp(), name=name, incarnation=self.incarnations.pop(name), reason="lost")
            )
        elif self.rng.random() < 0.5:
            self.apply(c.FireTimers(**self.stamp()))

    def refuses(self, other: RandomCluster) -> None:
        """Let agents of another cluster report and offer what they have. Nothing may be accepted."""
        before = _states(self.machine)
        for fence, (name, incarnation, workflow, task) in other.given.items():
            end = c.AttemptEnd(fence, workflow, task, AttemptOutcome.SUCCEEDED, 0, "", b"9", 5)
            reply = self.apply(c.ReportAttempts(**self.stamp(), agent=name, incarnation=incarnation, ends=(end,)))
            assert _verdicts(reply) <= {"stale"}, f"a report of fence {fence} was {reply}"
            if name in self.incarnations:
                mine = self.incarnations[name]
                reply = self.apply(c.OfferEnds(**self.stamp(), agent=name, incarnation=mine, ends=(end,)))
                assert _verdicts(reply) <= {"stale", "duplicate"}, f"an offer of fence {fence} was {reply}"
        assert _states(self.machine) == before


def _verdicts(reply: Any) -> set[str]:
    return {verdict.verdict for verdict in getattr(reply, "verdicts", ())}


def _states(machine: Machine) -> list[tuple[str, str, TaskState, bytes]]:
    return [
        (workflow.id, task.id, task.state, task.result)
        for workflow in machine.state.workflows.values()
        for task in workflow.tasks
    ]


class Restorer:
    """Restores snapshots as the commands do, on simulated disks."""

    def __init__(self, place: Path, save: Callable[..., Path]) -> None:
        self._place = place
        self._save = save
        self._count = 0

    def restore(self, machine: Machine, origin: str, at_ms: int) -> tuple[str, list[Machine]]:
        """Save the machine, restore three replicas from the file, and return what each of them starts with."""
        self._count += 1
        cluster = restored_id(origin, at_ms)
        file = self._save(machine, f"snapshot-{self._count}", origin)
        members = tuple(
            MemberConfig(name, Address("127.0.0.1", 27000 + place), f"http://127.0.0.1:{27100 + place}")
            for place, name in enumerate(NAMES)
        )
        machines = []
        for name in NAMES:
            disk = FaultyFileSystem(keep_trace=False)
            config = CoordinatorConfig(
                cluster_id=cluster,
                secret=bytes(32),
                members=members,
                name=name,
                data_dir=self._place / f"{self._count}-{name}",
                bind=members[0].peer,
                peer_bind=members[0].peer,
            )
            restored = restore_replica(config, file, disk, now_ms=at_ms)  # type: ignore[arg-type]
            machines.append(_start(disk, config))
            assert machines[-1].chain.hex() == restored.digest
        file.unlink()
        return cluster, machines


def _start(disk: FaultyFileSystem, config: CoordinatorConfig) -> Machine:
    """Return the state with which a replica starts on a disk."""
    data = DataDir.open(disk, config.data_dir, config.cluster_id, config.name)  # type: ignore[arg-type]
    opener = StorageOpener(
        disk,  # type: ignore[arg-type]
        data,
        check_command=envelope.check,
        segment_bytes=1 << 16,
        clock=lambda: 0.0,
        members=3,
    )
    opened = opener.open()
    assert opened.newest is not None
    machine = Machine()
    machine.restore(opened.snapshots.read(opened.newest))
    data.close()
    return machine


def restore_random_prefix(seed: int, restorer: Restorer) -> None:
    """Restore one random prefix twice, with everything that is promised of it."""
    rng = random.Random(seed)
    old = RandomCluster(rng, Machine(), START_MS)
    old.run(rng.randrange(5, 60))
    copy = Machine()
    copy.restore(list(old.machine.snapshot()))
    old.run(rng.randrange(0, 60))  # what is lost
    clusters, origin, at_ms = [old], "prod", max(old.now_ms, ORIGIN_MS)
    for _ in range(2):
        at_ms += rng.randrange(1_000, 10_000_000)
        _, machines = restorer.restore(copy, origin, at_ms)
        assert len({machine.chain for machine in machines}) == 1
        assert len({b"".join(machine.snapshot()) for machine in machines}) == 1
        assert check(machines[0]) == []
        new = RandomCluster(rng, machines[0], at_ms)
        new._register()
        for other in clusters:
            new.refuses(other)
        new.run(rng.randrange(10, 60))
        for other in clusters:
            assert not set(new.given) & set(other.given), "a fence was given out twice"
            assert min(new.given, default=1 << 62) > max(other.given, default=0), "fences went back"
            new.refuses(other)
        assert check(new.machine) == []
        clusters.append(new)
        at_ms = max(at_ms, new.now_ms)


@pytest.fixture
def restorer(tmp_path: Path, save: Callable[..., Path]) -> Iterator[Restorer]:
    """Return what restores machines."""
    fs = RealFileSystem()
    yield Restorer(tmp_path / "disks", save)
    fs.close()


def restore_random_prefixes(seeds: range, restorer: Restorer) -> None:
    for seed in seeds:
        restore_random_prefix(seed, restorer)


def test_random_prefixes_are_restored_alike_and_no_fence_comes_twice(restorer: Restorer) -> None:
    restore_random_prefixes(range(SHORT), restorer)


@pytest.mark.long
@pytest.mark.timeout(1_800)
def test_a_thousand_random_prefixes(restorer: Restorer) -> None:
    restore_random_prefixes(range(SHORT, SHORT + LONG), restorer)


def test_a_restore_that_reuses_fences_is_found(restorer: Restorer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The planted fault: numbers continue where the copy ends."""
    monkeypatch.setattr(restoration, "first_number", lambda last, _at_ms: last)
    with pytest.raises(AssertionError, match=r"twice|went back|was"):
        restore_random_prefixes(range(SHORT), restorer)


def test_a_restore_that_accepts_old_offers_is_found(restorer: Restorer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The planted fault: attempts of the old cluster end as lost, so an agent may bring their results back."""
    lost = SimpleNamespace(FENCED=AttemptOutcome.LOST, LOST=AttemptOutcome.LOST)
    monkeypatch.setattr(restoration, "AttemptOutcome", lost)
    with pytest.raises(AssertionError, match="an offer of fence"):
        restore_random_prefixes(range(SHORT), restorer)
