"""How two replicas prove to each other that they hold the cluster's secret, and how their frames are protected after.

No I/O here: bytes in, bytes out. The dialer D and the acceptor A exchange four messages of fixed size:

    D -> A  hello      magic, version, kind, cluster digest, nonce of D, name of D, name of A
    A -> D  challenge  magic, version, kind, verdict, nonce of A
    D -> A  proof      HMAC(secret, "dialer" | hello | challenge)
    A -> D  answer     verdict, HMAC(secret, "acceptor" | hello | challenge | proof)

Every proof covers both nonces, both names, the cluster, the version and the role, so that it cannot be replayed,
reflected or taken to another pair. The dialer proves first: a program that only finds the port learns nothing but a
nonce. A verdict other than `OK` tells the operator of an honest dialer what is wrong. It has no other effect.

From the same transcript each direction gets a key. A frame on the line is u32 length, payload, and a 16-byte BLAKE2b
keyed with that key over u64 frame counter, u32 length and payload: frames can be neither changed, dropped, repeated
nor reordered. The payload is not encrypted; that is what TLS is for.
"""

from __future__ import annotations

import enum
import hashlib
import hmac
import os
import struct
from typing import TYPE_CHECKING, Final

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

HANDSHAKE_VERSION: Final = 1
NAME_BYTES_MAX: Final = 64
NONCE_BYTES: Final = 32
MAC_BYTES: Final = 16
LENGTH: Final = struct.Struct(">I")

_MAGIC: Final = b"RFLK"
_KIND_HELLO: Final = 1
_KIND_CHALLENGE: Final = 2
_HELLO: Final = struct.Struct(f">4sBB32s{NONCE_BYTES}sB{NAME_BYTES_MAX}sB{NAME_BYTES_MAX}s")
_CHALLENGE: Final = struct.Struct(f">4sBBB{NONCE_BYTES}s")
_PROOF: Final = struct.Struct(">32s")
_ANSWER: Final = struct.Struct(">B32s")
_COUNTED_LENGTH: Final = struct.Struct(">QI")
_NO_PROOF: Final = bytes(32)


class HandshakeVerdict(enum.IntEnum):
    """Why a handshake failed, as one byte on the line and as a name in logs and counters."""

    OK = 0
    OTHER_VERSION = 1
    OTHER_CLUSTER = 2
    WRONG_ADDRESS = 3
    OWN_NAME = 4
    UNKNOWN_PEER = 5
    WRONG_SECRET = 6
    WRONG_DIRECTION = 7
    GARBAGE = 8


HINTS: Final[dict[HandshakeVerdict, str]] = {
    HandshakeVerdict.OTHER_VERSION: "it speaks another version of the handshake; upgrade one of the two",
    HandshakeVerdict.OTHER_CLUSTER: "it belongs to another cluster; compare cluster_id and the peer addresses",
    HandshakeVerdict.WRONG_ADDRESS: "the address belongs to a replica of another name; correct the peer list",
    HandshakeVerdict.OWN_NAME: "it uses this replica's own name; give each replica a name of its own",
    HandshakeVerdict.UNKNOWN_PEER: "its name is not in the peer list; compare the peer lists of both",
    HandshakeVerdict.WRONG_SECRET: "it does not hold this cluster's secret; compare the secret files",
    HandshakeVerdict.WRONG_DIRECTION: "the replica with the smaller name dials; compare the names",
    HandshakeVerdict.GARBAGE: "it does not speak this protocol; something else uses the peer port",
}
"""What an operator should do about each failure."""


class HandshakeError(Exception):
    """The other side is refused. Send `reply` before the connection is closed.

    `told` is true when the verdict came from the other side, which refused this replica.
    """

    def __init__(
        self, verdict: HandshakeVerdict, *, peer: str | None = None, reply: bytes = b"", told: bool = False
    ) -> None:
        super().__init__(f"{verdict.name.lower()}: {HINTS[verdict]}")
        self.verdict = verdict
        self.peer = peer
        self.reply = reply
        self.told = told


class Credentials(msgspec.Struct, frozen=True, kw_only=True):
    """Name, cluster and secret of this replica. Raises `ValueError` if one of them cannot be used."""

    name: str
    cluster_id: str
    secret: bytes
    others: tuple[bytes, ...] = ()
    """Secrets that are accepted too, while one replaces another."""

    def __post_init__(self) -> None:
        encode_name(self.name)
        if any(len(secret) < SECRET_BYTES_MIN for secret in self.secrets):
            raise ValueError(f"the cluster's secret needs at least {SECRET_BYTES_MIN} bytes")

    @property
    def secrets(self) -> tuple[bytes, ...]:
        """All that are accepted; the first is used."""
        return self.secret, *self.others

    def __repr__(self) -> str:
        """Keep the secret out of logs."""
        return f"Credentials(name={self.name!r}, cluster_id={self.cluster_id!r})"


SECRET_BYTES_MIN: Final = 16


def encode_name(name: str) -> bytes:
    """Return a replica's name as bytes. Raises `ValueError` if it is empty or longer than `NAME_BYTES_MAX`."""
    raw = name.encode()
    if not 0 < len(raw) <= NAME_BYTES_MAX:
        raise ValueError(f"replica name {name!r} needs 1 to {NAME_BYTES_MAX} bytes")
    return raw


class LinkSession:
    """The keys and counters of one connection after its handshake."""

    __slots__ = ("_receive_key", "_received", "_send_key", "_sent", "peer", "secret")

    def __init__(self, peer: str, send_key: bytes, receive_key: bytes, secret: bytes = b"") -> None:
        self.peer = peer
        self.secret = secret
        """With which both sides have proved themselves."""
        self._send_key = send_key
        self._receive_key = receive_key
        self._sent = 0
        self._received = 0

    def seal(self, parts: Sequence[bytes], size: int) -> list[bytes]:
        """Return the buffers of the next outgoing frame, whose payload is `parts` with `size` bytes in all."""
        counted = _COUNTED_LENGTH.pack(self._sent, size)
        self._sent += 1
        mac = hashlib.blake2b(counted, digest_size=MAC_BYTES, key=self._send_key)
        for part in parts:
            mac.update(part)
        return [counted[8:], *parts, mac.digest()]

    def open(self, payload: bytes, tag: bytes) -> bool:
        """Return whether `tag` proves that `payload` is the next frame of the other side."""
        mac = hashlib.blake2b(
            _COUNTED_LENGTH.pack(self._received, len(payload)), digest_size=MAC_BYTES, key=self._receive_key
        )
        mac.update(payload)
        self._received += 1
        return hmac.compare_digest(mac.digest(), tag)


def _cluster_digest(cluster_id: str) -> bytes:
    return hashlib.sha256(b"raftflow cluster " + cluster_id.encode()).digest()


def _padded(name: str) -> tuple[int, bytes]:
    raw = encode_name(name)
    return len(raw), raw


def _read_name(length: int, field: bytes) -> str | None:
    """Return a name from its fixed-size field, or None if no name could be in it."""
    if not 0 < length <= NAME_BYTES_MAX or any(field[length:]):
        return None
    try:
        return field[:length].decode()
    except UnicodeDecodeError:
        return None


def _prove(secret: bytes, role: bytes, *transcript: bytes) -> bytes:
    return hmac.digest(secret, b"raftflow link " + role + b"\0" + b"".join(transcript), "sha256")


def _session_keys(secret: bytes, transcript: bytes) -> tuple[bytes, bytes]:
    """Return the keys (dialer to acceptor, acceptor to dialer)."""
    return _prove(secret, b"key of the dialer", transcript), _prove(secret, b"key of the acceptor", transcript)


class Dialer:
    """The side that opened the connection. Send `first`, then give each `need` bytes received to `step`.

    `secret` is the one of the credentials that it proves itself with; the first by default.
    """

    def __init__(
        self,
        me: Credentials,
        target: str,
        *,
        secret: bytes | None = None,
        nonce: Callable[[int], bytes] = os.urandom,
    ) -> None:
        self._secret = me.secret if secret is None else secret
        self.target = target
        """Name of the replica that is dialled."""
        self.first = _HELLO.pack(
            _MAGIC,
            HANDSHAKE_VERSION,
            _KIND_HELLO,
            _cluster_digest(me.cluster_id),
            nonce(NONCE_BYTES),
            *_padded(me.name),
            *_padded(target),
        )
        self.need = _CHALLENGE.size
        self.session: LinkSession | None = None
        """Set when the other side has proved itself."""
        self._transcript = b""
        self._proof = b""

    def step(self, data: bytes) -> bytes:
        """Handle the next message and return the answer. Raises `HandshakeError`."""
        if not self._transcript:
            return self._on_challenge(data)
        verdict, answer = _ANSWER.unpack(data)
        if verdict:
            raise _told(verdict, self.target)
        if not hmac.compare_digest(answer, _prove(self._secret, b"acceptor", self._transcript, self._proof)):
            raise HandshakeError(HandshakeVerdict.WRONG_SECRET, peer=self.target)
        out, back = _session_keys(self._secret, self._transcript + self._proof)
        self.session = LinkSession(self.target, out, back, self._secret)
        return b""

    def _on_challenge(self, data: bytes) -> bytes:
        magic, version, kind, verdict, _ = _CHALLENGE.unpack(data)
        if magic != _MAGIC or kind != _KIND_CHALLENGE:
            raise HandshakeError(HandshakeVerdict.GARBAGE, peer=self.target)
        if verdict:
            raise _told(verdict, self.target)
        if version != HANDSHAKE_VERSION:
            raise HandshakeError(HandshakeVerdict.OTHER_VERSION, peer=self.target)
        self._transcript = self.first + data
        self._proof = _prove(self._secret, b"dialer", self._transcript)
        self.need = _ANSWER.size
        return self._proof


class Acceptor:
    """The side that was dialled. Sends nothing first; give each `need` bytes received to `step`."""

    first = b""

    def __init__(
        self,
        me: Credentials,
        peers: Collection[str],
        *,
        strangers: bool = False,
        nonce: Callable[[int], bytes] = os.urandom,
    ) -> None:
        self._me = me
        self._peers = peers
        self._strangers = strangers
        """A stranger may prove that it holds the secret; the owner judges it then."""
        self._nonce = nonce
        self.need = _HELLO.size
        self.session: LinkSession | None = None
        """Set when the other side has proved itself."""
        self._transcript = b""
        self._claimed = ""

    def step(self, data: bytes) -> bytes:
        """Handle the next message and return the answer. Raises `HandshakeError`."""
        if not self._transcript:
            return self._on_hello(data)
        proved = [
            hmac.compare_digest(data, _prove(secret, b"dialer", self._transcript)) for secret in self._me.secrets
        ]
        if not any(proved):
            reply = _ANSWER.pack(HandshakeVerdict.WRONG_SECRET, _NO_PROOF)
            raise HandshakeError(HandshakeVerdict.WRONG_SECRET, peer=self._claimed, reply=reply)
        secret = self._me.secrets[proved.index(True)]
        back, out = _session_keys(secret, self._transcript + data)
        self.session = LinkSession(self._claimed, out, back, secret)
        return _ANSWER.pack(HandshakeVerdict.OK, _prove(secret, b"acceptor", self._transcript, data))

    def _on_hello(self, data: bytes) -> bytes:
        magic, version, kind, cluster, _, dialer_length, dialer_field, target_length, target_field = _HELLO.unpack(
            data
        )
        dialer, target = _read_name(dialer_length, dialer_field), _read_name(target_length, target_field)
        if magic != _MAGIC or kind != _KIND_HELLO or dialer is None or target is None:
            raise HandshakeError(HandshakeVerdict.GARBAGE)
        verdict = self._judge(version, cluster, dialer, target)
        challenge = _CHALLENGE.pack(_MAGIC, HANDSHAKE_VERSION, _KIND_CHALLENGE, verdict, self._nonce(NONCE_BYTES))
        if verdict:
            raise HandshakeError(verdict, peer=dialer, reply=challenge)
        self._transcript = data + challenge
        self._claimed = dialer
        self.need = _PROOF.size
        return challenge

    def _judge(self, version: int, cluster: bytes, dialer: str, target: str) -> HandshakeVerdict:
        """Check what the dialer claims; the most helpful fault first."""
        if version != HANDSHAKE_VERSION:
            return HandshakeVerdict.OTHER_VERSION
        if not hmac.compare_digest(cluster, _cluster_digest(self._me.cluster_id)):
            return HandshakeVerdict.OTHER_CLUSTER
        if dialer == self._me.name:
            return HandshakeVerdict.OWN_NAME
        if target != self._me.name:
            return HandshakeVerdict.WRONG_ADDRESS
        if dialer not in self._peers:
            return HandshakeVerdict.OK if self._strangers else HandshakeVerdict.UNKNOWN_PEER
        if dialer > self._me.name:
            return HandshakeVerdict.WRONG_DIRECTION
        return HandshakeVerdict.OK


def _told(verdict: int, peer: str) -> HandshakeError:
    """Return the error for a verdict that the other side sent."""
    try:
        known = HandshakeVerdict(verdict)
    except ValueError:
        known = HandshakeVerdict.GARBAGE
    return HandshakeError(known, peer=peer, told=True)
