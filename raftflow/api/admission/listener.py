"""The listening side of the API: it accepts connections within the bounds of admission, and survives every failure.

It accepts connections itself and does not use the loop's server. A connection counts from the moment it is accepted,
so one that never ends its TLS handshake counts too. No error of `accept`, such as too many open files, unbinds the
port or keeps the loop busy.

A TLS connection costs nothing but its socket until its first byte has arrived and looks like the start of a
handshake. The load shedder starts handshakes in turn, because each costs about a millisecond of this thread.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import socket
import ssl
from typing import TYPE_CHECKING, Final

from raftflow.api.admission.load_shedder import QueueClass
from raftflow.api.http.parse_errors import SPEAKS_TLS
from raftflow.api.http.problems import ProblemError
from raftflow.replication.net.listener import listen

if TYPE_CHECKING:
    from raftflow.api.admission.gated_connection import AdmissionControl
    from raftflow.coordinator.config.addresses import Address

_log = logging.getLogger(__name__)

HANDSHAKE_S: Final = 5.0
"""Time for a TLS handshake, from the moment the connection is accepted."""
BACKLOG: Final = 256
"""Connections that the kernel keeps until the listener accepts them."""
_ACCEPTS_PER_TURN: Final = 32
_RETRY_S: Final = 0.1
_WARNING_PERIOD_S: Final = 10.0
_HANDSHAKE_START: Final = b"\x16"
_PLAIN_REQUEST: Final = re.compile(rb"[A-Z]{3,10} [/*h]")
_PEEK_BYTES: Final = 16
_READ_BYTES: Final = 64 * 1024


class ApiListener:
    """Bound sockets, and a task for each accepted connection until admission has it."""

    def __init__(self, admission: AdmissionControl, tls: ssl.SSLContext | None) -> None:
        self._admission = admission
        self._tls = tls
        self._sockets: list[socket.socket] = []
        self._retries: set[asyncio.TimerHandle] = set()
        self._warned_s = float("-inf")
        self.accept_failed = 0
        """How often connections could not be accepted."""

    @property
    def port(self) -> int:
        """The port that is bound; 0 before `start`."""
        return int(self._sockets[0].getsockname()[1]) if self._sockets else 0

    def start(self, bind: Address) -> None:
        """Bind every address of the host and listen. Raises `OSError`."""
        self._sockets = listen(bind.host, bind.port, BACKLOG)
        for sock in self._sockets:
            self._watch(sock)

    def close(self) -> None:
        """Unbind, and close the connections whose handshake is under way."""
        loop = asyncio.get_running_loop()
        for handle in self._retries:
            handle.cancel()
        for sock in self._sockets:
            loop.remove_reader(sock.fileno())
            sock.close()
        self._sockets.clear()
        for handshake in tuple(self._admission.handshakes):
            handshake.cancel()

    def _watch(self, sock: socket.socket) -> None:
        asyncio.get_running_loop().add_reader(sock.fileno(), self._on_acceptable, sock)

    def _on_acceptable(self, sock: socket.socket) -> None:
        for _ in range(_ACCEPTS_PER_TURN):
            try:
                accepted, _ = sock.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                self._pause_accepting(sock, error)
                return
            if self._admission.make_room():
                self._adopt(accepted)
            else:
                accepted.close()

    def _pause_accepting(self, sock: socket.socket, error: OSError) -> None:
        """Stop accepting for a moment: descriptors or memory are short. The port stays bound."""
        self.accept_failed += 1
        loop = asyncio.get_running_loop()
        if loop.time() - self._warned_s >= _WARNING_PERIOD_S:
            self._warned_s = loop.time()
            _log.warning("connections cannot be accepted: %s", os.strerror(error.errno or 0))
        loop.remove_reader(sock.fileno())

        def retry() -> None:
            self._retries.discard(handle)
            self._watch(sock)

        handle = loop.call_later(_RETRY_S, retry)
        self._retries.add(handle)

    def _adopt(self, sock: socket.socket) -> None:
        begun = False

        async def begin() -> None:
            nonlocal begun
            begun = True
            await self._open(sock)

        def opened(task: asyncio.Task[None]) -> None:
            self._admission.handshakes.pop(task, None)
            if not begun:  # cancelled before it began
                sock.close()

        handshake = asyncio.get_running_loop().create_task(begin())
        self._admission.handshakes[handshake] = None
        handshake.add_done_callback(opened)

    async def _open(self, sock: socket.socket) -> None:
        """Hand an accepted socket to the loop, through TLS if that is configured."""
        loop = asyncio.get_running_loop()
        left_s: float | None = None
        try:
            sock.settimeout(0)
            if self._tls is not None:
                until_s = loop.time() + HANDSHAKE_S
                async with asyncio.timeout_at(until_s):
                    await _wait_readable(sock)
                    _require_tls(sock)
                    await self._admission.shedder.enter(QueueClass.HANDSHAKE)
                left_s = max(0.1, until_s - loop.time())
            await loop.connect_accepted_socket(
                self._admission.admit, sock, ssl=self._tls, ssl_handshake_timeout=left_s
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
