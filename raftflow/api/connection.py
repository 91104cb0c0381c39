"""One HTTP connection: aiohttp's, with a clock for silent ones and the express lane (`express`).

aiohttp parses all that it is given in one turn of the loop, and a body in chunks of a byte is a hundred times the
work of one that comes whole. So it is given little at a time, unless it is plain that the rest is one body; a body
that comes in tiny chunks is refused. Nothing that follows a request for another protocol is parsed: there is none.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Any

from aiohttp.http import HttpVersion10, HttpVersion11
from aiohttp.http_exceptions import BadHttpMessage
from aiohttp.streams import EMPTY_PAYLOAD
from aiohttp.web_protocol import RequestHandler, _ErrInfo

from raftflow.api.admission.load_shedder import QueueClass
from raftflow.api.fast_path import is_one_message
from raftflow.api.http import problems
from raftflow.api.http.bodies import BrokenBodyError
from raftflow.api.http.unread import OTHER_VERSION, unread_problem

if TYPE_CHECKING:
    from collections.abc import Callable

    from aiohttp import web
    from aiohttp.streams import StreamReader

    from raftflow.api.admission.load_shedder import LoadShedder
    from raftflow.api.fast_path import FastPath, RawRequest

HEADER_TIMEOUT_S = 15.0
"""A connection whose first request has not begun by then is closed."""
BODY_TIMEOUT_S = 30.0
"""A request in the lane that has not arrived as a whole by then closes its connection."""
BETWEEN_TURNS_MAX = 8
"""Turns of the event loop that aiohttp gets between an answer and its wait for the next message. It needs one or two,
not more."""
_TOLD_CHARS = 200
AHEAD_BYTES_MAX = 64 * 1024
"""Bytes that a client may send before its request is answered; more is no way to talk to this server."""
STEP_BYTES = 16 * 1024
"""Bytes that aiohttp parses in one step, if it cannot be said what they are."""
CHUNKED_BYTES_FREE = 16 * 1024
"""So much of a body in chunks may be anything."""
CHUNKED_SHARE = 2
"""Beyond that at least one byte of so many has to be content, not framing: chunks of five bytes have that."""


class ApiConnection(RequestHandler):
    """A connection that is closed if it says nothing for long."""

    def __init__(self, *arguments: Any, shedder: LoadShedder, lane: FastPath | None = None, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.on_resume: Callable[[], None] | None = None
        """Called when more can be taken, after it could not."""
        self._shedder = shedder
        self._lane = lane
        self._first: asyncio.TimerHandle | None = None
        self._slow: asyncio.TimerHandle | None = None
        self._fresh = True
        """Nothing has arrived yet. aiohttp may not even have begun to wait."""
        self._request: RawRequest | None = None
        """What is being read or answered here."""
        self._held = bytearray()
        """What has arrived of it, or, while it is answered, after it."""
        self._answering = False
        """It is complete and has no answer yet."""
        self._task: asyncio.Task[None] | None = None
        """What answers it, if that takes a task."""
        self._idle: asyncio.Future[None] | None = None
        """Is told when it is answered, if anybody waits for that."""
        self._between = bytearray()
        """What has arrived since aiohttp gave its last answer and before it waits for the next message."""
        self._last: tuple[Any, StreamReader] | None = None
        """The last message whose head aiohttp has parsed, with its body."""
        self._chunked_bytes = 0
        """What has arrived of its body, if that comes in chunks."""
        self._rest = b""
        """What aiohttp was not given in this step."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start the clock."""
        super().connection_made(transport)
        self._first = asyncio.get_running_loop().call_later(HEADER_TIMEOUT_S, transport.abort)  # type: ignore[attr-defined]

    def take(self, data: bytes) -> bytes:
        """Take as much of what has arrived as is worth a step. Returns the rest."""
        self._rest = b""
        self._take(data)
        rest, self._rest = self._rest, b""
        return rest

    def data_received(self, data: bytes) -> None:
        """Take all of it: for aiohttp, which calls this with nothing to go on with what it has."""
        rest = self.take(data)
        while rest:
            rest = self.take(rest)

    def resume_reading(self, resume_parser: bool = True) -> None:  # noqa: FBT001, FBT002 - aiohttp's signature
        """Go on: the body that was waiting was read."""
        super().resume_reading(resume_parser)
        if self.on_resume is not None and not self.is_full():
            self.on_resume()

    def is_full(self) -> bool:
        """Tell whether what was taken has to be read before more is taken."""
        return self._reading_paused

    def waits_for_client(self) -> bool:
        """Tell whether it is the client's turn to say something: no whole request is waiting or at work here."""
        if self._answering or self._messages or self._between:
            return False
        if self._request is not None or self._current_request is None:
            return True
        return self._last is not None and not self._last[1].is_eof()

    def _take(self, data: bytes) -> None:
        """Take what is for the lane, pass everything else on, and stop the clock once a whole head is there."""
        if self._request is not None:
            self._held += data
            self._go_on()
        elif self._between or self._is_between():
            if not self._between:
                self._loop.call_soon(self._look_between, BETWEEN_TURNS_MAX)
            self._between += data
        elif (request := self._read_for_lane(data)) is not None:
            self._fresh = False
            self._request = request
            self._held += data
            self._go_on()
        else:
            self._pass_on(data)
        if self._first is not None and (self._request or self._messages or self._current_request):
            self._first.cancel()
            self._first = None

    def _read_for_lane(self, data: bytes) -> RawRequest | None:
        return None if self._lane is None or not self._waits_for_a_message() else self._lane.read(data)

    def _waits_for_a_message(self) -> bool:
        return self._fresh or (self._waiter is not None and not self._waiter.done())

    def _is_between(self) -> bool:
        """Tell whether aiohttp has given an answer and is about to wait for the next message."""
        return (
            self._lane is not None
            and not (self._fresh or self._messages or self._current_request)
            and self._waiter is None
        )

    def _look_between(self, turns: int) -> None:
        """Go on with what arrived between an answer and the wait for the next message, once aiohttp waits."""
        if self.transport is None:
            return
        if turns and self._is_between():
            self._loop.call_soon(self._look_between, turns - 1)
            return
        data = bytes(self._between)
        self._between.clear()
        if self._is_between():
            self._rest = b""
            self._pass_on(data)
            rest, self._rest = self._rest, b""
        else:
            rest = self.take(data)
        if rest:
            self._between += rest
            if not self._shedder.line_up(QueueClass.DATA, partial(self._look_between, 0)):
                self.force_close()

    def _pass_on(self, data: bytes) -> None:
        # aiohttp itself hands over nothing, to go on with what it has.
        if data and self._lane is not None and not (self._waits_for_a_message() and is_one_message(data)):
            self._lane = None
        self._fresh = False
        if len(data) <= STEP_BYTES or (self._waits_for_a_message() and is_one_message(data)):
            self._parse(data)
            return
        step = max(STEP_BYTES, self._body_left())
        self._parse(data[:step])
        rest = data[step:]
        if rest and (left := self._body_left()):
            self._parse(rest[:left])
            rest = rest[left:]
        self._rest = rest

    def _body_left(self) -> int:
        """Return how many bytes of a body of known length have not arrived yet."""
        if self._last is None or self._last[1].is_eof():
            return 0
        length = self._last[0].headers.get("Content-Length", "0")
        return max(0, int(length) - self._last[1].total_bytes)

    def _parse(self, data: bytes) -> None:
        """Give aiohttp a piece, and look at what it made of it."""
        if self._close or self._force_close:
            return
        known = len(self._messages)
        began = self._last
        super().data_received(data)
        if len(self._messages) > known:
            self._look_at_new()
        if self._last is not None and not self._last[1].is_eof():
            self._look_at_body(len(data) if self._last is began else 0)

    def _look_at_new(self) -> None:
        """See which request came last, and break off what cannot go on."""
        message, body = self._messages[-1]
        if isinstance(message, _ErrInfo):
            if self._last is not None and not self._last[1].is_eof():
                self._break_off(f"the body is not framed as HTTP says: {message.message[:_TOLD_CHARS]}")
            return
        if message.version not in {HttpVersion10, HttpVersion11}:
            # The answer would be in that version, which is none that this server speaks.
            refusal = _ErrInfo(problems.INVALID_DOCUMENT.status, BadHttpMessage("version"), OTHER_VERSION)
            self._messages[-1] = (refusal, EMPTY_PAYLOAD)
            self._close = True
            return
        self._last, self._chunked_bytes = (message, body), 0
        if self._upgraded or message.method == "CONNECT":
            # What follows is in another protocol, or meant to look so: it is not read.
            self._close = True
            if body is not EMPTY_PAYLOAD and not body.is_eof():
                body.feed_eof()

    def _look_at_body(self, size: int) -> None:
        """Refuse a body of which most is framing. `size` is what has arrived for it just now."""
        assert self._last is not None  # noqa: S101 - the caller has looked
        message, body = self._last
        if not message.chunked:
            return
        self._chunked_bytes += size
        if self._chunked_bytes > CHUNKED_BYTES_FREE + CHUNKED_SHARE * body.total_bytes:
            self._break_off("the body comes in chunks of a few bytes; send larger ones, or a Content-Length")

    def _break_off(self, why: str) -> None:
        """End a body that cannot go on, and the connection with the answer to its request."""
        assert self._last is not None  # noqa: S101 - the callers have looked
        self._close = True
        self._last[1].set_exception(BrokenBodyError(why))
        self._last = None

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Say in a problem document that what arrived is no HTTP."""
        super().handle_error(request, status, exc, message)
        response = unread_problem(status, exc, message).response()
        response.force_close()
        return response

    # --- the lane

    def _go_on(self) -> None:
        """Answer the request if all of it is here."""
        request = self._request
        assert request is not None  # noqa: S101 - the callers have one
        if self._answering:
            if len(self._held) > AHEAD_BYTES_MAX:
                self.force_close()
            return
        if len(self._held) < request.size:
            if self._slow is None:
                self._slow = self._loop.call_later(BODY_TIMEOUT_S, self.force_close)
            return
        if self._slow is not None:
            self._slow.cancel()
            self._slow = None
        message = bytes(self._held[: request.size])
        del self._held[: request.size]
        assert self._lane is not None  # noqa: S101 - it has read the request, and stays while one is answered
        self._answering = True
        self._stay_open()
        if not self._lane.take(request, message[request.body_at :], self._answered):
            self._task = self._loop.create_task(self._answer(self._lane, request, message))

    async def _answer(self, lane: FastPath, request: RawRequest, message: bytes) -> None:
        address = self.peername[0] if isinstance(self.peername, tuple) else ""
        answer = await lane.answer(request, message[request.body_at :], address)
        if answer is None and self.transport is not None:
            self._parse(message)
        self._answered(answer)

    def _answered(self, answer: bytes | None) -> None:
        """Send the answer to a request, None if aiohttp has the request now, and go on with what came after it."""
        self._request = self._task = None
        self._answering = False
        if self._idle is not None and not self._idle.done():
            self._idle.set_result(None)
        if self.transport is None:
            return
        if answer is not None:
            self.transport.write(answer)
        self._stay_open()
        if self._held:
            # In the next turn: many requests may have been sent ahead, and each be answered at once.
            self._between += self._held
            self._held.clear()
            self._loop.call_soon(self._look_between, BETWEEN_TURNS_MAX)

    def _stay_open(self) -> None:
        """Have aiohttp count the idle time of this connection from now on."""
        self._keepalive = True
        self._next_keepalive_close_time = self._loop.time() + self._keepalive_timeout
        if self._keepalive_handle is None and self.transport is not None:
            self._keepalive_handle = self._loop.call_at(self._next_keepalive_close_time, self._process_keepalive)

    async def shutdown(self, timeout: float | None = 15.0) -> None:  # noqa: ASYNC109 - aiohttp's signature
        """Let the request under way be answered, then close."""
        if self._answering:
            self._idle = self._loop.create_future()
            await asyncio.wait((self._idle,), timeout=timeout)
        await super().shutdown(timeout)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Stop the clocks. A request under way ends by itself: what it brought counts all the same."""
        for timer in (self._first, self._slow):
            if timer is not None:
                timer.cancel()
        self._first = self._slow = None
        waiting = self._task_handler if self._current_request is None else None
        super().connection_lost(exc)
        if waiting is not None:
            # A request may have come just before the end; nothing that could answer it is left.
            waiting.cancel()
