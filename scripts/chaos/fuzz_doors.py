"""Decoders of `fuzz_decoders` with something around them: a replica, a connection, an attempt.

They need a running event loop.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import httptools
import msgspec
from fuzz_mutations import encode_json, examples, spoil_bytes
from fuzz_table import Decoder, Spoil, require, spoil_json

from raftflow.agent.calls.attempt import CallingAttempt
from raftflow.agent.calls.requests import AnyRequest
from raftflow.agent.exchange.http_connection import AgentConnection, HttpConnectionError
from raftflow.api.fast_path import FastPath, is_one_message
from raftflow.api.forwarding.proof import ForwardingProof
from raftflow.api.http.access_control import AccessControl
from raftflow.api.http.hosts import check_origin
from raftflow.api.http.identity import Identities, digest_of
from raftflow.api.http.problems import ProblemError
from raftflow.coordinator.config.replica_config import Limits
from raftflow.domain import commands
from raftflow.domain.contract.views import Assignment, RefusedCall
from raftflow.domain.tasks.program import CommandLine
from raftflow.machine.machine import Machine
from raftflow.replication.net.connection import LinkLimits, PeerConnection
from raftflow.replication.net.handshake import Acceptor, Credentials, Dialer

_NOW_MS = 1_700_000_000_000
_TOKENS = {"reader": b"rft-reader", "agent": b"rft-agent"}
_SHARED = "the-token-of-the-configuration"


class _Written:
    """A transport that keeps what is written."""

    def __init__(self) -> None:
        self.data = b""

    def write(self, data: bytes) -> None:
        self.data += data

    def abort(self) -> None:
        """Nothing: there is no socket."""

    close = abort

    def is_closing(self) -> bool:
        return False

    def get_write_buffer_size(self) -> int:
        return 0

    def get_extra_info(self, _name: str) -> None:
        return None


# --- a link between replicas


class _Owner:
    """Keeps what a connection tells."""

    def __init__(self) -> None:
        self.frames: list[bytes] = []

    def established(self, _connection: PeerConnection, _session: object) -> None:
        """Nothing to do."""

    def received(self, _connection: PeerConnection, frame: bytes) -> None:
        self.frames.append(frame)

    def ended(self, _connection: PeerConnection, _failure: object) -> None:
        """Nothing to do."""


def _links() -> Iterator[Decoder]:
    n1, n2 = (Credentials(name=name, cluster_id="c", secret=b"s" * 32) for name in ("n1", "n2"))
    dialer, other = Dialer(n1, "n2", nonce=bytes), Acceptor(n2, ["n1"], nonce=bytes)
    proof = dialer.step(other.step(dialer.first))
    dialer.step(other.step(proof))
    assert dialer.session is not None
    sent = [b"one", b"x" * 300, b"three"]
    hello = dialer.first + proof
    stream = b"".join(b"".join(dialer.session.seal((frame,), len(frame))) for frame in sent)

    def read(data: bytes) -> None:
        """Receive a stream: no frame is delivered that the other side has not sent in this place."""
        owner = _Owner()
        connection = PeerConnection(Acceptor(n2, ["n1"], nonce=bytes), owner, LinkLimits(), "test")
        connection.connection_made(_Written())  # type: ignore[arg-type]
        for piece in (data[: len(dialer.first)], data[len(dialer.first) : len(hello)], data[len(hello) :]):
            if piece:
                connection.data_received(piece)
        connection.connection_lost(None)
        require(owner.frames == sent[: len(owner.frames)], "a frame was believed that nobody has sent")

    yield Decoder("link", [hello + stream], read, (), _spoil_after(len(hello)))


def _spoil_after(fixed: int) -> Spoil:
    def spoil(rng: random.Random, sample: bytes, others: list[bytes]) -> bytes:
        if rng.random() < 0.2:
            return spoil_bytes(rng, sample, others)
        return sample[:fixed] + spoil_bytes(rng, sample[fixed:], others)

    return spoil


# --- requests


def _access(*, has_token: bool) -> AccessControl:
    machine = Machine()
    made = (
        commands.CreateToken(
            at_ms=_NOW_MS,
            actor="client:api",
            name=name,
            role="agent" if name == "agent" else "read",
            digest=digest_of(token),
            agents="a*" if name == "agent" else "",
        )
        for name, token in _TOKENS.items()
    )
    machine.apply(1, 1, commands.encode_entry(tuple(made)))
    hosts = SimpleNamespace(is_known=lambda value: value == b"localhost:7001")
    return AccessControl(Identities([_SHARED] if has_token else [], machine, lambda: _NOW_MS), hosts, lambda _: False)  # type: ignore[arg-type]


class _Message:
    """What another parser finds in the same bytes."""

    def __init__(self, data: bytes) -> None:
        self.url = b""
        self.body = b""
        self.messages = 0
        self.parser = httptools.HttpRequestParser(self)
        self.is_broken = False
        try:
            self.parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self.is_broken = True

    def on_url(self, url: bytes) -> None:
        if not self.messages:
            self.url += url

    def on_body(self, body: bytes) -> None:
        if not self.messages:
            self.body += body

    def on_message_complete(self) -> None:
        self.messages += 1


def _requests() -> Iterator[Decoder]:
    replica = SimpleNamespace(leader=SimpleNamespace(leading=True), config=SimpleNamespace(limits=Limits()))
    doors = [(FastPath(replica, None, _access(has_token=has_token), None), has_token) for has_token in (True, False)]  # type: ignore[arg-type]
    head = b"Host: localhost:7001\r\nContent-Type: application/json\r\n"
    agent = b"Authorization: Bearer rft-agent\r\n"
    body = b'{"incarnation":1,"seq":1}'
    samples = [
        b"POST /v1/agents/a1/poll HTTP/1.1\r\n" + head + agent + b"Content-Length: 25\r\n\r\n" + body,
        b"POST /v1/agents/a1/calls HTTP/1.1\r\n" + head + agent + b"Content-Length: 25\r\n\r\n" + body,
        b"POST /v1/workflows HTTP/1.1\r\n"
        + head
        + b"Authorization: Bearer "
        + _SHARED.encode()
        + b"\r\nIdempotency-Key: k\r\nContent-Length: 2\r\n\r\n{}",
        (
            b"GET /v1/leader?term=3&wait_ms=100 HTTP/1.1\r\nHost: localhost:7001\r\n"
            b"Authorization: Bearer rft-reader\r\n\r\n"
        ),
    ]
    samples += [sample.replace(agent, b"") for sample in samples]

    def read(data: bytes) -> None:
        """Read a request: what the fast path takes, another parser takes for the same."""
        alone = is_one_message(data)
        if alone:
            found = _Message(data)
            require(found.is_broken or found.messages == 1, "another parser finds more, or less, than one message")
        for fast_path, has_token in doors:
            request = fast_path.read(data)
            if request is None:
                continue
            found = _Message(data[: request.size])
            require(not found.is_broken, "another parser refuses what the fast path takes")
            require(
                found.url.partition(b"?")[0].decode("latin-1") == request.path, "another parser finds another target"
            )
            require(found.messages == (len(data) >= request.size), "another parser finds another end")
            require(found.body == data[request.body_at : request.size], "another parser finds another body")
            names = {"reader", "agent", "api"} if has_token else {"api"}
            require(request.identity.name in names, "nobody is called so")
            if request.identity.name == "agent":
                require(request.agent.startswith("a") or request.asks, "an agent acts for another one")

    yield Decoder("request", samples, read, ())


def _identities() -> Iterator[Decoder]:
    identities = _access(has_token=True).identities
    valid = {token: name for name, token in _TOKENS.items()} | {_SHARED.encode(): "api"}

    def identify(data: bytes) -> None:
        found = identities.identify(data)
        scheme, _, given = data.partition(b" ")
        expected = valid.get(given.strip()) if scheme.lower() == b"bearer" else None
        require((found and found.name) == expected, "it takes a token for another one")

    yield Decoder("token", [b"Bearer " + token for token in valid], identify, ())
    proof = ForwardingProof(lambda: (b"s" * 32,))
    request = ("10.0.0.9", "POST", "/v1/workflows?a=b", "r1")
    made = proof.make(*request)

    def check_proof(data: bytes) -> None:
        text = data.decode("latin-1")
        require(not proof.is_valid(text, *request) or text == made, "another proof is valid")

    yield Decoder("proof", [made.encode()], check_proof, ())

    def origin(data: bytes) -> None:
        text = data.decode("latin-1")
        check_origin([text], "localhost:7001")
        require(text.lower().endswith("://localhost:7001"), "the page of another site is let in")

    yield Decoder("origin", [b"http://localhost:7001", b"null", b"https://[::1]:7001"], origin, (ProblemError,))


# --- an agent: what replicas answer, and what attempts ask


def _answers() -> Iterator[Decoder]:
    loop = asyncio.get_running_loop()
    samples = [
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
        (
            b"HTTP/1.1 100 Continue\r\n\r\n"
            b"HTTP/1.1 307 Temporary Redirect\r\nLocation: http://b:1/x\r\nContent-Length: 0\r\n\r\n"
        ),
        b"HTTP/1.0 503 Unavailable\r\nConnection: close\r\n\r\n{}",
    ]

    def read(data: bytes) -> None:
        connection = AgentConnection()
        connection.connection_made(_Written())  # type: ignore[arg-type]
        answer = connection._answer = loop.create_future()  # noqa: SLF001 - as `ask` does
        connection.data_received(data)
        if not answer.done():
            connection.connection_lost(None)
        answer.result()

    yield Decoder("answer.http", samples, read, (HttpConnectionError,))


class _Channel:
    """Refuses every call at once."""

    def send(self, _call: object, told: Callable[[Any], None]) -> None:
        told(RefusedCall(type="stale", detail="over"))

    def forget(self, _fence: int) -> None:
        """Nothing to do."""

    def now_ms(self) -> int:
        return _NOW_MS


def _attempts() -> Iterator[Decoder]:
    assignment = Assignment(
        fence=1, workflow_id="w", workflow_name="w", task_id="t", attempt=1, resources={}, program=CommandLine(("x",))
    )

    def ask(data: bytes) -> None:
        """Ask twice: each line gets at most one answer, in one line of JSON."""
        attempt = CallingAttempt(assignment, _Channel())
        answers: list[bytes] = []
        for line in (data, data):
            attempt.handle(line.replace(b"\n", b" "), answers.append)
        attempt.end()
        require(len(answers) <= 2, "a line gets two answers")
        for answer in answers:
            require(answer.endswith(b"\n") and answer.count(b"\n") == 1, "an answer is not one line")
            msgspec.json.decode(answer)

    yield Decoder("attempt.calls", [encode_json(each) for each in examples(AnyRequest, 120)], ask, (), spoil_json)


def doors() -> list[Decoder]:
    """Return these decoders. They belong to the running loop."""
    return [each for part in (_links, _requests, _identities, _answers, _attempts) for each in part()]
