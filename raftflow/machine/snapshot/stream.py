"""Snapshots: the machine as a stream of bytes, and back.

    frame   = length (4 bytes, big endian, of what follows) + kind (1 byte) + MessagePack
    stream  = HEADER, the frames of each saved table in the order of the registry, END

Which tables there are, and how each is written and read: `schema`. Pieces are cuts of that stream at any place. What
follows from something else is not in it (ledger, queues, timers, counts, dependents): restoring derives it again, so
that a restored machine is equal in every later answer. Equal machines give equal bytes. A reader of format 1 refuses
any other format.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec

from raftflow.domain.values.exact import UNREADABLE
from raftflow.machine.rules.context import ApplyContext
from raftflow.machine.schema import registry
from raftflow.machine.schema.declaration import Frame, Reader, Restoring, SnapshotError
from raftflow.machine.tables.copy_on_write import CopyOnWrite
from raftflow.machine.tables.state import State

__all__ = [
    "FORMAT",
    "PIECE_BYTES_MAX",
    "Header",
    "Snapshot",
    "SnapshotError",
    "read_snapshot",
    "read_snapshot_header",
]

FORMAT = 1
MAGIC = "raftflow-machine"

PIECE_BYTES = 64 * 1024
"""A piece is closed once it has this many bytes."""
PIECE_BYTES_MAX = 256 * 1024
PIECE_FRAMES_MAX = 1_000

_HEADER, _END = b"H", b"E"
_FRAME_BYTES_MAX = 2**31

_encoder = msgspec.msgpack.Encoder()


class Header(msgspec.Struct, array_like=True, frozen=True):
    """The first fields of the first frame: format and position in the log.

    Behind them, at the places that `schema` declares, are the counters of the state and the number of rows of each
    saved table. A place beyond the end counts as 0: the table is newer than the snapshot.
    """

    magic: str
    format: int
    feature_level: int
    applied_index: int
    applied_term: int
    clock_ms: int
    chain: bytes


class Snapshot:
    """An open snapshot: yields the pieces of the state as it was when this was made.

    Only references are taken at first; `CopyOnWrite` keeps what is changed before it is written. The snapshot ends
    when it is exhausted, closed, or dropped. If another one is opened or the machine is restored meanwhile, asking
    for the next piece raises `RuntimeError`, so that half a snapshot is never taken for a whole one.
    """

    def __init__(self, step: ApplyContext, applied_index: int, applied_term: int, chain: bytes) -> None:
        state = step.state
        self._step = step
        self._copying = copying = CopyOnWrite(state)
        frozen = [(saved, saved.freeze(state, copying)) for _, saved in registry.saved_tables()]
        numbers = {counter.field: getattr(state, counter.name) for counter in registry.COUNTERS}
        numbers |= {saved.field: table.rows for saved, table in frozen}
        header = Header(MAGIC, FORMAT, state.feature_level, applied_index, applied_term, step.clock_ms, chain)

        def frames() -> Iterator[Frame]:
            yield _HEADER, _encoder.encode((*msgspec.structs.astuple(header), *in_order(numbers)))
            for _, table in frozen:
                yield from table.frames
            yield _END, b"\xc0"

        self._pieces = _cut(frames())
        self._closed = False
        step.copying = copying

    def __iter__(self) -> Snapshot:
        return self

    def __next__(self) -> bytes:
        if self._closed:
            raise StopIteration
        if self._step.copying is not self._copying:
            raise RuntimeError("this snapshot was ended by a newer one or by a restore; take a new one")
        try:
            return next(self._pieces)
        except StopIteration:
            self.close()
            raise

    def close(self) -> None:
        """End the snapshot; `apply` stops keeping old versions for it."""
        self._closed = True
        if self._step.copying is self._copying:
            self._step.copying = None

    def __del__(self) -> None:
        self.close()


def in_order(numbers: dict[int, int]) -> list[int]:
    """Return the numbers of a header in the order of their places, which have no gap."""
    first = len(Header.__struct_fields__)
    return [numbers[place] for place in range(first, first + len(numbers))]


def _cut(frames: Iterator[tuple[bytes, bytes]]) -> Iterator[bytes]:
    """Put frames together, or apart, into pieces of a good size."""
    buffer = bytearray()
    count = 0
    for kind, payload in frames:
        buffer += (len(payload) + 1).to_bytes(4, "big")
        buffer += kind
        buffer += payload
        count += 1
        if len(buffer) >= PIECE_BYTES or count >= PIECE_FRAMES_MAX:
            yield from _slices(buffer)
            buffer = bytearray()
            count = 0
    yield from _slices(buffer)


def _slices(buffer: bytearray) -> Iterator[bytes]:
    for first in range(0, len(buffer), PIECE_BYTES_MAX):
        yield bytes(buffer[first : first + PIECE_BYTES_MAX])


# --- reading


def read_snapshot(pieces: Iterable[bytes], requests_max: int) -> tuple[Header, State]:
    """Build the state that a snapshot holds. Raises `SnapshotError`, a `ValueError`, if it is not a whole one."""
    frames = _frames(pieces)
    try:
        return _read(frames, requests_max)
    except UNREADABLE as error:
        raise SnapshotError(f"not a readable snapshot: {error}") from error


def read_snapshot_header(pieces: Iterable[bytes]) -> Header:
    """Return the first frame of a snapshot, and read no further. Raises `SnapshotError`."""
    try:
        return _read_header(_frames(pieces))[0]
    except UNREADABLE as error:
        raise SnapshotError(f"not a readable snapshot: {error}") from error


def _read(frames: Iterator[Frame], requests_max: int) -> tuple[Header, State]:
    header, numbers = _read_header(frames)
    restoring = Restoring(requests_max)
    state = restoring.state
    state.feature_level = header.feature_level
    for counter in registry.COUNTERS:
        setattr(state, counter.name, numbers.get(counter.field, 0))
    tables = registry.saved_tables()
    readers: dict[bytes, Reader] = {}
    for _, saved in tables:
        readers |= dict.fromkeys(saved.kinds, saved.reader(restoring))
    for kind, payload in frames:
        if kind == _END:
            break
        reader = readers.get(kind)
        if reader is None:
            raise SnapshotError(f"a frame of unknown kind {kind!r}")
        reader.take(kind, payload)
    else:
        raise SnapshotError("the snapshot has no end: it was cut off")
    if next(frames, None) is not None:
        raise SnapshotError("the snapshot goes on after its end")
    for _, saved in tables:
        readers[saved.kinds[0]].finish()
    for table, saved in tables:
        if len(getattr(state, table.name)) != numbers.get(saved.field, 0):
            raise SnapshotError(f"the snapshot holds another number of rows of {table.name} than its header says")
    registry.derive(restoring)
    return header, state


def _read_header(frames: Iterator[Frame]) -> tuple[Header, dict[int, int]]:
    """Read the first frame: its first fields, and the numbers behind them by their places."""
    kind, payload = next(frames, (b"", b""))
    if kind != _HEADER:
        raise SnapshotError("not a snapshot: it does not start with a header")
    start = msgspec.msgpack.decode(payload)
    if not isinstance(start, list) or start[:1] != [MAGIC]:
        raise SnapshotError("not a snapshot of this machine")
    if start[1:2] != [FORMAT]:
        raise SnapshotError(
            f"snapshot format {start[1:2]}; this version reads {FORMAT}: use the version that wrote it"
        )
    first = len(Header.__struct_fields__)
    header = msgspec.msgpack.decode(payload, type=Header)
    numbers = msgspec.convert(start[first:], list[int])
    return header, dict(enumerate(numbers, start=first))


def _frames(pieces: Iterable[bytes]) -> Iterator[tuple[bytes, bytes]]:
    """Find the frames in a stream of pieces: kind and content of each."""
    buffer = bytearray()
    for piece in pieces:
        buffer += piece
        start = 0
        while len(buffer) - start >= 4:
            length = int.from_bytes(buffer[start : start + 4], "big")
            if not 1 <= length <= _FRAME_BYTES_MAX:
                raise SnapshotError(f"a frame of {length} bytes")
            end = start + 4 + length
            if len(buffer) < end:
                break
            yield bytes(buffer[start + 4 : start + 5]), bytes(buffer[start + 5 : end])
            start = end
        del buffer[:start]
    if buffer:
        raise SnapshotError("the snapshot was cut off within a frame")
