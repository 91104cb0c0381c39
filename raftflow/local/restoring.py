"""Local clusters that continue another cluster from a snapshot of it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from raftflow.coordinator.config.loading import load_config
from raftflow.local.cluster_file import LocalClusterError
from raftflow.recovery.cluster_ids import restored_id
from raftflow.recovery.cluster_snapshot import ClusterSnapshotFile, SnapshotFileError
from raftflow.recovery.restore import RestoreRefusedError, restore_replica
from raftflow.replication.errors import LogFailedError
from raftflow.replication.real_files import RealFileSystem


def id_for(snapshot: Path) -> str:
    """Return the id of a cluster that is restored now. Raises `LocalClusterError` if the file is not a snapshot."""
    try:
        with ClusterSnapshotFile(snapshot) as file:
            return restored_id(file.label.cluster, _now_ms())
    except (SnapshotFileError, OSError) as error:
        raise LocalClusterError(str(error)) from error


def restore_replicas(config_files: Sequence[Path], snapshot: Path) -> list[str]:
    """Make the data directory of every replica. Returns the code bundles that are missing.

    Raises `LocalClusterError`.
    """
    fs = RealFileSystem()
    missing: dict[str, None] = {}
    try:
        for file in config_files:
            restored = restore_replica(load_config(file, environ={}), snapshot, fs, now_ms=_now_ms())
            missing |= dict.fromkeys(restored.missing_bundles)
    except (RestoreRefusedError, SnapshotFileError, LogFailedError, OSError) as error:
        raise LocalClusterError(str(error)) from error
    finally:
        fs.close()
    return list(missing)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
