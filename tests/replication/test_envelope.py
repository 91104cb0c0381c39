"""The envelope: what the library unpickles is exactly what was sealed, and nothing else passes."""

from __future__ import annotations

import pickle
import time
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pysyncobj import SyncObj, SyncObjConf, replicated
from pysyncobj.transport import Transport

from raftflow.replication.messages import envelope


class SilentTransport(Transport):
    """A transport of a cluster of one: nobody to talk to."""

    def tryGetReady(self) -> None:  # noqa: N802 - the library's name
        pass

    @property
    def ready(self) -> bool:
        return True


class Recorder(SyncObj):
    def __init__(self) -> None:
        self.seen = []
        conf = SyncObjConf(autoTick=False, raftMinTimeout=0.01, raftMaxTimeout=0.011, appendEntriesPeriod=0.003)
        super().__init__("127.0.0.1:1", [], conf, transport=SilentTransport(None, None, []))

    @replicated
    def execute(self, payload: bytes) -> int:
        self.seen.append(payload)
        return len(payload)


@pytest.fixture
def library() -> Any:
    recorder = Recorder()
    deadline = time.monotonic() + 30
    while not recorder._isLeader():
        assert time.monotonic() < deadline
        recorder.doTick(0)
    yield recorder
    recorder.doTick(0)


@pytest.mark.parametrize("payload", [b"", b"x", b"\x85\x86.", bytes(range(256)) * 300, b"\xff" * 70_000])
def test_the_library_calls_the_one_method_with_the_payload(library: Any, payload: bytes) -> None:
    replies = []
    library._applyCommand(envelope.seal(payload), lambda reply, error: replies.append((reply, error)))
    for _ in range(5):
        library.doTick(0)
    assert library.seen == [payload]
    assert replies == [(len(payload), 0)]


def test_the_library_s_no_op_is_the_one_that_passes(library: Any) -> None:
    assert library._SyncObj__raftLog[1][0] == envelope.NO_OP
    envelope.check(envelope.NO_OP)


@given(st.binary(max_size=2000))
@example(b"")
@example(envelope.NO_OP)
@example(envelope.seal(b"nested"))
def test_round_trip(payload: bytes) -> None:
    sealed = envelope.seal(payload)
    envelope.check(sealed)
    assert envelope.unseal(sealed) == payload
    assert pickle.loads(sealed[1:]) == (0, (payload,))
    assert len(sealed) == len(payload) + envelope.ENVELOPE_BYTES


@given(st.binary(max_size=60), st.data())
def test_a_changed_envelope_is_refused_or_another_payload(payload: bytes, data: Any) -> None:
    """Flipping any byte, cutting or adding any never lets anything through that unpickles to something else."""
    sealed = bytearray(envelope.seal(payload))
    position = data.draw(st.integers(0, len(sealed) - 1))
    match data.draw(st.sampled_from(["flip", "cut", "add"])):
        case "flip":
            sealed[position] ^= data.draw(st.integers(1, 255))
        case "cut":
            del sealed[position]
        case "add":
            sealed.insert(position, data.draw(st.integers(0, 255)))
    changed = bytes(sealed)
    try:
        envelope.check(changed)
    except envelope.EnvelopeError:
        return
    assert changed == envelope.seal(envelope.unseal(changed))


@given(st.binary(max_size=80))
def test_random_bytes_never_pass_unless_they_are_sealed(noise: bytes) -> None:
    try:
        envelope.check(noise)
    except envelope.EnvelopeError:
        return
    assert noise == envelope.NO_OP or noise == envelope.seal(envelope.unseal(noise))


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        (b"", "empty"),
        (b"\x02" + pickle.dumps(["add", "x", None], 2), "membership"),
        (b"\x03" + pickle.dumps(1, 2), "version"),
        (b"\x00" + pickle.dumps((0, (b"x",)), 2), "not in the envelope"),
        (b"\x00" + pickle.dumps((0, (b"x",)), 4), "not in the envelope"),
        (b"\x01\x01", "not in the envelope"),
        (envelope.seal(b"x")[1:], "not in the envelope"),
        (b"\x00cos\nsystem\n(S'true'\ntR.", "not in the envelope"),
    ],
)
def test_other_commands_are_refused(command: bytes, reason: str) -> None:
    with pytest.raises(envelope.EnvelopeError, match=reason):
        envelope.check(command)
    with pytest.raises(envelope.EnvelopeError):
        envelope.unseal(command)


def test_a_no_op_has_no_payload() -> None:
    with pytest.raises(envelope.EnvelopeError, match="no-op"):
        envelope.unseal(envelope.NO_OP)


def test_the_limit_is_inclusive() -> None:
    largest = bytes(envelope.ENTRY_BYTES_MAX)
    assert envelope.unseal(envelope.seal(largest)) == largest
    with pytest.raises(envelope.EnvelopeError, match="limit"):
        envelope.seal(largest + b"x")
    over = envelope.seal(largest)
    forged = over[:6] + (len(largest) + 1).to_bytes(4, "little") + over[10:-3] + b"x" + over[-3:]
    with pytest.raises(envelope.EnvelopeError, match="limit"):
        envelope.check(forged)
