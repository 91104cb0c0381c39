"""The listening side of the links: it binds the peer address, and opens what arrives as a connection of a peer."""

from __future__ import annotations

import asyncio
import socket
import ssl
from typing import TYPE_CHECKING, Any, Final

from raftflow.replication.errors import LogFailedError
from raftflow.replication.net.acceptor import SocketAcceptor, open_in_task
from raftflow.replication.net.connection import ConnectionFailure, LinkLimits, PeerConnection

if TYPE_CHECKING:
    from collections.abc import Callable

_BACKLOG: Final = 128
_ACCEPTS_PER_TURN: Final = 16


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
        self.tls = tls
        self._acceptor = SocketAcceptor(
            _ACCEPTS_PER_TURN, self._adopt, lambda why: complain(f"connections cannot be accepted: {why}")
        )

    @property
    def port(self) -> int:
        """The bound port, or the one asked for before `start`."""
        return self._acceptor.port or self._bind[1]

    def start(self) -> None:
        """Bind every address of the host. Raises `LogFailedError` that says what to do."""
        host, port = self._bind
        try:
            self._acceptor.start(host or None, port, _BACKLOG)
        except OSError as error:
            raise LogFailedError(
                f"the peer address {host}:{port} cannot be bound: {error}. If another process uses the port, stop it "
                "or choose another port; the host has to be an address of this machine. Then start again."
            ) from error

    def close(self) -> None:
        """Unbind. The caller drops the connections that are being opened."""
        self._acceptor.close()

    def _adopt(self, sock: socket.socket, address: tuple[Any, ...]) -> None:
        connection = self._make(f"{address[0]}:{address[1]}")
        connection.opening = open_in_task(sock, lambda: self._open(sock, connection))
        self.openings.add(connection.opening)
        connection.opening.add_done_callback(self.openings.discard)

    async def _open(self, sock: socket.socket, connection: PeerConnection) -> None:
        """Hand an accepted socket to the loop, through TLS if that is configured."""
        try:
            tune(sock, self._limits)
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: connection,
                sock,
                ssl=self.tls,
                ssl_handshake_timeout=self._limits.handshake_s if self.tls is not None else None,
            )
        except (OSError, ssl.SSLError) as error:
            sock.close()
            connection.drop(ConnectionFailure("refused_tls", f"no TLS with a certificate of the cluster: {error}"))


def tune(sock: socket.socket, limits: LinkLimits) -> None:
    """Set the options of every connection between replicas: no delay, and the kernel's keep-alive."""
    sock.settimeout(0)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 5)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, max(1, round(limits.idle_s * 1000)))
