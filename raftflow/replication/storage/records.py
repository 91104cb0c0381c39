"""The journal's record format: what a batch of changes looks like as bytes, and how it is checked.

A segment file is a 24-byte prefix followed by records, each starting at a multiple of 4:

```
prefix   magic "RFLOWJNL" | format u32 | filled bytes u64 | crc32 of the bytes before u32
record   header 36 bytes | payload | 0xA5 | zeros up to a multiple of 4
header   magic u32 | payload length u32 | payload crc u32 | chain u32 | watermark u64
         | zero sectors u32 | header crc u32 | end magic u32
payload  flags u8 | cut u64 | base u64 | commit u64 | term u64 | first index u64 | count u32 | vote length u16
         | vote, UTF-8 | count times: term u64, length u32, command
```

All numbers are little-endian. One record holds one batch (`RecordBatch`): it is applied as a whole or not at all.

- The checksums are seeded with the segment's number and the record's offset, so a record is valid in one place only:
  journal bytes inside a command, a block that the disk put elsewhere and a segment under another name all fail.
- `chain` is the header checksum of the record before, across segments, so a missing or foreign record fails.
- `watermark` is the offset up to which this segment was known to be on disk when the record was written. A bad record
  below the watermark of a later good one was once durable: that is damage, never a torn write.
- `zero sectors` counts the aligned 512-byte sectors of the record that hold only zeros by content, so that recovery
  can tell a sector that was never written from one that was written as zeros.
- `filled bytes` is the length to which the file was filled with zeros at first: a shorter one has lost its end.
- The last byte of a header and of a record is never zero in a whole record.
"""

from __future__ import annotations

import struct
from typing import Final
from zlib import crc32

import msgspec

FORMAT: Final = 1
SECTOR_BYTES: Final = 512
RECORD_BYTES_MAX: Final = 2**31
VOTE_BYTES_MAX: Final = 2**16 - 1

Entry = tuple[bytes, int, int]
"""A log entry as PySyncObj keeps it: command, index, term."""

RESET: Final = 1
"""Drop every entry before appending. The base becomes the first entry of the batch."""
CUT: Final = 2
"""Drop the entries from index `cut` on before appending."""
BASE: Final = 4
"""Drop the entries below index `base` after appending."""
VOTED: Final = 8
"""The record has a vote. Without this flag there was none."""
OPENING: Final = 16
"""First record of a segment: the whole state beside the entries. `cut` is where the segment before it ends,
`first_index` the index that the next entry has."""
SEAL: Final = 32
"""The segment after this one is durable: if it is not there, it was lost."""

_PREFIX_BODY = struct.Struct("<8sIQ")
_U32 = struct.Struct("<I")
_SEED = struct.Struct("<QQ")
_HEADER_BODY = struct.Struct("<IIIIQI")
_HEADER_TAIL = struct.Struct("<II")
_HEADER = struct.Struct("<IIIIQIII")
_BATCH = struct.Struct("<BQQQQQIH")
_ENTRY = struct.Struct("<QI")

_PREFIX_MAGIC = b"RFLOWJNL"
_MAGIC = 0xC3B1D2E7
_END_MAGIC = 0x9D6BB5D9
MAGIC_BYTES: Final = _U32.pack(_MAGIC)
PREFIX_BYTES: Final = _PREFIX_BODY.size + 4
HEADER_BYTES: Final = _HEADER.size
_PADDING = (b"\xa5\0\0\0", b"\xa5\0\0", b"\xa5\0", b"\xa5")
_ZERO_SECTOR = bytes(SECTOR_BYTES)


class RecordBatch(msgspec.Struct, kw_only=True):
    """One atomic change of the journal: reset or cut, then append, then move the base.

    Term, vote and commit index are those after the change; every record carries them.
    """

    flags: int = 0
    cut: int = 0
    base: int = 0
    commit: int = 0
    term: int = 0
    vote: str | None = None
    first_index: int = 0
    entries: list[Entry] = msgspec.field(default_factory=list)


class RecordHeader(msgspec.Struct, frozen=True):
    """A header whose checksum is right."""

    payload_bytes: int
    payload_crc: int
    chain_before: int
    watermark: int
    zero_sectors: int
    chain: int
    """The header's own checksum: what the next record carries as `chain_before`."""

    @property
    def record_bytes(self) -> int:
        """Length of the whole record, padding included."""
        return record_bytes(self.payload_bytes)


def record_bytes(payload_bytes: int) -> int:
    """Return the length of a record with such a payload: header, payload, end byte, padding."""
    return HEADER_BYTES + (payload_bytes & ~3) + 4


def encode_prefix(filled_bytes: int) -> bytes:
    """Return the first bytes of a segment file."""
    body = _PREFIX_BODY.pack(_PREFIX_MAGIC, FORMAT, filled_bytes)
    return body + _U32.pack(crc32(body))


def decode_prefix(data: bytes) -> tuple[int, int]:
    """Return format and filled bytes of a segment file. Raises `ValueError` if it is none, or damaged."""
    if len(data) < PREFIX_BYTES:
        raise ValueError("shorter than a segment's prefix")
    magic, version, filled = _PREFIX_BODY.unpack_from(data)
    (crc,) = _U32.unpack_from(data, _PREFIX_BODY.size)
    if magic != _PREFIX_MAGIC:
        raise ValueError("does not start with a journal segment's magic")
    if crc != crc32(data[: _PREFIX_BODY.size]):
        raise ValueError("the prefix does not match its checksum")
    return int(version), int(filled)


def encode_payload(batch: RecordBatch) -> list[bytes]:
    """Return the payload of a batch as pieces to be joined."""
    vote = b"" if batch.vote is None else batch.vote.encode()
    if len(vote) > VOTE_BYTES_MAX:
        raise ValueError(f"a replica name of {len(vote)} bytes is too long; at most {VOTE_BYTES_MAX}")
    entries = batch.entries
    flags = batch.flags if batch.vote is None else batch.flags | VOTED
    first = entries[0][1] if entries else batch.first_index
    parts = [
        _BATCH.pack(flags, batch.cut, batch.base, batch.commit, batch.term, first, len(entries), len(vote)),
        vote,
    ]
    pack = _ENTRY.pack
    for command, _, term in entries:
        parts.append(pack(term, len(command)))
        parts.append(command)
    return parts


def decode_payload(payload: bytes) -> RecordBatch:
    """Read a payload whose checksum is correct. Raises `ValueError` if its content is invalid even so."""
    try:
        flags, cut, base, commit, term, first, count, vote_bytes = _BATCH.unpack_from(payload)
        at = _BATCH.size + vote_bytes
        vote = payload[_BATCH.size : at].decode() if flags & VOTED else None
        entries: list[Entry] = []
        for index in range(first, first + count):
            entry_term, command_bytes = _ENTRY.unpack_from(payload, at)
            at += _ENTRY.size
            entries.append((payload[at : at + command_bytes], index, entry_term))
            at += command_bytes
    except struct.error as error:
        raise ValueError(f"the batch is cut short: {error}") from None
    if at != len(payload):
        raise ValueError(f"the batch says {at} bytes but has {len(payload)}")
    return RecordBatch(
        flags=flags & ~VOTED,
        cut=cut,
        base=base,
        commit=commit,
        term=term,
        vote=vote,
        first_index=first,
        entries=entries,
    )


def encode_record(batch: RecordBatch, *, segment: int, offset: int, chain: int, watermark: int) -> tuple[bytes, int]:
    """Return the record's bytes and its chain value, for `offset` of the segment with number `segment`."""
    parts = encode_payload(batch)
    payload = b"".join(parts)
    if len(payload) >= RECORD_BYTES_MAX:
        raise ValueError(f"a batch of {len(payload)} bytes is over the limit of {RECORD_BYTES_MAX}")
    seed = crc32(_SEED.pack(segment, offset))
    payload_crc = crc32(payload, seed)
    zeros = 0
    if len(payload) > SECTOR_BYTES and _ZERO_SECTOR in payload:
        zeros = count_zero_sectors(payload, offset + HEADER_BYTES)
    body = _HEADER_BODY.pack(_MAGIC, len(payload), payload_crc, chain, watermark, zeros)
    header_crc = crc32(body, seed)
    return b"".join(
        (body, _HEADER_TAIL.pack(header_crc, _END_MAGIC), payload, _PADDING[len(payload) & 3])
    ), header_crc


def decode_header(data: bytes, offset: int, *, segment: int) -> RecordHeader | None:
    """Return the header at `offset`, or None if there is no valid one."""
    if offset + HEADER_BYTES > len(data):
        return None
    magic, length, payload_crc, chain, watermark, zeros, header_crc, end = _HEADER.unpack_from(data, offset)
    if magic != _MAGIC or end != _END_MAGIC:
        return None
    body = data[offset : offset + _HEADER_BODY.size]
    if crc32(body, crc32(_SEED.pack(segment, offset))) != header_crc:
        return None
    return RecordHeader(length, payload_crc, chain, watermark, zeros, header_crc)


def read_payload(data: bytes, offset: int, header: RecordHeader, *, segment: int) -> bytes | None:
    """Return the payload of the record at `offset`, or None if it is incomplete or does not match its checksum."""
    start = offset + HEADER_BYTES
    end = start + header.payload_bytes
    if end >= len(data) or data[end] != _PADDING[3][0]:
        return None
    payload = data[start:end]
    if crc32(payload, crc32(_SEED.pack(segment, offset))) != header.payload_crc:
        return None
    return payload


def count_zero_sectors(data: bytes, offset: int) -> int:
    """Count the whole aligned sectors of zeros in `data`, which stands at `offset` of a file."""
    first = -offset % SECTOR_BYTES
    return sum(
        data[at : at + SECTOR_BYTES] == _ZERO_SECTOR
        for at in range(first, len(data) - SECTOR_BYTES + 1, SECTOR_BYTES)
    )
