"""Finding the leader and talking to it.

Any replica may be asked first. One that does not lead answers a poll with 307, or with 503 while no replica leads.
One call here is one pass: the remembered leader, then every peer in order. Waiting between passes is the caller's.
Answers name the members of the cluster, so that the peers follow it when replicas are replaced; those of the
configuration are asked last then.

A leader whose machine falls silent answers nothing. So another replica is asked to tell when there is a new leader
(`leader_watch`), and what is under way to any other replica is given up then.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from typing import TypeVar
from urllib.parse import quote, urljoin, urlsplit

import msgspec

from raftflow.agent.config import AgentConfig
from raftflow.agent.exchange.http_connection import HttpConnectionError, HttpConnections, HttpResponse
from raftflow.agent.exchange.leader_watch import FIRST_S, HOLD_S, LeaderWatch, NotHeldError, PendingRequests
from raftflow.agent.exchange.tls import tls_context, tls_files
from raftflow.agent.other_user import root_files
from raftflow.agent.workdir.inputs import AttemptOverError, InputsRefusedError, ReplicaUnavailableError
from raftflow.certificates import CertificateReloader
from raftflow.domain.contract.operations.agents import FETCH_INPUTS, POLL, REGISTER_AGENT, SEND_CALLS
from raftflow.domain.contract.operations.bundles import READ_BUNDLE
from raftflow.domain.contract.operations.replicas import SHOW_LEADER
from raftflow.domain.contract.views import (
    HEADER_CLOCK,
    HEADER_LEADER_URL,
    HEADER_PEERS,
    PROBLEM_TYPE_PREFIX,
    CallsResponse,
    InputsPiece,
    LeaderNotice,
    PollResponse,
    Problem,
    RegisterRequest,
    RegisterResponse,
)
from raftflow.domain.tasks.peer_urls import learn_peers, order_peers
from raftflow.domain.values.exact import UNREADABLE
from raftflow.private_files import TokenInUse

_log = logging.getLogger("raftflow.agent.leader")

NAME_IN_USE = PROBLEM_TYPE_PREFIX + "name-in-use"
STALE_INCARNATION = PROBLEM_TYPE_PREFIX + "stale-incarnation"
_RETRY_STATUS = frozenset({408, 421, 425, 500, 502, 503, 504})
_NOT_THE_CONTENT = frozenset({401, 403, 404, 405, 407, 408, 409, 410, 421, 425, 426, 429, 431, 451})
_REDIRECTS_MAX = 8
_PEERS = HEADER_PEERS.lower()
_LEADER_URL = HEADER_LEADER_URL.lower()

_encode = msgspec.json.Encoder().encode
_decode_inputs = msgspec.json.Decoder(InputsPiece).decode
_decode_problem = msgspec.json.Decoder(Problem).decode
_T = TypeVar("_T")


class LeaderNotFoundError(Exception):
    """No replica answered as the leader. Worth trying again."""

    def __init__(self, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s
        """Only if the leader itself asked for patience (429)."""


class StaleIncarnationError(Exception):
    """The leader no longer knows this incarnation: the agent was declared lost, or another took its name."""


class RefusedError(Exception):
    """The coordinator understood the request and refuses it; the same request will be refused again."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status

    @property
    def about_content(self) -> bool:
        """Whether what the request carries is the reason, not who sends it, where to, or when."""
        return 400 <= self.status < 500 and self.status not in _NOT_THE_CONTENT


class NameInUseError(RefusedError):
    """Another agent that lives has this agent's name. It is refused until the other one is gone."""


class LeaderClient:
    """Talks to whichever replica leads. Use `start` and `close` around it."""

    def __init__(self, config: AgentConfig) -> None:
        self._configured = [peer.rstrip("/") for peer in config.peers]
        self._peers = list(self._configured)
        self._told = ""
        """The list of members that is followed, as the leader sent it."""
        self._config = config
        self._leader: str | None = None
        self._wire: HttpConnections | None = None
        self._watch = LeaderWatch(
            ask=self._ask_who_leads, peers=lambda: self._peers, leader=lambda: self._leader, moved=self._moved
        )
        self._watching: asyncio.Task[None] | None = None
        self.certificates = CertificateReloader(root_files)
        """Reads this agent's certificates again."""
        self._pending = PendingRequests()
        self._decode_notice = msgspec.json.Decoder(LeaderNotice)
        self._decode_calls = msgspec.json.Decoder(CallsResponse)
        self._decode_poll = msgspec.json.Decoder(PollResponse)
        self._decode_registration = msgspec.json.Decoder(RegisterResponse)

    @property
    def leader(self) -> str | None:
        """Base URL of the replica that answered last, None if it failed since."""
        return self._leader

    async def start(self) -> None:
        """Get ready. Raises `AgentConfigError` if certificates cannot be used."""
        headers = {"Content-Type": "application/json"}
        config = self._config
        token = TokenInUse(config.token, config.token_file or None, access=root_files)
        with root_files():
            wire = self._wire = HttpConnections(headers, tls_context(config), token)

        def load() -> None:
            wire.tls = tls_context(self._config)

        if files := tls_files(self._config):
            self.certificates.add(files, load)
        self._watching = asyncio.get_running_loop().create_task(self._watch.run())

    async def close(self) -> None:
        """Close the connections."""
        if self._watching is not None:
            self._watching.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._watching
            self._watching = None
        if self._wire is not None:
            self._wire.close()
            self._wire = None

    async def register(self, request: RegisterRequest) -> RegisterResponse:
        """Register the agent. Raises `LeaderNotFoundError`, `NameInUseError` or another `RefusedError`."""
        timeout_s = self._config.poll_timeout_s
        return await self._pass(REGISTER_AGENT.path, _encode(request), timeout_s, self._decode_registration)

    async def poll(self, agent_id: str, body: bytes, timeout_s: float) -> PollResponse:
        """Send a poll. Raises `LeaderNotFoundError`, `StaleIncarnationError` or `RefusedError`."""
        return await self._pass(POLL.target(agent_id), body, timeout_s, self._decode_poll)

    async def calls(self, agent_id: str, body: bytes, timeout_s: float) -> CallsResponse:
        """Send what attempts ask of the cluster. Raises `LeaderNotFoundError` or `RefusedError`."""
        return await self._pass(SEND_CALLS.target(agent_id), body, timeout_s, self._decode_calls)

    # What `agent.inputs` wants of a source.

    def replicas(self) -> list[str]:
        """Return the replicas to ask for inputs: the leader last."""
        others = [peer for peer in self._peers if peer != self._leader]
        return others if self._leader is None else [*others, self._leader]

    async def inputs(self, replica: str, agent: str, fence: int, first: int, timeout_s: float) -> InputsPiece:
        """Ask a replica for a piece of inputs.

        Raises `ReplicaUnavailableError`, `InputsRefusedError`, `AttemptOverError`.
        """
        path = f"{FETCH_INPUTS.target(quote(agent, safe=''), str(fence))}?first={first}"
        body = await self._fetch(replica, path, timeout_s)
        try:
            return _decode_inputs(body)
        except UNREADABLE as error:
            raise InputsRefusedError(f"{replica}: an answer that is not the contract's: {error}") from error

    # What `agent.workdir.code` wants of a source.

    async def code(self, replica: str, digest: str, offset: int, timeout_s: float) -> bytes:
        """Ask a replica for a piece of a code bundle. Raises `ReplicaUnavailableError`, `InputsRefusedError`."""
        return await self._fetch(replica, f"{READ_BUNDLE.target(digest)}?offset={offset}", timeout_s)

    async def _fetch(self, replica: str, path: str, timeout_s: float) -> bytes:
        """Ask a replica for something that any of them may have.

        Raises `ReplicaUnavailableError`, `InputsRefusedError`, `AttemptOverError`.
        """
        if self._wire is None:
            raise ReplicaUnavailableError("the agent is stopping")
        connect_s = self._config.connect_timeout_s
        try:
            answer = await self._wire.get(replica, path, timeout_s=timeout_s, connect_timeout_s=connect_s)
        except (TimeoutError, OSError) as error:
            raise ReplicaUnavailableError(f"{replica}: {type(error).__name__} {error}".rstrip(), away=True) from error
        if answer.status == 200:
            return answer.body
        problem = _problem_of(answer.status, answer.body)
        text = f"{replica}: {_text_of(problem)}"
        if answer.status == 429 or answer.status in _RETRY_STATUS:
            raise ReplicaUnavailableError(
                text, _seconds(answer.headers.get("retry-after")) if answer.status == 429 else 0.0
            )
        if answer.status == 409:
            raise AttemptOverError(text)
        raise InputsRefusedError(text)

    async def _pass(self, path: str, body: bytes, timeout_s: float, decoder: msgspec.json.Decoder[_T]) -> _T:
        targets = deque(self._peers if self._leader is None else [self._leader, *self._peers])
        tried: set[str] = set()
        reasons: list[str] = []
        while targets:
            base = targets.popleft()
            if base in tried or len(tried) >= len(self._peers) + _REDIRECTS_MAX:
                continue
            tried.add(base)
            term = self._watch.term
            try:
                status, headers, data = await self._post(base, path, body, timeout_s)
            except (TimeoutError, OSError) as error:
                if self._watch.term != term and base != self._leader:
                    raise LeaderNotFoundError(
                        f"{base} has not answered, and {self._leader or 'another one'} leads"
                    ) from error
                self._failed(base)
                reasons.append(f"{base}: {type(error).__name__} {error}".rstrip())
                continue
            if status in (200, 201):
                try:
                    answer = decoder.decode(data)
                except UNREADABLE as error:
                    reasons.append(f"{base}: an answer that is not the contract's: {error}")
                    continue
                # A replica may have passed the registration on, and says to which one.
                passed_to = headers.get(_LEADER_URL, "").rstrip("/")
                self._remember(passed_to if passed_to in self._peers else base)
                self._learn(headers.get(_PEERS, ""), base)
                return answer
            location = headers.get("location") or headers.get("retry-after")
            if status in (307, 308) and location:
                target = _base_of(urljoin(base, location), path)
                if target is None or (base.startswith("https:") and not target.startswith("https:")):
                    reasons.append(f"{base}: sent to {location}, which is not a replica's address")
                else:
                    if target in self._peers:
                        self._remember(target)  # its answer may take as long as a poll is held
                    targets.appendleft(target)
                continue
            reasons.append(f"{base}: {self._judge(base, status, data, location)}")
        raise LeaderNotFoundError("; ".join(reasons) or "no replica could be asked")

    async def _post(self, base: str, path: str, body: bytes, timeout_s: float) -> HttpResponse:
        """Send one request. Every one of them may be sent again."""
        if self._wire is None:
            raise RuntimeError("LeaderClient.start() was not called")
        connect_timeout_s = self._config.connect_timeout_s
        with self._pending.asking(base, timeout_s) as limit:
            # A registration says what time it is here, so that the leader notices a wrong clock.
            clock = f"{HEADER_CLOCK}: {time.time_ns() // 1_000_000}\r\n" if path == REGISTER_AGENT.path else ""
            return await self._wire.post(
                base, path, body, timeout_s=limit, connect_timeout_s=connect_timeout_s, header=clock
            )

    async def _ask_who_leads(self, base: str, term: int) -> LeaderNotice:
        """Ask a replica who leads after `term`. Raises `OSError`, `TimeoutError`, `NotHeldError`."""
        assert self._wire is not None  # noqa: S101 - the watch runs from `start` to `close`
        timeout_s = self._config.connect_timeout_s
        path = f"{SHOW_LEADER.path}?term={term}&wait_ms={HOLD_S * 1000:.0f}"
        limit = asyncio.timeout(HOLD_S + self._config.poll_timeout_s)
        status, headers, data = await self._wire.get(base, path, timeout_s=limit, connect_timeout_s=timeout_s)
        if status == 404:
            raise NotHeldError
        if status != 200:
            raise HttpConnectionError(f"status {status}")
        try:
            notice = self._decode_notice.decode(data)
        except UNREADABLE as error:
            raise HttpConnectionError(f"an answer that is not the contract's: {error}") from error
        self._learn(headers.get(_PEERS, ""), base)
        return notice

    def _moved(self, source: str, notice: LeaderNotice) -> None:
        """There is a new leader: go there, and give up what is under way to any other replica."""
        url = (notice.url or "").rstrip("/")
        if url == self._leader:
            return
        if self._leader is not None:
            self._failed(self._leader)
        if url in self._peers:
            self._remember(url)
        else:
            # Its address is another one from here, through a proxy for instance. Who told this says where.
            self._peers = order_peers(source, self._peers, ())
        # The first answer changes nothing: a replica may be passing on what is under way.
        self._pending.give_up(url, 0.0 if self._watch.term else FIRST_S)

    def _judge(self, base: str, status: int, data: bytes, retry_after: str | None) -> str:
        """Return the text of an answer that another replica may better, or raise what it means."""
        problem = _problem_of(status, data)
        text = _text_of(problem)
        if status in _RETRY_STATUS:
            if base == self._leader:
                self._leader = None
            return text
        if status == 429:
            raise LeaderNotFoundError(f"{base}: {text}", _seconds(retry_after))
        if problem.type == STALE_INCARNATION or status == 404:
            raise StaleIncarnationError(text)
        if problem.type == NAME_IN_USE:
            raise NameInUseError(status, text)
        raise RefusedError(status, text)

    def _remember(self, base: str) -> None:
        if base != self._leader:
            _log.info("the leader is at %s", base)
            self._leader = base
            self._watch.leader_known()

    def _learn(self, told: str, base: str) -> None:
        """Follow the list of members that came with an answer."""
        if not told or told == self._told:
            return
        learned = learn_peers(told, base)
        if learned is not None:
            self._told = told
            self._peers = order_peers(base, learned, self._configured)

    def _failed(self, base: str) -> None:
        """Forget a leader that cannot be reached, and ask a peer that cannot be reached last."""
        if base == self._leader:
            self._leader = None
        if base in self._peers:
            self._peers.remove(base)
            self._peers.append(base)


def _problem_of(status: int, data: bytes) -> Problem:
    try:
        problem = _decode_problem(data)
    except UNREADABLE:
        problem = Problem(type="", title=data[:200].decode(errors="replace"), status=status)
    problem.status = status
    return problem


def _text_of(problem: Problem) -> str:
    return f"{problem.status} {problem.title}" + (f": {problem.detail}" if problem.detail else "")


def _seconds(retry_after: str | None) -> float:
    try:
        return float(retry_after or 1)
    except ValueError:
        return 1.0


def _base_of(url: str, path: str) -> str | None:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        return None
    prefix = parts.path.removesuffix(path) if parts.path.endswith(path) else ""
    return f"{parts.scheme}://{parts.netloc}{prefix}".rstrip("/")
