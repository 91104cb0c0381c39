"""Accepting connections, in a way that survives every failure.

It accepts by itself and does not use the loop's server, so that its owner can bound the number of connections before
TLS costs anything, and every loop behaves alike when `accept` fails. No failure unbinds the port or keeps the loop
busy: when descriptors or memory are short, it pauses for a moment.
"""

from __future__ import annotations

import asyncio
import os
import socket
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

_RETRY_S: Final = 0.1


class SocketAcceptor:
    """Bound sockets and the connections that arrive at them.

    Args:
        accepts_per_turn: connections that one turn of the loop accepts.
        on_accepted: takes a connection's socket and its remote address.
        on_failed: told why connections cannot be accepted for a moment.
    """

    def __init__(
        self,
        accepts_per_turn: int,
        on_accepted: Callable[[socket.socket, tuple[Any, ...]], None],
        on_failed: Callable[[str], None],
    ) -> None:
        self._accepts_per_turn = accepts_per_turn
        self._on_accepted = on_accepted
        self._on_failed = on_failed
        self._sockets: list[socket.socket] = []
        self._retries: set[asyncio.TimerHandle] = set()

    @property
    def port(self) -> int:
        """The port that is bound; 0 before `start`."""
        return int(self._sockets[0].getsockname()[1]) if self._sockets else 0

    def start(self, host: str | None, port: int, backlog: int) -> None:
        """Bind every address of the host and accept. Raises `OSError`."""
        self._sockets = listen(host, port, backlog)
        for sock in self._sockets:
            self._watch(sock)

    def close(self) -> None:
        """Unbind."""
        loop = asyncio.get_running_loop()
        for handle in self._retries:
            handle.cancel()
        for sock in self._sockets:
            loop.remove_reader(sock.fileno())
            sock.close()
        self._sockets.clear()

    def _watch(self, sock: socket.socket) -> None:
        asyncio.get_running_loop().add_reader(sock.fileno(), self._on_acceptable, sock)

    def _on_acceptable(self, sock: socket.socket) -> None:
        for _ in range(self._accepts_per_turn):
            try:
                accepted, address = sock.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                self._pause(sock, error)
                return
            self._on_accepted(accepted, address)

    def _pause(self, sock: socket.socket, error: OSError) -> None:
        """Stop accepting for a moment. The port stays bound."""
        self._on_failed(os.strerror(error.errno or 0))
        loop = asyncio.get_running_loop()
        loop.remove_reader(sock.fileno())

        def retry() -> None:
            self._retries.discard(handle)
            self._watch(sock)

        handle = loop.call_later(_RETRY_S, retry)
        self._retries.add(handle)


def open_in_task(sock: socket.socket, work: Callable[[], Awaitable[None]]) -> asyncio.Task[None]:
    """Return a task that opens an accepted connection. If it is cancelled before it begins, it closes the socket."""
    begun = False

    async def begin() -> None:
        nonlocal begun
        begun = True
        await work()

    def close_unopened(_task: asyncio.Task[None]) -> None:
        if not begun:  # no transport owns the socket
            sock.close()

    task = asyncio.get_running_loop().create_task(begin())
    task.add_done_callback(close_unopened)
    return task


def listen(host: str | None, port: int, backlog: int) -> list[socket.socket]:
    """Return a socket for every address of a host; none of them blocks. Port 0: one free port for all of them.

    Raises `OSError`, and then no address is bound.
    """
    sockets: list[socket.socket] = []
    try:
        infos = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, kind, proto, _, address in dict.fromkeys(infos):
            bound_port = sockets[0].getsockname()[1] if sockets else port
            sock = socket.socket(family, kind, proto)
            sockets.append(sock)
            sock.settimeout(0)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.bind((address[0], bound_port, *address[2:]))
            sock.listen(backlog)
    except BaseException:
        for sock in sockets:
            sock.close()
        raise
    return sockets
