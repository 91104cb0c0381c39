"""States to save and to restore."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from raftflow.coordinator.config.loading import load_config
from raftflow.coordinator.config.replica_config import CoordinatorConfig
from raftflow.domain import commands as c
from raftflow.domain.tasks.program import CommandLine
from raftflow.domain.tasks.workflow import TaskSpec, WorkflowSpec
from raftflow.machine.machine import Machine
from raftflow.recovery.cluster_ids import restored_id
from raftflow.recovery.cluster_snapshot import SnapshotOrigin, save_machine
from raftflow.replication.messages.envelope import NO_OP
from raftflow.replication.storage.snapshot_file import SnapshotInfo

START_MS = 1_790_000_000_000
ORIGIN = SnapshotOrigin("prod", "n2", START_MS + 60_000)


def busy_machine() -> Machine:
    """Return a machine with an agent, a running task, a queued one, one that waits for its next try, and a result."""
    machine = Machine()

    def apply(*commands: c.AnyCommand) -> None:
        machine.apply(machine.applied_index + 1, 3, c.encode_entry(commands))

    stamp = {"at_ms": START_MS, "actor": "client:test"}
    tasks = tuple(
        TaskSpec(id=f"t{number}", program=CommandLine(("true",)), retries=2, retry_delay_ms=30_000)
        for number in range(5)
    )
    apply(
        c.RegisterAgent(**stamp, name="a1", instance="i1", capacity={"cpu": 2_000}, prefetch=4),
        c.SubmitWorkflow(
            **stamp, request_id="r1", workflow_id="wf-1", spec=WorkflowSpec(name="w", tasks=tasks, priority=50)
        ),
    )
    apply(c.CommitPlacements(**stamp, placements=tuple(c.Placement("wf-1", place, "a1", 1) for place in range(4))))
    ends = (
        c.AttemptEnd(1, "wf-1", "t0", "succeeded", 0, "", b"1", 10),
        c.AttemptEnd(2, "wf-1", "t1", "failed", 1, "no", b"", 10),
    )
    apply(c.ReportAttempts(**stamp, agent="a1", incarnation=1, ends=ends))
    return machine


def info_of(machine: Machine, **more: object) -> SnapshotInfo:
    index, term = machine.applied_index + 2, machine.applied_term + 1
    fields = {"prev_index": index - 1, "prev_term": term, "last_command": NO_OP, "prev_command": NO_OP}
    return SnapshotInfo(index=index, term=term, members=("n1", "n2", "n3"), **{**fields, **more})


@pytest.fixture
def machine() -> Machine:
    return busy_machine()


@pytest.fixture
def save(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that saves a machine in a snapshot file."""

    def save_it(machine: Machine, name: str = "cluster.snapshot", cluster: str = "prod") -> Path:
        save_machine(tmp_path / name, machine, info_of(machine), ORIGIN._replace(cluster=cluster))
        return tmp_path / name

    return save_it


NEW = restored_id("prod", START_MS + 3_600_000)


@pytest.fixture
def config_of(tmp_path: Path) -> Callable[..., CoordinatorConfig]:
    """Return a function that makes the configuration of a replica of the new cluster."""

    def make(name: str = "n1", cluster: str = NEW, names: tuple[str, ...] = ("n1", "n2", "n3")) -> CoordinatorConfig:
        secret = tmp_path / "secret"
        secret.write_text("0123456789abcdef0123456789abcdef")
        secret.chmod(0o600)
        members = [
            f'[[cluster.members]]\nname = "{each}"\npeer = "127.0.0.1:{27000 + place}"\n'
            f'url = "http://127.0.0.1:{27100 + place}"\n'
            for place, each in enumerate(names)
        ]
        file = tmp_path / f"{name}.toml"
        file.write_text(
            f'[cluster]\nid = "{cluster}"\nsecret_file = "secret"\n{"".join(members)}\n'
            f'[replica]\nname = "{name}"\ndata_dir = "{name}"\n'
        )
        return load_config(file, environ={})

    return make
