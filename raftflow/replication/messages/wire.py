"""The messages between replicas as bytes: a fixed binary layout, so that nothing received is ever unpickled.

A message is the dict that PySyncObj gives to its transport, or one of raftflow's for reads and snapshots. Only the
messages in the table below exist; the library's command forwarding, its utility messages, its pickled snapshot and
"transmission" messages have no encoding, so they can be neither sent nor received.

Every frame is big-endian and begins with u8 format version, u8 type, u64 term. Then, by type:

    request_vote     u64 last_log_index, u64 last_log_term
    response_vote    (nothing)
    append_entries   u64 commit_index, u64 prevLogIdx, u64 prevLogTerm, u32 count, then per entry
                     u64 term, u32 length, command; indexes follow from prevLogIdx, which is 0 for None
    heartbeat        u64 commit_index; in the dict an append_entries without prevLogIdx and entries
    next_node_idx    u64 next_node_idx, u8 flags (1 reset, 2 success)
    timeout_now      (nothing)
    read_probe       u64 seq
    read_ack         u64 seq
    snapshot_begin   u64 transfer_id, u64 index, u64 snap_term, u64 size
    snapshot_chunk   u64 transfer_id, u64 offset, data to the end of the frame
    snapshot_end     u64 transfer_id
    snapshot_ack     u64 transfer_id, u64 offset, u8 status (0 more, 1 done, 2 refused)
    removed          (nothing)
    pre_vote         u64 last_log_index, u64 last_log_term, u64 seq; its term is that of the wanted election
    pre_vote_granted u64 seq; the term and seq of the question
    pre_vote_refused u64 seq, u64 voter_term; the same, and the term of the sender
    birth            data to the end of the frame (births.py); its term is 0

`decode` accepts exactly what `encode` can produce. Entries are checked against the envelope (envelope.py) and their
terms may neither fall nor pass the message's term.
"""

from __future__ import annotations

import struct
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, Final

from raftflow.replication.messages import envelope

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

Message = dict[str, Any]
"""A message as the library and the replica use it."""
Entry = tuple[bytes, int, int]
"""Command bytes, index, term: the library's order."""

WIRE_VERSION: Final = 1
FRAME_BYTES_MAX: Final = 32 * 1024 * 1024
"""Longest frame, on both sides of a link."""
APPEND_BYTES_MAX: Final = FRAME_BYTES_MAX - 64
"""Longest encoding of the entries of one append_entries; see `take_prefix`."""
CHUNK_BYTES_MAX: Final = 4 * 1024 * 1024
"""Longest chunk of a snapshot in one frame."""
NUMBER_MAX: Final = 2**63 - 1
"""Largest term, index, offset and sequence number."""

BIRTH_BYTES_MAX: Final = 64 * 1024
"""Longest body of a birth frame."""

SNAPSHOT_STATUSES: Final = ("more", "done", "refused")

_ENTRY: Final = struct.Struct(">QI")
_APPEND: Final = struct.Struct(">BBQQQQI")

_REQUEST_VOTE, _RESPONSE_VOTE, _APPEND_ENTRIES, _HEARTBEAT, _NEXT_NODE_IDX, _TIMEOUT_NOW = range(1, 7)
_READ_PROBE, _READ_ACK, _SNAPSHOT_BEGIN, _SNAPSHOT_CHUNK, _SNAPSHOT_END, _SNAPSHOT_ACK = range(7, 13)
_REMOVED: Final = 13
_BIRTH: Final = 14
_PRE_VOTE, _PRE_VOTE_GRANTED, _PRE_VOTE_REFUSED = range(15, 18)


class FrameError(ValueError):
    """A message that cannot be encoded, or a frame that is not a message. No part of it may be used."""


_CANDIDACIES: Final = frozenset({_REQUEST_VOTE, _PRE_VOTE})
# Messages that are numbers and nothing else: type, code, and the names of the u64 fields after the term.
_PLAIN: Final[tuple[tuple[str, int, tuple[str, ...]], ...]] = (
    ("request_vote", _REQUEST_VOTE, ("last_log_index", "last_log_term")),
    ("response_vote", _RESPONSE_VOTE, ()),
    ("timeout_now", _TIMEOUT_NOW, ()),
    ("read_probe", _READ_PROBE, ("seq",)),
    ("read_ack", _READ_ACK, ("seq",)),
    ("snapshot_begin", _SNAPSHOT_BEGIN, ("transfer_id", "index", "snap_term", "size")),
    ("snapshot_end", _SNAPSHOT_END, ("transfer_id",)),
    ("removed", _REMOVED, ()),
    ("pre_vote", _PRE_VOTE, ("last_log_index", "last_log_term", "seq")),
    ("pre_vote_granted", _PRE_VOTE_GRANTED, ("seq",)),
    ("pre_vote_refused", _PRE_VOTE_REFUSED, ("seq", "voter_term")),
)


def entry_bytes(entry: Entry) -> int:
    """Return how long one entry is inside an append_entries frame."""
    return _ENTRY.size + len(entry[0])


def take_prefix(entries: Sequence[Entry], bytes_max: int = APPEND_BYTES_MAX) -> Sequence[Entry]:
    """Return the longest run of first entries whose encoding fits in `bytes_max`, but at least one entry.

    The library can put the whole log into one message. Sending less of it is safe: the follower acknowledges what
    it got, and the acknowledgement sets the leader's next index for it.
    """
    total = 0
    for position, entry in enumerate(entries):
        total += entry_bytes(entry)
        if total > bytes_max:
            return entries[: max(position, 1)]
    return entries


def encode_entries(entries: Sequence[Entry]) -> bytes:
    """Encode entries as the body of an append_entries, the same for every follower.

    Raises `FrameError` if indexes are not consecutive, terms fall, or a command is not in the envelope.
    """
    parts: list[bytes] = []
    expected = entries[0][1] if entries else 0
    previous = 0
    for command, index, term in entries:
        if index != expected or not previous <= term <= NUMBER_MAX:
            raise FrameError(f"entry {index} of term {term} cannot follow entry {expected - 1} of term {previous}")
        _check_command(command, index)
        parts += (_ENTRY.pack(term, len(command)), command)
        previous = term
        expected += 1
    return b"".join(parts)


class BodyCache:
    """Remembers the latest encoded bodies, so that several followers cost one encoding.

    The key is (first index, last index, last term). In Raft the last entry's index and term fix everything before
    it, so equal keys mean equal bodies; keep one cache per replica, never one for several logs.
    """

    def __init__(self, bodies_max: int = 4) -> None:
        self._bodies: OrderedDict[tuple[int, int, int], bytes] = OrderedDict()
        self._bodies_max = bodies_max

    def encode(self, entries: Sequence[Entry]) -> bytes:
        """Return `encode_entries(entries)`, from memory if it was asked for lately."""
        if not entries:
            return b""
        last = entries[-1]
        key = (entries[0][1], last[1], last[2])
        body = self._bodies.get(key)
        if body is None:
            body = self._bodies[key] = encode_entries(entries)
            if len(self._bodies) > self._bodies_max:
                self._bodies.popitem(last=False)
        return body


def encode(message: Message, cache: BodyCache | None = None) -> bytes | list[bytes]:
    """Encode a message as one frame: bytes, or a list of buffers that are the frame when joined.

    With a `cache` the entries' encoding is shared between followers. Raises `FrameError` for a message that has no
    encoding, lacks a field, has one too many, or is longer than `FRAME_BYTES_MAX`.
    """
    try:
        encoder = _ENCODERS[message["type"]]
        return encoder(message, cache)
    except FrameError:
        raise
    except (KeyError, TypeError, struct.error, IndexError, ValueError) as error:
        raise FrameError(f"{message.get('type')!r} message has no encoding: {error!r}") from error


def decode(frame: bytes) -> Message:
    """Decode one frame. Raises `FrameError` for anything that `encode` would not have produced."""
    size = len(frame)
    if size < 10 or size > FRAME_BYTES_MAX:
        raise FrameError(f"frame of {size} bytes")
    if frame[0] != WIRE_VERSION:
        raise FrameError(f"frame of version {frame[0]}; this replica speaks version {WIRE_VERSION}")
    decoder = _DECODERS.get(frame[1])
    if decoder is None:
        raise FrameError(f"frame of unknown type {frame[1]}")
    try:
        return decoder(frame)
    except struct.error as error:
        raise FrameError(f"frame of type {frame[1]} and {size} bytes: {error}") from error


def _number(value: object, name: str, least: int = 0) -> int:
    if type(value) is not int or not least <= value <= NUMBER_MAX:
        raise FrameError(f"{name} {value!r} is out of range")
    return value


def _flag(value: object, name: str) -> bool:
    if type(value) is not bool:
        raise FrameError(f"{name} {value!r} is not a boolean")
    return value


def _fields(message: Message, count: int) -> None:
    """Refuse fields that the layout does not have: to drop them could change the meaning."""
    if len(message) != count:
        raise FrameError(f"{message['type']} message with the fields {sorted(message)} has no encoding")


def _check_command(command: bytes, index: int) -> None:
    try:
        envelope.check(command)
    except envelope.EnvelopeError as error:
        raise FrameError(f"entry {index}: {error}") from error


def _check_sizes(frame: bytes, layout: struct.Struct) -> tuple[int, ...]:
    """Unpack a frame of fixed length without its version and type, and check every number."""
    if len(frame) != layout.size:
        raise FrameError(f"frame of type {frame[1]} has {len(frame)} bytes instead of {layout.size}")
    numbers: tuple[int, ...] = layout.unpack(frame)[2:]
    for number in numbers:
        if number > NUMBER_MAX:
            raise FrameError(f"number {number} is out of range")
    if not numbers[0]:
        raise FrameError("term 0 sends no messages")
    return numbers


def _check_vote(message: Message) -> None:
    if message["last_log_term"] > message["term"]:
        raise FrameError("a candidate's log is not ahead of its term")


def _plain(
    kind: str, code: int, names: tuple[str, ...]
) -> tuple[Callable[[Message, BodyCache | None], bytes], Callable[[bytes], Message]]:
    """Make the encoder and decoder of a message that is its term and some numbers."""
    layout = struct.Struct(">BBQ" + "Q" * len(names))
    fields = 2 + len(names)

    def encode_plain(message: Message, _: BodyCache | None) -> bytes:
        _fields(message, fields)
        term = _number(message["term"], "term", 1)
        numbers = [_number(message[name], name) for name in names]
        if code in _CANDIDACIES:
            _check_vote(message)
        return layout.pack(WIRE_VERSION, code, term, *numbers)

    def decode_plain(frame: bytes) -> Message:
        term, *numbers = _check_sizes(frame, layout)
        message = {"type": kind, "term": term, **dict(zip(names, numbers, strict=True))}
        if code in _CANDIDACIES:
            _check_vote(message)
        return message

    return encode_plain, decode_plain


_NEXT: Final = struct.Struct(">BBQQB")
_BEAT: Final = struct.Struct(">BBQQ")
_CHUNK: Final = struct.Struct(">BBQQQ")
_ACK: Final = struct.Struct(">BBQQQB")
_BIRTH_HEAD: Final = struct.Struct(">BBQ")


def _encode_append(message: Message, cache: BodyCache | None) -> bytes | list[bytes]:
    term = _number(message["term"], "term", 1)
    commit = _number(message["commit_index"], "commit_index")
    if "prevLogIdx" not in message:
        if "entries" in message and not message["entries"]:
            _fields(message, 4)
        else:
            _fields(message, 3)
        return _BEAT.pack(WIRE_VERSION, _HEARTBEAT, term, commit)
    _fields(message, 6)
    entries = message["entries"]
    prev, prev_term = message["prevLogIdx"], message["prevLogTerm"]
    if prev is None:
        if prev_term is not None or entries:
            raise FrameError("without prevLogIdx there is no prevLogTerm and no place for entries")
        prev = prev_term = 0
    elif not 0 <= _number(prev_term, "prevLogTerm") <= term:
        raise FrameError(f"prevLogTerm {prev_term} is above the message's term {term}")
    else:
        _number(prev, "prevLogIdx", 1)
    if not entries:
        return _APPEND.pack(WIRE_VERSION, _APPEND_ENTRIES, term, commit, prev, prev_term, 0)
    if entries[0][1] != prev + 1 or entries[0][2] < prev_term or entries[-1][2] > term:
        raise FrameError(f"entries from {entries[0][1]} do not follow entry {prev} within term {term}")
    _number(prev + len(entries), "index")
    body = cache.encode(entries) if cache is not None else encode_entries(entries)
    if len(body) > APPEND_BYTES_MAX:
        raise FrameError(f"{len(entries)} entries make {len(body)} bytes, over {APPEND_BYTES_MAX}: send fewer")
    return [_APPEND.pack(WIRE_VERSION, _APPEND_ENTRIES, term, commit, prev, prev_term, len(entries)), body]


def _decode_append(frame: bytes) -> Message:
    _, _, term, commit, prev, prev_term, count = _APPEND.unpack_from(frame)
    if not 0 < term <= NUMBER_MAX or commit > NUMBER_MAX or prev > NUMBER_MAX - count or prev_term > term:
        raise FrameError("append_entries with a number out of range")
    position, size = _APPEND.size, len(frame)
    if not prev and (prev_term or count):
        raise FrameError("append_entries without prevLogIdx but with entries")
    if count * _ENTRY.size > size - position:
        raise FrameError(f"append_entries of {size} bytes cannot hold {count} entries")
    entries: list[Entry] = []
    previous = prev_term
    for index in range(prev + 1, prev + 1 + count):
        entry_term, length = _ENTRY.unpack_from(frame, position)
        position += _ENTRY.size
        end = position + length
        if end > size or not previous <= entry_term <= term:
            raise FrameError(f"entry {index} of term {entry_term} and {length} bytes does not fit its message")
        command = frame[position:end]
        _check_command(command, index)
        entries.append((command, index, entry_term))
        position, previous = end, entry_term
    if position != size:
        raise FrameError(f"{size - position} bytes after the last entry")
    return {
        "type": "append_entries",
        "term": term,
        "commit_index": commit,
        "entries": entries,
        "prevLogIdx": prev or None,
        "prevLogTerm": prev_term if prev else None,
    }


def _decode_heartbeat(frame: bytes) -> Message:
    term, commit = _check_sizes(frame, _BEAT)
    return {"type": "append_entries", "term": term, "commit_index": commit}


def _encode_next(message: Message, _: BodyCache | None) -> bytes:
    _fields(message, 5)
    flags = _flag(message["reset"], "reset") | _flag(message["success"], "success") << 1
    following = _number(message["next_node_idx"], "next_node_idx", 1)
    return _NEXT.pack(WIRE_VERSION, _NEXT_NODE_IDX, _number(message["term"], "term", 1), following, flags)


def _decode_next(frame: bytes) -> Message:
    term, following, flags = _check_sizes(frame, _NEXT)
    if flags > 3 or not following:
        raise FrameError("next_node_idx with a number out of range")
    return {
        "type": "next_node_idx",
        "next_node_idx": following,
        "reset": bool(flags & 1),
        "success": bool(flags & 2),
        "term": term,
    }


def _encode_chunk(message: Message, _: BodyCache | None) -> list[bytes]:
    _fields(message, 5)
    data = message["data"]
    if type(data) is not bytes or not 0 < len(data) <= CHUNK_BYTES_MAX:
        raise FrameError(f"a piece of a snapshot is 1 to {CHUNK_BYTES_MAX} bytes")
    offset = _number(message["offset"], "offset")
    _number(offset + len(data), "end of the piece")
    transfer = _number(message["transfer_id"], "transfer_id")
    return [_CHUNK.pack(WIRE_VERSION, _SNAPSHOT_CHUNK, _number(message["term"], "term", 1), transfer, offset), data]


def _decode_chunk(frame: bytes) -> Message:
    length = len(frame) - _CHUNK.size
    if not 0 < length <= CHUNK_BYTES_MAX:
        raise FrameError(f"piece of a snapshot of {length} bytes")
    term, transfer, offset = _check_sizes(frame[: _CHUNK.size], _CHUNK)
    if offset + length > NUMBER_MAX:
        raise FrameError("piece of a snapshot out of range")
    data = frame[_CHUNK.size :]
    return {"type": "snapshot_chunk", "term": term, "transfer_id": transfer, "offset": offset, "data": data}


def _encode_ack(message: Message, _: BodyCache | None) -> bytes:
    _fields(message, 5)
    status = SNAPSHOT_STATUSES.index(message["status"])
    transfer, offset = _number(message["transfer_id"], "transfer_id"), _number(message["offset"], "offset")
    return _ACK.pack(WIRE_VERSION, _SNAPSHOT_ACK, _number(message["term"], "term", 1), transfer, offset, status)


def _decode_ack(frame: bytes) -> Message:
    term, transfer, offset, status = _check_sizes(frame, _ACK)
    if status >= len(SNAPSHOT_STATUSES):
        raise FrameError(f"snapshot_ack with status {status}")
    return {
        "type": "snapshot_ack",
        "term": term,
        "transfer_id": transfer,
        "offset": offset,
        "status": SNAPSHOT_STATUSES[status],
    }


def _encode_birth(message: Message, _: BodyCache | None) -> list[bytes]:
    _fields(message, 2)
    body = message["body"]
    if type(body) is not bytes or not 0 < len(body) <= BIRTH_BYTES_MAX:
        raise FrameError(f"a birth message has 1 to {BIRTH_BYTES_MAX} bytes")
    return [_BIRTH_HEAD.pack(WIRE_VERSION, _BIRTH, 0), body]


def _decode_birth(frame: bytes) -> Message:
    body = frame[_BIRTH_HEAD.size :]
    if _BIRTH_HEAD.unpack_from(frame)[2] or not 0 < len(body) <= BIRTH_BYTES_MAX:
        raise FrameError(f"birth message with a term, or of {len(body)} bytes")
    return {"type": "birth", "body": body}


_ENCODERS: Final[dict[str, Callable[[Message, BodyCache | None], bytes | list[bytes]]]] = {
    "append_entries": _encode_append,
    "next_node_idx": _encode_next,
    "snapshot_chunk": _encode_chunk,
    "snapshot_ack": _encode_ack,
    "birth": _encode_birth,
}
_DECODERS: Final[dict[int, Callable[[bytes], Message]]] = {
    _APPEND_ENTRIES: _decode_append,
    _HEARTBEAT: _decode_heartbeat,
    _NEXT_NODE_IDX: _decode_next,
    _SNAPSHOT_CHUNK: _decode_chunk,
    _SNAPSHOT_ACK: _decode_ack,
    _BIRTH: _decode_birth,
}
for _kind, _code, _names in _PLAIN:
    _ENCODERS[_kind], _DECODERS[_code] = _plain(_kind, _code, _names)
