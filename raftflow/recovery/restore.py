"""Restoring a cluster: each replica of the new one gets its data directory from the same snapshot file, offline.

All replicas do the same to the same state (`Machine.begin_cluster`), so they start equal. The new cluster has an id
of its own (`cluster_ids.py`), so that replicas of the old one are refused. Reports of the old agents are refused
since their incarnations are unknown, and effects with old fences since the new fences are greater.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from raftflow.coordinator.audit.segments import Anchor, seed_audit
from raftflow.domain.features import LEVEL
from raftflow.domain.values.times import iso_utc
from raftflow.machine.commands.restoration import Restoration
from raftflow.recovery.bundle_files import restore_bundles
from raftflow.recovery.cluster_ids import restored_at_ms, restored_id
from raftflow.recovery.cluster_snapshot import ClusterSnapshotFile
from raftflow.recovery.verification import read_machine
from raftflow.replication.members.membership import MemberInfo, Membership
from raftflow.replication.seed import DirectoryTakenError, Seed, seed_data_dir

if TYPE_CHECKING:
    from raftflow.coordinator.config.replica_config import CoordinatorConfig
    from raftflow.machine.machine import Machine
    from raftflow.replication.files import FileSystem

AHEAD_MS_MAX: Final = 24 * 3600 * 1000
"""The time in the id of a new cluster may be so far ahead of this machine's clock."""


class RestoreRefusedError(Exception):
    """The replica cannot be restored in this way. Says why, and what to do."""


class RestoredReplica(msgspec.Struct, kw_only=True):
    """A data directory that was made."""

    replica: str
    data_dir: str
    cluster: str
    origin: str
    index: int
    digest: str
    """Hex audit chain. All replicas of the new cluster have the same."""
    workflows: int
    unfinished: int
    """Workflows that continue."""
    fence: int
    """Fences of the new cluster are greater."""
    missing_bundles: list[str] = []
    """Code bundles that are not beside the snapshot file. Attempts with them wait until they are sent again."""


def restore_replica(
    config: CoordinatorConfig, path: Path, fs: FileSystem, *, now_ms: int, level_max: int = LEVEL
) -> RestoredReplica:
    """Make the data directory of one replica of a new cluster from a snapshot file. Blocking.

    Raises `RestoreRefusedError`, `SnapshotFileError`, `LogFailedError`, `OSError`.
    """
    with ClusterSnapshotFile(path) as file:
        label = file.label
        at_ms = _time_of(config.cluster_id, label.cluster, label.taken_at_ms, now_ms)
        if config.join:
            raise RestoreRefusedError(
                f"replica {config.name} is configured to join (join = true): remove that line. The replicas of a "
                f"restored cluster found it together"
            )
        if config.data_dir.exists() and any(config.data_dir.iterdir()):
            raise RestoreRefusedError(
                f"{config.data_dir} is not empty. A replica is restored into an empty directory: move this one away, "
                f"and keep it"
            )
        machine = read_machine(file, level_max=level_max)
    anchor = Anchor(label.index, machine.chain)
    index = label.index + 1
    result = machine.begin_cluster(index, label.term, Restoration(config.cluster_id, label.cluster, at_ms))
    seed = Seed(config.cluster_id, config.name, _members(config), index, label.term)
    try:
        seed_data_dir(
            fs,
            config.data_dir,
            seed,
            machine.snapshot(),
            lambda directory: seed_audit(fs, directory, anchor, index, result.audit),
        )
        missing = restore_bundles(path, machine, fs, config.data_dir)
    except DirectoryTakenError as error:
        raise RestoreRefusedError(str(error)) from error
    except OSError as error:
        _empty(config.data_dir)
        raise RestoreRefusedError(
            f"{config.data_dir} cannot be written: {error.strerror}; free space or repair the disk"
        ) from error
    except BaseException:
        _empty(config.data_dir)
        raise
    return _describe(config, label.cluster, machine, missing)


def _time_of(cluster: str, origin: str, taken_at_ms: int, now_ms: int) -> int:
    """Return the time in the new cluster's id. Raises `RestoreRefusedError` for an id that cannot be used."""
    origin_ms = restored_at_ms(origin) or 0
    fitting = restored_id(origin, max(now_ms, taken_at_ms + 1_000, origin_ms + 1_000))
    advice = f'write a new id into the [cluster] table of every replica\'s file: id = "{fitting}"'
    at_ms = restored_at_ms(cluster)
    if cluster == origin:
        raise RestoreRefusedError(
            f"{cluster} is the cluster that the snapshot comes from, and a restored cluster needs an id of its own: "
            f"{advice}"
        )
    if at_ms is None:
        raise RestoreRefusedError(
            f"the id {cluster!r} does not end with the time of the restoration, from which all replicas take the "
            f"first fence: {advice}"
        )
    if at_ms + 1_000 <= taken_at_ms or at_ms <= origin_ms:
        raise RestoreRefusedError(
            f"the id {cluster!r} has a time before {iso_utc(max(taken_at_ms, origin_ms))}, when the snapshot was "
            f"taken: {advice}"
        )
    if at_ms > now_ms + AHEAD_MS_MAX:
        raise RestoreRefusedError(f"the time in the id {cluster!r} is more than a day ahead of this clock: {advice}")
    return at_ms


def _members(config: CoordinatorConfig) -> Membership:
    members = [MemberInfo(member.name, str(member.peer), member.url) for member in config.members]
    return Membership(tuple(sorted(members)))


def _empty(data_dir: Path) -> None:
    """Remove what a failed or interrupted restoration wrote into a directory that was empty."""
    for entry in data_dir.iterdir() if data_dir.exists() else ():
        if entry.is_dir():
            shutil.rmtree(entry, ignore_errors=True)
        else:
            entry.unlink(missing_ok=True)


def _describe(config: CoordinatorConfig, origin: str, machine: Machine, missing: list[str]) -> RestoredReplica:
    workflows = machine.tables.workflows.values()
    return RestoredReplica(
        replica=config.name,
        data_dir=str(config.data_dir),
        cluster=config.cluster_id,
        origin=origin,
        index=machine.applied_index,
        digest=machine.chain.hex(),
        workflows=len(workflows),
        unfinished=sum(not workflow.finished_ms for workflow in workflows),
        fence=machine.tables.fence,
        missing_bundles=missing,
    )
