"""What stands between a connection's socket and its protocol, so that reading waits for its turn.

A connection costs hardly anything until data arrives on it. Only then is the protocol made (a parser, a task). The
load shedder decides when arrived data is handed over, and until then nothing more is read from the socket. The
protocol takes as much as fits into one step; the rest waits for the next turn. Nothing is read from a client that
does not read its answers.

The number of connections is bounded. A new one above the bound closes an old one that waits for its client: first one
on which nothing has arrived, then one between two requests or in the middle of one. So a client that opens many
connections and sends nothing cannot keep others out.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, Protocol, cast

from raftflow.api.admission.load_shedder import QueueClass
from raftflow.api.http.problems import QUEUE_FULL, ProblemError

if TYPE_CHECKING:
    from collections.abc import Callable

    from raftflow.api.admission.load_shedder import LoadShedder
    from raftflow.api.figures.request_counts import RequestCounts
    from raftflow.api.http.identity import ClientIdentity

SILENT_S: Final = 15.0
"""A connection is closed if nothing has arrived on it by then."""
HELD_BYTES_MAX: Final = 512 * 1024
"""Bytes of one connection that may wait here. An event loop reads at most half of that before it can be stopped."""
ALL_HELD_BYTES_MAX: Final = 128 * 1024 * 1024
"""The same for all connections together."""
UNREAD_S: Final = 30.0
"""A client must read `UNREAD_BYTES_MIN` of an answer in that time, or its connection is closed."""
UNREAD_BYTES_MIN: Final = 64 * 1024
ALL_UNREAD_BYTES_MAX: Final = 256 * 1024 * 1024
"""Bytes of answers that clients have not read, of all connections. Above it the longest unread connection is
closed."""
HANDSHAKES_MAX: Final = 1_024
"""Connections that may be in their TLS handshake."""
_EVICTION_LOOKS: Final = 32
"""Connections that are examined to find one that can be closed."""
_AGENT = b"POST /v1/agents/"


class HttpProtocol(Protocol):
    """What a gated connection needs of the HTTP protocol of that connection."""

    on_resume: Callable[[], None] | None
    """Is called when the protocol can take more again."""

    identity: ClientIdentity | None
    """Who sent the last request that was let in."""

    def ingest(self, data: bytes) -> bytes:
        """Take as much of the data as fits into one step. Return the rest."""

    def is_reading_paused(self) -> bool:
        """Tell whether what was taken must be read before more is taken."""

    def may_read_socket(self) -> bool:
        """Tell whether the protocol itself lets the socket be read."""

    def is_waiting_for_client(self) -> bool:
        """Tell whether the client has to send something."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """As in `asyncio.Protocol`."""

    def connection_lost(self, exc: BaseException | None) -> None:
        """As in `asyncio.Protocol`."""

    def eof_received(self) -> bool | None:
        """As in `asyncio.Protocol`."""

    def pause_writing(self) -> None:
        """As in `asyncio.Protocol`."""

    def resume_writing(self) -> None:
        """As in `asyncio.Protocol`."""


class AdmissionControl:
    """What the gated connections of one replica share."""

    def __init__(
        self,
        shedder: LoadShedder,
        figures: RequestCounts,
        make_protocol: Callable[[], HttpProtocol],
        connections_max: int,
    ) -> None:
        self.shedder = shedder
        self.figures = figures
        self.make_protocol = make_protocol
        self.connections: dict[GatedConnection, None] = {}
        """Open connections, about in the order in which they were last examined."""
        self.silent: dict[GatedConnection, None] = {}
        """Those on which nothing has arrived, the oldest first."""
        self.handshakes: dict[asyncio.Task[None], None] = {}
        """Connections that are accepted and not open yet, the oldest first."""
        self.unread: dict[GatedConnection, int] = {}
        """Connections whose clients do not read, the longest first, with the bytes that waited when they stopped."""
        self.unread_bytes = 0
        self.held_bytes = 0
        self.shed = 0
        """Connections that were closed because there were too many, or because too much waited."""
        self._connections_max = connections_max

    def admit(self) -> asyncio.Protocol:
        """Return the protocol for a connection that was accepted."""
        return GatedConnection(self)

    def set_connections_max(self, connections_max: int) -> None:
        """Set how many connections there may be."""
        self._connections_max = connections_max

    def make_room(self) -> bool:
        """Tell whether one more connection may be accepted; close another one for it if necessary."""
        handshakes = len(self.handshakes)
        if handshakes >= min(HANDSHAKES_MAX, max(1, self._connections_max // 2)):
            return self._cancel_handshake()
        if handshakes + len(self.connections) < self._connections_max:
            return True
        if self.silent:
            next(iter(self.silent)).shed()
            return True
        return (handshakes > 0 and self._cancel_handshake()) or self._evict()

    def _cancel_handshake(self) -> bool:
        self.shed += 1
        oldest = next(iter(self.handshakes))
        del self.handshakes[oldest]
        oldest.cancel()
        return True

    def _evict(self) -> bool:
        """Close a connection that waits for its client. Returns False if none was found."""
        for _ in range(min(_EVICTION_LOOKS, len(self.connections))):
            connection = next(iter(self.connections))
            del self.connections[connection]
            if connection.is_waiting_for_client():
                connection.shed()
                return True
            self.connections[connection] = None
        self.shed += 1
        return False

    def add_unread(self, connection: GatedConnection, size: int) -> None:
        """Count what a client does not read. If that is too much in total, close the longest unread connection."""
        self.unread[connection] = size
        self.unread_bytes += size
        while self.unread_bytes > ALL_UNREAD_BYTES_MAX:
            oldest = next(iter(self.unread))
            self.drop_unread(oldest)
            oldest.shed()

    def drop_unread(self, connection: GatedConnection) -> None:
        """Stop counting what a client does not read."""
        self.unread_bytes -= self.unread.pop(connection, 0)

    def end_invalid(self, is_valid: Callable[[ClientIdentity], bool]) -> int:
        """Close the connections of those who would not be let in any more. Return how many."""
        ended = [each for each in self.connections if not each.is_allowed(is_valid)]
        for connection in ended:
            connection.end()
        return len(ended)

    def close(self) -> None:
        """Close the connections on which nothing has arrived. The others are closed by their own protocols."""
        for connection in tuple(self.silent):
            connection.close_silent()


class GatedConnection(asyncio.Protocol):
    """The protocol of one accepted connection. It hands everything to the HTTP protocol."""

    __slots__ = (
        "_admission",
        "_held",
        "_paused",
        "_protocol",
        "_queued",
        "_silent_timer",
        "_transport",
        "_unread_timer",
    )

    def __init__(self, admission: AdmissionControl) -> None:
        self._admission = admission
        self._protocol: HttpProtocol | None = None
        self._transport: asyncio.Transport | None = None
        self._held = b""
        """What has arrived and waits for its turn."""
        self._queued = False
        self._paused = False
        self._silent_timer: asyncio.TimerHandle | None = None
        self._unread_timer: asyncio.TimerHandle | None = None
        """Runs while the client does not read."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start the timeout for silence."""
        self._transport = cast("asyncio.Transport", transport)
        self._admission.connections[self] = self._admission.silent[self] = None
        self._silent_timer = asyncio.get_running_loop().call_later(SILENT_S, self._transport.abort)

    def data_received(self, data: bytes) -> None:
        """Hand the data over at once if nothing waits, else when its turn comes."""
        admission, transport = self._admission, self._transport
        if transport is None or transport.is_closing():
            return
        if self._queued or self._held:
            self._hold(data)
        elif admission.shedder.try_enter(self._class_of(data)):
            self._deliver(data)
        else:
            self._hold(data)
            self._enqueue()

    def _class_of(self, data: bytes) -> QueueClass:
        return QueueClass.AGENT_DATA if data.startswith(_AGENT) else QueueClass.DATA

    def _enqueue(self) -> None:
        if self._transport is None or self._transport.is_closing():
            return
        self._queued = self._admission.shedder.enqueue(self._class_of(self._held), self._on_turn)
        if not self._queued:
            self._refuse()

    def _hold(self, data: bytes) -> None:
        self._held += data
        self._admission.held_bytes += len(data)
        if self._transport is not None:
            # The HTTP protocol may have resumed the reading by itself.
            self._paused = True
            self._transport.pause_reading()
        if self._admission.held_bytes > ALL_HELD_BYTES_MAX or len(self._held) > HELD_BYTES_MAX:
            self.shed()

    def _release_held(self) -> bytes:
        data, self._held = self._held, b""
        self._admission.held_bytes -= len(data)
        return data

    def _on_turn(self) -> None:
        self._queued = False
        data = self._release_held()
        if self._transport is None or self._transport.is_closing():
            return
        self._deliver(data)
        self._resume_reading()

    def _resume_reading(self) -> None:
        """Read the socket again, unless something waits here."""
        transport, protocol = self._transport, self._protocol
        if not self._paused or self._held or self._unread_timer is not None or transport is None:
            return
        self._paused = False
        # The HTTP protocol may have paused the reading for its own reasons. It resumes it by itself.
        if protocol is None or protocol.may_read_socket():
            transport.resume_reading()

    def _deliver(self, data: bytes) -> None:
        protocol = self._protocol
        if protocol is None:
            if self._silent_timer is not None:
                self._silent_timer.cancel()
                self._silent_timer = None
            self._admission.silent.pop(self, None)
            self._protocol = protocol = self._admission.make_protocol()
            protocol.on_resume = self._on_resume
            protocol.connection_made(cast("asyncio.Transport", self._transport))
        rest = protocol.ingest(data)
        if rest:
            self._hold(rest)
            if not protocol.is_reading_paused():
                self._enqueue()

    def _on_resume(self) -> None:
        """Continue with what waits here: the HTTP protocol can take more."""
        if self._held and not self._queued:
            self._enqueue()

    def _refuse(self) -> None:
        """Answer in the fewest steps that there is no room, and close."""
        assert self._transport is not None  # noqa: S101 - something arrived on it
        self._admission.shed += 1
        self._release_held()
        self._transport.write(_FULL)
        self._transport.close()

    def shed(self) -> None:
        """Close at once: there are too many connections, or too much waits."""
        self._admission.shed += 1
        self.end()

    def is_allowed(self, is_valid: Callable[[ClientIdentity], bool]) -> bool:
        """Tell whether the sender of the last request would still be let in."""
        identity = None if self._protocol is None else self._protocol.identity
        return identity is None or is_valid(identity)

    def end(self) -> None:
        """Close at once: the client is not let in any more."""
        self._forget()
        if self._transport is not None:
            self._transport.abort()

    def is_waiting_for_client(self) -> bool:
        """Tell whether the client has to send something."""
        return self._protocol is None or (self._protocol.is_waiting_for_client() and not self._held)

    def close_silent(self) -> None:
        """Close the connection if nothing has arrived on it."""
        if self._protocol is None and self._transport is not None:
            self._transport.abort()

    def _forget(self) -> None:
        self._admission.connections.pop(self, None)
        self._admission.silent.pop(self, None)
        self._admission.drop_unread(self)
        for timer in (self._silent_timer, self._unread_timer):
            if timer is not None:
                timer.cancel()
        self._silent_timer = self._unread_timer = None

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._forget()
        self._transport = None
        self._release_held()
        if self._protocol is not None:
            self._protocol.connection_lost(exc)

    def eof_received(self) -> bool | None:
        """Nothing more will come. What waits is still handed over if its turn comes in time."""
        if self._protocol is not None:
            self._protocol.eof_received()
        return None

    def pause_writing(self) -> None:
        """The client does not read: start a timeout, and read nothing from it either."""
        if self._protocol is not None:
            self._protocol.pause_writing()
        if self._transport is not None and self._unread_timer is None:
            size = self._transport.get_write_buffer_size()
            self._unread_timer = asyncio.get_running_loop().call_later(UNREAD_S, self._check_unread, size)
            self._paused = True
            self._transport.pause_reading()
            self._admission.add_unread(self, size)

    def _check_unread(self, before: int) -> None:
        """Close the connection of a client that has read hardly anything since."""
        self._unread_timer = None
        transport = self._transport
        if transport is None:
            return
        size = transport.get_write_buffer_size()
        if before - size < UNREAD_BYTES_MIN:
            self.shed()
            return
        self._unread_timer = asyncio.get_running_loop().call_later(UNREAD_S, self._check_unread, size)

    def resume_writing(self) -> None:
        """The client reads again."""
        if self._unread_timer is not None:
            self._unread_timer.cancel()
            self._unread_timer = None
        self._admission.drop_unread(self)
        if self._protocol is not None:
            self._protocol.resume_writing()
        self._resume_reading()


def _full_answer() -> bytes:
    problem = ProblemError(QUEUE_FULL, "more requests wait than can be answered soon; try again later")
    _, headers, body = problem.parts()
    headers |= {"Content-Length": str(len(body)), "Connection": "close"}
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"HTTP/1.1 429 Too Many Requests\r\n{lines}\r\n".encode() + body


_FULL: Final = _full_answer()
