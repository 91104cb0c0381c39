"""Forwarding a request to the leader, one hop, or naming the leader.

A leader whose machine is silent never answers. This replica hears of its successor, and then gives the old leader a
moment to answer: one that handed leadership over does so. After that, reads and writes with an idempotency key go to
the successor. The outcome of every other request is unknown.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

import aiohttp
from aiohttp import web
from yarl import URL

from raftflow.api.forwarding.proof import UNKNOWN_CLIENT, ForwardingProof
from raftflow.api.http import problems
from raftflow.api.http.problems import ProblemError, outcome_unknown
from raftflow.domain.contract.views import (
    HEADER_CLOCK,
    HEADER_FORWARDED,
    HEADER_FORWARDED_IDENTITY,
    HEADER_FORWARDED_PROOF,
    HEADER_IDEMPOTENCY_KEY,
    HEADER_INDEX,
    HEADER_LEADER,
    HEADER_LEADER_URL,
    HEADER_REQUEST_ID,
    HEADER_TERM,
)

if TYPE_CHECKING:
    import ssl
    from contextlib import AbstractAsyncContextManager

    from raftflow.coordinator.leader.leader_news import LeaderNews
    from raftflow.domain.contract.views import LeaderNotice

REDIRECT: Final = 307
"""Status of an answer that names the leader."""
TIMEOUT_S = 20.0
"""Longer than the leader itself waits for anything."""
CONNECT_S = 1.0
ANSWER_REPEATED_S = 0.1
"""Time for a replaced leader to answer a request that can be sent to its successor."""
ANSWER_ONCE_S = 1.0
"""The same for a request that cannot be sent again."""
CONNECTIONS_MAX = 256
ANSWER_BYTES_MAX = 256 * 1024 * 1024

_SENT_HEADERS = ("Authorization", "Content-Type", HEADER_IDEMPOTENCY_KEY, HEADER_CLOCK)
_RETURNED_HEADERS = ("Content-Type", "Location", "Retry-After", HEADER_INDEX, HEADER_TERM, HEADER_LEADER)


class LeaderUnreachableError(ProblemError):
    """The leader cannot be reached or was replaced. The request may be sent again."""

    def __init__(self, detail: str, *, replaced: bool = False) -> None:
        super().__init__(problems.NO_LEADER, detail)
        self.replaced = replaced
        """There is a new leader, and the request can be sent to it now."""


class Forwarder:
    """Keeps connections to the other replicas.

    Args:
        news: tells when another replica leads.
        proof: proves to the leader the address of the client.
        ssl_context: for the connections; None for the system's defaults.
        connections_max: number of connections to all replicas together.
    """

    def __init__(
        self,
        news: LeaderNews,
        proof: ForwardingProof,
        ssl_context: ssl.SSLContext | None = None,
        connections_max: int = CONNECTIONS_MAX,
    ) -> None:
        self._news = news
        self._proof = proof
        self.tls = ssl_context
        """For the connections that begin from now on. Requests under way go on."""
        self._connections_max = connections_max
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    def request(self, method: str, url: URL, **options: Any) -> AbstractAsyncContextManager[aiohttp.ClientResponse]:
        """Return a request to another replica as `aiohttp.ClientSession.request` does, with present authorities."""
        tls = True if self.tls is None else self.tls
        return self._ensure_session().request(method, url, ssl=tls, **options)

    def _ensure_session(self) -> aiohttp.ClientSession:
        if self._session is None:
            connector = aiohttp.TCPConnector(limit=self._connections_max)
            self._session = aiohttp.ClientSession(
                connector=connector,
                timeout=aiohttp.ClientTimeout(total=TIMEOUT_S, connect=None, sock_connect=CONNECT_S),
                auto_decompress=False,
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        return self._session

    async def forward(self, request: web.Request, body: bytes, leader_url: str, request_id: str) -> web.Response:
        """Send the request to the leader and return its answer.

        Raises `LeaderUnreachableError` if the request was not sent or can be sent again, else `ProblemError`.
        """
        # HEAD is answered by the handler of GET, so it is forwarded as that.
        method = "GET" if request.method == "HEAD" else request.method
        headers = {name: request.headers[name] for name in _SENT_HEADERS if name in request.headers}
        headers[HEADER_FORWARDED] = client = request.remote or UNKNOWN_CLIENT
        headers[HEADER_REQUEST_ID] = request_id
        target = request.rel_url.raw_path_qs
        identity = forwarded_identity(request)
        if identity:
            headers[HEADER_FORWARDED_IDENTITY] = identity
        headers[HEADER_FORWARDED_PROOF] = self._proof.make(client, method, target, request_id, identity)
        url = URL(leader_url + target, encoded=True)
        replaced = False
        repeatable = method == "GET" or HEADER_IDEMPOTENCY_KEY in headers
        scope = asyncio.timeout(None)

        term = self._news.term

        def on_leader(notice: LeaderNotice) -> None:
            nonlocal replaced
            if notice.leader is not None and notice.term > term and not scope.expired():
                replaced = True
                patience_s = ANSWER_REPEATED_S if repeatable else ANSWER_ONCE_S
                scope.reschedule(asyncio.get_running_loop().time() + patience_s)

        try:
            async with scope:
                stop_asking = self._news.ask(term, TIMEOUT_S + 1.0, on_leader)
                try:
                    async with self.request(
                        method, url, data=body or None, headers=headers, allow_redirects=False
                    ) as answer:
                        content = await _read_answer(answer)
                finally:
                    stop_asking()
        except aiohttp.ClientConnectorError as error:
            # Nothing was sent, so this is the same as if there were no leader.
            raise LeaderUnreachableError(f"the leader cannot be reached ({error}); try again shortly") from error
        except (TimeoutError, aiohttp.ClientError) as error:
            if replaced and repeatable:
                raise LeaderUnreachableError(
                    "another replica leads since the request was forwarded; try again shortly", replaced=True
                ) from error
            if method == "GET":
                raise ProblemError(problems.NO_LEADER, "the leader did not answer; try again shortly") from error
            raise outcome_unknown("the connection to the leader was lost while it worked on the request") from error
        response = web.Response(status=answer.status, body=content)
        for name in _RETURNED_HEADERS:
            if name in answer.headers:
                response.headers[name] = answer.headers[name]
        response.headers[HEADER_LEADER_URL] = leader_url.rstrip("/")
        return response


def forwarded_identity(request: web.Request) -> str:
    """Return whose certificate the client of a request has shown, empty if none, or if it sends a token."""
    certified = getattr(request.protocol, "certified", None)
    return "" if certified is None or "Authorization" in request.headers else certified.forwarded


async def _read_answer(answer: aiohttp.ClientResponse) -> bytes:
    """Read a whole answer of bounded size. Raises `aiohttp.ClientError`."""
    content = bytearray()
    async for piece in answer.content.iter_any():
        content += piece
        if len(content) > ANSWER_BYTES_MAX:
            raise aiohttp.ClientPayloadError(f"an answer of more than {ANSWER_BYTES_MAX} bytes")
    return bytes(content)


def redirect(request: web.Request, leader_url: str) -> web.Response:
    """Answer with the leader's address."""
    return web.Response(status=REDIRECT, headers=location(leader_url, request.rel_url.raw_path_qs))


def location(leader_url: str, target: str) -> dict[str, str]:
    """Return the header that names a request's target at the leader."""
    return {"Location": leader_url + target}
