"""One TCP (or TLS) connection between two replicas: first the handshake, then frames with a proof.

A connection has one life: handshake, established, over. It is `over` before its owner hears of it, and nothing is
delivered after that. So the object itself separates the frames of an old connection from those of a new one.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any, Final, Protocol, cast

import msgspec

from raftflow.replication.messages.wire import FRAME_BYTES_MAX
from raftflow.replication.net.handshake import (
    LENGTH,
    MAC_BYTES,
    Acceptor,
    Dialer,
    HandshakeError,
    HandshakeVerdict,
    LinkSession,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_JOIN_BYTES_MAX: Final = 64 * 1024
_OVERHEAD: Final = LENGTH.size + MAC_BYTES
_LOOKS: Final = 3
"""How often in `idle_s` a connection checks whether it must send a sign of life, or has heard nothing."""


class LinkLimits(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds on connections between replicas."""

    frame_bytes_max: int = FRAME_BYTES_MAX
    """Longest frame; a longer one ends the connection."""
    buffer_bytes_max: int = 64 * 1024 * 1024
    """Bytes that may wait to be written to one peer; over it the connection is reset."""
    idle_s: float = 3.0
    """Longest silence of an established connection before it is reset. A side that has nothing to send (as between
    two followers) sends an empty frame in time."""
    handshake_s: float = 2.0
    """Time for TLS and handshake together."""
    dial_s: float = 1.0
    """Time for name resolution, connecting and TLS of one attempt."""
    retry_min_s: float = 0.02
    """First pause between attempts to dial; doubles up to `retry_max_s`."""
    retry_max_s: float = 0.5
    seek_s: float = 1.0
    """Longest time between two checks whether to dial a peer that should dial this replica."""
    unproven_max: int = 64
    """Accepted connections that may be in their handshake. One more drops the oldest."""
    complaint_s: float = 10.0
    """Shortest time between two log lines for the same problem."""


class ConnectionFailure(msgspec.Struct, frozen=True):
    """Why a connection ended."""

    reason: str
    """Short name, a key of the counters."""
    detail: str = ""
    """Text for the operator; empty for ordinary ends that need no log line."""
    peer: str | None = None
    """Name that the other side claimed, proven or not."""


class ConnectionOwner(Protocol):
    """The object to which a connection reports."""

    def established(self, connection: PeerConnection, session: LinkSession) -> None:
        """The other side has proved the secret."""
        ...

    def received(self, connection: PeerConnection, frame: bytes) -> None:
        """One verified frame of an established connection."""
        ...

    def ended(self, connection: PeerConnection, failure: ConnectionFailure) -> None:
        """The connection is over. Called exactly once, established or not."""
        ...


class PeerConnection(asyncio.Protocol):
    """The protocol of one connection on either side."""

    def __init__(self, handshake: Dialer | Acceptor, owner: ConnectionOwner, limits: LinkLimits, remote: str) -> None:
        self.remote = remote
        """The other side's address, for log lines."""
        self.over = False
        self.failure: ConnectionFailure | None = None
        """Why it is over."""
        self.established_at: float | None = None
        """Loop time at which the handshake succeeded."""
        self.opening: asyncio.Task[None] | None = None
        """The task that opens the connection, cancelled if it is dropped before it is open."""
        self._handshake = handshake
        self._owner = owner
        self._limits = limits
        self._loop = asyncio.get_running_loop()
        self.ended = asyncio.Event()
        """Set when the connection is over."""
        self.gone: asyncio.Future[None] = self._loop.create_future()
        """Done when its socket is closed as well, with everything written or lost."""
        self.peer = ""
        """The proven name of the other side, kept here by the owner."""
        self.expires_s: float | None = None
        """When the certificate of the other side ends, in seconds since the epoch; None without one."""
        self._session: LinkSession | None = None
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray()
        self._need = 0
        self._heard_at = 0.0
        self._sent_at = 0.0
        self._timer = self._loop.call_later(limits.handshake_s, self._on_handshake_deadline)

    # -- called by the owner -------------------------------------------------------------------------------------

    def send(self, parts: Sequence[bytes]) -> bool:
        """Write one frame. False if the connection is closing, or was dropped because too many bytes wait."""
        transport, session = self._transport, self._session
        if transport is None or session is None or transport.is_closing():
            return False
        size = sum(map(len, parts))
        if not 0 < size <= self._limits.frame_bytes_max:
            raise ValueError(f"a frame has 1 to {self._limits.frame_bytes_max} bytes, not {size}")
        waiting = transport.get_write_buffer_size()
        if waiting + size + _OVERHEAD > self._limits.buffer_bytes_max:
            self.drop(ConnectionFailure("overflow", f"{waiting} bytes wait to be written and {size} more do not fit"))
            return False
        self._sent_at = self._loop.time()
        buffers = session.seal(parts, size)
        if size <= _JOIN_BYTES_MAX:
            transport.write(b"".join(buffers))
        else:
            transport.writelines(buffers)
        return True

    @property
    def secret(self) -> bytes:
        """The secret with which both sides have proved themselves; empty before they have."""
        return b"" if self._session is None else self._session.secret

    def certificate(self) -> Mapping[str, Any] | None:
        """Return the verified certificate of the other side, None without TLS."""
        return None if self._transport is None else self._transport.get_extra_info("peercert") or None

    def buffered(self) -> int:
        """Return how many bytes wait to be written."""
        return self._transport.get_write_buffer_size() if self._transport is not None else 0

    def drop(self, failure: ConnectionFailure, farewell: bytes = b"") -> None:
        """End the connection now. Unwritten bytes are lost, except `farewell` to a stranger."""
        if self.over:
            return
        if self._transport is None:
            if self.opening is not None:
                self.opening.cancel()
        elif farewell:
            self._transport.write(farewell)
            self._transport.close()
        else:
            self._transport.abort()
        self._finish(failure)

    def finish_writing(self) -> None:
        """End the connection; what waits to be written still goes out until `gone`, or `abort`."""
        if self._transport is None:
            self.drop(ConnectionFailure("closed"))
        else:
            self._transport.close()
            self._finish(ConnectionFailure("closed"))

    def abort(self) -> None:
        """Close the socket of a connection that is over."""
        if self._transport is not None:
            self._transport.abort()

    # -- asyncio.Protocol ----------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send the first message, unless the connection was dropped meanwhile."""
        self._transport = cast("asyncio.Transport", transport)
        if self.over:
            self._transport.abort()
        elif self._handshake.first:
            self._transport.write(self._handshake.first)

    def data_received(self, data: bytes) -> None:
        """Handle received bytes: a part of the handshake, or of frames."""
        if self.over:
            return
        if self._session is not None:
            self._heard_at = self._loop.time()
            self._read_frames(data)
        else:
            self._buffer += data
            self._shake_hands()

    def connection_lost(self, exc: Exception | None) -> None:
        """Report the end."""
        self._transport = None
        self.gone.set_result(None)
        if self._session is None:
            detail = f"closed during the handshake ({exc or 'end of stream'})"
            self._finish(ConnectionFailure("closed_early", detail, self._claimed()))
        else:
            self._finish(ConnectionFailure("lost", str(exc or "closed by the peer")))

    # -- inside --------------------------------------------------------------------------------------------------

    def _claimed(self) -> str | None:
        return self._handshake.target if isinstance(self._handshake, Dialer) else None

    def _finish(self, failure: ConnectionFailure) -> None:
        if self.over:
            return
        self.over, self.failure = True, failure
        self._timer.cancel()
        self._buffer.clear()
        self.ended.set()
        self._owner.ended(self, failure)

    def _on_handshake_deadline(self) -> None:
        detail = f"no complete handshake within {self._limits.handshake_s} s"
        self.drop(ConnectionFailure("handshake_timeout", detail, self._claimed()))

    def _on_look(self) -> None:
        """Reset a connection on which nothing arrives. Send a sign of life if nothing was sent for a while."""
        now = self._loop.time()
        if now - self._heard_at >= self._limits.idle_s:
            self.drop(ConnectionFailure("idle", f"nothing arrived for {self._limits.idle_s} s"))
            return
        if self.expires_s is not None and time.time() >= self.expires_s:
            self.drop(ConnectionFailure("refused_certificate", "its certificate has expired", self.peer))
            return
        look_s = self._limits.idle_s / _LOOKS
        session, transport = self._session, self._transport
        if session is not None and transport is not None and now - self._sent_at >= look_s:
            self._sent_at = now
            transport.write(b"".join(session.seal((), 0)))
        self._timer = self._loop.call_later(look_s, self._on_look)

    def _shake_hands(self) -> None:
        """Give the handshake the bytes that it waits for, message by message."""
        handshake = self._handshake
        need = handshake.need
        if len(self._buffer) < need:
            return
        message = bytes(self._buffer[:need])
        del self._buffer[:need]
        try:
            reply = handshake.step(message)
        except HandshakeError as error:
            self._refuse(error)
            return
        if handshake.session is None and self._buffer:
            self._refuse(HandshakeError(HandshakeVerdict.GARBAGE, peer=self._claimed()))
            return
        if reply and self._transport is not None:
            self._transport.write(reply)
        if handshake.session is not None:
            self._establish(handshake.session)

    def _refuse(self, error: HandshakeError) -> None:
        """End a failed handshake. Tell the other side why if the protocol has an answer."""
        if error.told:
            failure = ConnectionFailure(
                f"refused_by_peer_{error.verdict.name.lower()}", f"the peer refuses us: {error}", error.peer
            )
        else:
            failure = ConnectionFailure(f"refused_{error.verdict.name.lower()}", str(error), error.peer)
        self.drop(failure, error.reply)

    def _establish(self, session: LinkSession) -> None:
        self._timer.cancel()
        self._session = session
        self._heard_at = self._sent_at = self.established_at = self._loop.time()
        self._timer = self._loop.call_later(self._limits.idle_s / _LOOKS, self._on_look)
        rest = bytes(self._buffer)
        self._buffer.clear()
        self._owner.established(self, session)
        if rest and not self.over:
            self._read_frames(rest)

    def _read_frames(self, data: bytes) -> None:
        """Verify and deliver every whole frame; keep the rest."""
        session = cast("LinkSession", self._session)
        if self._buffer:
            self._buffer += data
            if len(self._buffer) < self._need:
                return
            data = bytes(self._buffer)
            self._buffer.clear()
        position, end = 0, len(data)
        self._need = LENGTH.size
        while end - position >= LENGTH.size:
            (size,) = LENGTH.unpack_from(data, position)
            if size > self._limits.frame_bytes_max:
                self.drop(ConnectionFailure("bad_frame", f"a frame claims {size} bytes"))
                return
            start = position + LENGTH.size
            stop = start + size
            if stop + MAC_BYTES > end:
                self._need = size + _OVERHEAD
                break
            frame = data[start:stop]
            position = stop + MAC_BYTES
            if not session.open(frame, data[stop:position]):
                self.drop(ConnectionFailure("bad_frame", f"a frame of {size} bytes does not carry its proof"))
                return
            if size:  # an empty frame is a sign of life and nothing else
                self._owner.received(self, frame)
            if self.over:
                return
        if position < end:
            self._buffer += data[position:] if position else data
