"""The fast path: answers agents' polls, calls of attempts and small submissions without the web framework.

Through the framework the poll of an idle agent costs some 0.2 ms, mostly in general machinery: parser, request
object, router, middleware, response object. Thousands of idle agents, every hop of a chain of short tasks, every
durable step and every small workflow would pay that. So the fast path reads a request from the bytes as they arrive
if it is plainly one of these: these paths, no header that would change its meaning, framed by a Content-Length.
Every other request goes to aiohttp unchanged, and so does every request that would be refused: one piece of code
judges what is odd. A submission also goes there if its replica stops leading meanwhile, to be forwarded.

Access, the wait for a leader, limits, problems and the headers of answers are the framework's: `access_control`,
`leader_wait`, `body_bytes_max`, `problems`, `answer_headers`.

Two parsers on one connection must agree on where a message begins. They do, because a connection stays on the fast
path only while every message on it was whole: read here to its last byte, or given to aiohttp as exactly one message
while it waited for one. The first message for which that is not certain ends the fast path of that connection.
"""

from __future__ import annotations

import asyncio
import re
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, NamedTuple

from raftflow.api.admission.load_shedder import QueueClass
from raftflow.api.dispatch.leader_wait import NO_LEADER, wait_for_leader
from raftflow.api.dispatch.requests import body_bytes_max, encode, is_key
from raftflow.api.figures.request_counts import OperationKey, now_s
from raftflow.api.forwarding.forwarder import REDIRECT, location
from raftflow.api.forwarding.proof import UNKNOWN_CLIENT
from raftflow.api.http import problems
from raftflow.api.http.answer_headers import AnswerHeaders
from raftflow.api.http.identity import ANYBODY, ClientIdentity
from raftflow.api.http.problems import ProblemError
from raftflow.api.routes.agents import POLL_ROUTE, answer_calls, answer_poll, poll_answer, read_poll
from raftflow.api.routes.workflows import OFF_LOOP_BYTES, SUBMIT_ROUTE, submit_document
from raftflow.coordinator.commit.submitter import NoLeaderError, NotLeaderError
from raftflow.coordinator.leader.leader_news import HOLD_MAX_S
from raftflow.domain.contract.operations.agents import POLL, SEND_CALLS
from raftflow.domain.contract.operations.replicas import SHOW_LEADER
from raftflow.domain.contract.operations.workflows import SUBMIT_WORKFLOW
from raftflow.domain.contract.views import HEADER_IDEMPOTENCY_KEY

if TYPE_CHECKING:
    from collections.abc import Callable

    from raftflow.api.admission.load_shedder import LoadShedder
    from raftflow.api.figures.request_counts import RequestCounts
    from raftflow.api.http.access_control import AccessControl
    from raftflow.coordinator.replica import Replica
    from raftflow.coordinator.sessions.agent_session import PollOutcome
    from raftflow.domain.contract.views import LeaderNotice, PollRequest

_HEAD_END = b"\r\n\r\n"
_PREFIX = b"POST /v1/"
_NAME = "([A-Za-z0-9_.:@+-]{1,200})"
_FIRST = re.compile(
    rf"POST ({POLL.target(_NAME)}|{SEND_CALLS.target(_NAME)}|{SUBMIT_WORKFLOW.path}) HTTP/1\.1(?:\r\n|\Z)".encode()
)
_LEADER_PREFIX = f"GET {SHOW_LEADER.path}?".encode()
_LEADER = re.compile(
    rf"GET {SHOW_LEADER.path}\?term=([0-9]{{1,18}})&wait_ms=([0-9]{{1,9}}) HTTP/1\.1(?:\r\n|\Z)".encode()
)
_VISIBLE = bytes([0x09, *range(0x20, 0x7F), *range(0x80, 0x100)])
_LENGTH = re.compile(rb"[0-9]{1,9}")
_PLAIN = frozenset(
    {b"host", b"content-type", b"content-length", b"authorization", b"user-agent", b"accept", b"accept-encoding"}
)
"""Headers that do not change the meaning of a request."""
_KEY = HEADER_IDEMPOTENCY_KEY.lower().encode()
_PLAIN_SUBMISSION = _PLAIN | {_KEY}
_JSON = {"Content-Type": "application/json"}
_POLL: OperationKey = (POLL.method, POLL.path)
_CALLS: OperationKey = (SEND_CALLS.method, SEND_CALLS.path)
_SUBMIT: OperationKey = (SUBMIT_WORKFLOW.method, SUBMIT_WORKFLOW.path)
_SHOW_LEADER: OperationKey = (SHOW_LEADER.method, SHOW_LEADER.path)
_STATUS_LINE = {status.value: f"{status.value} {status.phrase}" for status in HTTPStatus}
HEAD_BYTES_MAX = 8 * 1024


class RawRequest(NamedTuple):
    """A poll, a submission or the question who leads, of which the head has been read."""

    path: str
    agent: str
    """The agent that polls or sends calls; empty for a submission."""
    key: str
    """The idempotency key of a submission; empty for none."""
    size: int
    """Bytes of head and body."""
    body_at: int
    """Where the body begins."""
    began_s: float
    """When its head was read."""
    asks: tuple[int, float] | None = None
    """Set if a client asks who leads: the term that it knows, and how many seconds the answer may be held."""
    is_calls: bool = False
    """It carries calls of attempts."""
    identity: ClientIdentity = ANYBODY
    """Who sends it."""

    @property
    def operation(self) -> OperationKey:
        """The operation that it asks for, as metrics name it."""
        if self.asks is not None:
            return _SHOW_LEADER
        if self.is_calls:
            return _CALLS
        return _POLL if self.agent else _SUBMIT


class FastPath:
    """Reads and answers polls and small submissions of one replica."""

    def __init__(self, replica: Replica, shedder: LoadShedder, access: AccessControl, figures: RequestCounts) -> None:
        self._replica = replica
        self._figures = figures
        self._access = access
        self._shedder = shedder
        limits = replica.config.limits
        self._poll_bytes_max = body_bytes_max(POLL_ROUTE, limits)
        self._submission_bytes_max = min(body_bytes_max(SUBMIT_ROUTE, limits), OFF_LOOP_BYTES)
        self.taken = 0
        """Requests that the fast path has answered or is answering."""
        self._waiting_tasks: set[asyncio.Task[None]] = set()
        """Polls that wait for a leader."""
        self._answer_headers = AnswerHeaders(replica)

    def read(self, data: bytes, certified: ClientIdentity | None = None) -> RawRequest | None:
        """Return the request whose whole head `data` begins with, None if it is not one for the fast path.

        A poll's body may come later. A submission that has not arrived as a whole goes to the framework, which
        answers if the rest never comes. `certified` is who the connection's certificate belongs to, if to anybody.
        """
        if data.startswith(_LEADER_PREFIX):
            return self._read_leader(data, certified)
        if not data.startswith(_PREFIX) or not self._replica.leader.leading:
            return None
        end = data.find(_HEAD_END, 0, HEAD_BYTES_MAX)
        if end < 0:
            return None
        head = data[:end]
        match = _FIRST.match(head)
        headers = plain_headers(head)
        if match is None or headers is None:
            return None
        agent = match[2] or match[3] or b""
        if not headers.keys() <= (_PLAIN if agent else _PLAIN_SUBMISSION):
            return None
        operation = (POLL if match[2] else SEND_CALLS) if agent else SUBMIT_WORKFLOW
        identity = self._access.identify(headers, operation.access, agent.decode(), certified)
        if identity is None:
            return None
        length, key = headers.get(b"content-length", b""), headers.get(_KEY)
        if (
            headers.get(b"content-type", b"").lower() != b"application/json"
            or not _LENGTH.fullmatch(length)
            or int(length) > (self._poll_bytes_max if agent else self._submission_bytes_max)
            or not (key is None or is_key(key.decode("latin-1")))
        ):
            return None
        body_at = end + len(_HEAD_END)
        size = body_at + int(length)
        if not agent and len(data) < size:
            return None
        return RawRequest(
            match[1].decode(),
            agent.decode(),
            (key or b"").decode(),
            size,
            body_at,
            now_s(),
            is_calls=match[3] is not None,
            identity=identity,
        )

    def _read_leader(self, data: bytes, certified: ClientIdentity | None) -> RawRequest | None:
        """Return the request that asks who leads. Agents keep one at a replica that does not lead."""
        end = data.find(_HEAD_END, 0, HEAD_BYTES_MAX)
        head = data[: max(end, 0)]
        match = _LEADER.match(head)
        if match is None:
            return None
        headers = plain_headers(head)
        if headers is None or not headers.keys() <= _PLAIN or headers.get(b"content-length", b"0") != b"0":
            return None
        wait_s = int(match[2]) / 1000
        identity = self._access.identify(headers, SHOW_LEADER.access, certified=certified)
        if wait_s > HOLD_MAX_S or identity is None:
            return None
        size = end + len(_HEAD_END)
        asks = (int(match[1]), wait_s)
        return RawRequest(SHOW_LEADER.path, "", "", size, size, now_s(), asks, identity=identity)

    def begin(self, request: RawRequest, body: bytes, send: Callable[[bytes], None]) -> bool:
        """Begin to answer a request that may be held. Returns False, with nothing done, if it needs a task.

        `send` gets the bytes, now or later. A held request has no task, since thousands are held at a time
        (`coordinator.sessions`, `coordinator.leader`).
        """
        replica = self._replica
        if request.asks is not None:
            self.taken += 1
            replica.news.ask(*request.asks, partial(self._send_leader, request, send))
            return True
        if not request.agent or request.is_calls or not replica.leader.leading:
            return False
        try:
            poll = read_poll(body)
        except ProblemError:
            return False
        self.taken += 1
        on_answer = partial(self._send_poll_answer, request, body, poll, send)
        replica.poll_service.ingest_poll(request.agent, poll, on_answer)
        return True

    def _send_leader(self, request: RawRequest, send: Callable[[bytes], None], notice: LeaderNotice) -> None:
        """Send the name of the leader."""
        send(self._message(request, self._replica.ids.request_id(), 200, _JSON, encode(notice)))

    def _send_poll_answer(
        self, request: RawRequest, body: bytes, poll: PollRequest, send: Callable[[bytes], None], outcome: PollOutcome
    ) -> None:
        """Send the answer to a poll."""
        if isinstance(outcome, NoLeaderError):
            # There will be a leader soon. The poll is then answered as if it had come now.
            task = asyncio.get_running_loop().create_task(self._answer_when_led(request, body, send))
            self._waiting_tasks.add(task)
            task.add_done_callback(self._waiting_tasks.discard)
            return
        request_id = self._replica.ids.request_id()
        status, headers = 200, _JSON
        try:
            if isinstance(outcome, Exception):
                raise outcome  # noqa: TRY301 - one function explains all errors
            content = encode(poll_answer(self._replica, poll, outcome))
        except Exception as error:  # noqa: BLE001 - explained
            status, headers, content = self._explain(request, request_id, error)
        send(self._message(request, request_id, status, headers, content))

    async def _answer_when_led(self, request: RawRequest, body: bytes, send: Callable[[bytes], None]) -> None:
        answer = await self._answer(request, body)
        assert answer is not None  # noqa: S101 - it is a poll
        send(answer)

    async def answer(self, request: RawRequest, body: bytes, address: str) -> bytes | None:
        """Return the bytes of the answer, None if the framework must forward the request to another leader.

        `address` is the client's.
        """
        self.taken += 1
        return await self._answer(request, body, address or UNKNOWN_CLIENT)

    async def _answer(self, request: RawRequest, body: bytes, client: str = "") -> bytes | None:
        request_id = self._replica.ids.request_id()
        try:
            await self._shedder.enter(QueueClass.FAST_PATH)
            status, headers, content = await wait_for_leader(
                partial(self._carry_out, request, body, client), NO_LEADER
            )
        except Exception as error:  # noqa: BLE001 - explained
            if isinstance(error, NotLeaderError) and not request.agent:
                return None
            status, headers, content = self._explain(request, request_id, error)
        return self._message(request, request_id, status, headers, content)

    def _explain(self, request: RawRequest, request_id: str, error: Exception) -> tuple[int, dict[str, str], bytes]:
        """Return status, headers and content of the answer for an error."""
        if isinstance(error, NotLeaderError):
            return REDIRECT, location(error.leader_url, request.path), b""
        return problems.explain(error, request_id, f"POST {request.path}").parts()

    def _message(
        self, request: RawRequest, request_id: str, status: int, headers: dict[str, str], content: bytes
    ) -> bytes:
        """Return the bytes of an answer."""
        self._figures.answered(request.operation, status, request.began_s)
        own = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
        return (
            f"HTTP/1.1 {_STATUS_LINE[status]}\r\n{own}Content-Length: {len(content)}\r\n"
            f"{self._answer_headers.lines(request_id)}\r\n"
        ).encode() + content

    async def _carry_out(self, request: RawRequest, body: bytes, client: str) -> tuple[int, dict[str, str], bytes]:
        """Answer on the leader. Raises `NotLeaderError` if another replica leads, `ProblemError`, `ProposeError`."""
        if not self._replica.leader.leading:
            raise self._replica.submitter.no_leader_error()
        if request.is_calls:
            return 200, _JSON, encode(await answer_calls(self._replica, request.agent, body))
        if request.agent:
            return 200, _JSON, encode(await answer_poll(self._replica, request.agent, body))
        answer = await submit_document(self._replica, body, request.key, client, request.identity.actor)
        return answer.status, {**_JSON, **(answer.headers or {})}, encode(answer.content)


def plain_headers(head: bytes) -> dict[bytes, bytes] | None:
    """Return the headers of a head, with names in lower case; None if one is malformed or comes twice.

    A head contains no control character but the tab, and each of its lines ends with CR and LF.
    """
    _, *lines = head.split(b"\r\n")
    if head.translate(None, _VISIBLE) != b"\r\n" * len(lines):
        return None
    headers: dict[bytes, bytes] = {}
    for line in lines:
        name, colon, value = line.partition(b":")
        name = name.lower()
        if not colon or name in headers:
            return None
        headers[name] = value.strip(b" \t")
    return headers


def is_one_message(data: bytes) -> bool:
    """Tell whether `data` is exactly one request, framed by a Content-Length or without a body."""
    end = data.find(_HEAD_END, 0, HEAD_BYTES_MAX)
    if end <= 0:
        return False
    headers = plain_headers(data[:end])
    if headers is None or not headers.keys().isdisjoint({b"transfer-encoding", b"upgrade", b"expect"}):
        return False
    length = headers.get(b"content-length", b"0")
    return _LENGTH.fullmatch(length) is not None and len(data) == end + len(_HEAD_END) + int(length)
