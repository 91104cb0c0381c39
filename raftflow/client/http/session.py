"""The HTTP session of a client: its headers, certificates and connections, and one request to one peer."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import aiohttp

from raftflow import __version__
from raftflow.client.errors import BadAnswer, NotFound, Refused, UsageError
from raftflow.client.http.calls import ApiCall
from raftflow.client.http.peer_order import PeerOrder
from raftflow.client.http.resolver import DaemonResolver
from raftflow.client.http.responses import RETRIED_STATUSES, RetryableProblem, problem_of, read_body, retry_after_s
from raftflow.domain.contract.views import HEADER_IDEMPOTENCY_KEY
from raftflow.private_files import TokenInUse, check_private

CONNECT_S: Final = 2.0
UNAUTHORIZED: Final = 401


class HttpSession:
    """The connections to all peers. Belongs to the event loop in which it is used first."""

    def __init__(
        self,
        peers: PeerOrder,
        *,
        token: str | None,
        token_file: Path | str | None,
        cacert: Path | str | None,
        client_cert: Path | str | None,
        client_key: Path | str | None,
    ) -> None:
        """Check token and certificates. Raises `UsageError`."""
        self._peers = peers
        self._headers = {
            "User-Agent": f"raftflow/{__version__}",
            "Accept": "application/json",
            "Accept-Encoding": "identity",
        }
        if token is not None and (not token or not token.isascii() or not token.isprintable() or " " in token):
            raise UsageError("the token must be printable ASCII without spaces, and not empty")
        self._token = TokenInUse(token or "", token_file)
        self._ssl = load_certificates(cacert, client_cert, client_key)
        self._session: aiohttp.ClientSession | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        """The loop that the session belongs to."""
        self._closed = False

    async def close(self) -> None:
        """Close the connections. The session cannot be used again."""
        self._closed = True
        session, self._session = self._session, None
        if session is not None and self._loop is asyncio.get_running_loop():
            await session.close()

    def check_usable(self) -> None:
        """Raise `UsageError` if the session is closed or belongs to another event loop."""
        if self._closed:
            raise UsageError("the client is closed")
        loop = asyncio.get_running_loop()
        if self._session is not None and self._loop is not loop:
            raise UsageError(
                "the client belongs to the event loop in which it was used first: make one client for each loop"
            )
        self._loop = loop

    async def request(
        self, call: ApiCall, peer: str, timeout_s: float, on_connected: Callable[[], None] | None = None
    ) -> bytes | RetryableProblem:
        """Send one request. Returns the body, or a problem after which the call may be tried again.

        `on_connected` is called when there is a connection, before the request is sent. A request whose token is
        refused is sent once more if the file of the token has another one by now.
        """
        token = self._token.current()
        try:
            return await self._request(call, peer, timeout_s, on_connected, token)
        except Refused as error:
            if error.problem.status != UNAUTHORIZED:
                raise
            if not self._token.read_again() and self._token.current() == token:
                raise
        return await self._request(call, peer, timeout_s, on_connected, self._token.current())

    async def _request(
        self, call: ApiCall, peer: str, timeout_s: float, on_connected: Callable[[], None] | None, token: str
    ) -> bytes | RetryableProblem:
        headers: dict[str, str] = {"Authorization": f"Bearer {token}"} if token else {}
        if call.body is not None:
            headers["Content-Type"] = call.media_type
        if call.idempotency_key is not None:
            headers[HEADER_IDEMPOTENCY_KEY] = call.idempotency_key
        timeout = aiohttp.ClientTimeout(total=timeout_s, sock_connect=min(CONNECT_S, timeout_s))
        async with self._open().request(
            call.method,
            peer + call.path,
            params=dict(call.params),
            data=call.body,
            headers=headers,
            timeout=timeout,
            allow_redirects=False,
            ssl=self._ssl if self._ssl is not None else True,
            trace_request_ctx=on_connected,
        ) as response:
            data = await read_body(response)
            if response.status < 300:
                self._peers.note_answer(response.headers, peer)
                return data
            if response.status < 400:
                raise BadAnswer(
                    f"{peer} answered with a redirection (status {response.status}), which is not followed; "
                    "name the replicas themselves as peers, by http:// or https:// as they serve it"
                )
            problem = problem_of(response.status, data, peer)
            if response.status in RETRIED_STATUSES:
                return RetryableProblem(problem, retry_after_s(response))
            raise NotFound(problem) if response.status == 404 else Refused(problem)

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            traces = aiohttp.TraceConfig()
            traces.on_connection_create_end.append(_report_connected)
            traces.on_connection_reuseconn.append(_report_connected)
            self._session = aiohttp.ClientSession(
                headers=self._headers,
                auto_decompress=False,
                trace_configs=[traces],
                # `Transport` limits the requests: one that waited here would look like a silent peer.
                connector=aiohttp.TCPConnector(limit=0, resolver=DaemonResolver()),
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        return self._session


async def _report_connected(_session: aiohttp.ClientSession, context: Any, _params: Any) -> None:
    """Call the `on_connected` of the request."""
    if context.trace_request_ctx is not None:
        context.trace_request_ctx()


def load_certificates(
    cacert: Path | str | None, client_cert: Path | str | None, client_key: Path | str | None
) -> ssl.SSLContext | None:
    """Read the certificates; None without any. Raises `UsageError`."""
    if client_key is not None and client_cert is None:
        raise UsageError("a client key needs its client certificate")
    if cacert is None and client_cert is None:
        return None
    try:
        context = ssl.create_default_context(cafile=None if cacert is None else str(cacert))
        if client_key is not None:
            check_private(client_key, "key file")
        if client_cert is not None:
            context.load_cert_chain(str(client_cert), None if client_key is None else str(client_key))
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        files = ", ".join(str(file) for file in (cacert, client_cert, client_key) if file is not None)
        raise UsageError(f"a certificate or key cannot be read ({files}): {error}") from error
    return context
