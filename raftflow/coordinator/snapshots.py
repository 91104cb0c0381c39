"""Snapshots for clients: this replica writes one, and keeps its file open while it is read piece by piece."""

from __future__ import annotations

import asyncio
import secrets
from typing import TYPE_CHECKING, Final, NamedTuple

from raftflow.domain.contract.views import SnapshotView
from raftflow.domain.limits import SNAPSHOTS_OPEN_MAX
from raftflow.machine.snapshot.stream import read_snapshot_header
from raftflow.replication.log import SnapshotNotTakenError, SnapshotSource
from raftflow.replication.storage.snapshot_file import read_blocks, read_header, read_trailer

if TYPE_CHECKING:
    from collections.abc import Callable

    from raftflow.coordinator.config.replica_config import CoordinatorConfig
    from raftflow.replication.files import FileSystem
    from raftflow.replication.log import OpenSnapshot, ReplicatedLog

WRITE_S: Final = 110.0
"""Longest time for writing one snapshot."""
IDLE_S: Final = 60.0
"""A snapshot that nobody reads for so long is closed."""


class SnapshotGoneError(Exception):
    """This replica does not have the snapshot open. The message says what to do."""


class _Download(NamedTuple):
    snapshot: OpenSnapshot
    timer: asyncio.TimerHandle


class SnapshotDownloads:
    """The snapshots that clients read.

    Args:
        config: of this replica.
        log: writes the snapshots.
        fs: the disk.
        now_ms: the wall clock.
    """

    def __init__(
        self, config: CoordinatorConfig, log: ReplicatedLog, fs: FileSystem, now_ms: Callable[[], int]
    ) -> None:
        self._config = config
        self._log = log
        self._fs = fs
        self._now_ms = now_ms
        self._downloads: dict[str, _Download] = {}

    async def take(self) -> SnapshotView:
        """Write a snapshot of what is applied now, and keep it open. Raises `SnapshotNotTakenError`."""
        self._check_room()
        snapshot = await self.open()
        try:
            view = await self.describe(snapshot)
            self._check_room()
        except BaseException:
            snapshot.file.close()
            raise
        self._downloads[view.id] = _Download(snapshot, self._close_later(view.id))
        return view

    def _check_room(self) -> None:
        if len(self._downloads) >= SNAPSHOTS_OPEN_MAX:
            raise SnapshotNotTakenError(
                f"{SNAPSHOTS_OPEN_MAX} snapshots are being read from this replica; try again when one is done"
            )

    async def open(self) -> OpenSnapshot:
        """Write a snapshot of what is applied now, and open it. Raises `SnapshotNotTakenError`."""
        if not isinstance(self._log, SnapshotSource):
            raise SnapshotNotTakenError("this replica keeps nothing on a disk, so it has no snapshots")
        return await self._log.open_snapshot(WRITE_S)

    async def describe(self, snapshot: OpenSnapshot) -> SnapshotView:
        """Read what a snapshot says about itself at its beginning and its end."""
        taken_at_ms = self._now_ms()
        return await self._fs.off_loop(lambda: self._view(snapshot, taken_at_ms))

    def _view(self, snapshot: OpenSnapshot, taken_at_ms: int) -> SnapshotView:
        config, file, path = self._config, snapshot.file, snapshot.file.path
        info, header, offset = read_header(path, file)
        content = read_snapshot_header(read_blocks(path, file, header, offset))
        return SnapshotView(
            id=secrets.token_hex(8),
            replica=config.name,
            url=config.member.url,
            cluster=config.cluster_id,
            index=info.index,
            term=info.term,
            chain=content.chain.hex(),
            feature_level=content.feature_level,
            taken_at_ms=taken_at_ms,
            members=list(info.members),
            size=info.size,
            digest=read_trailer(path, file)[2].hex(),
        )

    async def read(self, snapshot_id: str, offset: int, limit: int) -> bytes:
        """Return bytes of a snapshot; none at its end. Raises `SnapshotGoneError`, `OSError`."""
        download = self._downloads.get(snapshot_id)
        if download is None:
            raise SnapshotGoneError(
                f"this replica has no open snapshot {snapshot_id[:40]!r}: it was not read for {IDLE_S:g} s, or the "
                f"replica started again; take a new one"
            )
        download.timer.cancel()
        file = download.snapshot.file
        self._downloads[snapshot_id] = _Download(download.snapshot, self._close_later(snapshot_id))
        piece = await self._fs.off_loop(lambda: file.read_at(offset, limit))
        if offset + len(piece) >= download.snapshot.info.size:
            self._forget_soon(snapshot_id)
        return piece

    def close(self) -> None:
        """Close all of them."""
        for snapshot_id in list(self._downloads):
            self._close(snapshot_id)

    def _close_later(self, snapshot_id: str) -> asyncio.TimerHandle:
        return asyncio.get_running_loop().call_later(IDLE_S, self._close, snapshot_id)

    def _forget_soon(self, snapshot_id: str) -> None:
        """Close a snapshot that was read to its end, with a moment for a piece that is asked for again."""
        download = self._downloads.get(snapshot_id)
        if download is not None:
            download.timer.cancel()
            timer = asyncio.get_running_loop().call_later(IDLE_S / 20, self._close, snapshot_id)
            self._downloads[snapshot_id] = _Download(download.snapshot, timer)

    def _close(self, snapshot_id: str) -> None:
        download = self._downloads.pop(snapshot_id)
        download.timer.cancel()
        download.snapshot.file.close()
