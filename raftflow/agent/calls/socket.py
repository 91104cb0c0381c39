"""The Unix socket on which an attempt speaks to its agent: a JSON line for each request, and one for each answer.

A socket belongs to a folder that is used for one attempt after the other: binding one costs more than a short attempt
may. It serves the attempt that is attached. When that one is over, nothing of it runs any more, so `detach` finds
every connection that it has made, and closes them all.

What an attempt sends costs nobody but itself: lines, connections, requests under way and unread answers are bounded.
A client beyond a bound is not read any more, or is closed.
"""

from __future__ import annotations

import asyncio
import logging
import os
import select
import socket
from typing import TYPE_CHECKING, Final

from raftflow.agent.calls.requests import LINE_BYTES_MAX, refuse

if TYPE_CHECKING:
    from collections.abc import Callable

    from raftflow.agent.calls.attempt import CallingAttempt

_log = logging.getLogger("raftflow.agent.calls")

CONNECTIONS_MAX: Final = 64
"""Of one attempt: it may have threads and child processes."""
PENDING_MAX: Final = 64
"""Requests of one connection that wait for their answers. A client that has sent more is read later."""
UNREAD_BYTES_MAX: Final = 1 << 20
"""Of answers that a client does not read. It is closed then."""
HELD_BYTES_MAX: Final = 4 << 20
"""Of requests that have not come whole and of answers that are not read, of all connections of an attempt. The
connection that would pass it is closed."""
_SMALL_BYTES: Final = HELD_BYTES_MAX // CONNECTIONS_MAX
_BACKLOG: Final = 2 * CONNECTIONS_MAX
_RECEIVE_BYTES: Final = 1 << 16
_OPENING: Final = ord("{")
"""What a request begins with."""
_ACCEPT_AGAIN_S: Final = 1.0
"""How long a socket accepts nothing when the system has no descriptors or memory."""
_PATH_BYTES_MAX: Final = 107
"""Of the path of a Unix socket."""


class CallSocket:
    """Listens in a folder, for one attempt after the other. Raises `OSError` if it cannot be made."""

    def __init__(self, folder: str, name: str) -> None:
        self._loop = asyncio.get_running_loop()
        self._listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            _bind(self._listening, folder, name)
            self._listening.listen(_BACKLOG)
        except BaseException:
            self._listening.close()
            raise
        self._attach: Callable[[], CallingAttempt] | None = None
        self._attempt: CallingAttempt | None = None
        self._connections: set[_AttemptConnection] = set()
        self._arrivals = select.poll()
        self._arrivals.register(self._listening.fileno(), select.POLLIN)
        self._loop.add_reader(self._listening.fileno(), self._accept)

    def attach(self, make: Callable[[], CallingAttempt]) -> None:
        """Serve an attempt. `make` is called when it connects for the first time."""
        self._attach = make

    def detach(self) -> bytes:
        """The attempt is over, and nothing of it runs any more: forget it, and close all that it has opened.

        Returns what it waits for if it has parked, else nothing.
        """
        self._attach = None
        parked = b""
        if self._attempt is not None:
            parked = self._attempt.parked
            self._attempt.end()
            self._attempt = None
        for connection in tuple(self._connections):
            connection.close()
        if self._arrivals.poll(0):  # a tenth of the cost of an accept that finds nothing
            self._accept()
        return parked

    def close(self) -> None:
        """Detach, and end the socket."""
        self.detach()
        self._loop.remove_reader(self._listening.fileno())
        self._listening.close()

    def _accept(self) -> None:
        """Accept what waits. Without an attempt, and beyond the bound, connections are closed at once."""
        if self._listening.fileno() < 0:
            return
        while True:
            try:
                accepted, _ = self._listening.accept()
            except BlockingIOError:
                return
            except OSError as error:
                _log.warning("no connection of an attempt can be accepted for a moment: %s", error)
                self._loop.remove_reader(self._listening.fileno())
                self._loop.call_later(_ACCEPT_AGAIN_S, self._accept_again)
                return
            if self._attach is None or len(self._connections) >= CONNECTIONS_MAX:
                accepted.close()
                continue
            if self._attempt is None:
                self._attempt = self._attach()
            accepted.settimeout(0)
            self._connections.add(_AttemptConnection(accepted, self._attempt, self._connections))

    def _accept_again(self) -> None:
        if self._listening.fileno() >= 0:
            self._loop.add_reader(self._listening.fileno(), self._accept)


def _bind(listening: socket.socket, folder: str, name: str) -> None:
    """Bind a socket that its user alone may use. A path that is too long for it is entered by its folder."""
    path = f"{folder}/{name}"
    if len(os.fsencode(path)) <= _PATH_BYTES_MAX:
        listening.bind(path)
    else:
        fd = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            listening.bind(f"/proc/self/fd/{fd}/{name}")
        finally:
            os.close(fd)
    os.chmod(path, 0o600)  # noqa: PTH101 - the folder is private already


class _AttemptConnection:
    """One connection of an attempt."""

    def __init__(
        self, accepted: socket.socket, attempt: CallingAttempt, connections: set[_AttemptConnection]
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._socket = accepted
        self._attempt = attempt
        self._connections = connections
        self._incoming = bytearray()
        self._outgoing = bytearray()
        self._pending = 0
        self._paused = False
        self._loop.add_reader(accepted.fileno(), self._read)

    def close(self) -> None:
        """Close at once. Safe to call twice."""
        if self._socket.fileno() < 0:
            return
        self._loop.remove_reader(self._socket.fileno())
        self._loop.remove_writer(self._socket.fileno())
        self._socket.close()
        self._incoming.clear()
        self._outgoing.clear()
        self._connections.discard(self)

    def _read(self) -> None:
        try:
            data = self._socket.recv(_RECEIVE_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            # It has closed its end, perhaps with answers on their way that nobody will read.
            self.close()
            return
        if not self._incoming and data[0] == _OPENING and data.find(b"\n") == len(data) - 1:
            self._take_line(data)
            return
        self._incoming += data
        self._take_lines()
        self._check_held()

    def _take_line(self, line: bytes) -> None:
        """Handle one whole line, as from a program that waits for each answer."""
        if self._attempt.over:
            return
        self._pending += 1
        self._attempt.handle(line, self._answer)
        if self._pending >= PENDING_MAX:
            self._pause(paused=True)

    @property
    def held_bytes(self) -> int:
        """Bytes that the agent keeps for this connection."""
        return len(self._incoming) + len(self._outgoing)

    def _check_held(self) -> None:
        """Close the connection if all connections of the attempt hold too much."""
        if self.held_bytes > _SMALL_BYTES and sum(each.held_bytes for each in self._connections) > HELD_BYTES_MAX:
            self.close()

    def _take_lines(self) -> None:
        """Handle the whole lines that came, as far as answers may wait."""
        incoming = self._incoming
        while self._pending < PENDING_MAX and not self._attempt.over:
            end = incoming.find(b"\n")
            if end < 0 or end > LINE_BYTES_MAX:
                break
            line = bytes(incoming[:end])
            del incoming[: end + 1]
            if line.strip():
                self._pending += 1
                self._attempt.handle(line, self._answer)
            if self._socket.fileno() < 0:
                return
        if self._pending < PENDING_MAX and len(incoming) > LINE_BYTES_MAX:
            self._write(refuse(None, "invalid", f"a request has at most {LINE_BYTES_MAX} bytes"))
            self.close()
            return
        self._pause(paused=self._pending >= PENDING_MAX)

    def _pause(self, *, paused: bool) -> None:
        if paused is self._paused or self._socket.fileno() < 0:
            return
        self._paused = paused
        if paused:
            self._loop.remove_reader(self._socket.fileno())
        else:
            self._loop.add_reader(self._socket.fileno(), self._read)

    def _answer(self, line: bytes) -> None:
        """Send the answer to one request."""
        if self._socket.fileno() < 0:
            return
        self._pending -= 1
        self._write(line)
        if self._paused and self._pending < PENDING_MAX // 2:
            self._loop.call_soon(self._take_lines)

    def _write(self, line: bytes) -> None:
        sent = 0
        if not self._outgoing:
            try:
                sent = self._socket.send(line)
            except BlockingIOError:
                pass
            except OSError:
                self.close()
                return
            if sent == len(line):
                return
            self._loop.add_writer(self._socket.fileno(), self._flush)
        self._outgoing += line[sent:]
        if len(self._outgoing) > UNREAD_BYTES_MAX:
            self.close()
        else:
            self._check_held()

    def _flush(self) -> None:
        try:
            sent = self._socket.send(self._outgoing)
        except BlockingIOError:
            return
        except OSError:
            self.close()
            return
        del self._outgoing[:sent]
        if not self._outgoing:
            self._loop.remove_writer(self._socket.fileno())
