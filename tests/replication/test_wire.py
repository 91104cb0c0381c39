"""The encoding of messages: exact round trips, and nothing malformed is taken for a message."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raftflow.replication.messages import wire
from raftflow.replication.messages.envelope import NO_OP, seal

NUMBER = st.integers(0, wire.NUMBER_MAX)
TERM = st.integers(1, wire.NUMBER_MAX)


def entries_after(previous_index: int, terms: list[int], payloads: list[bytes]) -> list[wire.Entry]:
    return [
        (payload if payload == NO_OP else seal(payload), previous_index + 1 + position, term)
        for position, (term, payload) in enumerate(zip(terms, payloads, strict=True))
    ]


@st.composite
def appends(draw: Any) -> Any:
    payloads = draw(st.lists(st.just(NO_OP) | st.binary(max_size=50), max_size=6))
    terms = sorted(draw(st.lists(NUMBER, min_size=len(payloads) + 1, max_size=len(payloads) + 1)))
    previous = draw(st.integers(1, wire.NUMBER_MAX - 10))
    term = draw(st.integers(max(terms[-1], 1), wire.NUMBER_MAX))
    return {
        "type": "append_entries",
        "term": term,
        "commit_index": draw(NUMBER),
        "entries": entries_after(previous, terms[1:], payloads),
        "prevLogIdx": previous,
        "prevLogTerm": terms[0],
    }


@st.composite
def votes(draw: Any, kind: str = "request_vote", **fields: Any) -> Any:
    log_term, term = sorted((draw(NUMBER), draw(TERM)))
    return {
        "type": kind,
        "term": max(term, 1),
        "last_log_index": draw(NUMBER),
        "last_log_term": log_term,
        **{name: draw(strategy) for name, strategy in fields.items()},
    }


def plain(kind: str, **fields: Any) -> Any:
    return st.fixed_dictionaries({"type": st.just(kind), "term": TERM, **fields})


BLIND = {"entries": st.just([]), "prevLogIdx": st.none(), "prevLogTerm": st.none()}
MESSAGES = st.one_of(
    appends(),
    votes(),
    plain("append_entries", commit_index=NUMBER),
    plain("append_entries", commit_index=NUMBER, **BLIND),
    plain("response_vote"),
    votes("pre_vote", seq=NUMBER),
    plain("pre_vote_granted", seq=NUMBER),
    plain("pre_vote_refused", seq=NUMBER, voter_term=NUMBER),
    plain("next_node_idx", next_node_idx=st.integers(1, wire.NUMBER_MAX), reset=st.booleans(), success=st.booleans()),
    plain("timeout_now"),
    plain("read_probe", seq=NUMBER),
    plain("read_ack", seq=NUMBER),
    plain("snapshot_begin", transfer_id=NUMBER, index=NUMBER, snap_term=NUMBER, size=NUMBER),
    plain(
        "snapshot_chunk",
        transfer_id=NUMBER,
        offset=st.integers(0, wire.NUMBER_MAX - 100),
        data=st.binary(min_size=1, max_size=90),
    ),
    plain("snapshot_end", transfer_id=NUMBER),
    plain("snapshot_ack", transfer_id=NUMBER, offset=NUMBER, status=st.sampled_from(wire.SNAPSHOT_STATUSES)),
)


def frame_of(message: Any, cache: Any = None) -> bytes:
    frame = wire.encode(message, cache)
    return frame if isinstance(frame, bytes) else b"".join(frame)


def append(**changes: Any) -> dict[str, Any]:
    message = {
        "type": "append_entries",
        "term": 7,
        "commit_index": 9,
        "entries": entries_after(10, [6, 7], [b"one", b"two"]),
        "prevLogIdx": 10,
        "prevLogTerm": 6,
    }
    return message | changes


@given(MESSAGES)
@settings(max_examples=400)
def test_round_trip(message: Any) -> None:
    assert wire.decode(frame_of(message)) == message


@given(MESSAGES)
def test_the_cache_changes_nothing(message: Any) -> None:
    cache = wire.BodyCache()
    assert frame_of(message, cache) == frame_of(message, cache) == frame_of(message)


@given(MESSAGES, st.data())
@settings(max_examples=600)
def test_a_mutated_frame_is_refused_or_is_another_message(message: Any, data: Any) -> None:
    """Whatever `decode` accepts is exactly what `encode` produces; everything else is a `WireError`."""
    frame = bytearray(frame_of(message))
    for _ in range(data.draw(st.integers(1, 3))):
        position = data.draw(st.integers(0, max(len(frame) - 1, 0)))
        match data.draw(st.sampled_from(["flip", "cut", "add", "end"])):
            case "flip" if frame:
                frame[position] ^= data.draw(st.integers(1, 255))
            case "cut":
                del frame[position : position + 1]
            case "add":
                frame.insert(position, data.draw(st.integers(0, 255)))
            case "end":
                del frame[position:]
    check_only_canonical(bytes(frame))


@given(st.binary(max_size=120) | st.binary(max_size=60).map(lambda tail: b"\x01\x03" + bytes(7) + tail))
def test_noise_is_refused(noise: bytes) -> None:
    check_only_canonical(noise)


def check_only_canonical(frame: bytes) -> None:
    try:
        message = wire.decode(frame)
    except wire.FrameError:
        return
    assert frame_of(message) == frame


@pytest.mark.parametrize(
    "message",
    [
        {"type": "apply_command", "command": b"x", "request_id": 1},
        {"type": "apply_command_response", "request_id": 1, "error": 4},
        {"type": "append_entries", "term": 1, "commit_index": 0, "serialized": None},
        {"type": "append_entries", "term": 1, "commit_index": 0, "serialized": (b"x", True, True)},
        append(transmission="start"),
        {"type": "append_entries", "transmission": "start", "data": b"", "term": 1, "commit_index": 1}
        | {"prevLogIdx": 1, "prevLogTerm": 1},
        {"type": "next_node_idx", "next_node_idx": 4, "reset": False, "success": True},
        {"type": "next_node_idx", "next_node_idx": 0, "reset": False, "success": True, "term": 1},
        {"type": "next_node_idx", "next_node_idx": 4, "reset": 0, "success": True, "term": 1},
        {"type": "response_vote", "term": 0},
        {"type": "response_vote", "term": True},
        {"type": "response_vote", "term": 2**63},
        {"type": "response_vote", "term": -1},
        {"type": "response_vote"},
        {"type": "status"},
        {},
        {"type": "request_vote", "term": 3, "last_log_index": 1, "last_log_term": 4},
        {"type": "snapshot_ack", "term": 1, "transfer_id": 1, "offset": 0, "status": "perhaps"},
        {"type": "snapshot_chunk", "term": 1, "transfer_id": 1, "offset": 0, "data": b""},
        {"type": "snapshot_chunk", "term": 1, "transfer_id": 1, "offset": 0, "data": bytes(wire.CHUNK_BYTES_MAX + 1)},
        append(prevLogIdx=None, prevLogTerm=None),
        append(prevLogIdx=11),
        append(prevLogTerm=8),
        append(term=6),
        append(prevLogTerm=7),
        append(entries=[(seal(b""), 11, 6), (seal(b""), 13, 6)]),
        append(entries=[(seal(b""), 11, 7), (seal(b""), 12, 6)]),
        append(entries=[(b"\x02x", 11, 7)]),
        append(entries=[("text", 11, 7)]),
    ],
)
def test_what_has_no_encoding(message: Any) -> None:
    with pytest.raises(wire.FrameError):
        wire.encode(message)


def raw_append(entries: Any, term: int = 7, prev: int = 10, prev_term: int = 6, count: int | None = None) -> bytes:
    head = struct.pack(
        ">BBQQQQI", wire.WIRE_VERSION, 3, term, 9, prev, prev_term, len(entries) if count is None else count
    )
    return head + b"".join(struct.pack(">QI", t, len(command)) + command for command, t in entries)


@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        (b"", "0 bytes"),
        (b"\x02\x02" + bytes(8), "version 2"),
        (b"\x01\x63" + bytes(8), "unknown type 99"),
        (b"\x01\x02" + bytes(8), "term 0"),
        (frame_of({"type": "response_vote", "term": 1}) + b"\0", "11 bytes instead of 10"),
        (raw_append([(seal(b"x"), 7)]) + b"\0", "after the last entry"),
        (raw_append([(seal(b"x"), 8)]), "does not fit"),
        (raw_append([(seal(b"x"), 5)]), "does not fit"),
        (raw_append([(seal(b"x"), 7), (seal(b"y"), 6)]), "does not fit"),
        (raw_append([(b"\x00\x80\x02.", 7)]), "not in the envelope"),
        (raw_append([(b"\x02abc", 7)]), "membership"),
        (raw_append([(seal(b"x"), 7)], count=2**32 - 1), "cannot hold"),
        (raw_append([(seal(b"x"), 7)], prev=0, prev_term=0), "without prevLogIdx"),
        (raw_append([(seal(b"x"), 7)], prev=wire.NUMBER_MAX), "out of range"),
        (raw_append([], prev_term=8), "out of range"),
        (raw_append([(seal(b"x"), 7)])[:-1], "does not fit"),
        (raw_append([])[:-3], "bytes"),
    ],
)
def test_malformed_frames(frame: bytes, reason: str) -> None:
    with pytest.raises(wire.FrameError, match=reason):
        wire.decode(frame)


def test_a_heartbeat_is_short_and_bare() -> None:
    message = {"type": "append_entries", "term": 3, "commit_index": 12}
    assert len(frame_of(message)) == 18
    assert wire.decode(frame_of(message | {"entries": []})) == message


def test_take_prefix_keeps_frames_within_the_limit() -> None:
    entries = entries_after(10, [7] * 5, [bytes(100)] * 5)
    one = wire.entry_bytes(entries[0])
    assert wire.take_prefix(entries, 3 * one) == entries[:3]
    assert wire.take_prefix(entries, 4 * one - 1) == entries[:3]
    assert wire.take_prefix(entries, 1) == entries[:1]
    assert wire.take_prefix(entries) == entries
    assert len(wire.encode_entries(entries)) == 5 * one


def test_a_message_over_the_frame_limit_is_refused_and_its_prefix_fits() -> None:
    entries = entries_after(10, [7] * 3, [bytes(12 * 2**20)] * 3)
    message = append(entries=entries)
    with pytest.raises(wire.FrameError, match="send fewer"):
        wire.encode(message)
    frame = frame_of(append(entries=wire.take_prefix(entries)))
    assert len(frame) <= wire.FRAME_BYTES_MAX
    assert [index for _, index, _ in wire.decode(frame)["entries"]] == [11, 12]


def test_the_cache_shares_one_body_and_stays_small() -> None:
    cache = wire.BodyCache(bodies_max=2)
    entries = append()["entries"]
    body = cache.encode(entries)
    assert cache.encode(list(entries)) is body
    for first in range(20, 30):
        cache.encode(entries_after(first, [7], [b"x"]))
    assert cache.encode(entries) is not body
    assert len(cache._bodies) == 2
