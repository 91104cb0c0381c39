"""The audit file: one checksummed record for every command that this replica applied, append-only.

```
DIR/audit-<number>-<first index>.log      segments, oldest first
    "RFAUDIT1"                            8 bytes
    frame*                                crc32 u32 | payload length u32 | kind u8 | index u64 | payload
```

The crc covers the rest of the frame. Kind 1 is a record, as the state machine made it; kind 2 is a gap: a snapshot
brought everything up to `index` in place of entries, and the payload says since when and with which chain hash.

Records are buffered and written without being synced: after a crash the log applies its entries again, and this
file compares what it has with what comes, byte by byte, before it goes on appending. The log compacts only what has
been synced here (`sync` is its `before_compaction`), so a record that is lost in a crash can always be made again.
A torn tail is cut off at the start; a difference means that the history was changed, and stops the replica.
"""

from __future__ import annotations

import asyncio
import logging
import struct
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple
from zlib import crc32

import msgspec

from raftflow.domain.contract import AuditRecord
from raftflow.machine.audit import decode_record

if TYPE_CHECKING:
    from raftflow.replication.files import FileSystem, Lock, OpenFile

MAGIC: Final = b"RFAUDIT1"
_MAGIC_ANY: Final = b"RFAUDIT"
"""What the magic of every format begins with; the rest is the format."""
_HEAD: Final = struct.Struct("<IIBQ")
_CRC_BYTES: Final = 4
RECORD: Final = 1
GAP: Final = 2
SEGMENT_BYTES: Final = 8 * 1024 * 1024
"""A segment that has grown to this is closed."""
FRAME_BYTES_MAX: Final = 64 * 1024 * 1024
_BUFFER_BYTES: Final = 256 * 1024
_FLUSH_S: Final = 0.05

_log = logging.getLogger(__name__)


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


class _Segment(NamedTuple):
    number: int
    first_index: int
    path: Path


class AuditFile:
    """One replica's audit. `open` it, tell it what the state machine restored, then append.

    Args:
        fs: where it lives; writes go to the page cache in the event loop's thread, syncs and long reads do not.
        directory: exists already.
        on_failure: called once if a write fails later than in `append`.
    """

    def __init__(self, fs: FileSystem, directory: Path, on_failure: Callable[[Exception], None]) -> None:
        self._fs = fs
        self._directory = directory
        self._on_failure = on_failure
        self._segments: list[_Segment] = []
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
            self._segments = sorted(_parse_name(self._directory, name) for name in names)
            while self._segments and not self._open_last():
                self._segments.pop()
        except OSError as error:
            raise AuditError(f"the audit in {self._directory} cannot be opened: {error}. Repair the disk.") from error
        self._expected = self._frames_after(0)

    def _open_last(self) -> bool:
        """Open the last segment for appending; False if it held nothing and was removed."""
        segment = self._segments[-1]
        data = self._fs.read(segment.path)
        if data.startswith(_MAGIC_ANY) and not data.startswith(MAGIC):
            version = data[len(_MAGIC_ANY) : len(MAGIC)]
            if version.isalnum():  # anything else is a first write that was cut short
                raise AuditError(
                    f"{segment.path}: audit format {version.decode()}, but this program reads format "
                    f"{MAGIC[len(_MAGIC_ANY) :].decode()}. Start the version of raftflow that wrote it, or a newer "
                    f"one."
                )
        good, last = _scan(data)
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
        self._last_index, self._last_chain = last.index, _chain_of(last)
        return True

    def _keep_torn(self, segment: _Segment, tail: bytes) -> None:
        """Put what is cut off aside: after a crash it is half a record, but it may be evidence of something else."""
        kept = self._directory / f"torn-{segment.number:08d}"
        _log.warning("%s: cut off %d bytes that are no whole record; kept in %s", segment.path, len(tail), kept)
        self._fs.remove(kept)
        file = self._fs.open(kept, create=True)
        file.write_at(0, tail)
        file.close()

    def restored(self, index: int, chain: bytes) -> None:
        """Note that the state machine now stands at `index` with this chain hash, whatever it was before.

        Called when a snapshot was loaded at the start or installed later. What the file holds beyond is compared
        with what `append` brings; what it lacks becomes a gap. Raises `AuditError` if the two contradict each other.
        """
        self.flush()
        if index > self._last_index:
            if chain != self._last_chain:
                gap = Gap(self._last_index + 1, index, chain)
                self._write_frame(GAP, index, msgspec.msgpack.encode(gap))
                self._last_index, self._last_chain = index, chain
                _log.warning("audit: indexes %d to %d came as a snapshot", gap.first, gap.last)
            self._expected = None
            return
        known = self._chain_at(index)
        if known is not None and known != chain:
            raise AuditError(
                f"the audit in {self._directory} and the snapshot at index {index} tell different histories. Do not "
                f"delete either: compare with `raftflow audit verify` on the other replicas, then let this replica "
                f"join anew with an empty directory."
            )
        self._expected = self._frames_after(index)
        self._covered = 0

    def _chain_at(self, index: int) -> bytes | None:
        """Return the chain hash after `index`, or None if the file begins later."""
        if index == 0:
            return None
        known = None
        for segment in reversed(self._segments):
            if segment.first_index > index:
                continue
            for frame in _frames(self._fs.read(segment.path), segment.path):
                if frame.index > index:
                    break
                known = frame
            if known is not None:
                return _chain_of(known)
        return None

    def _frames_after(self, index: int) -> Iterator[Frame]:
        """Yield what the file held when this was called, beyond `index`."""
        segments = list(self._segments)
        for place, segment in enumerate(segments):
            if place + 1 < len(segments) and segments[place + 1].first_index <= index:
                continue
            for frame in _frames(self._fs.read(segment.path), segment.path):
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
                    f"raftflow that wrote the audit, or let this replica join anew with an empty directory."
                )
        return ()

    def _write_frame(self, kind: int, index: int, payload: bytes) -> None:
        if self._file is None or self._size + len(self._buffer) >= SEGMENT_BYTES:
            self._roll(index)
        head = _HEAD.pack(0, len(payload), kind, index)[_CRC_BYTES:]
        self._buffer += crc32(payload, crc32(head)).to_bytes(_CRC_BYTES, "little")
        self._buffer += head
        self._buffer += payload
        if len(self._buffer) >= _BUFFER_BYTES:
            self.flush()
        elif self._flush_timer is None:
            self._flush_timer = asyncio.get_running_loop().call_later(_FLUSH_S, self._flush_later)

    def _roll(self, first_index: int) -> None:
        """Begin a new segment."""
        self.flush()
        number = self._segments[-1].number + 1 if self._segments else 1
        path = self._directory / f"audit-{number:08d}-{first_index:020d}.log"
        file = self._fs.open(path, create=True)
        file.write_at(0, MAGIC)
        self._segments.append(_Segment(number, first_index, path))
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
        """Make everything appended so far durable. Raises `OSError`, after which nothing more is accepted."""
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

    async def close(self) -> None:
        """Write, sync and close. Does not raise: the log can make again what could not be written."""
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

        def scan() -> tuple[list[Frame], int | None]:
            found: list[Frame] = []
            for place, segment in enumerate(segments):
                if place + 1 < len(segments) and segments[place + 1].first_index < first_index:
                    continue
                for frame in _frames(_read_plain(self._fs, segment.path), segment.path):
                    if frame.index < first_index:
                        continue
                    # An entry's records stay together, since the cursor is an index.
                    if len(found) >= count_max and frame.index != found[-1].index:
                        return found, frame.index
                    found.append(frame)
            return found, None

        return await self._fs.off_loop(scan)

    async def segments(self) -> list[Path]:
        """Return the paths of the segments, everything appended so far being in them."""
        self.flush()
        return [segment.path for segment in self._segments]

    async def frames_of(self, path: Path) -> list[Frame]:
        """Read one segment whole. Raises `AuditError` if it is damaged."""
        return await self._fs.off_loop(lambda: list(_frames(_read_plain(self._fs, path), path)))


def decode_gap(frame: Frame) -> Gap:
    """Decode a frame of kind `GAP`."""
    return msgspec.msgpack.decode(frame.payload, type=Gap)


def record_of(frame: Frame) -> AuditRecord:
    """Decode a frame of kind `RECORD`."""
    return decode_record(frame.payload)


def _chain_of(frame: Frame) -> bytes:
    return decode_gap(frame).chain if frame.kind == GAP else record_of(frame).chain


def _parse_name(directory: Path, name: str) -> _Segment:
    parts = name.removesuffix(".log").split("-")
    if len(parts) != 3 or not (parts[1].isdigit() and parts[2].isdigit()) or not name.endswith(".log"):
        raise AuditError(f"{directory / name} is not a segment of the audit; move it away")
    return _Segment(int(parts[1]), int(parts[2]), directory / name)


def _read_plain(fs: FileSystem, path: Path) -> bytes:
    """Read without dropping caches, as for a listing."""
    file = fs.open(path)
    try:
        return file.read_at(0, file.size())
    finally:
        file.close()


def _scan(data: bytes) -> tuple[int, Frame | None]:
    """Return how many bytes are whole frames, and the last of them."""
    if not data.startswith(MAGIC):
        return 0, None
    offset, last = len(MAGIC), None
    while (step := _frame_at(data, offset)) is not None:
        offset, last = step
    return offset, last


def _frames(data: bytes, path: Path) -> Iterator[Frame]:
    """Yield the frames of a segment. Raises `AuditError` at the first damaged one."""
    offset = len(MAGIC) if data.startswith(MAGIC) else 0
    while offset < len(data):
        step = _frame_at(data, offset) if offset else None
        if step is None:
            raise AuditError(
                f"{path} is damaged at byte {offset}. The other replicas hold the same records: let this replica "
                f"join anew with an empty directory, or move the file away and keep it as evidence."
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
