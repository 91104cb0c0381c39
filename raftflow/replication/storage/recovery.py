"""Opening a journal: read the segments in order, check that they belong together, and rebuild the log.

The newest segments with consecutive numbers count. Older ones before a gap are what a killed compaction left. They
are accepted as leftovers only if the rest reaches down to the recorded base.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from raftflow.replication.storage import records
from raftflow.replication.storage.segments import (
    REPAIR,
    TEMPORARY_SUFFIX,
    JournalCorruptError,
    JournalForeignError,
    Segment,
    SegmentScan,
    corrupt,
    parse_segment_name,
    read_segment,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from raftflow.replication.files import FileSystem
    from raftflow.replication.storage.records import Entry, RecordBatch


class JournalImage(msgspec.Struct):
    """The log as rebuilt so far."""

    start: int = 0
    """Index of the first entry in `entries`; without entries, of the next one."""
    base: int = 0
    """Entries below are compacted away."""
    commit: int = 0
    term: int = 0
    vote: str | None = None
    entries: list[Entry] = msgspec.field(default_factory=list)

    @property
    def next_index(self) -> int:
        """The index that the next entry must have."""
        return self.start + len(self.entries)


class Recovered(msgspec.Struct):
    """The result of opening a journal."""

    image: JournalImage
    segments: list[Segment]
    last: SegmentScan | None
    """The newest segment; None for a journal that does not exist yet."""
    leftovers: list[Path]
    """Files to be removed: unfinished segments, and compacted ones."""


def note_batch(segments: list[Segment], batch: RecordBatch) -> None:
    """Lower the segments' first indexes after a batch was written to the last of them."""
    if batch.flags & records.RESET:
        for segment in segments:
            segment.first_index = 0
    elif batch.flags & records.CUT:
        for segment in segments:
            segment.first_index = min(segment.first_index, batch.cut)


def apply_batch(image: JournalImage, batch: RecordBatch) -> None:
    """Apply one record. Raises `ValueError` if it does not fit."""
    if batch.flags & records.RESET:
        image.entries.clear()
        image.start = image.base = batch.first_index
    if batch.flags & records.CUT and batch.cut < image.next_index:
        del image.entries[max(0, batch.cut - image.start) :]
        image.start = min(image.start, batch.cut)
    if batch.entries:
        if not image.entries and image.start == 0:
            image.start = image.base = batch.first_index
        if batch.first_index != image.next_index:
            raise ValueError(f"entry {batch.first_index} follows entry {image.next_index - 1}")
        image.entries += batch.entries
    if batch.flags & records.BASE:
        if batch.base > image.next_index:
            raise ValueError(f"compaction up to {batch.base} in a log that ends at {image.next_index - 1}")
        image.base = batch.base
        if image.start < image.base:
            del image.entries[: image.base - image.start]
            image.start = image.base
    image.commit, image.term, image.vote = batch.commit, batch.term, batch.vote


def recover(fs: FileSystem, directory: Path, check_command: Callable[[bytes], None]) -> Recovered:
    """Read a journal's directory, changing nothing. Raises `JournalCorruptError`, `LogFailedError`, `OSError`."""
    names = fs.list_dir(directory)
    leftovers = [directory / name for name in names if name.endswith(TEMPORARY_SUFFIX)]
    found = {number: directory / name for name in names if (number := parse_segment_name(name)) is not None}
    numbers = sorted(found)
    first = len(numbers)
    while first > 0 and (first == len(numbers) or numbers[first - 1] + 1 == numbers[first]):
        first -= 1
    leftovers += [found[number] for number in numbers[:first]]
    image = JournalImage()
    segments: list[Segment] = []
    last: SegmentScan | None = None
    for scan in _scans(fs, [(number, found[number]) for number in numbers[first:]]):
        if last is None:
            opening = scan.opening
            image = JournalImage(opening.first_index, opening.base, opening.commit, opening.term, opening.vote)
        else:
            _check_successor(last, scan, image)
        segments.append(Segment(scan.number, scan.path, scan.opening.first_index))
        for batch in scan.batches:
            try:
                apply_batch(image, batch)
            except ValueError as error:
                raise corrupt(scan.path, 0, f"its records do not fit together: {error}") from None
            note_batch(segments, batch)
        last = scan
        scan.batches = []
    if last is not None:
        _check_whole(directory, last, image, segments[0])
    for command, index, _ in image.entries:
        try:
            check_command(command)
        except ValueError as error:
            raise JournalForeignError(
                f"{directory}: the command of entry {index} is unknown: {error}. If a newer version of raftflow "
                f"wrote it, start that one. {REPAIR}"
            ) from None
    return Recovered(image, segments, last, leftovers)


def _scans(fs: FileSystem, files: list[tuple[int, Path]]) -> list[SegmentScan]:
    """Read the segments; each learns its end from the opening record of the next."""
    scans: list[SegmentScan] = []
    end: int | None = None
    for number, path in reversed(files):
        scan = read_segment(path, number, fs.read(path), end=end)
        end = scan.opening.cut
        scans.append(scan)
    scans.reverse()
    return scans


def _check_successor(before: SegmentScan, scan: SegmentScan, image: JournalImage) -> None:
    """Check that a segment continues the one before it."""
    opening = scan.opening
    if scan.chain_before != before.chain:
        raise corrupt(scan.path, 0, f"it does not continue {before.path.name}")
    if (opening.first_index, opening.base, opening.term, opening.vote) != (
        image.next_index,
        image.base,
        image.term,
        image.vote,
    ):
        raise corrupt(scan.path, 0, f"its opening record differs from the end of {before.path.name}")


def _check_whole(directory: Path, last: SegmentScan, image: JournalImage, first: Segment) -> None:
    """Check that nothing is missing at either end."""
    if last.sealed:
        raise corrupt(last.path, last.end, "the segment after this one was durable and is missing")
    if image.start > image.base:
        raise JournalCorruptError(
            f"{directory}: the log must begin at entry {image.base}, but {first.path.name} begins at {image.start}: "
            f"an older segment is missing. {REPAIR}"
        )
    if image.start < image.base:
        del image.entries[: image.base - image.start]
        image.start = image.base
