"""The directory of snapshots: written beside the running replica, checked before anything relies on one.

A snapshot is written under a temporary name, synced and renamed. So a file with a final name was complete once. The
newest two are kept. The format of the files is in snapshot_file.py.
"""

from __future__ import annotations

import asyncio
import logging
import time
from functools import partial
from typing import TYPE_CHECKING, Final

from raftflow.replication.errors import LogFailedError
from raftflow.replication.storage import snapshot_file
from raftflow.replication.storage.snapshot_file import (
    SnapshotCorruptError,
    SnapshotFileWriter,
    SnapshotInfo,
    corrupt,
    read_blocks,
    read_header,
    read_trailer,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path

    from raftflow.replication.files import FileSystem, OpenFile

SNAPSHOTS_KEPT: Final = 2
SUFFIX: Final = ".snapshot"
TEMPORARY_SUFFIX: Final = ".partial"

_log = logging.getLogger(__name__)


class SnapshotStore:
    """The snapshots in a directory. Methods that are not `async` block on the disk."""

    def __init__(
        self,
        fs: FileSystem,
        directory: Path,
        *,
        clock: Callable[[], float] = time.perf_counter,
        read_only: bool = False,
    ) -> None:
        """Open the directory, creating it, and remove what an unfinished write left. Raises `LogFailedError`.

        With `read_only` nothing is changed: another process may use the directory.
        """
        self._fs = fs
        self._directory = directory
        self._clock = clock
        self._temporaries = 0
        if read_only:
            return
        try:
            fs.make_dir(directory)
            stale = [name for name in fs.list_dir(directory) if name.endswith(TEMPORARY_SUFFIX)]
            for name in stale:
                fs.remove(directory / name)
            fs.sync_dir(directory)
        except OSError as error:
            raise LogFailedError(
                f"cannot use the snapshots in {directory}: {error}. Repair the disk and start again."
            ) from error

    async def write(self, info: SnapshotInfo, pieces: Iterator[bytes], slice_s: float = 0.005) -> SnapshotInfo:
        """Write a snapshot; durable on return. Then remove all but the newest two.

        The pieces are taken on the event loop, for at most `slice_s` seconds (and one piece) at a time; everything
        that blocks happens off the loop. Raises `OSError` if the disk does; then nothing is left behind, and older
        snapshots are as they were.
        """
        fs = self._fs
        file = await fs.off_loop(self.create_partial)
        try:
            writer = await fs.off_loop(lambda: SnapshotFileWriter(file, info))
            async for block in self._blocks(pieces, slice_s):
                await fs.off_loop(partial(writer.block, block))
            await fs.off_loop(writer.finish)
            return await fs.off_loop(lambda: self.install(file))
        except (Exception, asyncio.CancelledError):
            await asyncio.shield(fs.off_loop(lambda: self.discard(file)))
            raise
        finally:
            close = getattr(pieces, "close", None)
            if close is not None:
                close()

    async def _blocks(self, pieces: Iterator[bytes], slice_s: float) -> AsyncIterator[bytes]:
        """Gather pieces into blocks. Let the event loop run whenever a slice of time is used up."""
        buffer = bytearray()
        until = self._clock() + slice_s
        for piece in pieces:
            buffer += piece
            while len(buffer) >= snapshot_file.BLOCK_BYTES_MAX:
                yield bytes(buffer[: snapshot_file.BLOCK_BYTES_MAX])
                del buffer[: snapshot_file.BLOCK_BYTES_MAX]
                until = self._clock() + slice_s
            if self._clock() >= until:
                await asyncio.sleep(0)
                until = self._clock() + slice_s
        if buffer:
            yield bytes(buffer)

    def newest(self) -> SnapshotInfo | None:
        """Return the newest snapshot whose header and trailer are good, without reading what is between."""
        for name in self._names():
            try:
                return self._inspect(name)
            except SnapshotCorruptError:
                continue
        return None

    def valid(self) -> tuple[list[SnapshotInfo], list[str]]:
        """Read every snapshot. Returns the good ones, newest first, and what is wrong with each of the others."""
        good: list[SnapshotInfo] = []
        damaged: list[str] = []
        for name in self._names():
            try:
                info = self._inspect(name)
                for _ in self.read(info):
                    pass
                good.append(info)
            except SnapshotCorruptError as error:
                damaged.append(str(error))
        return good, damaged

    def damaged(self) -> list[str]:
        """Read every snapshot and return the file names of those that are damaged."""
        names: list[str] = []
        for name in self._names():
            try:
                for _ in self.read(self._inspect(name)):
                    pass
            except SnapshotCorruptError:
                names.append(name)
        return names

    def load_newest(self, journal_first_index: int) -> SnapshotInfo | None:
        """Return the snapshot from which to start: the newest good one, provided that the journal reaches back to it.

        `journal_first_index` is the index of the journal's first entry, 0 if it has none. None means that the journal
        alone holds everything. Raises `SnapshotCorruptError` if state would be missing.
        """
        good, damaged = self.valid()
        info = good[0] if good else None
        if info is not None:
            covered = journal_first_index <= info.prev_index if journal_first_index else not damaged
        else:
            covered = journal_first_index == 1 or (journal_first_index == 0 and not damaged)
        if not covered:
            problems = "; ".join(damaged) or f"{self._directory}: no snapshot that the journal reaches back to"
            raise SnapshotCorruptError(
                f"{problems}. The journal begins at entry {journal_first_index}, so the state before it is "
                f"missing. Move the "
                f"directory away and let this replica join again from its peers under a new name."
            )
        for problem in damaged:
            _log.error("%s. It is not needed: the state comes from another snapshot, or from the log.", problem)
        return info

    def read(self, info: SnapshotInfo) -> Iterator[bytes]:
        """Yield the state, block by block, each checked. Raises `SnapshotCorruptError`, for the whole at the end."""
        path = self._path(info)
        file = self._open(path)
        try:
            _, header, offset = read_header(path, file)
            yield from read_blocks(path, file, header, offset)
        finally:
            file.close()

    def open_raw(self, info: SnapshotInfo) -> Iterator[bytes]:
        """Yield the file's bytes in chunks, for another replica. The file may be pruned meanwhile.

        Nothing is checked here: the receiver checks all of it.
        """
        file = self._open(self._path(info))

        def chunks() -> Iterator[bytes]:
            try:
                offset = 0
                while chunk := file.read_at(offset, snapshot_file.CHUNK_BYTES_MAX):
                    yield chunk
                    offset += len(chunk)
            finally:
                file.close()

        return chunks()

    def open_file(self, info: SnapshotInfo) -> OpenFile:
        """Open a snapshot's file. It may be pruned meanwhile: it can be read until it is closed. Blocking."""
        return self._open(self._path(info))

    def create_partial(self) -> OpenFile:
        """Create a file under a temporary name. `install` or `discard` it. Blocking. Raises `OSError`."""
        self._temporaries += 1
        return self._fs.open(self._directory / f"{self._temporaries}{TEMPORARY_SUFFIX}", create=True)

    def discard(self, file: OpenFile) -> None:
        """Close and remove a partial file. Blocking. Raises `OSError`."""
        file.close()
        self._fs.remove(file.path)

    def install(self, file: OpenFile) -> SnapshotInfo:
        """Give a synced file its final name, durably, and remove all but the newest two. Blocking."""
        info, _, _ = read_header(file.path, file)
        self._fs.rename(file.path, self._path(info))
        self._fs.sync_dir(self._directory)
        file.close()
        names = self._names()
        for name in names[SNAPSHOTS_KEPT:]:
            self._fs.remove(self._directory / name)
        if names[SNAPSHOTS_KEPT:]:
            self._fs.sync_dir(self._directory)
        return info

    def _names(self) -> list[str]:
        """Return the snapshots' file names, newest first."""
        return [name for name in reversed(self._fs.list_dir(self._directory)) if name.endswith(SUFFIX)]

    def _path(self, info: SnapshotInfo) -> Path:
        return self._directory / f"{info.index:016x}-{info.term:016x}{SUFFIX}"

    def _open(self, path: Path) -> OpenFile:
        try:
            return self._fs.open(path)
        except FileNotFoundError:
            raise SnapshotCorruptError(
                f"{path} is missing. Start the replica again, so that it uses another snapshot."
            ) from None

    def _inspect(self, name: str) -> SnapshotInfo:
        path = self._directory / name
        file = self._open(path)
        try:
            info, _, _ = read_header(path, file)
            read_trailer(path, file)
            if self._path(info) != path:
                raise corrupt(path, 0, "its name does not fit its header")
            return info
        finally:
            file.close()
