"""One HTTP connection: aiohttp's, with a timeout for silent ones and the fast path (`fast_path`).

aiohttp parses all that it is given in one turn of the loop, and a body in chunks of one byte costs a hundred times as
much as one that comes whole. So this connection gives aiohttp a little at a time, unless the rest is plainly one
body, and refuses a body that comes in tiny chunks. After a request for another protocol it parses nothing: the server
speaks no other protocol.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from raftflow.api.admission.load_shedder import QueueClass
from raftflow.api.fast_path import is_one_message
from raftflow.api.http import problems
from raftflow.api.http.aiohttp_internals import (
    EMPTY_PAYLOAD,
    HttpVersion10,
    HttpVersion11,
    ObservedHandler,
    StreamReader,
)
from raftflow.api.http.bodies import BrokenBodyError
from raftflow.api.http.parse_errors import OTHER_VERSION, parse_problem

if TYPE_CHECKING:
    from collections.abc import Callable

    from aiohttp import web

    from raftflow.api.admission.load_shedder import LoadShedder
    from raftflow.api.fast_path import FastPath, RawRequest
    from raftflow.api.http.identity import ClientIdentity, Identities

HEADER_TIMEOUT_S = 15.0
"""A connection is closed if its first request has not begun by then."""
BODY_TIMEOUT_S = 30.0
"""A connection is closed if a request on the fast path has not arrived as a whole by then."""
BETWEEN_TURNS_MAX = 8
"""Turns of the event loop that aiohttp gets between an answer and its wait for the next message. It needs one or two,
not more."""
_SHOWN_CHARS_MAX = 200
AHEAD_BYTES_MAX = 64 * 1024
"""Bytes that a client may send before its request is answered. The connection of a client that sends more is
closed."""
STEP_BYTES = 16 * 1024
"""Bytes that aiohttp parses in one step, unless they are plainly one body."""
CHUNKED_BYTES_FREE = 16 * 1024
"""Bytes of a chunked body that may be framing or content."""
CHUNKED_SHARE = 2
"""Beyond `CHUNKED_BYTES_FREE`, at least one byte of so many must be content. Chunks of five bytes reach that."""


class ApiConnection(ObservedHandler):
    """A connection with timeouts for silence, which answers polls and small submissions on the fast path."""

    def __init__(
        self,
        *arguments: Any,
        shedder: LoadShedder,
        fast_path: FastPath | None = None,
        identities: Identities | None = None,
        **options: Any,
    ) -> None:
        super().__init__(*arguments, **options)
        self.certified: ClientIdentity | None = None
        """Who the certificate of the client belongs to, if it has shown one."""
        self._identities = identities
        self._certificate_timer: asyncio.TimerHandle | None = None
        self.identity: ClientIdentity | None = None
        """Who sent the last request that was let in."""
        self.on_resume: Callable[[], None] | None = None
        """Is called when the connection can take more again."""
        self._shedder = shedder
        self._fast_path = fast_path
        """None once this connection has left the fast path."""
        self._first_timer: asyncio.TimerHandle | None = None
        self._body_timer: asyncio.TimerHandle | None = None
        self._fresh = True
        """Nothing has arrived yet. aiohttp may not even have begun to wait."""
        self._request: RawRequest | None = None
        """The request that the fast path reads or answers here."""
        self._held = bytearray()
        """What has arrived of that request; while it is answered, what has arrived after it."""
        self._answering = False
        """The request is complete and has no answer yet."""
        self._task: asyncio.Task[None] | None = None
        """The task that answers it, if it needs one."""
        self._idle: asyncio.Future[None] | None = None
        """Is set when it is answered, if somebody waits for that."""
        self._between = bytearray()
        """What has arrived since aiohttp gave its last answer and before it waits for the next message."""
        self._last: tuple[Any, StreamReader] | None = None
        """The last message whose head aiohttp has parsed, with its body."""
        self._chunked_bytes = 0
        """Bytes of its body that have arrived, if the body comes in chunks."""
        self._rest = b""
        """What aiohttp was not given in this step."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start the timeout for the first request."""
        super().connection_made(transport)
        abort = cast("asyncio.Transport", transport).abort
        self._first_timer = asyncio.get_running_loop().call_later(HEADER_TIMEOUT_S, abort)
        certificate = transport.get_extra_info("peercert")
        if certificate and self._identities is not None:
            self.certified = self._identities.of_certificate(certificate)
            left_s = ssl.cert_time_to_seconds(certificate["notAfter"]) - time.time()
            self._certificate_timer = asyncio.get_running_loop().call_later(max(0.0, left_s), abort)

    def ingest(self, data: bytes) -> bytes:
        """Take as much of what has arrived as fits into one step. Returns the rest."""
        self._rest = b""
        self._route_data(data)
        rest, self._rest = self._rest, b""
        return rest

    def data_received(self, data: bytes) -> None:
        """Take all of the data. aiohttp calls this with no data to continue with what it has."""
        rest = self.ingest(data)
        while rest:
            rest = self.ingest(rest)

    def resume_reading(self, resume_parser: bool = True) -> None:  # noqa: FBT001, FBT002 - aiohttp's signature
        """Continue: the body that was waiting was read."""
        super().resume_reading(resume_parser)
        if self.on_resume is not None and not self.is_reading_paused():
            self.on_resume()

    def is_waiting_for_client(self) -> bool:
        """Tell whether the client has to send something: no whole request waits or is at work here."""
        if self._answering or self.message_count() or self._between:
            return False
        if self._request is not None or not self.is_answering():
            return True
        return self._last is not None and not self._last[1].is_eof()

    def _route_data(self, data: bytes) -> None:
        """Give data to the fast path or to aiohttp. Stop the first timeout once a whole head has arrived."""
        if self._request is not None:
            self._held += data
            self._continue_request()
        elif self._between or self._is_between_messages():
            if not self._between:
                self._loop.call_soon(self._continue_between, BETWEEN_TURNS_MAX)
            self._between += data
        elif (request := self._read_request(data)) is not None:
            self._fresh = False
            self._request = request
            self.identity = request.identity
            self._held += data
            self._continue_request()
        else:
            self._pass_to_aiohttp(data)
        if self._first_timer is not None and (self._request is not None or self.has_request()):
            self._first_timer.cancel()
            self._first_timer = None

    def _read_request(self, data: bytes) -> RawRequest | None:
        if self._fast_path is None or not (self._fresh or self.is_waiting_for_message()):
            return None
        return self._fast_path.read(data, self.certified)

    def _expects_message(self) -> bool:
        return self._fresh or self.is_waiting_for_message()

    def _is_between_messages(self) -> bool:
        return self._fast_path is not None and not self._fresh and self.is_between_messages()

    def _continue_between(self, turns: int) -> None:
        """Continue with what arrived between an answer and the wait for the next message, once aiohttp waits."""
        if self.transport is None:
            return
        if turns and self._is_between_messages():
            self._loop.call_soon(self._continue_between, turns - 1)
            return
        data = bytes(self._between)
        self._between.clear()
        if self._is_between_messages():
            self._rest = b""
            self._pass_to_aiohttp(data)
            rest, self._rest = self._rest, b""
        else:
            rest = self.ingest(data)
        if rest:
            self._between += rest
            if not self._shedder.enqueue(QueueClass.DATA, partial(self._continue_between, 0)):
                self.force_close()

    def _pass_to_aiohttp(self, data: bytes) -> None:
        # aiohttp itself calls with no data, to continue with what it has.
        if data and self._fast_path is not None and not (self._expects_message() and is_one_message(data)):
            self._fast_path = None
        self._fresh = False
        if len(data) <= STEP_BYTES or (self._expects_message() and is_one_message(data)):
            self._parse(data)
            return
        step = max(STEP_BYTES, self._missing_body_bytes())
        self._parse(data[:step])
        rest = data[step:]
        if rest and (missing := self._missing_body_bytes()):
            self._parse(rest[:missing])
            rest = rest[missing:]
        self._rest = rest

    def _missing_body_bytes(self) -> int:
        """Return how many bytes of a body of known length have not arrived yet."""
        if self._last is None or self._last[1].is_eof():
            return 0
        length = self._last[0].headers.get("Content-Length", "0")
        return max(0, int(length) - self._last[1].total_bytes)

    def _parse(self, data: bytes) -> None:
        """Give aiohttp a piece, and check what it made of it."""
        if self.is_closing():
            return
        known = self.message_count()
        began = self._last
        super().data_received(data)
        if self.message_count() > known:
            self._check_newest_message()
        if self._last is not None and not self._last[1].is_eof():
            self._check_chunks(len(data) if self._last is began else 0)

    def _check_newest_message(self) -> None:
        """Remember which request came last, and end what cannot continue."""
        newest = self.newest_message()
        if isinstance(newest, str):
            if self._last is not None and not self._last[1].is_eof():
                self._end_body(f"the body is not framed as HTTP demands: {newest[:_SHOWN_CHARS_MAX]}")
            return
        message, body = newest
        if message.version not in {HttpVersion10, HttpVersion11}:
            # The answer would be in that version, which this server does not speak.
            self.refuse_newest_message(problems.INVALID_DOCUMENT.status, OTHER_VERSION)
            self.close_after_answer()
            return
        self._last, self._chunked_bytes = (message, body), 0
        if self.is_upgraded() or message.method == "CONNECT":
            # What follows is in another protocol, or pretends to be. It is not read.
            self.close_after_answer()
            if body is not EMPTY_PAYLOAD and not body.is_eof():
                body.feed_eof()

    def _check_chunks(self, size: int) -> None:
        """Refuse a body that is mostly framing. `size` is what has arrived for it just now."""
        assert self._last is not None  # noqa: S101 - the caller has checked
        message, body = self._last
        if not message.chunked:
            return
        self._chunked_bytes += size
        if self._chunked_bytes > CHUNKED_BYTES_FREE + CHUNKED_SHARE * body.total_bytes:
            self._end_body("the body comes in chunks of a few bytes; send larger ones, or a Content-Length")

    def _end_body(self, why: str) -> None:
        """End a body that cannot continue, and end the connection with the answer to its request."""
        assert self._last is not None  # noqa: S101 - the callers have checked
        self.close_after_answer()
        self._last[1].set_exception(BrokenBodyError(why))
        self._last = None

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer what is not HTTP with a problem document."""
        super().handle_error(request, status, exc, message)
        response = parse_problem(status, exc, message).response()
        response.force_close()
        return response

    # --- the fast path

    def _continue_request(self) -> None:
        """Answer the request of the fast path if all of it has arrived."""
        request = self._request
        assert request is not None  # noqa: S101 - the callers have one
        if self._answering:
            if len(self._held) > AHEAD_BYTES_MAX:
                self.force_close()
            return
        if len(self._held) < request.size:
            if self._body_timer is None:
                self._body_timer = self._loop.call_later(BODY_TIMEOUT_S, self.force_close)
            return
        if self._body_timer is not None:
            self._body_timer.cancel()
            self._body_timer = None
        message = bytes(self._held[: request.size])
        del self._held[: request.size]
        assert self._fast_path is not None  # noqa: S101 - it has read the request, and stays while one is answered
        self._answering = True
        self.restart_idle_clock()
        if not self._fast_path.begin(request, message[request.body_at :], self._send_answer):
            self._task = self._loop.create_task(self._answer(self._fast_path, request, message))

    async def _answer(self, fast_path: FastPath, request: RawRequest, message: bytes) -> None:
        answer = await fast_path.answer(request, message[request.body_at :], self.client_address())
        if answer is None and self.transport is not None:
            self._parse(message)
        self._send_answer(answer)

    def _send_answer(self, answer: bytes | None) -> None:
        """Send the answer to a request, and continue with what came after it.

        None means that aiohttp has the request now.
        """
        self._request = self._task = None
        self._answering = False
        if self._idle is not None and not self._idle.done():
            self._idle.set_result(None)
        if self.transport is None:
            return
        if answer is not None:
            self.transport.write(answer)
        self.restart_idle_clock()
        if self._held:
            # In the next turn: a client may send many requests ahead, and each may be answered at once.
            self._between += self._held
            self._held.clear()
            self._loop.call_soon(self._continue_between, BETWEEN_TURNS_MAX)

    async def shutdown(self, timeout: float | None = 15.0) -> None:  # noqa: ASYNC109 - aiohttp's signature
        """Wait for the answer to the request under way, then close."""
        if self._answering:
            self._idle = self._loop.create_future()
            await asyncio.wait((self._idle,), timeout=timeout)
        await super().shutdown(timeout)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Stop the timers. A request under way ends by itself: the replica still uses what it brought."""
        for timer in (self._first_timer, self._body_timer, self._certificate_timer):
            if timer is not None:
                timer.cancel()
        self._first_timer = self._body_timer = None
        super().connection_lost(exc)
