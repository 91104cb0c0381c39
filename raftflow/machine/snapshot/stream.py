"""Snapshots: the machine as a stream of bytes, and back.

    frame   = length (4 bytes, big endian, of what follows) + kind (1 byte) + MessagePack
    stream  = HEADER, REQUESTS*, KINDS*, RESULTS*, AGENT*, (WORKFLOW, PROFILES*, TASKS*)*, (UPLOAD, PIECE*)*, END

Pieces are cuts of that stream at any place. What follows from something else is not in it (ledger, queues, timers,
counts, dependents): restoring derives it again, so that a restored machine is equal in every later answer. Equal
machines give equal bytes. A reader of format 1 refuses any other format.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import msgspec

from raftflow.machine.rules.context import ApplyContext
from raftflow.machine.snapshot.restoring import Builder, SnapshotError
from raftflow.machine.tables.copy_on_write import CHUNK, CHUNK_BITS, AgentRecord, CopyOnWrite, WorkflowRecord
from raftflow.machine.tables.kinds import Learnt
from raftflow.machine.tables.requests import Remembered
from raftflow.machine.tables.results import CachedResult
from raftflow.machine.tables.state import State
from raftflow.machine.tables.uploads import UploadRecord
from raftflow.machine.tables.workflows import Workflow

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
BATCH = 500
"""Remembered requests, kinds or profiles in a frame."""

_HEADER, _REQUESTS, _AGENT, _WORKFLOW, _PROFILES, _TASKS, _END = b"H", b"R", b"A", b"W", b"P", b"T", b"E"
_KINDS, _RESULTS, _UPLOAD, _PIECE = b"K", b"C", b"U", b"I"
_FRAME_BYTES_MAX = 2**31

_encoder = msgspec.msgpack.Encoder()


class Header(msgspec.Struct, array_like=True, frozen=True):
    """The first frame: format, position in the log, counters, and how much follows."""

    magic: str
    format: int
    feature_level: int
    applied_index: int
    applied_term: int
    clock_ms: int
    chain: bytes
    fence: int
    incarnation: int
    workflow_number: int
    finished_number: int
    requests: int
    agents: int
    workflows: int
    kinds: int = 0
    results: int = 0
    uploads: int = 0


_header_decoder = msgspec.msgpack.Decoder(Header)
_requests_decoder = msgspec.msgpack.Decoder(list[Remembered])
_kinds_decoder = msgspec.msgpack.Decoder(list[Learnt])
_results_decoder = msgspec.msgpack.Decoder(list[CachedResult])
_agent_decoder = msgspec.msgpack.Decoder(AgentRecord)
_workflow_decoder = msgspec.msgpack.Decoder(WorkflowRecord)
_upload_decoder = msgspec.msgpack.Decoder(UploadRecord)


class Snapshot:
    """An open snapshot: yields the pieces of the state as it was when this was made.

    Only references are taken at first; `CopyOnWrite` keeps what is changed before it is written. The snapshot ends
    when it is exhausted, closed, or dropped. If another one is opened or the machine is restored meanwhile, asking
    for the next piece raises `RuntimeError`, so that no half of a snapshot is ever taken for a whole one.
    """

    def __init__(self, step: ApplyContext, applied_index: int, applied_term: int, chain: bytes) -> None:
        state = step.state
        self._step = step
        self._copying = CopyOnWrite(state)
        requests = list(state.requests)
        agents = list(state.agents.values())
        workflows = list(state.workflows.values())
        results = list(state.results)
        kinds = list(state.kinds_learnt.values())
        # Pieces are only ever added, and never change.
        uploads = [(upload.record(), list(upload.pieces)) for upload in state.uploads.values()]
        # They are few, and change in place: they are written before anything can change them.
        kind_frames = [_encoder.encode(kinds[first : first + BATCH]) for first in range(0, len(kinds), BATCH)]
        header = Header(
            MAGIC,
            FORMAT,
            state.feature_level,
            applied_index,
            applied_term,
            step.clock_ms,
            chain,
            state.fence,
            state.incarnation,
            state.workflow_number,
            state.finished_number,
            len(requests),
            len(agents),
            len(workflows),
            len(kinds),
            len(results),
            len(uploads),
        )
        copying = self._copying

        def frames() -> Iterator[tuple[bytes, bytes]]:
            yield _HEADER, _encoder.encode(header)
            for first in range(0, len(requests), BATCH):
                yield _REQUESTS, _encoder.encode(requests[first : first + BATCH])
            for frame in kind_frames:
                yield _KINDS, frame
            for batch in _result_batches(results):
                yield _RESULTS, _encoder.encode(batch)
            for agent in agents:
                yield _AGENT, copying.write_agent(agent)
            for workflow in workflows:
                yield from _workflow_frames(copying, workflow)
            for record, received in uploads:
                yield _UPLOAD, _encoder.encode(record)
                for piece in received:
                    yield _PIECE, piece
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


def _workflow_frames(copying: CopyOnWrite, workflow: Workflow) -> Iterator[tuple[bytes, bytes]]:
    head, profiles = copying.write_head(workflow)
    yield _WORKFLOW, head
    for first in range(0, profiles, BATCH):
        yield _PROFILES, _encoder.encode(workflow.profiles[first : min(first + BATCH, profiles)])
    for chunk in range((len(workflow.tasks) + CHUNK - 1) >> CHUNK_BITS):
        for part in copying.write_chunk(workflow, chunk):
            yield _TASKS, part


def _result_batches(results: list[CachedResult]) -> Iterator[list[CachedResult]]:
    """Put cached results together up to the size of a piece, for one alone may be large."""
    batch: list[CachedResult] = []
    size = 0
    for result in results:
        batch.append(result)
        size += result.size_bytes
        if size >= PIECE_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


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
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise SnapshotError(f"not a readable snapshot: {error}") from error


def read_snapshot_header(pieces: Iterable[bytes]) -> Header:
    """Return the first frame of a snapshot, and read no further. Raises `SnapshotError`."""
    try:
        return _read_header(_frames(pieces))
    except msgspec.DecodeError as error:
        raise SnapshotError(f"not a readable snapshot: {error}") from error


def _read_header(frames: Iterator[tuple[bytes, bytes]]) -> Header:
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
    return _header_decoder.decode(payload)


def _read(frames: Iterator[tuple[bytes, bytes]], requests_max: int) -> tuple[Header, State]:
    header = _read_header(frames)
    builder = Builder(requests_max)
    state = builder.state
    state.feature_level = header.feature_level
    state.fence = header.fence
    state.incarnation = header.incarnation
    state.workflow_number = header.workflow_number
    state.finished_number = header.finished_number
    takers = _takers(builder)
    for kind, payload in frames:
        if kind == _END:
            break
        take = takers.get(kind)
        if take is None:
            raise SnapshotError(f"a frame of unknown kind {kind!r}")
        take(payload)
    else:
        raise SnapshotError("the snapshot has no end: it was cut off")
    if next(frames, None) is not None:
        raise SnapshotError("the snapshot goes on after its end")
    builder.finish(header.requests, header.agents, header.workflows, header.kinds, header.results, header.uploads)
    return header, state


def _takers(builder: Builder) -> dict[bytes, Callable[[bytes], None]]:
    """Return for each kind of frame who takes its content."""
    return {
        _REQUESTS: lambda payload: builder.add_requests(_requests_decoder.decode(payload)),
        _KINDS: lambda payload: builder.add_kinds(_kinds_decoder.decode(payload)),
        _RESULTS: lambda payload: builder.add_results(_results_decoder.decode(payload)),
        _AGENT: lambda payload: builder.add_agent(_agent_decoder.decode(payload)),
        _WORKFLOW: lambda payload: builder.add_workflow(_workflow_decoder.decode(payload)),
        _PROFILES: builder.add_profiles,
        _TASKS: builder.add_tasks,
        _UPLOAD: lambda payload: builder.add_upload(_upload_decoder.decode(payload)),
        _PIECE: builder.add_piece,
    }


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
