"""The audit file: one checksummed record for every command that this replica applied, append-only.

```
DIR/audit-<number>-<first index>.log      segments, oldest first (frames.py)
DIR/anchor                                where the file begins, once its oldest segments were dropped
```

Records are buffered and written without being synced: after a crash the log applies its entries again, and this
file compares what it has with what comes, byte by byte, before it goes on appending. The log compacts only what has
been synced here (`compact` is its `before_compaction`), so a record that is lost in a crash can always be made again.
A torn tail is cut off at the start; a difference means that the history was changed, and stops the replica.

When the segments have more than `bytes_max` together, the oldest are dropped. First the anchor is made durable: the
last index that goes and the chain hash after it. The chain of what remains is verified from there, and it seals what
was dropped too: a copy of it can still be verified.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from raftflow.coordinator.audit.frames import (
    GAP,
    MAGIC,
    MAGIC_ANY,
    RECORD,
    AuditError,
    Frame,
    Gap,
    chain_of,
    encode_frame,
    frames_in,
    read_plain,
    scan,
)
from raftflow.coordinator.audit.segments import (
    Anchor,
    AuditSegment,
    find_chain,
    parse_segment_name,
    read_anchor,
    read_frames,
    segment_path,
    write_anchor,
)
from raftflow.machine.rules.audit_chain import decode_record

if TYPE_CHECKING:
    from raftflow.replication.files import FileSystem, Lock, OpenFile

SEGMENT_BYTES: Final = 8 * 1024 * 1024
"""A segment that has grown to this is closed."""
BYTES_MAX: Final = 4 * 1024**3
"""Beyond this the oldest segments are dropped, unless the configuration says otherwise."""
_BUFFER_BYTES: Final = 256 * 1024
_FLUSH_S: Final = 0.05

_log = logging.getLogger(__name__)


class AuditFile:
    """One replica's audit. `open` it, tell it what the state machine restored, then append.

    Args:
        fs: where it lives; writes go to the page cache in the event loop's thread, syncs and long reads do not.
        directory: exists already.
        on_failure: called once if a write fails later than in `append`.
        bytes_max: how much is kept; at least the newest segment is.
    """

    def __init__(
        self,
        fs: FileSystem,
        directory: Path,
        on_failure: Callable[[Exception], None],
        *,
        bytes_max: int = BYTES_MAX,
    ) -> None:
        self._fs = fs
        self._directory = directory
        self._on_failure = on_failure
        self._bytes_max = bytes_max
        self._bytes_of: dict[int, int] = {}
        """Sizes of closed segments by number."""
        self.anchor = Anchor()
        self._segments: list[AuditSegment] = []
        self._file: OpenFile | None = None
        self._lock: Lock | None = None
        self._size = 0
        self._unsynced: list[OpenFile] = []
        self._directory_unsynced = False
        self._buffer = bytearray()
        self._flush_timer: asyncio.TimerHandle | None = None
        self._failed = False
        self._last_index = 0
        self._last_chain = b""
        self._expected: Iterator[Frame] | None = None
        self._covered = 0

    @property
    def last_index(self) -> int:
        """Index of the newest record, buffered ones included; 0 when empty."""
        return self._last_index

    # --- opening

    def open(self) -> None:
        """Find the segments and cut off a torn tail. Blocking. Raises `AuditError`."""
        try:
            self._lock = self._fs.lock(self._directory / "lock")
        except BlockingIOError:
            raise AuditError(f"the audit in {self._directory} is in use by another process; stop that one") from None
        try:
            names = [name for name in self._fs.list_dir(self._directory) if name.startswith("audit-")]
            self._segments = sorted(parse_segment_name(self._directory, name) for name in names)
            self._take_anchor()
            while self._segments and not self._open_last():
                self._segments.pop()
            self._bytes_of = {segment.number: self._size_of(segment) for segment in self._segments[:-1]}
        except OSError as error:
            raise AuditError(f"the audit in {self._directory} cannot be opened: {error}. Repair the disk.") from error
        self._expected = self._frames_after(0)
        self._covered = self.anchor.index

    def _take_anchor(self) -> None:
        """Read the anchor, and remove what a crash left of the segments before it."""
        path = self._directory / "anchor"
        if path.name not in self._fs.list_dir(self._directory):
            return
        self.anchor = read_anchor(self._fs, path)
        for segment in [each for each in self._segments if each.number <= self.anchor.segment]:
            self._fs.remove(segment.path)
            self._segments.remove(segment)
        self._last_index, self._last_chain = self.anchor.index, self.anchor.chain

    def _size_of(self, segment: AuditSegment) -> int:
        file = self._fs.open(segment.path)
        try:
            return file.size()
        finally:
            file.close()

    def _open_last(self) -> bool:
        """Open the last segment for appending; False if it held nothing and was removed."""
        segment = self._segments[-1]
        data = self._fs.read(segment.path)
        if data.startswith(MAGIC_ANY) and not data.startswith(MAGIC):
            version = data[len(MAGIC_ANY) : len(MAGIC)]
            if version.isalnum():  # anything else is an incomplete first write
                raise AuditError(
                    f"{segment.path}: audit format {version.decode()}, but this program reads format "
                    f"{MAGIC[len(MAGIC_ANY) :].decode()}. Start the version of raftflow that wrote it, or a newer "
                    f"one."
                )
        good, last = scan(data)
        if good < len(data):
            self._keep_torn(segment, data[good:])
        if last is None:
            self._fs.remove(segment.path)
            return False
        file = self._fs.open(segment.path)
        if good < len(data):
            file.truncate(good)
        self._file, self._size = file, good
        self._unsynced.append(file)
        self._last_index, self._last_chain = last.index, chain_of(last)
        return True

    def _keep_torn(self, segment: AuditSegment, tail: bytes) -> None:
        """Keep what is cut off: after a crash it is half a record, but it may be evidence of something else."""
        kept = self._directory / f"torn-{segment.number:08d}"
        _log.warning("%s: cut off %d bytes of an incomplete record; kept in %s", segment.path, len(tail), kept)
        self._fs.remove(kept)
        file = self._fs.open(kept, create=True)
        file.write_at(0, tail)
        file.close()

    def restored(self, index: int, chain: bytes) -> None:
        """Note that the state machine is now at `index` with this chain hash.

        Called when a snapshot was loaded at the start or installed later. What the file holds beyond is compared
        with what `append` brings; what it lacks becomes a gap. Raises `AuditError` if the two contradict each other.
        """
        self.flush()
        if index > self._last_index:
            if chain != self._last_chain:
                gap = Gap(self._last_index + 1, index, chain)
                self._write_frame(GAP, index, msgspec.msgpack.encode(gap))
                self._last_index, self._last_chain = index, chain
                _log.info("audit: indexes %d to %d came as a snapshot", gap.first, gap.last)
            self._expected = None
            return
        known = self._chain_at(index)
        if known is not None and known != chain:
            raise AuditError(
                f"the audit in {self._directory} and the snapshot at index {index} tell different histories. Do not "
                f"delete either: compare with `raftflow audit verify` on the other replicas, then let this replica "
                f"join again with an empty directory."
            )
        self._expected = self._frames_after(index)
        self._covered = self.anchor.index

    def _chain_at(self, index: int) -> bytes | None:
        """Return the chain hash after `index`, or None if the file begins later or has a gap there."""
        return find_chain(index, self.anchor, self._segments, self._fs.read)

    def _frames_after(self, index: int) -> Iterator[Frame]:
        """Yield what the file held when this was called, beyond `index`."""
        segments = list(self._segments)
        for place, segment in enumerate(segments):
            if place + 1 < len(segments) and segments[place + 1].first_index <= index:
                continue
            for frame in frames_in(self._fs.read(segment.path), segment.path):
                if frame.index > index:
                    yield frame

    # --- appending

    def append(self, index: int, records: Sequence[bytes]) -> None:
        """Add the records of one applied entry, or compare them if they are known from before a restart.

        Raises `AuditError` if they differ, or if an earlier write failed.
        """
        if self._failed:
            raise AuditError(f"the audit in {self._directory} could not be written; the replica must stop")
        if self._expected is not None:
            records = self._compare(index, records)
        for record in records:
            self._write_frame(RECORD, index, record)
        if records:
            self._last_index, self._last_chain = index, decode_record(records[-1]).chain

    def _compare(self, index: int, records: Sequence[bytes]) -> Sequence[bytes]:
        """Check records against the file and return those that it does not have yet."""
        assert self._expected is not None  # noqa: S101 - the caller asked
        for place, record in enumerate(records):
            if index <= self._covered:
                continue
            known = next(self._expected, None)
            if known is None:
                self._expected = None
                return records[place:]
            if known.kind == GAP and index <= known.index:
                # A snapshot was installed here and lost in a crash; now the entries themselves come.
                self._covered = known.index
                continue
            if (known.kind, known.index, known.payload) != (RECORD, index, record):
                raise AuditError(
                    f"the audit in {self._directory} holds another record at index {known.index} than the log gives "
                    f"for index {index}. The history was changed, or the program computes it differently. Do not "
                    f"delete either; run `raftflow audit verify` on the other replicas, and start the version of "
                    f"raftflow that wrote the audit, or let this replica join again with an empty directory."
                )
        return ()

    def _write_frame(self, kind: int, index: int, payload: bytes) -> None:
        if self._file is None or self._size + len(self._buffer) >= SEGMENT_BYTES:
            self._roll(index)
        self._buffer += encode_frame(kind, index, payload)
        if len(self._buffer) >= _BUFFER_BYTES:
            self.flush()
        elif self._flush_timer is None:
            self._flush_timer = asyncio.get_running_loop().call_later(_FLUSH_S, self._flush_later)

    def _roll(self, first_index: int) -> None:
        """Begin a new segment."""
        self.flush()
        if self._segments:
            self._bytes_of[self._segments[-1].number] = self._size
        number = 1 + (self._segments[-1].number if self._segments else self.anchor.segment)
        path = segment_path(self._directory, number, first_index)
        file = self._fs.open(path, create=True)
        file.write_at(0, MAGIC)
        self._segments.append(AuditSegment(number, first_index, path))
        self._file, self._size = file, len(MAGIC)
        self._unsynced.append(file)
        self._directory_unsynced = True

    def flush(self) -> None:
        """Hand everything buffered to the operating system. Raises `OSError`."""
        if self._flush_timer is not None:
            self._flush_timer.cancel()
            self._flush_timer = None
        if self._buffer:
            assert self._file is not None  # noqa: S101 - nothing is buffered without a segment
            try:
                self._file.write_at(self._size, bytes(self._buffer))
            except OSError:
                self._failed = True
                raise
            self._size += len(self._buffer)
            self._buffer.clear()

    def _flush_later(self) -> None:
        self._flush_timer = None
        try:
            self.flush()
        except OSError as error:
            self._on_failure(
                AuditError(
                    f"the audit in {self._directory} cannot be written: {error}. Free space or repair the disk, then "
                    f"start this replica again; the log has everything that is missing here."
                )
            )

    async def sync(self) -> None:
        """Make everything appended so far durable. Raises `OSError`; then nothing more is accepted."""
        self.flush()
        files, self._unsynced = self._unsynced, [] if self._file is None else [self._file]
        directory, self._directory_unsynced = self._directory_unsynced, False
        try:
            for file in files:
                await file.sync_off_loop()
                if file is not self._file:
                    file.close()
            if directory:
                await self._fs.off_loop(lambda: self._fs.sync_dir(self._directory))
        except OSError:
            self._failed = True
            raise

    async def compact(self) -> None:
        """Make everything durable, and drop the oldest segments beyond the limit. Raises `OSError`."""
        await self.sync()
        if self._expected is not None or self._failed:
            return  # records from before the restart are still being compared
        excess = sum(self._bytes_of.values()) + self._size - self._bytes_max
        going: list[AuditSegment] = []
        for segment in self._segments[:-1]:
            if excess <= 0:
                break
            going.append(segment)
            excess -= self._bytes_of[segment.number]
        if going:
            following = self._segments[len(going)]
            await self._drop(going, following)

    async def _drop(self, going: list[AuditSegment], following: AuditSegment) -> None:
        """Note where the file begins from now on, then remove `going`."""
        number, path = going[-1].number, going[-1].path
        data = await self._fs.off_loop(lambda: read_plain(self._fs, path))
        good, last = scan(data)
        if last is None or good < len(data):
            _log.error("%s is damaged at byte %d: nothing is dropped from the audit", path, good)
            return
        if last.index == following.first_index:
            return  # an entry's records stay together; more segments go next time
        anchor = Anchor(last.index, chain_of(last), number)
        await self._fs.off_loop(lambda: write_anchor(self._fs, self._directory / "anchor", anchor))
        self.anchor = anchor
        self._segments = [segment for segment in self._segments if segment.number > number]
        for segment in going:
            self._bytes_of.pop(segment.number)
            await self._fs.off_loop(lambda path=segment.path: self._fs.remove(path))  # type: ignore[misc]
        _log.info("audit: %d segments up to index %d were dropped, as the limit says", len(going), anchor.index)

    async def close(self) -> None:
        """Write, sync and close. Does not raise: the log can restore what could not be written."""
        try:
            if not self._failed:
                await self.sync()
        except OSError as error:
            _log.error("the audit in %s was not closed cleanly: %s", self._directory, error)
        if self._flush_timer is not None:
            self._flush_timer.cancel()
        for file in self._unsynced:
            file.close()
        self._unsynced.clear()
        self._file = None
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    # --- reading

    async def read(self, first_index: int, count_max: int) -> tuple[list[Frame], int | None]:
        """Return frames from `first_index` on, whole entries, about `count_max`, and the index to go on from."""
        self.flush()
        segments = list(self._segments)

        return await self._fs.off_loop(
            lambda: read_frames(self._fs, segments, first_index, count_max, self._is_dropped)
        )

    def _is_dropped(self, segment: AuditSegment) -> bool:
        return segment.number <= self.anchor.segment

    async def chain_after(self, index: int) -> bytes | None:
        """Return the chain hash after entry `index`, None if the file does not tell. Reads one or two segments."""
        self.flush()
        anchor, segments = self.anchor, list(self._segments)

        def look() -> bytes | None:
            try:
                return find_chain(index, anchor, segments, lambda path: read_plain(self._fs, path))
            except (AuditError, FileNotFoundError):
                return None  # damaged, which `verify` tells, or dropped meanwhile

        return await self._fs.off_loop(look)

    async def segments(self) -> list[Path]:
        """Return the paths of the segments, everything appended so far being in them."""
        self.flush()
        return [segment.path for segment in self._segments]

    async def frames_of(self, path: Path) -> list[Frame]:
        """Read one segment whole. Raises `AuditError` if it is damaged."""
        return await self._fs.off_loop(lambda: list(frames_in(read_plain(self._fs, path), path)))
