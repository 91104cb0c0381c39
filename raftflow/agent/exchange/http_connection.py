"""The agent's HTTP connections to replicas: kept open, with one request at a time on each.

A poll every few milliseconds is what an agent with short tasks does, and a general client spends more time on one
than the replica that answers. Parsing is httptools', so whatever a proxy in between makes of an answer (chunks,
informational answers, `Connection: close`) is understood.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from typing import Final, NamedTuple, cast
from urllib.parse import urlsplit

import httptools

from raftflow.private_files import TokenInUse

ANSWER_BYTES_MAX: Final = 256 << 20
HEADER_BYTES_MAX: Final = 64 << 10
UNAUTHORIZED: Final = 401
IDLE_MAX: Final = 4
"""Connections to one replica that are kept while nothing is asked."""
_KEEP_ALIVE: Final = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 10),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 2),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
)
"""A connection to a machine that says nothing any more breaks after 16 s, though nothing is sent on it."""


class HttpConnectionError(ConnectionError):
    """The connection broke, or what came is not HTTP."""


class HttpResponse(NamedTuple):
    """A whole answer."""

    status: int
    headers: dict[str, str]
    """Names in lower case; of one that comes twice, the last."""
    body: bytes


class AgentConnection(asyncio.Protocol):
    """One connection. `ask` is not to be called again before it has returned."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._answer: asyncio.Future[HttpResponse] | None = None
        self._headers: dict[str, str] = {}
        self._body: list[bytes] = []
        self._bytes = 0
        self._begun = False
        """Something of the present answer has arrived."""

    @property
    def open(self) -> bool:
        """True if another request can be sent."""
        return self._transport is not None and not self._transport.is_closing()

    @property
    def begun(self) -> bool:
        """True if part of the last answer has arrived: the replica has read the request."""
        return self._begun

    async def ask(self, request: bytes) -> HttpResponse:
        """Send a request and return its answer. A cancellation closes the connection."""
        if self._transport is None:
            raise HttpConnectionError("the connection was closed")
        self._answer = self._loop.create_future()
        self._begun = False
        self._transport.write(request)
        try:
            return await self._answer
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close at once. Safe to call twice."""
        if self._transport is not None:
            self._transport.abort()

    # What the event loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remember where to write, and have the kernel find out if the other machine is gone."""
        self._transport = cast("asyncio.Transport", transport)
        found: socket.socket | None = transport.get_extra_info("socket")
        if found is not None:
            for level, option, value in _KEEP_ALIVE:
                found.setsockopt(level, option, value)

    def data_received(self, data: bytes) -> None:
        """Take in a piece of an answer."""
        if self._answer is None or self._answer.done():
            self.close()  # nobody has asked
            return
        self._begun = True
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._fail(HttpConnectionError("the answer changes the protocol"))
        except httptools.HttpParserError as error:
            self._fail(
                error.__context__
                if isinstance(error.__context__, HttpConnectionError)
                else HttpConnectionError(str(error))
            )

    def eof_received(self) -> None:
        """Close when the other side has."""

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail the request that waits."""
        self._transport = None
        self._fail(HttpConnectionError(f"the connection was closed{f': {exc}' if exc else ''}"))

    def _fail(self, error: Exception) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(error)
            self._answer.exception()  # the caller may be gone already
        self.close()

    # What the parser calls.

    def on_message_begin(self) -> None:
        """Begin an answer."""
        self._headers = {}
        self._body = []
        self._bytes = 0

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header."""
        self._count(len(name) + len(value), HEADER_BYTES_MAX)
        self._headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        """Refuse what is too large before it arrives."""
        self._bytes = 0
        length = self._headers.get("content-length", "")
        if length.isdigit() and int(length) > ANSWER_BYTES_MAX:
            raise HttpConnectionError(f"an answer of {length} bytes")

    def on_body(self, piece: bytes) -> None:
        """Take a piece of the body."""
        self._count(len(piece), ANSWER_BYTES_MAX)
        self._body.append(piece)

    def on_message_complete(self) -> None:
        """Hand the answer over, unless it only informs."""
        status = self._parser.get_status_code()
        if status < 200:
            return
        if not self._parser.should_keep_alive():
            self.close()
        body = self._body[0] if len(self._body) == 1 else b"".join(self._body)
        answer, self._body = HttpResponse(status, self._headers, body), []
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(answer)

    def _count(self, size: int, limit: int) -> None:
        self._bytes += size
        if self._bytes > limit:
            raise HttpConnectionError(f"an answer of more than {limit} bytes")


class HttpConnections:
    """Asks replicas over connections that are kept open.

    Args:
        headers: sent with every request.
        token: what else is sent, if there is one.
        tls: for `https`; the system's default if it is None.
    """

    def __init__(
        self, headers: dict[str, str], tls: ssl.SSLContext | None = None, token: TokenInUse | None = None
    ) -> None:
        self._token = TokenInUse("") if token is None else token
        self._more = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        self.tls = tls
        self._idle: dict[str, list[AgentConnection]] = {}
        self._closed = False

    async def post(
        self,
        base: str,
        path: str,
        body: bytes,
        *,
        timeout_s: float | asyncio.Timeout,
        connect_timeout_s: float,
        header: str = "",
    ) -> HttpResponse:
        """Post JSON; see `ask`."""
        return await self.ask(
            "POST", base, path, body, timeout_s=timeout_s, connect_timeout_s=connect_timeout_s, header=header
        )

    async def get(
        self, base: str, path: str, *, timeout_s: float | asyncio.Timeout, connect_timeout_s: float
    ) -> HttpResponse:
        """Get something; see `ask`."""
        return await self.ask("GET", base, path, b"", timeout_s=timeout_s, connect_timeout_s=connect_timeout_s)

    async def ask(
        self,
        method: str,
        base: str,
        path: str,
        body: bytes,
        *,
        timeout_s: float | asyncio.Timeout,
        connect_timeout_s: float,
        header: str = "",
    ) -> HttpResponse:
        """Send a request and return its answer, whatever its status. Redirects are not followed.

        A kept connection that turns out to be closed before anything came back is replaced once, so the request may
        arrive twice: it has to be one that may. Raises `HttpConnectionError`, `TimeoutError`, `OSError`.

        `timeout_s` is how long it may take, or a time-out that the caller may move while the request is under way.
        `header` is one more line of the head, with its end. A request whose token is refused is sent once more if
        the file of the token has another one by now.
        """
        host = urlsplit(base).netloc
        asked_again = False
        async with timeout_s if isinstance(timeout_s, asyncio.Timeout) else asyncio.timeout(timeout_s):
            while True:
                token = self._token.current()
                proof = f"Authorization: Bearer {token}\r\n" if token else ""
                request = (
                    f"{method} {urlsplit(base).path}{path} HTTP/1.1\r\nHost: {host}\r\n"
                    f"Content-Length: {len(body)}\r\n{self._more}{proof}{header}\r\n"
                ).encode("latin-1") + body
                connection = self._idle_connection(base)
                kept = connection is not None
                if connection is None:
                    async with asyncio.timeout(connect_timeout_s):
                        connection = await self._connect(base)
                try:
                    answer = await connection.ask(request)
                except HttpConnectionError:
                    if kept and not connection.begun:
                        continue
                    raise
                self._keep(base, connection)
                if answer.status == UNAUTHORIZED and not asked_again:
                    asked_again = True
                    if self._token.read_again() or self._token.current() != token:
                        continue
                return answer

    def _idle_connection(self, base: str) -> AgentConnection | None:
        idle = self._idle.get(base, [])
        while idle:
            connection = idle.pop()
            if connection.open:
                return connection
        return None

    def _keep(self, base: str, connection: AgentConnection) -> None:
        idle = self._idle.setdefault(base, [])
        if connection.open and len(idle) < IDLE_MAX and not self._closed:
            idle.append(connection)
        else:
            connection.close()

    async def _connect(self, base: str) -> AgentConnection:
        parts = urlsplit(base)
        if parts.hostname is None:
            raise HttpConnectionError(f"{base} names no host")
        tls: ssl.SSLContext | None = None
        if parts.scheme == "https":
            tls = self.tls or ssl.create_default_context()
        loop = asyncio.get_running_loop()
        port = parts.port or (443 if tls else 80)
        _, connection = await loop.create_connection(AgentConnection, parts.hostname, port, ssl=tls)
        return connection

    def close(self) -> None:
        """Close every connection that is kept; those in use close when they are done."""
        self._closed = True
        for idle in self._idle.values():
            for connection in idle:
                connection.close()
        self._idle.clear()
