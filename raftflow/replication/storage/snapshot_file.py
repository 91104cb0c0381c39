"""The file format of a snapshot: how one is written, and how every part of it is checked when it is read.

```
prefix    magic "RFLOWSNP" | format u32 | crc32 u32
header    length u32 | crc32 u32 | SnapshotInfo as MessagePack
blocks    length u32 | crc32 u32 | bytes                          one after the other, none empty
trailer   0 u32 | blocks u32 | bytes in them u64 | BLAKE2b-256 of the header and all blocks | crc32 u32
```

All numbers are little-endian. The checksums of header and blocks are seeded with their offset.
"""

from __future__ import annotations

import hashlib
import struct
from typing import TYPE_CHECKING, Final
from zlib import crc32

import msgspec

from raftflow.domain.values.exact import UNREADABLE
from raftflow.replication.errors import LogFailedError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from raftflow.replication.files import OpenFile, ReadableFile

FORMAT: Final = 1
BLOCK_BYTES_MAX: Final = 256 * 1024
"""Blocks are written as soon as they have this size. A longer piece is split."""
CHUNK_BYTES_MAX: Final = 256 * 1024
"""Size of the chunks in which a file travels between replicas."""
HEADER_BYTES_MAX: Final = 256 * 1024 * 1024
SYNC_STEP_BYTES: Final = 8 * 1024 * 1024
"""Written bytes are synced in steps of this size, so that the journal's syncs do not wait behind one large one."""

_MAGIC = b"RFLOWSNP"
_PREFIX = struct.Struct("<8sI")
_U32 = struct.Struct("<I")
_BLOCK = struct.Struct("<II")
_TRAILER_BODY = struct.Struct("<IIQ32s")
_PREFIX_BYTES = _PREFIX.size + 4
_TRAILER_BYTES = _TRAILER_BODY.size + 4


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


class SnapshotFileWriter:
    """Encodes a snapshot into a file, blocking; used from the file thread."""

    def __init__(self, file: OpenFile, info: SnapshotInfo) -> None:
        header = msgspec.msgpack.encode(msgspec.structs.replace(info, size=0, format=FORMAT))
        prefix = _PREFIX.pack(_MAGIC, FORMAT)
        data = (
            prefix + _U32.pack(crc32(prefix)) + _BLOCK.pack(len(header), seeded_crc(header, _PREFIX_BYTES)) + header
        )
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
        self._append(_BLOCK.pack(len(data), seeded_crc(data, self._offset)) + data)

    def finish(self) -> None:
        """Write the trailer and sync."""
        body = _TRAILER_BODY.pack(0, self._blocks, self._bytes, self._digest.digest())
        self._append(body + _U32.pack(seeded_crc(body, self._offset)))
        self._file.sync()

    def _append(self, data: bytes) -> None:
        self._file.write_at(self._offset, data)
        self._offset += len(data)
        self._unsynced += len(data)
        if self._unsynced >= SYNC_STEP_BYTES:
            self._file.sync()
            self._unsynced = 0


def seeded_crc(data: bytes, offset: int) -> int:
    """Return a checksum that is right at this offset only."""
    return crc32(data, offset & 0xFFFFFFFF)


def corrupt(path: Path, offset: int, what: str) -> SnapshotCorruptError:
    """Build the error for a damaged file."""
    return SnapshotCorruptError(f"{path} at offset {offset}: {what}")


def read_header(path: Path, file: ReadableFile) -> tuple[SnapshotInfo, bytes, int]:
    """Return what the header says, its bytes, and the offset of the first block."""
    prefix = file.read_at(0, _PREFIX_BYTES)
    if len(prefix) < _PREFIX_BYTES or prefix[:8] != _MAGIC:
        raise corrupt(path, 0, "it is not a snapshot")
    _, version = _PREFIX.unpack_from(prefix)
    if _U32.unpack_from(prefix, _PREFIX.size)[0] != crc32(prefix[: _PREFIX.size]):
        raise corrupt(path, 0, "the prefix does not match its checksum")
    if version != FORMAT:
        raise LogFailedError(
            f"{path}: snapshot format {version}, but this program reads format {FORMAT}. Start the version of "
            f"raftflow that "
            f"wrote it, or a newer one."
        )
    header, offset = _read_block(path, file, _PREFIX_BYTES, HEADER_BYTES_MAX)
    if header is None:
        raise corrupt(path, _PREFIX_BYTES, "it has no header")
    try:
        info = msgspec.msgpack.decode(header, type=SnapshotInfo)
    except UNREADABLE as error:
        raise corrupt(path, _PREFIX_BYTES, f"the header cannot be read: {error}") from None
    return msgspec.structs.replace(info, size=file.size()), header, offset


def _read_block(path: Path, file: ReadableFile, offset: int, limit: int) -> tuple[bytes | None, int]:
    """Return a block and the offset behind it; None where the trailer begins."""
    head = file.read_at(offset, _BLOCK.size)
    if len(head) < _BLOCK.size:
        raise corrupt(path, offset, "it ends too early")
    length, crc = _BLOCK.unpack(head)
    if length == 0:
        return None, offset
    if length > limit:
        raise corrupt(path, offset, f"a block of {length} bytes; at most {limit} are written")
    data = file.read_at(offset + _BLOCK.size, length)
    if len(data) != length or seeded_crc(data, offset) != crc:
        raise corrupt(path, offset, "a block does not match its checksum")
    return data, offset + _BLOCK.size + length


def read_blocks(path: Path, file: ReadableFile, header: bytes, offset: int) -> Iterator[bytes]:
    """Yield the blocks and check the trailer against them."""
    digest = hashlib.blake2b(header, digest_size=32)
    blocks = total = 0
    while True:
        data, following = _read_block(path, file, offset, BLOCK_BYTES_MAX)
        if data is None:
            break
        digest.update(data)
        blocks += 1
        total += len(data)
        offset = following
        yield data
    if offset + _TRAILER_BYTES != file.size():
        raise corrupt(path, offset, "the blocks do not end where the trailer begins")
    if read_trailer(path, file) != (blocks, total, digest.digest()):
        raise corrupt(path, offset, "the trailer does not fit the blocks")


def check_file(file: OpenFile, announced: int, received: int) -> None:
    """Read a received file from end to end."""
    if received != announced:
        raise corrupt(file.path, received, f"{announced} bytes were announced")
    _, header, offset = read_header(file.path, file)
    for _ in read_blocks(file.path, file, header, offset):
        pass


def read_trailer(path: Path, file: ReadableFile) -> tuple[int, int, bytes]:
    """Return the number of blocks, their bytes, and the digest."""
    offset = file.size() - _TRAILER_BYTES
    data = file.read_at(max(offset, 0), _TRAILER_BYTES)
    if offset < 0 or len(data) < _TRAILER_BYTES:
        raise corrupt(path, 0, "it ends too early")
    body = data[: _TRAILER_BODY.size]
    if _U32.unpack_from(data, _TRAILER_BODY.size)[0] != seeded_crc(body, offset):
        raise corrupt(path, offset, "the trailer does not match its checksum")
    zero, blocks, total, digest = _TRAILER_BODY.unpack(body)
    if zero != 0:
        raise corrupt(path, offset, "it does not end in a trailer")
    return int(blocks), int(total), bytes(digest)
