"""The listening side of the API: it accepts connections within the bounds of admission.

A connection counts from the moment it is accepted, so one that never ends its TLS handshake counts too.

A TLS connection costs nothing but its socket until its first byte has arrived and looks like the start of a
handshake. The load shedder starts handshakes in turn, because each costs about a millisecond of this thread.
"""

from __future__ import annotations

import asyncio
import logging
import re
import socket
import ssl
from typing import TYPE_CHECKING, Any, Final

from raftflow.api.admission.load_shedder import QueueClass
from raftflow.api.http.parse_errors import SPEAKS_TLS
from raftflow.api.http.problems import ProblemError
from raftflow.replication.net.acceptor import SocketAcceptor, open_in_task

if TYPE_CHECKING:
    from raftflow.api.admission.gated_connection import AdmissionControl
    from raftflow.coordinator.config.addresses import Address

_log = logging.getLogger(__name__)

HANDSHAKE_S: Final = 5.0
"""Time for a TLS handshake, from the moment the connection is accepted."""
BACKLOG: Final = 256
"""Connections that the kernel keeps until the listener accepts them."""
_ACCEPTS_PER_TURN: Final = 32
_WARNING_PERIOD_S: Final = 10.0
_HANDSHAKE_START: Final = b"\x16"
_PLAIN_REQUEST: Final = re.compile(rb"[A-Z]{3,10} [/*h]")
_PEEK_BYTES: Final = 16
_READ_BYTES: Final = 64 * 1024


class ApiListener:
    """Bound sockets, and a task for each accepted connection until admission has it."""

    def __init__(self, admission: AdmissionControl, tls: ssl.SSLContext | None) -> None:
        self._admission = admission
        self.tls = tls
        self._acceptor = SocketAcceptor(_ACCEPTS_PER_TURN, self._adopt, self._note_failure)
        self._warned_s = float("-inf")
        self.accept_failed = 0
        """How often connections could not be accepted."""

    @property
    def port(self) -> int:
        """The port that is bound; 0 before `start`."""
        return self._acceptor.port

    def start(self, bind: Address) -> None:
        """Bind every address of the host and listen. Raises `OSError`."""
        self._acceptor.start(bind.host, bind.port, BACKLOG)

    def close(self) -> None:
        """Unbind, and close the connections whose handshake is under way."""
        self._acceptor.close()
        for handshake in tuple(self._admission.handshakes):
            handshake.cancel()

    def _adopt(self, sock: socket.socket, _address: tuple[Any, ...]) -> None:
        """Open an accepted connection if admission has room for it."""
        if not self._admission.make_room():
            sock.close()
            return
        handshake = open_in_task(sock, lambda: self._open(sock))
        self._admission.handshakes[handshake] = None
        handshake.add_done_callback(lambda task: self._admission.handshakes.pop(task, None))

    def _note_failure(self, why: str) -> None:
        """Count and log that connections cannot be accepted for a moment."""
        self.accept_failed += 1
        now_s = asyncio.get_running_loop().time()
        if now_s - self._warned_s >= _WARNING_PERIOD_S:
            self._warned_s = now_s
            _log.warning("connections cannot be accepted: %s", why)

    async def _open(self, sock: socket.socket) -> None:
        """Hand an accepted socket to the loop, through TLS if that is configured."""
        loop = asyncio.get_running_loop()
        left_s: float | None = None
        try:
            sock.settimeout(0)
            if self.tls is not None:
                until_s = loop.time() + HANDSHAKE_S
                async with asyncio.timeout_at(until_s):
                    await _wait_readable(sock)
                    _require_tls(sock)
                    await self._admission.shedder.enter(QueueClass.HANDSHAKE)
                left_s = max(0.1, until_s - loop.time())
            await loop.connect_accepted_socket(
                self._admission.admit, sock, ssl=self.tls, ssl_handshake_timeout=left_s
            )
        except (OSError, ProblemError):  # `TimeoutError` and errors of TLS are `OSError`s
            self._admission.shed += 1
            sock.close()
        except BaseException:
            sock.close()
            raise


def _require_tls(sock: socket.socket) -> None:
    """Raise `ConnectionAbortedError` if what has arrived does not look like the start of a handshake.

    A request in plain HTTP gets an answer first.
    """
    begun = sock.recv(_PEEK_BYTES, socket.MSG_PEEK)
    if begun[:1] == _HANDSHAKE_START:
        return
    if _PLAIN_REQUEST.match(begun):
        sock.recv(_READ_BYTES)  # closing a socket with unread data resets it, and the answer is lost
        sock.send(SPEAKS_TLS)
    raise ConnectionAbortedError("not a TLS handshake")


async def _wait_readable(sock: socket.socket) -> None:
    """Return when something has arrived, or the other side has closed."""
    loop = asyncio.get_running_loop()
    arrived: asyncio.Future[None] = loop.create_future()
    number = sock.fileno()
    loop.add_reader(number, lambda: None if arrived.done() else arrived.set_result(None))
    try:
        await arrived
    finally:
        loop.remove_reader(number)
