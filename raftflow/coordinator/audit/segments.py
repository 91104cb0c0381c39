"""The files of the audit: segments of records, and the anchor, which says where the audit begins."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple
from zlib import crc32

import msgspec

from raftflow.coordinator.audit.frames import (
    GAP,
    MAGIC,
    RECORD,
    AuditError,
    Frame,
    chain_of,
    decode_gap,
    encode_frame,
    frames_in,
    read_plain,
    scan,
)
from raftflow.machine.rules.audit_chain import CHAIN_START
from raftflow.replication.members.identity import store_file

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from raftflow.replication.files import FileSystem


class Anchor(msgspec.Struct, frozen=True):
    """Where the file begins, and the chain hash there."""

    index: int = 0
    """Index of the last record that was dropped."""
    chain: bytes = CHAIN_START
    segment: int = 0
    """Number of the last segment that was dropped."""


class _StoredAnchor(msgspec.Struct, frozen=True):
    body: bytes
    crc32: int


class AuditSegment(NamedTuple):
    """One file with records."""

    number: int
    first_index: int
    path: Path


def segment_path(directory: Path, number: int, first_index: int) -> Path:
    """Return the path of a segment."""
    return directory / f"audit-{number:08d}-{first_index:020d}.log"


def seed_audit(fs: FileSystem, directory: Path, anchor: Anchor, index: int, records: Sequence[bytes]) -> None:
    """Begin an audit in an empty directory: behind `anchor`, with the records of the entry `index`. Blocking.

    Raises `OSError`.
    """
    write_anchor(fs, directory / "anchor", anchor)
    file = fs.open(segment_path(directory, anchor.segment + 1, index), create=True)
    try:
        file.write_at(0, MAGIC + b"".join([encode_frame(RECORD, index, record) for record in records]))
        file.sync()
    finally:
        file.close()
    fs.sync_dir(directory)


def parse_segment_name(directory: Path, name: str) -> AuditSegment:
    """Return the segment that a file's name describes. Raises `AuditError`."""
    parts = name.removesuffix(".log").split("-")
    if len(parts) != 3 or not (parts[1].isdigit() and parts[2].isdigit()) or not name.endswith(".log"):
        raise AuditError(f"{directory / name} is not a segment of the audit; move it away")
    return AuditSegment(int(parts[1]), int(parts[2]), directory / name)


def read_anchor(fs: FileSystem, path: Path) -> Anchor:
    """Read the anchor. Blocking. Raises `AuditError` if it is damaged."""
    try:
        stored = msgspec.json.decode(fs.read(path), type=_StoredAnchor)
        if crc32(stored.body) != stored.crc32:
            raise ValueError("it does not match its checksum")  # noqa: TRY301 - told below
        return msgspec.json.decode(stored.body, type=Anchor)
    except ValueError as error:
        raise AuditError(
            f"{path} is damaged: {error}. Move it away and start again: the records continue, and only the first of "
            f"them cannot be verified any more on this replica."
        ) from error


def write_anchor(fs: FileSystem, path: Path, anchor: Anchor) -> None:
    """Make an anchor durable. Blocking. Raises `OSError`."""
    body = msgspec.json.encode(anchor)
    store_file(fs, path, msgspec.json.encode(_StoredAnchor(body, crc32(body))))


def read_directory(fs: FileSystem, directory: Path) -> tuple[Anchor, list[AuditSegment]]:
    """Return where an audit begins, and its segments in order. Blocking. Raises `AuditError`, `OSError`."""
    names = fs.list_dir(directory)
    anchor = read_anchor(fs, directory / "anchor") if "anchor" in names else Anchor()
    segments = [parse_segment_name(directory, name) for name in names if name.startswith("audit-")]
    return anchor, sorted(segment for segment in segments if segment.number > anchor.segment)


def read_end(fs: FileSystem, directory: Path) -> tuple[int, bytes]:
    """Return index and chain of the last whole record; without records those of the anchor. Blocking.

    Raises `AuditError`, `OSError`.
    """
    anchor, segments = read_directory(fs, directory)
    for segment in reversed(segments):
        _, last = scan(read_plain(fs, segment.path))
        if last is not None:
            return last.index, chain_of(last)
    return anchor.index, anchor.chain


def read_frames(
    fs: FileSystem,
    segments: Sequence[AuditSegment],
    first_index: int,
    count_max: int,
    is_dropped: Callable[[AuditSegment], bool],
) -> tuple[list[Frame], int | None]:
    """Return frames from `first_index` on, whole entries, about `count_max`, and the index to go on from. Blocking.

    A segment may be dropped meanwhile (`is_dropped`). Raises `AuditError` for a damaged segment.
    """
    found: list[Frame] = []
    for place, segment in enumerate(segments):
        if place + 1 < len(segments) and segments[place + 1].first_index < first_index:
            continue
        try:
            data = read_plain(fs, segment.path)
        except FileNotFoundError:
            if is_dropped(segment):
                continue  # dropped meanwhile
            raise
        for frame in frames_in(data, segment.path):
            if frame.index < first_index:
                continue
            # An entry's records stay together, since the cursor is an index.
            if len(found) >= count_max and frame.index != found[-1].index:
                return found, frame.index
            found.append(frame)
    return found, None


def find_chain(
    index: int, anchor: Anchor, segments: Sequence[AuditSegment], read: Callable[[Path], bytes]
) -> bytes | None:
    """Return the chain hash after `index`, or None if the file begins later or has a gap there."""
    if index == 0:
        return None
    if index == anchor.index:
        return anchor.chain
    following: Frame | None = None
    for segment in reversed(segments):
        known = None
        frames = frames_in(read(segment.path), segment.path)
        if segment.first_index > index:
            following = next(frames, following)
            continue
        for frame in frames:
            if frame.index > index:
                following = frame
                break
            known = frame
        if known is not None:
            hidden = following is not None and following.kind == GAP and decode_gap(following).first <= index
            return None if hidden else chain_of(known)
    return None
