"""One call, as many requests as it takes: peers in parallel and in turn, back-off, a deadline, one idempotency key.

Connections are raced: while a peer is not connected (its name is looked up, packets are dropped, a TLS handshake
hangs), one more peer is tried every `STAGGER_S`. The first connection gets the request, and the other attempts end
before they send anything: at any time at most one peer has the request.

A replica that is connected and does not answer may be busy, or its machine silent. After `HEDGE_S` others are asked
who leads, and keep that question until somebody else does (`GET /v1/leader`): then the request is given up and sent
to the leader. So a silent machine costs a call little more than the election does.

Any replica answers any call (a follower passes it to the leader and says where that is), so the client goes to the
leader, else to the peer that answered last, and moves on when it fails. Answers name the cluster's members, and the
peers follow them; those that were given are asked last then. What is retried until the call's deadline: connections
that fail, time-outs, 503 (no leader, outcome unknown), 429 and 502/504 of a proxy in between. A write carries one
`Idempotency-Key` for the whole call, so a request that was carried out although its answer was lost gets its first
answer again.
"""

from __future__ import annotations

import asyncio
import os
import random
import re
import ssl
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeVar
from urllib.parse import urlsplit

import aiohttp
import msgspec

from raftflow import __version__
from raftflow.client.errors import (
    BadAnswer,
    ClientError,
    NoLeader,
    NotFound,
    OutcomeUnknown,
    Refused,
    Unreachable,
    UsageError,
)
from raftflow.client.leader_cache import LeaderCache
from raftflow.client.resolver import DaemonResolver
from raftflow.client.settings import TIMEOUT_S
from raftflow.domain.contract.views import (
    HEADER_IDEMPOTENCY_KEY,
    HEADER_LEADER,
    HEADER_LEADER_URL,
    HEADER_PEERS,
    PROBLEM_TYPE_PREFIX,
    LeaderNotice,
    Problem,
)
from raftflow.domain.tasks.peer_urls import learn_peers, order_peers
from raftflow.private_files import check_private

PEERS_MAX = 99
ATTEMPT_S = 10.0
"""Longest wait for the answer to one request, unless the call says otherwise. Above the replicas' own time-outs."""
CONNECT_S = 2.0
STAGGER_S = 0.15
"""How long a connection to one peer is waited for before the next peer is tried as well."""
HEDGE_S = 0.3
"""How long one replica is waited for before others are asked who leads."""
_HEDGE_LARGE_S = 3.0
"""The same for a request that takes time to send."""
_LARGE_BYTES = 256 * 1024
_HEDGED_MAX_S = 30.0
"""What may take longer than this is no work of the leader's, such as the check of a replica's own books."""
_ASKED_MAX = 2
"""Replicas that are asked who leads; one alone if the answer is one that comes late while all is well."""
_NOTICE_HOLD_S = 10.0
_NOTICE_PAUSE_S = 0.1
"""Pause after an answer without news that was not held."""
ANSWER_BYTES_MAX = 256 * 1024 * 1024
PROBLEM_BYTES_MAX = 1024 * 1024
"""Bytes of an answer that is no success."""
_PAUSE_FIRST_S, _PAUSE_MAX_S = 0.05, 1.0
_ASKED_MAX_S = 10.0
REQUESTS_MAX = 100
"""Requests of one client that are under way at a time."""
_KEY = re.compile(r"[\x21-\x7e]{1,200}")
_RETRIED = frozenset({429, 502, 503, 504})
_FAILURES = (aiohttp.ClientError, TimeoutError, OSError)
"""What ends one request and lets others be tried."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ApiCall:
    """One call of the API."""

    method: str
    path: str
    params: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None
    idempotency_key: str | None = None
    """Set for every write."""
    replica: str | None = None
    """Ask this replica and no other."""
    once: bool = False
    """One request to every peer (or to `replica`) and no waiting."""
    attempt_s: float = ATTEMPT_S


class _Again(NamedTuple):
    """An answer that calls for another try."""

    problem: Problem
    after_s: float
    """How long the replica asks to be left alone."""


class _MovedError(Exception):
    """The replica that was asked has not answered, and does not lead. Names whom to ask."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.url = url


class _Race:
    """Attempts to send one request, to one peer each. The first that is connected ends the others."""

    def __init__(self) -> None:
        self.attempts: dict[str, asyncio.Task[bytes | _Again]] = {}
        self.winner: str | None = None

    def connected(self, peer: str) -> None:
        """Tell that a peer is connected, before anything is sent to it."""
        if self.winner is None:
            self.winner = peer
            for other, attempt in self.attempts.items():
                if other != peer:
                    attempt.cancel()

    async def end(self) -> None:
        """End what still runs."""
        left = [attempt for attempt in self.attempts.values() if not attempt.done()]
        for attempt in left:
            attempt.cancel()
        if left:
            await asyncio.wait(left)


class Transport:
    """The peers and the connections to them. Belongs to one event loop."""

    def __init__(
        self,
        peers: Sequence[str],
        *,
        token: str | None = None,
        cacert: Path | str | None = None,
        client_cert: Path | str | None = None,
        client_key: Path | str | None = None,
        timeout_s: float = TIMEOUT_S,
        cache_folder: Path | None = None,
    ) -> None:
        """Check the settings; connects to nobody. `cache_folder` is for a `LeaderCache`. Raises `UsageError`."""
        self.peers = [checked_url(peer) for peer in peers]
        if not 0 < len(self.peers) <= PEERS_MAX:
            raise UsageError(f"{len(self.peers)} peers were given: name 1 to {PEERS_MAX} replicas by their URLs")
        if not timeout_s > 0:
            raise UsageError("timeout_s must be above 0")
        self._configured = list(self.peers)
        self._told = ""
        """The list of members that is followed, as a replica sent it."""
        self.timeout_s = timeout_s
        self._headers = {
            "User-Agent": f"raftflow/{__version__}",
            "Accept": "application/json",
            "Accept-Encoding": "identity",
        }
        if token is not None:
            if not token or not token.isascii() or not token.isprintable() or " " in token:
                raise UsageError("the token must be printable ASCII without spaces, and not empty")
            self._headers["Authorization"] = f"Bearer {token}"
        self._ssl = _ssl_context(cacert, client_cert, client_key)
        self._preferred = 0
        self._leads = ("", 0)
        """URL and term of the leader, as another replica told last."""
        self._leader_name = ""
        """As the last answer told it."""
        self._url_of: dict[str, str] = {}
        self._session: aiohttp.ClientSession | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        """The loop that the session belongs to."""
        self._slots = asyncio.Semaphore(REQUESTS_MAX)
        self._closed = False
        self._answered: str | None = None
        """Who answered last."""
        self._cache = None if cache_folder is None else LeaderCache(cache_folder, self.peers)
        if self._cache is not None:
            self._prefer(self._cache.read())

    async def close(self) -> None:
        """Close the connections, for good."""
        self._closed = True
        if self._cache is not None and self._answered is not None:
            leader = self.peers[self._preferred]
            self._cache.write(leader if leader in self._configured else self._answered)
        session, self._session = self._session, None
        if session is not None and self._loop is asyncio.get_running_loop():
            await session.close()

    async def call(self, call: ApiCall, kind: type[T], *, timeout_s: float | None = None) -> T:
        """Make a call and decode its answer. Raises a `ClientError`."""
        data = await self.call_raw(call, timeout_s=timeout_s)
        try:
            return msgspec.json.decode(data, type=kind)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
            raise BadAnswer(f"the answer to {call.method} {call.path} is not understood: {error}") from error

    async def call_raw(self, call: ApiCall, *, timeout_s: float | None = None) -> bytes:
        """Make a call and return the body of its answer. Raises a `ClientError`."""
        deadline = time.monotonic() + (self.timeout_s if timeout_s is None else timeout_s)
        self._check_usable(call)
        only = None if call.replica is None else [checked_url(call.replica)]
        failures: dict[str, str] = {}
        last: Problem | None = None
        sent = False
        pause_s = _PAUSE_FIRST_S
        while True:
            asked_s = 0.0
            left = list(only or self._order())
            while left and (left_s := deadline - time.monotonic()) > 0:
                race = _Race()
                if not await self._take_slot(left_s):
                    break
                try:
                    answer = await self._race(race, call, left, min(left_s, call.attempt_s), failures)
                except _MovedError as moved:
                    sent = True
                    failures[race.winner or ""] = "no answer, and another replica leads"
                    self._prefer(moved.url)
                    asked_s = -1.0
                    break
                except _FAILURES as error:
                    # What could not connect was not sent; of all else nobody knows how far it came.
                    sent = True
                    failures[race.winner or ""] = _say(error)
                    continue
                finally:
                    self._slots.release()
                if answer is None:
                    break
                if isinstance(answer, bytes):
                    return answer
                last = answer.problem
                failures[race.winner or ""] = last.detail or last.title
                asked_s = max(asked_s, answer.after_s)
            if asked_s < 0:
                continue
            now = time.monotonic()
            if call.once or now >= deadline:
                failed = self._failed(call, failures, last, sent=sent)
                if isinstance(failed, Unreachable):
                    failed.failures = failures
                raise failed
            # Full jitter would do for many clients; half of it keeps the first retry after a failover early.
            wait_s = max(pause_s * random.uniform(0.5, 1.0), asked_s)  # noqa: S311 - jitter
            await asyncio.sleep(min(wait_s, deadline - now))
            pause_s = min(pause_s * 1.6, _PAUSE_MAX_S)

    def _check_usable(self, call: ApiCall) -> None:
        """Raise `UsageError` for a call that cannot be made: here and now, or at all."""
        if self._closed:
            raise UsageError("the client is closed")
        if call.idempotency_key is not None and not is_key(call.idempotency_key):
            raise UsageError("an idempotency key must have 1 to 200 printable ASCII characters and no spaces")
        try:
            "".join(call.params.values()).encode()
        except UnicodeEncodeError as error:
            raise UsageError(f"a parameter holds half a character: {error}") from error
        loop = asyncio.get_running_loop()
        if self._session is not None and self._loop is not loop:
            raise UsageError(
                "the client belongs to the event loop in which it was used first: make one client for each loop"
            )
        self._loop = loop

    async def _take_slot(self, left_s: float) -> bool:
        """Wait until one more request may be under way. False if that took all the time that was left."""
        try:
            async with asyncio.timeout(left_s):
                await self._slots.acquire()
        except TimeoutError:
            return False
        return True

    async def _race(
        self, race: _Race, call: ApiCall, left: list[str], timeout_s: float, failures: dict[str, str]
    ) -> bytes | _Again | None:
        """Send a request to the first of `left` that can be connected; return its answer, None if none can be.

        Takes out of `left` who was connected, and who failed before that. Raises what the attempt of the first does.
        """
        waiting = list(left)
        attempts = race.attempts
        until_s = time.monotonic() + timeout_s
        try:
            while waiting or attempts:
                if waiting and race.winner is None:
                    peer = waiting.pop(0)
                    work = self._attempt(call, peer, max(until_s - time.monotonic(), 0.001), race)
                    attempts[peer] = asyncio.ensure_future(work)
                await asyncio.wait(
                    attempts.values(),
                    timeout=STAGGER_S if waiting and race.winner is None else None,
                    return_when=asyncio.FIRST_COMPLETED,
                )
                for peer in [peer for peer, attempt in attempts.items() if attempt.done()]:
                    attempt = attempts.pop(peer)
                    if peer == race.winner:
                        left.remove(peer)
                        return attempt.result()
                    if attempt.cancelled():
                        continue  # another one was connected first
                    left.remove(peer)
                    error = attempt.exception()
                    if not isinstance(error, _FAILURES):
                        raise error or AssertionError(peer)
                    failures[peer] = _say(error)
            return None
        finally:
            await race.end()

    def _order(self) -> list[str]:
        """Return the peers, beginning with the one that answered last; the configuration's others come last."""
        members = self.peers[self._preferred :] + self.peers[: self._preferred]
        return order_peers(members[0], members, self._configured)

    async def _attempt(self, call: ApiCall, peer: str, timeout_s: float, race: _Race) -> bytes | _Again:
        """Send one request; give it up if it gets no answer and another replica leads. Raises `_MovedError`."""
        others = [other for other in self.peers if other != peer]
        if call.replica is not None or call.once or call.attempt_s > _HEDGED_MAX_S or not others:
            return await self._request(call, peer, timeout_s, lambda: race.connected(peer))
        loop = asyncio.get_running_loop()
        until_s = loop.time() + timeout_s
        scope = asyncio.timeout(None)
        found: list[str] = []
        scouts: list[asyncio.Task[None]] = []

        def moved(url: str) -> None:
            if not found and not scope.expired():
                found.append(url)
                scope.reschedule(loop.time())

        def look() -> None:
            asked = random.sample(others, min(len(others), 1 if "wait_ms" in call.params else _ASKED_MAX))
            scouts.extend(loop.create_task(self._scout(peer, other, until_s, moved)) for other in asked)

        large = call.body is not None and len(call.body) > _LARGE_BYTES
        timers: list[asyncio.TimerHandle] = []

        def connected() -> None:
            race.connected(peer)
            timers.append(loop.call_later(_HEDGE_LARGE_S if large else HEDGE_S, look))

        try:
            async with scope:
                return await self._request(call, peer, timeout_s, connected)
        except TimeoutError:
            if found:
                raise _MovedError(found[0]) from None
            raise
        finally:
            for timer in timers:
                timer.cancel()
            for scout in scouts:
                scout.cancel()

    async def _scout(self, peer: str, other: str, until_s: float, moved: Callable[[str], None]) -> None:
        """Ask another replica until `until_s` who leads; tell of the first leader that is not `peer`."""
        loop = asyncio.get_running_loop()
        while (left_s := until_s - (asked_s := loop.time())) > 0:
            hold_s = min(left_s, _NOTICE_HOLD_S)
            term = self._leads[1] if self._leads[0] == peer else 0
            params = {"term": str(term), "wait_ms": str(int(hold_s * 1000))}
            try:
                answer = await self._request(ApiCall("GET", "/v1/leader", params), other, hold_s + CONNECT_S)
                notice = msgspec.json.decode(answer, type=LeaderNotice) if isinstance(answer, bytes) else None
            except (*_FAILURES, ClientError, msgspec.DecodeError):
                return
            if notice is None:
                return
            if notice.leader is not None and notice.term > term:
                url = (notice.url or "").rstrip("/")
                self._leads = (url, notice.term)
                if url != peer:
                    moved(url if url in self.peers else other)
                    return
            elif loop.time() - asked_s < _NOTICE_PAUSE_S:
                await asyncio.sleep(_NOTICE_PAUSE_S)

    async def _request(
        self, call: ApiCall, peer: str, timeout_s: float, connected: Callable[[], None] | None = None
    ) -> bytes | _Again:
        """Send one request. Returns the body, or the problem of an answer that calls for another try.

        `connected` is called when there is a connection, before the request is sent.
        """
        headers: dict[str, str] = {}
        if call.body is not None:
            headers["Content-Type"] = "application/json"
        if call.idempotency_key is not None:
            headers[HEADER_IDEMPOTENCY_KEY] = call.idempotency_key
        timeout = aiohttp.ClientTimeout(total=timeout_s, sock_connect=min(CONNECT_S, timeout_s))
        async with self._open_session().request(
            call.method,
            peer + call.path,
            params=dict(call.params),
            data=call.body,
            headers=headers,
            timeout=timeout,
            allow_redirects=False,
            ssl=self._ssl if self._ssl is not None else True,
            trace_request_ctx=connected,
        ) as response:
            data = await _read(response)
            if response.status < 300:
                told = response.headers
                self._follow(told.get(HEADER_PEERS, ""), peer)
                self._leader_name = told.get(HEADER_LEADER, "")
                self._prefer(told.get(HEADER_LEADER_URL), self._url_of.get(self._leader_name), peer)
                self._answered = peer
                return data
            if response.status < 400:
                raise BadAnswer(
                    f"{peer} answered with a redirection (status {response.status}), which is not followed; "
                    "name the replicas themselves as peers, by http:// or https:// as they serve it"
                )
            problem = _problem(response.status, data, peer)
            if response.status in _RETRIED:
                return _Again(problem, _asked_s(response))
            raise NotFound(problem) if response.status == 404 else Refused(problem)

    def learn(self, name: str, url: str) -> None:
        """Remember which peer a replica's name belongs to: answers tell the leader by its name."""
        self._url_of[name] = url
        if name == self._leader_name:
            self._prefer(url)

    def _follow(self, told: str, base: str) -> None:
        """Take the list of members that came with an answer as the peers from now on."""
        if not told or told == self._told:
            return
        learned = learn_peers(told, base)
        if learned is not None:
            self._told, self.peers, self._preferred = told, learned, learned.index(base)

    def _prefer(self, *urls: str | None) -> None:
        """Begin with the first of these that is a peer from now on. Going to the leader at once saves a hop."""
        for url in urls:
            if url in self.peers:
                self._preferred = self.peers.index(url)
                return

    def _open_session(self) -> aiohttp.ClientSession:
        if self._session is None:
            traces = aiohttp.TraceConfig()
            traces.on_connection_create_end.append(_tell_connected)
            traces.on_connection_reuseconn.append(_tell_connected)
            self._session = aiohttp.ClientSession(
                headers=self._headers,
                auto_decompress=False,
                trace_configs=[traces],
                # Requests wait for a slot instead: one that waits for a connection would look like a silent peer.
                connector=aiohttp.TCPConnector(limit=0, resolver=DaemonResolver()),
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        return self._session

    def _failed(self, call: ApiCall, failures: dict[str, str], last: Problem | None, *, sent: bool) -> ClientError:
        """Return the error for a call that ran out of time."""
        told = "; ".join(f"{peer}: {why}" for peer, why in failures.items()) or "no time was left to ask"
        kind = "" if last is None else last.type.removeprefix(PROBLEM_TYPE_PREFIX)
        if call.idempotency_key is not None and (sent or kind == "outcome-unknown"):
            return OutcomeUnknown(
                f"it is not known whether the request was carried out; send it again with the idempotency key "
                f"{call.idempotency_key}: it is carried out at most once ({told})",
                call.idempotency_key,
            )
        if last is None:
            return Unreachable(f"no coordinator answers; is the cluster running, and are these its peers? ({told})")
        if kind in ("no-leader", "outcome-unknown", "unavailable"):
            return NoLeader(f"the cluster has no leader at the moment; a majority of its replicas must run ({told})")
        return Refused(last)


async def _tell_connected(_session: aiohttp.ClientSession, context: Any, _params: Any) -> None:
    """Call what `Transport._request` was given as `connected`."""
    if context.trace_request_ctx is not None:
        context.trace_request_ctx()


def _asked_s(response: aiohttp.ClientResponse) -> float:
    """Return the wait that an overloaded replica asks for. Without a leader, asking often finds it early."""
    text = response.headers.get("Retry-After", "")
    return min(float(text), _ASKED_MAX_S) if response.status == 429 and text.isascii() and text.isdigit() else 0.0


def _say(error: Exception) -> str:
    """Return in a few words why a request failed."""
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return f"its certificate is not trusted: {error.certificate_error}"
    if isinstance(error, aiohttp.ClientConnectorError):
        number = error.os_error.errno or 0
        return (os.strerror(number) if number > 0 else error.os_error.strerror or "no connection").lower()
    if isinstance(error, TimeoutError):
        return "no answer in time"
    return str(error) or type(error).__name__


async def _read(response: aiohttp.ClientResponse) -> bytes:
    """Read a body of bounded size. Nothing is inflated: no answer was asked for in another form than it has."""
    encoding = response.headers.get("Content-Encoding", "identity")
    if encoding.lower() != "identity":
        raise BadAnswer(f"{response.url} answered with Content-Encoding: {encoding[:80]}, which was not asked for")
    limit = ANSWER_BYTES_MAX if response.status < 300 else PROBLEM_BYTES_MAX
    pieces: list[bytes] = []
    size = 0
    async for piece in response.content.iter_any():
        size += len(piece)
        if size > limit:
            raise BadAnswer(f"{response.url} answered with more than {limit} bytes")
        pieces.append(piece)
    return b"".join(pieces)


def _problem(status: int, data: bytes, peer: str) -> Problem:
    """Decode a problem document, or make one of an answer that is none."""
    try:
        return msgspec.json.decode(data, type=Problem)
    except msgspec.DecodeError:
        word = "unavailable" if status in _RETRIED else "unexpected"
        text = data[:200].decode("utf-8", "replace").strip()
        return Problem(
            type=PROBLEM_TYPE_PREFIX + word,
            title=f"Status {status}",
            status=status,
            detail=f"{peer} answered without saying why; is it a raftflow replica? {text}".strip(),
        )


def checked_url(text: str) -> str:
    """Return the base URL of a peer in one form. Raises `UsageError`."""
    if not isinstance(text, str):
        raise UsageError(f"{text!r:.200} is not a peer: write its URL, such as http://127.0.0.1:7001")
    url = text.strip().rstrip("/")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        parts, port = urlsplit(""), None
    wrong = parts.scheme not in ("http", "https") or not parts.hostname or port == 0
    if wrong or parts.path or parts.query or parts.fragment or parts.username:
        raise UsageError(f"{text[:200]!r} is not a peer: write its URL, such as http://127.0.0.1:7001")
    return url


def is_key(text: object) -> bool:
    """Tell whether something can be an idempotency key; the replicas have the same rule."""
    return isinstance(text, str) and _KEY.fullmatch(text) is not None


def new_key() -> str:
    """Return an idempotency key for one call."""
    return uuid.uuid4().hex


def _ssl_context(
    cacert: Path | str | None, client_cert: Path | str | None, client_key: Path | str | None
) -> ssl.SSLContext | None:
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
