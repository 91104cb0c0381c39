"""The doorway: what stands between a connection's socket and its protocol, so that reading waits for its turn.

A connection costs hardly anything until something arrives on it: only then is the protocol made (a parser, a task).
What arrives is handed over when it is its turn (`shedder`), and until then the socket is not read any further. The
protocol takes what is worth a step; the rest waits for the next turn. From who does not read answers nothing is read.

There is room for so many connections. One more pushes out the one that has waited longest for its client: one that
was never heard, then one between two requests or in the middle of one. So who opens many and says nothing keeps
nobody else out.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, cast

from raftflow.api.admission.load_shedder import QueueClass
from raftflow.api.http.problems import QUEUE_FULL, ProblemError

if TYPE_CHECKING:
    from collections.abc import Callable

    from raftflow.api.admission.load_shedder import LoadShedder
    from raftflow.api.connection import ApiConnection
    from raftflow.api.figures.request_counts import RequestCounts

SILENT_S: Final = 15.0
"""A connection on which nothing has arrived by then is closed."""
HELD_BYTES_MAX: Final = 512 * 1024
"""Bytes of one connection that may wait here. An event loop reads half of that at most before it can be stopped."""
ALL_HELD_BYTES_MAX: Final = 128 * 1024 * 1024
"""The same of all connections."""
UNREAD_S: Final = 30.0
"""A client that reads less than `UNREAD_BYTES_MIN` of an answer in that time is given up."""
UNREAD_BYTES_MIN: Final = 64 * 1024
ALL_UNREAD_BYTES_MAX: Final = 256 * 1024 * 1024
"""Bytes of answers that clients have not read, of all connections; above it the longest unread one is given up."""
OPENINGS_MAX: Final = 1_024
"""Connections that may be in their TLS handshake."""
_LOOKS: Final = 32
"""Connections that are looked at for one to push out."""
_AGENT = b"POST /v1/agents/"


class AdmissionControl:
    """What the doorways of one replica share."""

    def __init__(
        self, shedder: LoadShedder, figures: RequestCounts, make: Callable[[], ApiConnection], connections_max: int
    ) -> None:
        self.shedder = shedder
        self.figures = figures
        self.make = make
        self.doors: dict[GatedConnection, None] = {}
        """Connections that are open, about in the order in which they last were looked at."""
        self.silent: dict[GatedConnection, None] = {}
        """Those of them on which nothing has arrived, the oldest first."""
        self.openings: dict[asyncio.Task[None], None] = {}
        """Connections that are accepted and not open yet, the oldest first."""
        self.unread: dict[GatedConnection, int] = {}
        """Connections whose clients do not read, the longest first, with the bytes that waited when they stopped."""
        self.unread_bytes = 0
        self.held_bytes = 0
        self.shed = 0
        """Connections that were closed since there were too many, or too much waited."""
        self._connections_max = connections_max

    def admit(self) -> asyncio.Protocol:
        """Return the protocol for a connection that was accepted."""
        return GatedConnection(self)

    def limit(self, connections_max: int) -> None:
        """Set how many connections there may be."""
        self._connections_max = connections_max

    def make_room(self) -> bool:
        """Tell whether one more connection may be accepted, perhaps in the place of another."""
        openings = len(self.openings)
        if openings >= min(OPENINGS_MAX, max(1, self._connections_max // 2)):
            return self._give_up_opening()
        if openings + len(self.doors) < self._connections_max:
            return True
        if self.silent:
            next(iter(self.silent)).shed()
            return True
        return (openings > 0 and self._give_up_opening()) or self._push_out()

    def _give_up_opening(self) -> bool:
        self.shed += 1
        oldest = next(iter(self.openings))
        del self.openings[oldest]
        oldest.cancel()
        return True

    def _push_out(self) -> bool:
        for _ in range(min(_LOOKS, len(self.doors))):
            door = next(iter(self.doors))
            del self.doors[door]
            if door.waits_for_client():
                door.shed()
                return True
            self.doors[door] = None
        self.shed += 1
        return False

    def add_unread(self, door: GatedConnection, size: int) -> None:
        """Count what a client does not read; if that is too much of all of them, give the longest unread one up."""
        self.unread[door] = size
        self.unread_bytes += size
        while self.unread_bytes > ALL_UNREAD_BYTES_MAX:
            oldest = next(iter(self.unread))
            self.drop_unread(oldest)
            oldest.shed()

    def drop_unread(self, door: GatedConnection) -> None:
        """Count it no more."""
        self.unread_bytes -= self.unread.pop(door, 0)

    def close(self) -> None:
        """Close what has said nothing yet; whatever has is in the care of its own protocol."""
        for door in tuple(self.silent):
            door.close_silent()


class GatedConnection(asyncio.Protocol):
    """The protocol of one accepted connection; hands everything to the one behind it."""

    __slots__ = ("_admission", "_behind", "_held", "_in_line", "_paused", "_silent", "_transport", "_unread")

    def __init__(self, admission: AdmissionControl) -> None:
        self._admission = admission
        self._behind: ApiConnection | None = None
        self._transport: asyncio.Transport | None = None
        self._held = b""
        """What has arrived and waits for its turn."""
        self._in_line = False
        self._paused = False
        self._silent: asyncio.TimerHandle | None = None
        self._unread: asyncio.TimerHandle | None = None
        """Runs while the client does not read."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start the clock."""
        self._transport = cast("asyncio.Transport", transport)
        self._admission.doors[self] = self._admission.silent[self] = None
        self._silent = asyncio.get_running_loop().call_later(SILENT_S, self._transport.abort)

    def data_received(self, data: bytes) -> None:
        """Hand the data over at once if nobody waits, else when it is its turn."""
        admission, transport = self._admission, self._transport
        if transport is None or transport.is_closing():
            return
        if self._in_line or self._held:
            self._hold(data)
        elif admission.shedder.at_once(self._line_for(data)):
            self._hand_over(data)
        else:
            self._hold(data)
            self._line_up()

    def _line_for(self, data: bytes) -> QueueClass:
        return QueueClass.AGENT_DATA if data.startswith(_AGENT) else QueueClass.DATA

    def _line_up(self) -> None:
        if self._transport is None or self._transport.is_closing():
            return
        self._in_line = self._admission.shedder.line_up(self._line_for(self._held), self._my_turn)
        if not self._in_line:
            self._refuse()

    def _hold(self, data: bytes) -> None:
        self._held += data
        self._admission.held_bytes += len(data)
        if self._transport is not None:
            # The protocol behind may have started the reading again by itself.
            self._paused = True
            self._transport.pause_reading()
        if self._admission.held_bytes > ALL_HELD_BYTES_MAX or len(self._held) > HELD_BYTES_MAX:
            self.shed()

    def _let_go(self) -> bytes:
        data, self._held = self._held, b""
        self._admission.held_bytes -= len(data)
        return data

    def _my_turn(self) -> None:
        self._in_line = False
        data = self._let_go()
        if self._transport is None or self._transport.is_closing():
            return
        self._hand_over(data)
        self._read_on()

    def _read_on(self) -> None:
        """Read the socket again, unless something waits here."""
        transport, behind = self._transport, self._behind
        if not self._paused or self._held or self._unread is not None or transport is None:
            return
        self._paused = False
        # The protocol behind may have stopped the reading for reasons of its own, and goes on by itself.
        if behind is None or not (behind._reading_paused or getattr(behind, "_buffer_paused", False)):  # noqa: SLF001
            transport.resume_reading()

    def _hand_over(self, data: bytes) -> None:
        behind = self._behind
        if behind is None:
            if self._silent is not None:
                self._silent.cancel()
                self._silent = None
            self._admission.silent.pop(self, None)
            self._behind = behind = self._admission.make()
            behind.on_resume = self._on_resume
            behind.connection_made(cast("asyncio.Transport", self._transport))
        rest = behind.take(data)
        if rest:
            self._hold(rest)
            if not behind.is_full():
                self._line_up()

    def _on_resume(self) -> None:
        """Go on with what waits here; the protocol behind can take more."""
        if self._held and not self._in_line:
            self._line_up()

    def _refuse(self) -> None:
        """Say in the fewest steps that there is no room, and close."""
        assert self._transport is not None  # noqa: S101 - something arrived on it
        self._admission.shed += 1
        self._let_go()
        self._transport.write(_FULL)
        self._transport.close()

    def shed(self) -> None:
        """Close at once, since there are too many or too much waits."""
        self._admission.shed += 1
        self._forget()
        if self._transport is not None:
            self._transport.abort()

    def waits_for_client(self) -> bool:
        """Tell whether it is the client's turn to say something."""
        return self._behind is None or (self._behind.waits_for_client() and not self._held)

    def close_silent(self) -> None:
        """Close the connection if nothing has arrived on it."""
        if self._behind is None and self._transport is not None:
            self._transport.abort()

    def _forget(self) -> None:
        self._admission.doors.pop(self, None)
        self._admission.silent.pop(self, None)
        self._admission.drop_unread(self)
        for timer in (self._silent, self._unread):
            if timer is not None:
                timer.cancel()
        self._silent = self._unread = None

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget it."""
        self._forget()
        self._transport = None
        self._let_go()
        if self._behind is not None:
            self._behind.connection_lost(exc)

    def eof_received(self) -> bool | None:
        """Nothing more will come. What waits for its turn is handed over all the same, as far as it is in time."""
        if self._behind is not None:
            self._behind.eof_received()
        return None

    def pause_writing(self) -> None:
        """The client does not read: start a clock, and read nothing from it either."""
        if self._behind is not None:
            self._behind.pause_writing()
        if self._transport is not None and self._unread is None:
            size = self._transport.get_write_buffer_size()
            self._unread = asyncio.get_running_loop().call_later(UNREAD_S, self._look_unread, size)
            self._paused = True
            self._transport.pause_reading()
            self._admission.add_unread(self, size)

    def _look_unread(self, before: int) -> None:
        """Give up a client that has read hardly anything since."""
        self._unread = None
        transport = self._transport
        if transport is None:
            return
        size = transport.get_write_buffer_size()
        if before - size < UNREAD_BYTES_MIN:
            self.shed()
            return
        self._unread = asyncio.get_running_loop().call_later(UNREAD_S, self._look_unread, size)

    def resume_writing(self) -> None:
        """The client reads again."""
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None
        self._admission.drop_unread(self)
        if self._behind is not None:
            self._behind.resume_writing()
        self._read_on()


def _full() -> bytes:
    problem = ProblemError(QUEUE_FULL, "more requests wait than can be answered soon; try again later")
    _, headers, body = problem.parts()
    headers |= {"Content-Length": str(len(body)), "Connection": "close"}
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"HTTP/1.1 429 Too Many Requests\r\n{lines}\r\n".encode() + body


_FULL: Final = _full()
