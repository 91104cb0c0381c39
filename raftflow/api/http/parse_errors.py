"""The problem for what arrives and is not valid HTTP."""

from __future__ import annotations

import re
from typing import Final

from raftflow.api.http import problems
from raftflow.api.http.aiohttp_internals import LineTooLong
from raftflow.api.http.problems import ProblemError

LINE_BYTES_MAX: Final = 8 * 1024
"""Bytes of the target of a request, and of one header with its name."""
_SHOWN_CHARS_MAX: Final = 200
_TOO_MANY: Final = "Too many headers"
OTHER_VERSION: Final = "Other version"
"""Stands for the parser's message if the parser reads a version of HTTP that this server does not speak."""
_HTTP2: Final = "Pause on PRI"
_TLS: Final = "HTTPS traffic"
_CARET: Final = re.compile(r"\s*\n\s*\^?\s*")


def parse_problem(status: int, error: BaseException | None, message: str | None) -> ProblemError:
    """Return the problem for a request that the parser could not read.

    `status` and `message` are the parser's. 500 is an error of the server, of which the client learns no details.
    """
    if status >= 500:
        return ProblemError(problems.INTERNAL, "the replica failed")
    text = (message or "").strip()
    if isinstance(error, LineTooLong):
        # The parser keeps a target in a `bytearray`, and the parts of a header in `bytes`.
        if isinstance(error.args[0], bytearray):
            return ProblemError(
                problems.URI_TOO_LONG,
                f"the target of a request has at most {LINE_BYTES_MAX} bytes",
                limit=LINE_BYTES_MAX,
            )
        return ProblemError(
            problems.HEADERS_TOO_LARGE, f"a header has at most {LINE_BYTES_MAX} bytes", limit=LINE_BYTES_MAX
        )
    if text.startswith(_TOO_MANY):
        return ProblemError(problems.HEADERS_TOO_LARGE, "the request has too many headers")
    if _TLS in text:
        return ProblemError(
            problems.INVALID_DOCUMENT, "TLS arrived at a port that speaks plain HTTP: write http:// in the URL"
        )
    if text == OTHER_VERSION or text.startswith(_HTTP2):
        return ProblemError(
            problems.INVALID_DOCUMENT, "send HTTP/1.1 or HTTP/1.0; this server speaks no other version"
        )
    return ProblemError(problems.INVALID_DOCUMENT, f"this is not an HTTP request: {_one_line(text)}")


def _one_line(text: str) -> str:
    """Return the parser's message in one line. It marks the place with a caret in a line below."""
    return _CARET.sub(" ", text).strip()[:_SHOWN_CHARS_MAX]


def _speaks_tls() -> bytes:
    problem = ProblemError(problems.INVALID_DOCUMENT, "this port speaks TLS: write https:// in the URL")
    status, headers, body = problem.parts()
    headers |= {"Content-Length": str(len(body)), "Connection": "close"}
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"HTTP/1.1 {status} Bad Request\r\n{lines}\r\n".encode() + body


SPEAKS_TLS: Final = _speaks_tls()
"""Answer to a request in plain HTTP at a port that speaks TLS."""
