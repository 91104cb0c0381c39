"""Dialling the peers: for each of them one task that makes a connection, again and again."""

from __future__ import annotations

import asyncio
import random
import socket
from typing import TYPE_CHECKING, Final

from raftflow.replication.net.connection import ConnectionFailure, LinkLimits, PeerConnection
from raftflow.replication.net.handshake import Credentials, Dialer
from raftflow.replication.net.listener import tune

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Mapping

    from raftflow.replication.net.connection import ConnectionOwner

Address = tuple[str, int]

_REFUSED: Final = "refused_by_peer_wrong_secret"
STEADY_LINK_S: Final = 1.0
"""After a link that lived so long the pause between two attempts begins at its minimum again."""


class PeerDialers:
    """The tasks that dial. A replica dials the peers with a greater name; names are resolved at every attempt.

    Args:
        me: name, cluster and secret of this replica.
        owner: hears of the connections.
        limits: pauses and timeouts.
        tls_client: for TLS between replicas.
        is_up: returns whether there is a link to a peer.
        seeks: whether a peer that should dial this replica is dialled while there is no link: it may not know this
            replica.
    """

    def __init__(
        self,
        me: Credentials,
        owner: ConnectionOwner,
        limits: LinkLimits,
        tls_client: ssl.SSLContext | None,
        *,
        is_up: Callable[[str], bool],
        seeks: bool,
    ) -> None:
        self.me = me
        self._owner = owner
        self._limits = limits
        self.tls_client = tls_client
        self._is_up = is_up
        self._seeks = seeks
        self._peers: Mapping[str, Address] = {}
        self._refused: dict[str, int] = {}
        """How often a peer has refused the secret of this replica."""
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._jitter = random.Random()  # noqa: S311 - it spreads retries and guards nothing

    def dial(self, peers: Mapping[str, Address]) -> None:
        """Dial those of `peers` that are not dialled yet; addresses of the others take effect at the next attempt."""
        self._peers = peers
        for peer in peers:
            if peer in self._tasks:
                continue
            if self.me.name < peer:
                self._tasks[peer] = asyncio.get_running_loop().create_task(self._keep_dialled(peer))
            elif self._seeks:
                self._tasks[peer] = asyncio.get_running_loop().create_task(self._seek(peer))

    def cancel(self, peer: str) -> None:
        """Dial `peer` no more."""
        task = self._tasks.pop(peer, None)
        if task is not None:
            task.cancel()

    def cancel_all(self) -> list[asyncio.Task[None]]:
        """Dial no more; returns the tasks that end."""
        tasks = list(self._tasks.values())
        for peer in list(self._tasks):
            self.cancel(peer)
        return tasks

    async def _seek(self, peer: str) -> None:
        """Dial a peer that should dial this replica, when there is no link: it may not know this replica."""
        attempt = 0
        while True:
            await asyncio.sleep(self._limits.seek_s * self._jitter.uniform(0.5, 1.0))
            if not self._is_up(peer):
                await self._dial(peer, attempt)
                attempt += 1

    async def _keep_dialled(self, peer: str) -> None:
        """Keep a connection to one peer for as long as it is a peer."""
        pause_s, attempt = 0.0, 0
        while True:
            up_at = await self._dial(peer, attempt)
            attempt += 1
            if up_at is not None and asyncio.get_running_loop().time() - up_at >= STEADY_LINK_S:
                pause_s = 0.0
            pause_s = min(max(2 * pause_s, self._limits.retry_min_s), self._limits.retry_max_s)
            await asyncio.sleep(pause_s * self._jitter.uniform(0.5, 1.0))

    async def _dial(self, peer: str, attempt: int) -> float | None:
        """Make one connection and wait for its end. Returns the loop time at which the peer had proved itself."""
        host, port = self._peers[peer]
        secrets = self.me.secrets
        dialer = Dialer(self.me, peer, secret=secrets[self._refused.get(peer, 0) % len(secrets)])
        connection = PeerConnection(dialer, self._owner, self._limits, f"{host}:{port}")
        try:
            await self._open(connection, host, port, attempt)
            await connection.ended.wait()
        except TimeoutError:
            reason = f"no connection within {self._limits.dial_s} s"
            connection.drop(ConnectionFailure("unreachable", f"cannot be reached: {reason}", peer))
        except Exception as error:  # noqa: BLE001 - a dialler that ends would cut off its peer for ever
            reason = str(error) or repr(error)
            connection.drop(ConnectionFailure("unreachable", f"cannot be reached: {reason}", peer))
        finally:
            connection.drop(ConnectionFailure("closed"))
        if connection.failure is not None and connection.failure.reason == _REFUSED:
            self._refused[peer] = self._refused.get(peer, 0) + 1  # the peer may know the other one
        return connection.established_at

    async def _open(self, connection: PeerConnection, host: str, port: int, attempt: int) -> None:
        """Connect to one of the host's addresses, another one at each attempt."""
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(self._limits.dial_s):
            infos = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            family, kind, proto, _, address = infos[attempt % len(infos)]
            sock = socket.socket(family, kind, proto)
            try:
                tune(sock, self._limits)
                await loop.sock_connect(sock, address)
                await loop.create_connection(
                    lambda: connection,
                    sock=sock,
                    ssl=self.tls_client,
                    server_hostname=host if self.tls_client is not None else None,
                )
            except BaseException:
                sock.close()
                raise
