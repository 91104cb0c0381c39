"""Checking a snapshot file: every checksum, and that it makes the state that it claims to hold."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

import msgspec

from raftflow.domain.features import LEVEL, FeatureLevelError
from raftflow.machine.machine import Machine
from raftflow.machine.read import invariants
from raftflow.recovery.bundle_files import missing_beside
from raftflow.recovery.cluster_snapshot import ClusterSnapshotFile, SnapshotFileError

PROBLEMS_MAX = 20


class SnapshotCheck(msgspec.Struct, kw_only=True):
    """What `snapshot verify` finds in a file that is good."""

    ok: bool
    index: int
    chain: str
    state_digest: str
    """Hex BLAKE2b-256 of the state. A restored machine writes the same bytes again."""
    workflows: int
    tasks: int
    agents: int
    problems: list[str]
    missing_bundles: list[str] = []
    """Code bundles that the state names, and that are not beside the file."""


def read_machine(file: ClusterSnapshotFile, *, level_max: int = LEVEL) -> Machine:
    """Return a machine with the state of a snapshot file. Raises `SnapshotFileError`."""
    file.info(level_max)
    machine = Machine(level_max=level_max)
    try:
        machine.restore(file.blocks())
    except (ValueError, FeatureLevelError) as error:
        raise SnapshotFileError(f"{file.path} does not hold a state that this version can use: {error}") from error
    if machine.chain.hex() != file.label.chain:
        raise SnapshotFileError(f"{file.path}: the state in it has another audit chain than its label says")
    return machine


def verify_snapshot(path: Path, *, level_max: int = LEVEL) -> SnapshotCheck:
    """Read a snapshot file into a machine and compare what that machine is with the file.

    Raises `SnapshotFileError` for a file that cannot be restored.
    """
    with ClusterSnapshotFile(path) as file:
        label = file.label
        machine = read_machine(file, level_max=level_max)
        state_digest = _digest(file.blocks())
    problems = [str(problem) for problem in invariants.check(machine)[:PROBLEMS_MAX]]
    if _digest(machine.snapshot()) != state_digest:
        problems.append("a machine that was restored from the file does not write the same state again")
    if machine.applied_index > label.index:
        problems.append(f"the state is of entry {machine.applied_index}, the file of entry {label.index}")
    tables = machine.tables
    return SnapshotCheck(
        ok=not problems,
        index=label.index,
        chain=label.chain,
        state_digest=state_digest,
        workflows=len(tables.workflows),
        tasks=sum(len(workflow.tasks) for workflow in tables.workflows.values()),
        agents=len(tables.agents),
        problems=problems,
        missing_bundles=missing_beside(path, machine),
    )


def _digest(pieces: Iterable[bytes]) -> str:
    digest = hashlib.blake2b(digest_size=32)
    for piece in pieces:
        digest.update(piece)
    return digest.hexdigest()
