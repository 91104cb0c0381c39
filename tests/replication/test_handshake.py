"""The handshake without any I/O: who proves what, and what a thief of recorded bytes gets for it."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raftflow.replication.net.handshake import (
    Acceptor,
    Credentials,
    Dialer,
    HandshakeError,
    HandshakeVerdict,
    LinkSession,
)

SECRET = b"a secret of the cluster"


def me(name: str = "a", cluster: str = "c1", secret: bytes = SECRET) -> Credentials:
    return Credentials(name=name, cluster_id=cluster, secret=secret)


def shake(dialer: Any, acceptor: Any) -> Any:
    """Carry messages between both until both have a session; return what went over the line."""
    hello = dialer.first
    challenge = acceptor.step(hello)
    proof = dialer.step(challenge)
    answer = acceptor.step(proof)
    assert dialer.step(answer) == b""
    return hello, challenge, proof, answer


def pair() -> tuple[LinkSession, LinkSession]:
    dialer, acceptor = Dialer(me("a"), "b"), Acceptor(me("b"), {"a", "c"})
    shake(dialer, acceptor)
    return dialer.session, acceptor.session


def refusal(dialer: Any, acceptor: Any) -> Any:
    """Run until somebody refuses; return the first error and what the refused side makes of the reply."""
    with pytest.raises(HandshakeError) as refused:
        shake(dialer, acceptor)
    told = None
    if refused.value.reply:
        with pytest.raises(HandshakeError) as heard:
            dialer.step(refused.value.reply)
        told = heard.value
        assert told.told
    return refused.value, told


NEXT = b"the next secret, longer"


def test_a_replica_with_two_secrets_uses_the_first_and_accepts_both() -> None:
    both = Credentials(name="b", cluster_id="c1", secret=NEXT, others=(SECRET,))
    for secret in (SECRET, NEXT):
        dialer, acceptor = Dialer(me("a", secret=secret), "b"), Acceptor(both, {"a"})
        shake(dialer, acceptor)
        assert dialer.session.secret == acceptor.session.secret == secret
        assert acceptor.session.open(b"x", dialer.session.seal([b"x"], 1)[-1])
    third = Dialer(me("a", secret=b"of another cluster"), "b")
    assert refusal(third, Acceptor(both, {"a"}))[0].verdict is HandshakeVerdict.WRONG_SECRET
    dialer = Dialer(Credentials(name="a", cluster_id="c1", secret=NEXT, others=(SECRET,)), "b")
    assert refusal(dialer, Acceptor(me("b"), {"a"}))[0].verdict is HandshakeVerdict.WRONG_SECRET
    with pytest.raises(ValueError, match="16 bytes"):
        Credentials(name="a", cluster_id="c1", secret=NEXT, others=(b"short",))


def test_both_sides_end_with_matching_keys() -> None:
    ours, theirs = pair()
    assert (ours.peer, theirs.peer) == ("b", "a")
    for sender, receiver in [(ours, theirs), (theirs, ours)]:
        for payload in (b"one", b"two"):
            length, body, tag = sender.seal((payload,), len(payload))
            assert length == len(payload).to_bytes(4, "big") and body == payload
            assert receiver.open(body, tag)


@pytest.mark.parametrize(
    ("dialer", "target", "acceptor", "verdict"),
    [
        (me("a", secret=b"another secret 123"), "b", me("b"), HandshakeVerdict.WRONG_SECRET),
        (me("a", cluster="c2"), "b", me("b"), HandshakeVerdict.OTHER_CLUSTER),
        (me("aa"), "b", me("b"), HandshakeVerdict.UNKNOWN_PEER),
        (me("a"), "c", me("b"), HandshakeVerdict.WRONG_ADDRESS),
        (me("b"), "b", me("b"), HandshakeVerdict.OWN_NAME),
        (me("c"), "b", me("b"), HandshakeVerdict.WRONG_DIRECTION),
        (me("readonly"), "b", me("b"), HandshakeVerdict.UNKNOWN_PEER),
    ],
)
def test_refusals_have_a_reason_on_both_sides(
    dialer: Any, target: str, acceptor: Any, verdict: HandshakeVerdict
) -> None:
    refused, told = refusal(Dialer(dialer, target), Acceptor(acceptor, {"a", "c"}))
    assert refused.verdict == verdict == told.verdict
    assert not refused.told


def test_another_version_is_named() -> None:
    dialer = Dialer(me("a"), "b")
    dialer.first = dialer.first[:4] + b"\x09" + dialer.first[5:]
    refused, told = refusal(dialer, Acceptor(me("b"), {"a"}))
    assert refused.verdict == told.verdict == HandshakeVerdict.OTHER_VERSION


def test_an_acceptor_without_the_secret_is_refused_by_the_dialer() -> None:
    """An impostor that says yes to every proof cannot answer with its own."""
    dialer = Dialer(me("a"), "b")
    impostor = Acceptor(me("b", secret=b"another secret 123"), {"a"})
    dialer.step(impostor.step(dialer.first))
    with pytest.raises(HandshakeError) as refused:
        dialer.step(b"\0" + bytes(32))
    assert refused.value.verdict == HandshakeVerdict.WRONG_SECRET
    assert dialer.session is None


def test_a_proof_cannot_be_reflected() -> None:
    """An impostor acceptor echoes the dialer's own proof, or lets another replica answer for it."""
    dialer = Dialer(me("a"), "b")
    challenge = Acceptor(me("b"), {"a"}).step(dialer.first)
    proof = dialer.step(challenge)
    with pytest.raises(HandshakeError):
        dialer.step(b"\0" + proof)
    assert dialer.session is None


def test_a_recorded_handshake_cannot_be_replayed() -> None:
    hello, challenge, proof, answer = shake(Dialer(me("a"), "b"), Acceptor(me("b"), {"a"}))
    later = Acceptor(me("b"), {"a"})
    assert later.step(hello) != challenge
    with pytest.raises(HandshakeError) as refused:
        later.step(proof)
    assert refused.value.verdict == HandshakeVerdict.WRONG_SECRET
    dialer = Dialer(me("a"), "b")
    dialer.step(challenge)
    with pytest.raises(HandshakeError):
        dialer.step(answer)


def test_a_proof_for_one_peer_does_not_serve_at_another() -> None:
    """Relaying to another replica fails: the names are part of what is proved."""
    dialer = Dialer(me("a"), "b")
    with pytest.raises(HandshakeError) as refused:
        Acceptor(me("c"), {"a"}).step(dialer.first)
    assert refused.value.verdict == HandshakeVerdict.WRONG_ADDRESS


@given(st.data())
def test_every_flipped_bit_ends_the_handshake(data: Any) -> None:
    dialer, acceptor = Dialer(me("a"), "b"), Acceptor(me("b"), {"a"})
    which = data.draw(st.integers(0, 3))

    def line(step: int, message: Any) -> bytes:
        if step != which:
            return message
        position = data.draw(st.integers(0, len(message) - 1))
        changed = bytearray(message)
        changed[position] ^= 1 << data.draw(st.integers(0, 7))
        return bytes(changed)

    def carry() -> None:
        challenge = acceptor.step(line(0, dialer.first))
        proof = dialer.step(line(1, challenge))
        answer = acceptor.step(line(2, proof))
        dialer.step(line(3, answer))

    with pytest.raises(HandshakeError):
        carry()
    assert dialer.session is None


@given(st.binary(min_size=1))
def test_noise_is_garbage_and_gets_no_reply(noise: bytes) -> None:
    acceptor = Acceptor(me("b"), {"a"})
    hello = (noise * (acceptor.need // len(noise) + 1))[: acceptor.need]
    with pytest.raises(HandshakeError) as refused:
        acceptor.step(hello)
    assert refused.value.verdict == HandshakeVerdict.GARBAGE
    assert refused.value.reply == b""


def test_frames_cannot_be_repeated_reordered_dropped_or_taken_to_the_other_direction() -> None:
    ours, theirs = pair()
    first, second = ours.seal((b"first",), 5), ours.seal((b"second",), 6)
    receivers = [LinkSession("a", b"k" * 32, theirs._receive_key) for _ in range(4)]
    assert receivers[0].open(*first[1:]) and receivers[0].open(*second[1:])
    assert receivers[1].open(*first[1:]) and not receivers[1].open(*first[1:])
    assert not receivers[2].open(*second[1:])
    assert not ours.open(*first[1:])


@given(st.binary(min_size=1, max_size=40), st.data())
def test_a_changed_frame_does_not_open(payload: bytes, data: Any) -> None:
    ours, theirs = pair()
    _, body, tag = ours.seal((payload,), len(payload))
    frame = bytearray(body + tag)
    frame[data.draw(st.integers(0, len(frame) - 1))] ^= data.draw(st.integers(1, 255))
    assert not theirs.open(bytes(frame[:-16]), bytes(frame[-16:]))


def test_a_frame_in_pieces_is_the_same_frame() -> None:
    ours, theirs = pair()
    for cut in itertools.pairwise(range(4)):
        buffers = ours.seal([b"abc"[: cut[0]], b"abc"[cut[0] :]], 3)
        assert theirs.open(b"".join(buffers[1:-1]), buffers[-1])


def test_names_and_secrets_have_bounds() -> None:
    assert Dialer(me("ä" * 32), "b").first.endswith(b"b" + bytes(63))
    for bad in ({"name": ""}, {"name": "x" * 65}, {"secret": b"x" * 15}):
        with pytest.raises(ValueError, match="needs"):
            me(**bad)


def test_the_secret_stays_out_of_logs() -> None:
    assert "secret of" not in repr(me())
