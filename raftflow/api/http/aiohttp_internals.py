# ruff: noqa: SLF001 - this module is the only place where private names of aiohttp are used
"""aiohttp's connection behind one class: everything that touches the library's insides is in this module.

The fast path reads messages from a connection before aiohttp does, so it has to know where aiohttp is: whether it
waits for a message, whether a request is at work, when it closes an idle connection. aiohttp offers none of that in
public. This module reads and sets those private names, gives each a public one, and checks when it is imported that
the installed version has all of them. It also holds the names of aiohttp that are public in the code and not
documented. `scripts/aiohttp_versions` runs the tests of the API with the lowest and the highest version that
`pyproject.toml` allows.
"""

from __future__ import annotations

import asyncio
from typing import Final

import aiohttp
from aiohttp.helpers import rfc822_formatted_time
from aiohttp.http import HttpVersion10, HttpVersion11, RawRequestMessage
from aiohttp.http_exceptions import BadHttpMessage, LineTooLong
from aiohttp.streams import EMPTY_PAYLOAD, StreamReader
from aiohttp.web_protocol import RequestHandler

__all__ = [
    "EMPTY_PAYLOAD",
    "HttpVersion10",
    "HttpVersion11",
    "InternalsError",
    "LineTooLong",
    "ObservedHandler",
    "StreamReader",
    "require_names",
    "rfc822_formatted_time",
]

CURE: Final = "Install a version that raftflow allows: pip install 'aiohttp>=3.14.4,<4'"
"""The range is that of `pyproject.toml`."""
_HANDLER_NAMES: Final = (
    "_buffer_paused",
    "_close",
    "_current_request",
    "_force_close",
    "_keepalive",
    "_keepalive_handle",
    "_keepalive_timeout",
    "_loop",
    "_messages",
    "_next_keepalive_close_time",
    "_process_keepalive",
    "_reading_paused",
    "_task_handler",
    "_upgraded",
    "_waiter",
    "peername",
)


class InternalsError(ImportError):
    """The installed aiohttp lacks names that raftflow relies on."""


def require_names(owner: object, names: tuple[str, ...]) -> None:
    """Raise `InternalsError` unless `owner` has all these attributes."""
    missing = [name for name in names if not hasattr(owner, name)]
    if missing:
        raise InternalsError(
            f"aiohttp {aiohttp.__version__} lacks names that the fast path of raftflow's HTTP server relies on "
            f"({', '.join(missing)}). {CURE}"
        )


require_names(aiohttp.web_protocol, ("_ErrInfo",))
require_names(RequestHandler, _HANDLER_NAMES)
require_names(StreamReader, ("total_bytes", "feed_eof", "is_eof", "set_exception"))

_ErrInfo = aiohttp.web_protocol._ErrInfo


class ObservedHandler(RequestHandler):
    """aiohttp's connection, with public names for what the fast path has to know and to set."""

    # --- the socket

    def is_reading_paused(self) -> bool:
        """Tell whether a body has to be read by its handler before more may arrive."""
        return self._reading_paused

    def may_read_socket(self) -> bool:
        """Tell whether aiohttp can take more from the socket now."""
        return not (self._reading_paused or self._buffer_paused)

    def is_closing(self) -> bool:
        """Tell whether the connection ends with the answer that is given now, or at once."""
        return self._close or self._force_close

    def close_after_answer(self) -> None:
        """Read no more requests, and close with the answer to the last one."""
        self._close = True

    def client_address(self) -> str:
        """Return the client's address, empty if the connection has none."""
        return self.peername[0] if isinstance(self.peername, tuple) else ""

    # --- messages

    def is_waiting_for_message(self) -> bool:
        """Tell whether the task of this connection waits for a message, and none has come."""
        return self._waiter is not None and not self._waiter.done()

    def has_request(self) -> bool:
        """Tell whether a request is at work, or has been parsed and waits."""
        return bool(self._messages) or self._current_request is not None

    def is_answering(self) -> bool:
        """Tell whether a request is at work."""
        return self._current_request is not None

    def is_between_messages(self) -> bool:
        """Tell whether an answer was given, and the task does not wait for the next message yet."""
        return self._waiter is None and self._current_request is None and not self._messages

    def message_count(self) -> int:
        """Return how many messages were parsed and wait."""
        return len(self._messages)

    def newest_message(self) -> tuple[RawRequestMessage, StreamReader] | str:
        """Return the message that was parsed last with its body; for one that cannot be parsed, what is wrong."""
        message, body = self._messages[-1]
        return message.message if isinstance(message, _ErrInfo) else (message, body)

    def refuse_newest_message(self, status: int, reason: str) -> None:
        """Have the message that was parsed last answered as one that cannot be parsed."""
        self._messages[-1] = (_ErrInfo(status, BadHttpMessage(reason), reason), EMPTY_PAYLOAD)

    def is_upgraded(self) -> bool:
        """Tell whether the last message asked for another protocol."""
        return self._upgraded

    # --- the end

    def restart_idle_clock(self) -> None:
        """Keep the connection open, and count its idle time from now on."""
        self._keepalive = True
        self._next_keepalive_close_time = self._loop.time() + self._keepalive_timeout
        if self._keepalive_handle is None and self.transport is not None:
            self._keepalive_handle = self._loop.call_at(self._next_keepalive_close_time, self._process_keepalive)

    def connection_lost(self, exc: BaseException | None) -> None:
        """End the task of this connection if it has no request at work."""
        waiting: asyncio.Task[None] | None = self._task_handler if self._current_request is None else None
        super().connection_lost(exc)
        if waiting is not None:
            # A request may have come just before the end; nothing that could answer it is left.
            waiting.cancel()
