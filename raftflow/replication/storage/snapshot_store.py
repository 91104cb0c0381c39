"""Snapshots on disk: written piece by piece beside the running replica, checked before anybody relies on one.

```
prefix    magic "RFLOWSNP" | format u32 | crc32 u32
header    length u32 | crc32 u32 | SnapshotInfo as MessagePack
blocks    length u32 | crc32 u32 | bytes                          one after the other, none empty
trailer   0 u32 | blocks u32 | bytes in them u64 | BLAKE2b-256 of the header and all blocks | crc32 u32
```

All numbers are little-endian; the checksums of header and blocks are seeded with their offset. A snapshot is written
under a temporary name, synced and renamed, so one with a final name was complete once. The newest two are kept.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import struct
import time
from functools import partial
from typing import TYPE_CHECKING, Final
from zlib import crc32

import msgspec

from raftflow.replication.errors import LogFailedError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path

    from raftflow.replication.files import FileSystem, OpenFile

FORMAT: Final = 1
BLOCK_BYTES: Final = 256 * 1024
"""Blocks are written as soon as they have this size; a longer piece is split."""
CHUNK_BYTES: Final = 256 * 1024
"""Size of the chunks in which a file travels between replicas."""
HEADER_BYTES_MAX: Final = 256 * 1024 * 1024
SNAPSHOT_BYTES_MAX: Final = 64 * 1024**3
SYNC_STEP_BYTES: Final = 8 * 1024 * 1024
"""Written bytes are synced in steps of this size, so that the journal's syncs do not wait behind one large one."""
KEEP: Final = 2

SUFFIX: Final = ".snapshot"
TEMPORARY_SUFFIX: Final = ".partial"

_MAGIC = b"RFLOWSNP"
_PREFIX = struct.Struct("<8sI")
_U32 = struct.Struct("<I")
_BLOCK = struct.Struct("<II")
_TRAILER_BODY = struct.Struct("<IIQ32s")
_PREFIX_BYTES = _PREFIX.size + 4
_TRAILER_BYTES = _TRAILER_BODY.size + 4


_log = logging.getLogger(__name__)


class SnapshotCorruptError(LogFailedError):
    """A snapshot is damaged, or the one that the journal builds on is missing. Says what to do."""


class SnapshotInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What a snapshot covers: everything up to the log's entry `index`."""

    index: int
    term: int
    prev_index: int
    prev_term: int
    last_command: bytes
    """Command of the entry at `index`."""
    prev_command: bytes
    """Command of the entry at `prev_index`; PySyncObj keeps both in its log."""
    members: tuple[str, ...]
    """Names of the voters as of `index`."""
    membership: bytes = b""
    """The members as of `index` (membership.py); empty in snapshots of versions that could not change them."""
    format: int = FORMAT
    """Of the file, not of the state in it."""
    size: int = 0
    """Bytes of the file; known once it is written."""


class _Writer:
    """Encodes a snapshot into a file, blocking; used from the file thread."""

    def __init__(self, file: OpenFile, info: SnapshotInfo) -> None:
        header = msgspec.msgpack.encode(msgspec.structs.replace(info, size=0, format=FORMAT))
        prefix = _PREFIX.pack(_MAGIC, FORMAT)
        data = prefix + _U32.pack(crc32(prefix)) + _BLOCK.pack(len(header), _crc(header, _PREFIX_BYTES)) + header
        self._file = file
        self._digest = hashlib.blake2b(header, digest_size=32)
        self._blocks = 0
        self._bytes = 0
        self._unsynced = 0
        self._offset = 0
        self._append(data)

    def block(self, data: bytes) -> None:
        """Write one block."""
        self._digest.update(data)
        self._blocks += 1
        self._bytes += len(data)
        self._append(_BLOCK.pack(len(data), _crc(data, self._offset)) + data)

    def finish(self) -> None:
        """Write the trailer and sync."""
        body = _TRAILER_BODY.pack(0, self._blocks, self._bytes, self._digest.digest())
        self._append(body + _U32.pack(_crc(body, self._offset)))
        self._file.sync()

    def _append(self, data: bytes) -> None:
        self._file.write_at(self._offset, data)
        self._offset += len(data)
        self._unsynced += len(data)
        if self._unsynced >= SYNC_STEP_BYTES:
            self._file.sync()
            self._unsynced = 0


class SnapshotStore:
    """The snapshots in a directory. Methods that are not `async` block on the disk."""

    def __init__(self, fs: FileSystem, directory: Path, *, clock: Callable[[], float] = time.perf_counter) -> None:
        """Open the directory, creating it, and remove what an unfinished write left. Raises `LogFailedError`."""
        self._fs = fs
        self._directory = directory
        self._clock = clock
        self._temporaries = 0
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
        file = await fs.off_loop(self._create)
        try:
            writer = await fs.off_loop(lambda: _Writer(file, info))
            async for block in self._blocks(pieces, slice_s):
                await fs.off_loop(partial(writer.block, block))
            await fs.off_loop(writer.finish)
            return await fs.off_loop(lambda: self._install(file))
        except (Exception, asyncio.CancelledError):
            await asyncio.shield(fs.off_loop(lambda: self._discard(file)))
            raise
        finally:
            close = getattr(pieces, "close", None)
            if close is not None:
                close()

    async def _blocks(self, pieces: Iterator[bytes], slice_s: float) -> AsyncIterator[bytes]:
        """Gather pieces into blocks, giving the loop a turn whenever a slice of time is used up."""
        buffer = bytearray()
        until = self._clock() + slice_s
        for piece in pieces:
            buffer += piece
            while len(buffer) >= BLOCK_BYTES:
                yield bytes(buffer[:BLOCK_BYTES])
                del buffer[:BLOCK_BYTES]
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
            _log.error("%s. It is not needed: the state comes from another one, or from the log.", problem)
        return info

    def read(self, info: SnapshotInfo) -> Iterator[bytes]:
        """Yield the state, block by block, each checked. Raises `SnapshotCorruptError`, for the whole at the end."""
        path = self._path(info)
        file = self._open(path)
        try:
            _, header, offset = _read_header(path, file)
            yield from _read_blocks(path, file, header, offset)
        finally:
            file.close()

    def open_raw(self, info: SnapshotInfo) -> Iterator[bytes]:
        """Yield the file's bytes in chunks of `CHUNK_BYTES`, for another replica. It may be pruned meanwhile.

        Nothing is checked here: the receiver checks all of it.
        """
        file = self._open(self._path(info))

        def chunks() -> Iterator[bytes]:
            try:
                offset = 0
                while chunk := file.read_at(offset, CHUNK_BYTES):
                    yield chunk
                    offset += len(chunk)
            finally:
                file.close()

        return chunks()

    def receiver(self) -> SnapshotSink:
        """Return an object that takes a snapshot's file from another replica."""
        return SnapshotSink(self)

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
                f"{path} is gone. Start the replica again, so that it looks for another."
            ) from None

    def _inspect(self, name: str) -> SnapshotInfo:
        path = self._directory / name
        file = self._open(path)
        try:
            info, _, _ = _read_header(path, file)
            _read_trailer(path, file)
            if self._path(info) != path:
                raise _corrupt(path, 0, "its name does not fit its header")
            return info
        finally:
            file.close()

    def _create(self) -> OpenFile:
        self._temporaries += 1
        return self._fs.open(self._directory / f"{self._temporaries}{TEMPORARY_SUFFIX}", create=True)

    def _discard(self, file: OpenFile) -> None:
        file.close()
        self._fs.remove(file.path)

    def _install(self, file: OpenFile) -> SnapshotInfo:
        """Give a synced file its name, durably, and remove all but the newest two."""
        info, _, _ = _read_header(file.path, file)
        self._fs.rename(file.path, self._path(info))
        self._fs.sync_dir(self._directory)
        file.close()
        names = self._names()
        for name in names[KEEP:]:
            self._fs.remove(self._directory / name)
        if names[KEEP:]:
            self._fs.sync_dir(self._directory)
        return info


class SnapshotSink:
    """Takes a snapshot's file, chunk by chunk, and installs it only if every checksum is right."""

    def __init__(self, store: SnapshotStore) -> None:
        """Use `SnapshotStore.receiver`."""
        self._store = store
        self._file: OpenFile | None = None
        self._size = 0
        self._received = 0

    @property
    def received(self) -> int:
        """Bytes so far."""
        return self._received

    def begin(self, size: int) -> None:
        """Start, or start again, to receive a file of `size` bytes. Raises `ValueError` over the limit, `OSError`."""
        if not 0 < size <= SNAPSHOT_BYTES_MAX:
            raise ValueError(f"a snapshot of {size} bytes; the limit is {SNAPSHOT_BYTES_MAX}")
        self.abort()
        self._file = self._store._create()  # noqa: SLF001 - two halves of one thing
        self._size = size

    def write(self, chunk: bytes) -> None:
        """Append a chunk: a bounded write into the page cache. Raises `ValueError` if it is too much, `OSError`."""
        if self._file is None:
            raise ValueError("no snapshot is being received")
        if len(chunk) > CHUNK_BYTES or self._received + len(chunk) > self._size:
            raise ValueError(f"{len(chunk)} more bytes after {self._received} of {self._size}")
        self._file.write_at(self._received, chunk)
        self._received += len(chunk)

    async def finish(self) -> SnapshotInfo:
        """Check everything, make it durable, give it its name.

        Raises `SnapshotCorruptError` or `OSError`; then what was received is gone.
        """
        file, self._file = self._file, None
        if file is None:
            raise ValueError("no snapshot is being received")
        store, size, received = self._store, self._size, self._received

        def install() -> SnapshotInfo:
            try:
                _check_whole(file, size, received)
                file.sync()
                return store._install(file)  # noqa: SLF001 - two halves of one thing
            except Exception:
                store._discard(file)  # noqa: SLF001 - two halves of one thing
                raise

        self._received = 0
        return await store._fs.off_loop(install)  # noqa: SLF001 - two halves of one thing

    def abort(self) -> None:
        """Forget what was received. Safe at any time."""
        file, self._file, self._received = self._file, None, 0
        if file is not None:
            self._store._discard(file)  # noqa: SLF001 - two halves of one thing


def _crc(data: bytes, offset: int) -> int:
    return crc32(data, offset & 0xFFFFFFFF)


def _corrupt(path: Path, offset: int, what: str) -> SnapshotCorruptError:
    return SnapshotCorruptError(f"{path} at offset {offset}: {what}")


def _read_header(path: Path, file: OpenFile) -> tuple[SnapshotInfo, bytes, int]:
    """Return what the header says, its bytes, and the offset of the first block."""
    prefix = file.read_at(0, _PREFIX_BYTES)
    if len(prefix) < _PREFIX_BYTES or prefix[:8] != _MAGIC:
        raise _corrupt(path, 0, "it is not a snapshot")
    _, version = _PREFIX.unpack_from(prefix)
    if _U32.unpack_from(prefix, _PREFIX.size)[0] != crc32(prefix[: _PREFIX.size]):
        raise _corrupt(path, 0, "the prefix does not match its checksum")
    if version != FORMAT:
        raise LogFailedError(
            f"{path}: snapshot format {version}, but this program reads format {FORMAT}. Start the version of "
            f"raftflow that "
            f"wrote it, or a newer one."
        )
    header, offset = _read_block(path, file, _PREFIX_BYTES, HEADER_BYTES_MAX)
    if header is None:
        raise _corrupt(path, _PREFIX_BYTES, "it has no header")
    try:
        info = msgspec.msgpack.decode(header, type=SnapshotInfo)
    except msgspec.MsgspecError as error:
        raise _corrupt(path, _PREFIX_BYTES, f"the header cannot be read: {error}") from None
    return msgspec.structs.replace(info, size=file.size()), header, offset


def _read_block(path: Path, file: OpenFile, offset: int, limit: int) -> tuple[bytes | None, int]:
    """Return a block and the offset behind it; None where the trailer begins."""
    head = file.read_at(offset, _BLOCK.size)
    if len(head) < _BLOCK.size:
        raise _corrupt(path, offset, "it ends too early")
    length, crc = _BLOCK.unpack(head)
    if length == 0:
        return None, offset
    if length > limit:
        raise _corrupt(path, offset, f"a block of {length} bytes; at most {limit} are written")
    data = file.read_at(offset + _BLOCK.size, length)
    if len(data) != length or _crc(data, offset) != crc:
        raise _corrupt(path, offset, "a block does not match its checksum")
    return data, offset + _BLOCK.size + length


def _read_blocks(path: Path, file: OpenFile, header: bytes, offset: int) -> Iterator[bytes]:
    """Yield the blocks and check the trailer against them."""
    digest = hashlib.blake2b(header, digest_size=32)
    blocks = total = 0
    while True:
        data, following = _read_block(path, file, offset, BLOCK_BYTES)
        if data is None:
            break
        digest.update(data)
        blocks += 1
        total += len(data)
        offset = following
        yield data
    if offset + _TRAILER_BYTES != file.size():
        raise _corrupt(path, offset, "the blocks do not end where the trailer begins")
    if _read_trailer(path, file) != (blocks, total, digest.digest()):
        raise _corrupt(path, offset, "the trailer does not fit the blocks")


def _check_whole(file: OpenFile, announced: int, received: int) -> None:
    """Read a received file from end to end."""
    if received != announced:
        raise _corrupt(file.path, received, f"{announced} bytes were announced")
    _, header, offset = _read_header(file.path, file)
    for _ in _read_blocks(file.path, file, header, offset):
        pass


def _read_trailer(path: Path, file: OpenFile) -> tuple[int, int, bytes]:
    """Return the number of blocks, their bytes, and the digest."""
    offset = file.size() - _TRAILER_BYTES
    data = file.read_at(max(offset, 0), _TRAILER_BYTES)
    if offset < 0 or len(data) < _TRAILER_BYTES:
        raise _corrupt(path, 0, "it ends too early")
    body = data[: _TRAILER_BODY.size]
    if _U32.unpack_from(data, _TRAILER_BODY.size)[0] != _crc(body, offset):
        raise _corrupt(path, offset, "the trailer does not match its checksum")
    zero, blocks, total, digest = _TRAILER_BODY.unpack(body)
    if zero != 0:
        raise _corrupt(path, offset, "it does not end in a trailer")
    return int(blocks), int(total), bytes(digest)
