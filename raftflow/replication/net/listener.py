"""The listening side of the links: accepts, and stays alive when file descriptors run out.

It accepts by itself rather than through the loop's server, for three reasons: the number of strangers is bounded
before TLS spends anything on them, every loop behaves alike when `accept` fails, and no failure unbinds the port.
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from typing import TYPE_CHECKING, Final

from raftflow.replication.errors import LogFailedError
from raftflow.replication.net.connection import ConnectionFailure, LinkLimits, PeerConnection

if TYPE_CHECKING:
    from collections.abc import Callable

_BACKLOG: Final = 128
_ACCEPTS_PER_TURN: Final = 16
_RETRY_S: Final = 0.1


class PeerListener:
    """Bound sockets, and a task for each accepted connection until it is open."""

    def __init__(
        self,
        bind: tuple[str, int],
        make: Callable[[str], PeerConnection],
        limits: LinkLimits,
        tls: ssl.SSLContext | None,
        complain: Callable[[str], None],
    ) -> None:
        self.openings: set[asyncio.Task[None]] = set()
        """Accepted connections that are not open yet."""
        self._bind = bind
        self._make = make
        self._limits = limits
        self._tls = tls
        self._complain = complain
        self._sockets: list[socket.socket] = []
        self._retries: set[asyncio.TimerHandle] = set()

    @property
    def port(self) -> int:
        """The bound port, or the one asked for before `start`."""
        if not self._sockets:
            return self._bind[1]
        port: int = self._sockets[0].getsockname()[1]
        return port

    def start(self) -> None:
        """Bind every address of the host. Raises `LogFailedError` that says what to do."""
        host, port = self._bind
        try:
            self._sockets = listen(host or None, port, _BACKLOG)
        except OSError as error:
            raise LogFailedError(
                f"the peer address {host}:{port} cannot be bound: {error}. If another process uses the port, stop it "
                "or choose another port; the host has to be an address of this machine. Then start again."
            ) from error
        for sock in self._sockets:
            self._watch(sock)

    def close(self) -> None:
        """Unbind. The caller drops the connections that are being opened."""
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
        for _ in range(_ACCEPTS_PER_TURN):
            try:
                accepted, address = sock.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                self._rest(sock, error)
                return
            self._adopt(accepted, f"{address[0]}:{address[1]}")

    def _rest(self, sock: socket.socket, error: OSError) -> None:
        """Stop accepting for a moment: file descriptors or memory are short, and the port stays bound."""
        self._complain(f"connections cannot be accepted: {os.strerror(error.errno or 0)}")
        loop = asyncio.get_running_loop()
        loop.remove_reader(sock.fileno())

        def again() -> None:
            self._retries.discard(handle)
            self._watch(sock)

        handle = loop.call_later(_RETRY_S, again)
        self._retries.add(handle)

    def _adopt(self, sock: socket.socket, remote: str) -> None:
        connection = self._make(remote)
        begun = False

        async def begin() -> None:
            nonlocal begun
            begun = True
            await self._open(sock, connection)

        def opened(task: asyncio.Task[None]) -> None:
            self.openings.discard(task)
            if not begun:  # crowded out before its turn came: no transport owns the socket
                sock.close()

        connection.opening = asyncio.get_running_loop().create_task(begin())
        self.openings.add(connection.opening)
        connection.opening.add_done_callback(opened)

    async def _open(self, sock: socket.socket, connection: PeerConnection) -> None:
        """Hand an accepted socket to the loop, through TLS if that is configured."""
        try:
            tune(sock, self._limits)
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: connection,
                sock,
                ssl=self._tls,
                ssl_handshake_timeout=self._limits.handshake_s if self._tls is not None else None,
            )
        except (OSError, ssl.SSLError) as error:
            sock.close()
            connection.drop(ConnectionFailure("refused_tls", f"no TLS with a certificate of the cluster: {error}"))


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


def tune(sock: socket.socket, limits: LinkLimits) -> None:
    """Set the options of every connection between replicas: no delay, and the kernel's keep-alive."""
    sock.settimeout(0)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 5)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, max(1, round(limits.idle_s * 1000)))
