"""Snapshots that a replica saves by itself: every `snapshot.every` one, of which the newest `snapshot.keep` stay.

The file is that of `raftflow snapshot save --stale`: what this replica has applied. Its code bundles lie beside it,
in `FILE.bundles`, and are there before the file is. Files of one folder share them by links. After a restart the
next one is due when the newest file is old enough, so restarts neither delay snapshots nor add to them.

    DIR/CLUSTER.REPLICA.20261130T071500Z.snapshot
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

from raftflow.domain.contract.cluster import SavedSnapshotFacts
from raftflow.private_files import make_folders
from raftflow.recovery.bundle_files import copy_beside, folder_beside, remove_beside
from raftflow.recovery.cluster_snapshot import ClusterSnapshotWriter, SnapshotFileError, SnapshotLabel
from raftflow.replication.errors import LogFailedError
from raftflow.replication.log import SnapshotNotTakenError

if TYPE_CHECKING:
    from collections.abc import Callable

    from raftflow.coordinator.config.replica_config import CoordinatorConfig
    from raftflow.coordinator.snapshots import SnapshotDownloads
    from raftflow.replication.log import OpenSnapshot

RETRY_S: Final = 60.0
"""Longest pause after a failure."""
_PIECE_BYTES: Final = 1024 * 1024
_TIME: Final = "%Y%m%dT%H%M%SZ"

_log = logging.getLogger(__name__)


class SnapshotService:
    """Saves snapshots of one replica.

    Args:
        config: of the replica; `config.snapshot` says how often and where.
        snapshots: of the replica.
        bundles: digests of the code bundles that the state names.
        now_ms: the wall clock.
    """

    def __init__(
        self,
        config: CoordinatorConfig,
        snapshots: SnapshotDownloads,
        bundles: Callable[[], list[str]],
        now_ms: Callable[[], int],
    ) -> None:
        self._every_s = config.snapshot.every_ms / 1000
        self._keep = config.snapshot.keep
        self._directory = config.snapshot.directory
        self._prefix = _prefix(config)
        self._snapshots = snapshots
        self._bundles = bundles
        self._data_dir = config.data_dir
        self._now_ms = now_ms
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin, if the configuration asks for it."""
        if self._every_s and self._directory is not None:
            self._task = asyncio.get_running_loop().create_task(self._run(self._directory))

    async def stop(self) -> None:
        """End; a snapshot that is being saved is dropped."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def _run(self, directory: Path) -> None:
        wait_s = 0.0
        failed = False
        while True:
            await asyncio.sleep(wait_s)
            try:
                wait_s = await asyncio.to_thread(self._due_in_s, directory)
                if wait_s <= 0:
                    path = await self._save(directory)
                    await asyncio.to_thread(self._prune, directory)
                    if failed:
                        _log.info("snapshots of the cluster are saved again: %s", path)
                    failed = False
                    wait_s = self._every_s
            except (SnapshotNotTakenError, SnapshotFileError, LogFailedError, OSError) as error:
                wait_s = min(self._every_s, RETRY_S)
                if not failed:
                    _log.error("no snapshot of the cluster can be saved in %s: %s", directory, error)
                failed = True

    def _due_in_s(self, directory: Path) -> float:
        make_folders(directory)
        newest = max((path.stat().st_mtime for path in self._saved(directory)), default=None)
        if newest is None:
            return 0.0
        return min(
            self._every_s - (self._now_ms() / 1000 - newest), self._every_s
        )  # the clock may have been set back

    async def _save(self, directory: Path) -> Path:
        snapshot = await self._snapshots.open()
        try:
            label = SnapshotLabel.of(await self._snapshots.describe(snapshot))
            time = datetime.fromtimestamp(label.taken_at_ms / 1000, UTC).strftime(_TIME)
            path = directory / f"{self._prefix}{time}.snapshot"
            # The state in the file is at most as new as this. What was forgotten since then, nothing in it uses.
            await asyncio.to_thread(self._copy_bundles, path, self._bundles())
            await asyncio.to_thread(_copy, snapshot, path, label)
            return path
        finally:
            snapshot.file.close()

    def _copy_bundles(self, path: Path, digests: list[str]) -> None:
        earlier = self._saved(path.parent)
        missing = copy_beside(path, digests, self._data_dir, earlier[-1] if earlier else None)
        if missing:
            _log.warning("%s is saved without code bundles, which are missing here: %s", path, ", ".join(missing))

    def _prune(self, directory: Path) -> None:
        for path in self._saved(directory)[: -self._keep]:
            path.unlink(missing_ok=True)
        kept = {folder_beside(path) for path in self._saved(directory)}
        for path in directory.iterdir():
            name = path.name.removesuffix(".bundles")
            if name.startswith(self._prefix) and name != path.name and path not in kept:
                remove_beside(path.with_name(name))  # of a pruned file, or left by a process that was killed
        for path in directory.iterdir():
            if path.name.startswith(f".{self._prefix}") and path.name.endswith(".partial"):
                path.unlink(missing_ok=True)  # a process that was killed left it

    def _saved(self, directory: Path) -> list[Path]:
        return _saved_files(directory, self._prefix)


def saved_snapshots(config: CoordinatorConfig) -> SavedSnapshotFacts | None:
    """Return how old the newest snapshot is that a replica saved, None if it saves none. Blocking."""
    settings = config.snapshot
    if not settings.every_ms or settings.directory is None:
        return None
    found = SavedSnapshotFacts(
        every_s=settings.every_ms / 1000, keep=settings.keep, directory=str(settings.directory)
    )
    try:
        saved = _saved_files(settings.directory, _prefix(config))
        found.count = len(saved)
        found.newest_ms = max((path.stat().st_mtime_ns // 1_000_000 for path in saved), default=None)
    except OSError as error:
        found.error = f"it cannot be read: {error.strerror}"
    return found


def _prefix(config: CoordinatorConfig) -> str:
    return f"{config.cluster_id}.{config.name}."


def _saved_files(directory: Path, prefix: str) -> list[Path]:
    """Return the files that a replica saved, oldest first."""
    pattern = re.compile(re.escape(prefix) + r"\d{8}T\d{6}Z\.snapshot", re.ASCII)
    return sorted(path for path in directory.iterdir() if pattern.fullmatch(path.name))


def _copy(snapshot: OpenSnapshot, path: Path, label: SnapshotLabel) -> None:
    with ClusterSnapshotWriter(path, label) as writer:
        offset = 0
        while piece := snapshot.file.read_at(offset, _PIECE_BYTES):
            writer.write(piece)
            offset += len(piece)
        writer.finish()
