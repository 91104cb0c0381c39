"""Segment files of the journal: how one is started, how one is read, and what a bad record in it means.

Starting a segment is atomic: the file is filled with zeros and synced under a temporary name, gets its opening
record, is synced again and renamed. So a file with a final name always has a valid prefix and opening record, and
everything behind its records is zeros on disk. A segment is started only when the one before it is on disk.

Reading tells three ends apart (`read_segment`):

- **clean**: zeros from the last good record on;
- **torn**: a batch that was being written when the power went, which no `sync` ever covered. It is cut off;
- **damaged**: bytes that were durable have changed. Never cut: the batch may have been acknowledged.

How torn and damaged are distinguished, with a bad record at offset B of the last segment:

1. If a good record follows it whose watermark is above B, then B was durable once: damaged. (Good records
   behind B with a watermark of at most B prove nothing: the disk may write unsynced sectors in any order.)
2. A disk writes whole sectors, and a killed process leaves a prefix of its write. Since the space was zeros before, a
   torn record shows it: its last byte is zero, or one of its sectors is all zeros though by content it is not. (The
   number of sectors that are zeros by content is in the header.) Anything else, such as flipped bits, is damaged.
3. What stays open is an acknowledged record at the very end that lost a whole sector to zeros before any later record
   proved it durable. The journal writes such proof within about a second (`Journal.onOneSecondTimer`) and at `close`.

In every segment but the last all records must be good up to the end that the next segment's opening record states;
what follows that end was cut and is ignored.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

from raftflow.replication.errors import LogFailedError
from raftflow.replication.storage import records
from raftflow.replication.storage.records import HEADER_BYTES, PREFIX_BYTES, SECTOR_BYTES, RecordBatch

if TYPE_CHECKING:
    from pathlib import Path

    from raftflow.replication.files import FileSystem, OpenFile

SUFFIX: Final = ".segment"
TEMPORARY_SUFFIX: Final = ".new"
FILL_STEP_BYTES: Final = 1024 * 1024
"""Zeros are written and synced in steps of this size, so that the journal's own syncs do not wait long."""

REPAIR = (
    "Do not start this replica on this directory again: move the directory away, then let the replica join again "
    "from its "
    "peers under a new name. If no majority of the replicas is intact, keep all files and restore from a snapshot."
)


class JournalCorruptError(LogFailedError):
    """The journal on disk differs from what was written. The message names file, offset and cure."""


class JournalForeignError(JournalCorruptError):
    """The journal is whole, but has commands that this program does not know. A newer version may have written it."""


def corrupt(path: Path, offset: int, what: str) -> JournalCorruptError:
    """Build the error for a damaged journal."""
    return JournalCorruptError(f"{path} at offset {offset}: {what}. {REPAIR}")


class Segment(msgspec.Struct):
    """A segment in use or kept."""

    number: int
    path: Path
    first_index: int
    """The lowest index that an entry still in the log can have here; everything below is in earlier segments."""


class SegmentScan(msgspec.Struct):
    """The content of a segment file."""

    path: Path
    number: int
    opening: RecordBatch
    chain_before: int
    batches: list[RecordBatch]
    end: int
    """Offset behind the last good record."""
    chain: int
    sealed: bool
    torn: str | None
    """Why the rest was cut off; None if the end is clean."""


def segment_name(number: int) -> str:
    """Return the file name of a segment."""
    return f"{number:016x}{SUFFIX}"


def parse_segment_name(name: str) -> int | None:
    """Return the number in a segment's file name, or None for another file."""
    digits = name.removesuffix(SUFFIX)
    if len(digits) != 16 or len(name) != 16 + len(SUFFIX):
        return None
    try:
        return int(digits, 16)
    except ValueError:
        return None


def fill(file: OpenFile, size: int) -> None:
    """Fill a new file with zeros, durably. Raises `OSError`."""
    for offset in range(0, size, FILL_STEP_BYTES):
        file.write_at(offset, bytes(min(FILL_STEP_BYTES, size - offset)))
        file.sync()


def start_segment(
    fs: FileSystem, file: OpenFile, target: Path, *, number: int, opening: RecordBatch, chain: int
) -> tuple[int, int]:
    """Turn a filled temporary file into a segment, durably. Returns its end and its chain. Raises `OSError`."""
    record, chain = records.encode_record(opening, segment=number, offset=PREFIX_BYTES, chain=chain, watermark=0)
    file.write_at(0, records.encode_prefix(file.size()) + record)
    file.sync()
    fs.rename(file.path, target)
    fs.sync_dir(target.parent)
    return PREFIX_BYTES + len(record), chain


def read_segment(path: Path, number: int, data: bytes, *, end: int | None) -> SegmentScan:
    """Read a segment's bytes.

    `end` is where the next segment says that this one ends, None for the last one. Raises `JournalCorruptError` if
    the segment is damaged.
    """
    scan = _read_opening(path, number, data)
    limit = len(data) if end is None else end
    while scan.end < limit:
        header = records.decode_header(data, scan.end, segment=number)
        payload = None if header is None else records.read_payload(data, scan.end, header, segment=number)
        if header is None or payload is None:
            break
        if header.chain_before != scan.chain:
            raise corrupt(path, scan.end, "the record does not follow the one before it")
        try:
            batch = records.decode_payload(payload)
        except ValueError as error:
            raise corrupt(path, scan.end, str(error)) from None
        if batch.flags & records.OPENING:
            raise corrupt(path, scan.end, "an opening record stands inside the segment")
        scan.batches.append(batch)
        scan.sealed = bool(batch.flags & records.SEAL)
        scan.chain = header.chain
        scan.end += header.record_bytes
    if end is None:
        scan.torn = _judge_end(path, number, data, scan.end)
    elif scan.end != end:
        raise corrupt(path, scan.end, f"a bad record, but the next segment says that good ones go on to {end}")
    return scan


def _read_opening(path: Path, number: int, data: bytes) -> SegmentScan:
    """Read prefix and opening record, which are always durable before the file has its name."""
    try:
        version, filled = records.decode_prefix(data)
    except ValueError as error:
        raise corrupt(path, 0, str(error)) from None
    if version != records.FORMAT:
        raise LogFailedError(
            f"{path}: journal format {version}, but this program reads format {records.FORMAT}. "
            f"Start the version of raftflow that wrote it, or a newer one."
        )
    if len(data) < filled:
        raise corrupt(path, len(data), f"the file ends here, but had {filled} bytes from the start")
    header = records.decode_header(data, PREFIX_BYTES, segment=number)
    payload = None if header is None else records.read_payload(data, PREFIX_BYTES, header, segment=number)
    if header is None or payload is None:
        raise corrupt(path, PREFIX_BYTES, "the segment's opening record is damaged or belongs to another segment")
    try:
        opening = records.decode_payload(payload)
    except ValueError as error:
        raise corrupt(path, PREFIX_BYTES, str(error)) from None
    if not opening.flags & records.OPENING:
        raise corrupt(path, PREFIX_BYTES, "the segment does not start with an opening record")
    return SegmentScan(
        path=path,
        number=number,
        opening=opening,
        chain_before=header.chain_before,
        batches=[],
        end=PREFIX_BYTES + header.record_bytes,
        chain=header.chain,
        sealed=False,
        torn=None,
    )


def _judge_end(path: Path, number: int, data: bytes, end: int) -> str | None:
    """Return None for a clean end, the reason for a torn one. Raises `JournalCorruptError` for a damaged one."""
    rest = len(data.rstrip(b"\0")) - end
    if rest <= 0:
        return None
    at = data.find(records.MAGIC_BYTES, end + 1)
    while at >= 0:
        header = records.decode_header(data, at, segment=number)
        if header is not None and header.watermark > end:
            raise corrupt(path, end, f"a bad record, though the record at {at} proves that it was on disk")
        at = data.find(records.MAGIC_BYTES, at + 1)
    head = data[end : end + HEADER_BYTES].ljust(HEADER_BYTES, b"\0")
    header = records.decode_header(data, end, segment=number)
    if header is None:
        split = -end % SECTOR_BYTES
        pieces = (head[:split], head[split:]) if 0 < split < HEADER_BYTES else (head,)
        torn = head[-1] == 0 or any(not piece.strip(b"\0") for piece in pieces)
    else:
        start = end + HEADER_BYTES
        payload = data[start : start + header.payload_bytes]
        last = start + header.payload_bytes
        torn = (
            last >= len(data) or data[last] == 0 or records.count_zero_sectors(payload, start) > header.zero_sectors
        )
    if not torn:
        raise corrupt(path, end, "the last record is damaged, and not by a write that was cut short")
    return f"{path}: cut off {rest} bytes of an unfinished write at offset {end}"
