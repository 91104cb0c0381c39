"""The form of the audit file: checksummed frames, each a record or a gap, behind a magic that names the format.

```
"RFAUDIT1"                            8 bytes
frame*                                crc32 u32 | payload length u32 | kind u8 | index u64 | payload
```

The crc covers the rest of the frame. Kind 1 is a record, as the state machine made it; kind 2 is a gap: a snapshot
brought everything up to `index` in place of entries, and the payload says since when and with which chain hash.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final
from zlib import crc32

import msgspec

from raftflow.domain.contract.views import AuditRecord
from raftflow.domain.values.exact import UNREADABLE
from raftflow.machine.rules.audit_chain import decode_record

if TYPE_CHECKING:
    from raftflow.replication.files import FileSystem

MAGIC: Final = b"RFAUDIT1"
MAGIC_ANY: Final = b"RFAUDIT"
"""What the magic of every format begins with; the rest is the format."""
RECORD: Final = 1
GAP: Final = 2
FRAME_BYTES_MAX: Final = 64 * 1024 * 1024
_HEAD: Final = struct.Struct("<IIBQ")
_CRC_BYTES: Final = 4


class AuditError(Exception):
    """The audit file cannot be used, or contradicts the log. Says what to do."""


class Gap(msgspec.Struct, frozen=True, array_like=True):
    """Indexes that a snapshot brought in place of entries."""

    first: int
    last: int
    chain: bytes
    """Chain hash after `last`."""


class Frame(msgspec.Struct, frozen=True, gc=False):
    """One piece of the file."""

    kind: int
    index: int
    payload: bytes


def encode_frame(kind: int, index: int, payload: bytes) -> bytes:
    """Return a frame as the file holds it."""
    head = _HEAD.pack(0, len(payload), kind, index)[_CRC_BYTES:]
    return crc32(payload, crc32(head)).to_bytes(_CRC_BYTES, "little") + head + payload


def decode_gap(frame: Frame) -> Gap:
    """Decode a frame of kind `GAP`. Raises `AuditError`."""
    try:
        return msgspec.msgpack.decode(frame.payload, type=Gap)
    except UNREADABLE as error:
        raise AuditError(f"the gap that ends at index {frame.index} cannot be read: {error}") from error


def record_of(frame: Frame) -> AuditRecord:
    """Decode a frame of kind `RECORD`. Raises `ValueError`."""
    return decode_record(frame.payload)


def chain_of(frame: Frame) -> bytes:
    """Return the chain hash after a frame. Raises `AuditError`."""
    try:
        return decode_gap(frame).chain if frame.kind == GAP else record_of(frame).chain
    except ValueError as error:
        raise AuditError(f"the record of index {frame.index} cannot be read: {error}") from error


def read_plain(fs: FileSystem, path: Path) -> bytes:
    """Read without dropping caches, as for a listing."""
    file = fs.open(path)
    try:
        return file.read_at(0, file.size())
    finally:
        file.close()


def scan(data: bytes) -> tuple[int, Frame | None]:
    """Return how many bytes are whole frames, and the last of them."""
    if not data.startswith(MAGIC):
        return 0, None
    offset, last = len(MAGIC), None
    while (step := _frame_at(data, offset)) is not None:
        offset, last = step
    return offset, last


def frames_in(data: bytes, path: Path) -> Iterator[Frame]:
    """Yield the frames of a segment. Raises `AuditError` at the first damaged one."""
    offset = len(MAGIC) if data.startswith(MAGIC) else 0
    while offset < len(data):
        step = _frame_at(data, offset) if offset else None
        if step is None:
            raise AuditError(
                f"{path} is damaged at byte {offset}. The other replicas hold the same records: let this replica "
                f"join again with an empty directory, or move the file away and keep it as evidence."
            )
        offset, frame = step
        yield frame


def _frame_at(data: bytes, offset: int) -> tuple[int, Frame] | None:
    start = offset + _HEAD.size
    if start > len(data):
        return None
    crc, size, kind, index = _HEAD.unpack_from(data, offset)
    end = start + size
    if size > FRAME_BYTES_MAX or end > len(data) or kind not in {RECORD, GAP}:
        return None
    if crc32(memoryview(data)[offset + _CRC_BYTES : end]) != crc:
        return None
    return end, Frame(kind, index, data[start:end])
