"""The doorway: what stands between a connection's socket and its protocol, so that reading waits for its turn.

A connection costs hardly anything until something arrives on it: only then is the protocol made (a parser, a task).
What arrives is handed over when it is its turn (`turnstile`), and until then the socket is not read any further.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, cast

from raftflow.api.problems import QUEUE_FULL, ProblemError
from raftflow.api.turnstile import Line

if TYPE_CHECKING:
    from collections.abc import Callable

    from raftflow.api.connection import Connection
    from raftflow.api.turnstile import Turnstile

SILENT_S: Final = 15.0
"""A connection on which nothing has arrived by then is closed."""
HELD_BYTES_MAX: Final = 512 * 1024
"""Bytes of one connection that may wait here. An event loop reads half of that at most before it can be stopped."""
ALL_HELD_BYTES_MAX: Final = 128 * 1024 * 1024
"""The same of all connections."""
_AGENT = b"POST /v1/agents/"


class Doorman:
    """What the doorways of one replica share."""

    def __init__(self, turnstile: Turnstile, make: Callable[[], Connection], connections_max: int) -> None:
        self.turnstile = turnstile
        self.make = make
        self.doors: set[Doorway] = set()
        """Connections that are open."""
        self.held_bytes = 0
        self.shed = 0
        """Connections that were closed since there were too many, or too much waited."""
        self._connections_max = connections_max

    def admit(self) -> asyncio.Protocol:
        """Return the protocol for a connection that was accepted."""
        return Doorway(self)

    def full(self) -> bool:
        """Tell whether a connection is one too many."""
        return len(self.doors) >= self._connections_max

    def close(self) -> None:
        """Close what has said nothing yet; whatever has is in the care of its own protocol."""
        for door in tuple(self.doors):
            door.close_silent()


class Doorway(asyncio.Protocol):
    """The protocol of one accepted connection; hands everything to the one behind it."""

    __slots__ = ("_behind", "_doorman", "_held", "_in_line", "_paused", "_silent", "_transport")

    def __init__(self, doorman: Doorman) -> None:
        self._doorman = doorman
        self._behind: Connection | None = None
        self._transport: asyncio.Transport | None = None
        self._held = b""
        """What has arrived and waits for its turn."""
        self._in_line = False
        self._paused = False
        self._silent: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start the clock, unless this is one too many."""
        self._transport = cast("asyncio.Transport", transport)
        if self._doorman.full():
            self._shed()
            return
        self._doorman.doors.add(self)
        self._silent = asyncio.get_running_loop().call_later(SILENT_S, self._transport.abort)

    def data_received(self, data: bytes) -> None:
        """Hand the data over at once if nobody waits, else when it is its turn."""
        doorman, transport = self._doorman, self._transport
        if transport is None or transport.is_closing():
            return
        line = Line.AGENT_DATA if (self._held or data).startswith(_AGENT) else Line.DATA
        if not self._in_line and doorman.turnstile.at_once(line):
            self._hand_over(data)
            return
        self._hold(data)
        if doorman.held_bytes > ALL_HELD_BYTES_MAX or len(self._held) > HELD_BYTES_MAX:
            self._shed()
        elif not self._in_line:
            self._in_line = doorman.turnstile.line_up(line, self._my_turn)
            if not self._in_line:
                self._refuse()

    def _hold(self, data: bytes) -> None:
        self._held += data
        self._doorman.held_bytes += len(data)
        if not self._paused and self._transport is not None:
            self._paused = True
            self._transport.pause_reading()

    def _let_go(self) -> bytes:
        data, self._held = self._held, b""
        self._doorman.held_bytes -= len(data)
        return data

    def _my_turn(self) -> None:
        self._in_line = False
        data = self._let_go()
        if self._transport is None or self._transport.is_closing():
            return
        if self._paused:
            self._paused = False
            behind = self._behind
            # The protocol behind may have stopped the reading for reasons of its own, and goes on by itself.
            if behind is None or not (behind._reading_paused or getattr(behind, "_buffer_paused", False)):  # noqa: SLF001
                self._transport.resume_reading()
        self._hand_over(data)

    def _hand_over(self, data: bytes) -> None:
        behind = self._behind
        if behind is None:
            if self._silent is not None:
                self._silent.cancel()
                self._silent = None
            self._behind = behind = self._doorman.make()
            behind.connection_made(cast("asyncio.Transport", self._transport))
        behind.data_received(data)

    def _refuse(self) -> None:
        """Say in the fewest steps that there is no room, and close."""
        assert self._transport is not None  # noqa: S101 - something arrived on it
        self._doorman.shed += 1
        self._let_go()
        self._transport.write(_FULL)
        self._transport.close()

    def _shed(self) -> None:
        assert self._transport is not None  # noqa: S101 - the callers have one
        self._doorman.shed += 1
        self._transport.abort()

    def close_silent(self) -> None:
        """Close the connection if nothing has arrived on it."""
        if self._behind is None and self._transport is not None:
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget it."""
        self._doorman.doors.discard(self)
        self._transport = None
        self._let_go()
        if self._silent is not None:
            self._silent.cancel()
        if self._behind is not None:
            self._behind.connection_lost(exc)

    def eof_received(self) -> bool | None:
        """Nothing more will come. What waits for its turn is handed over all the same, as far as it is in time."""
        if self._behind is not None:
            self._behind.eof_received()
        return None

    def pause_writing(self) -> None:
        """The client does not read."""
        if self._behind is not None:
            self._behind.pause_writing()

    def resume_writing(self) -> None:
        """The client reads again."""
        if self._behind is not None:
            self._behind.resume_writing()


def _full() -> bytes:
    problem = ProblemError(QUEUE_FULL, "more requests wait than can be answered soon; try again later")
    _, headers, body = problem.parts()
    headers |= {"Content-Length": str(len(body)), "Connection": "close"}
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"HTTP/1.1 429 Too Many Requests\r\n{lines}\r\n".encode() + body


_FULL: Final = _full()
