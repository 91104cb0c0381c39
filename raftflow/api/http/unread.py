"""What arrives and is no HTTP that can be read: which problem that is, in words that help."""

from __future__ import annotations

import re
from typing import Final

from raftflow.api.http import problems
from raftflow.api.http.aiohttp_internals import LineTooLong
from raftflow.api.http.problems import ProblemError

LINE_BYTES_MAX: Final = 8 * 1024
"""Bytes of the target of a request, and of one header with its name."""
_TOLD_CHARS: Final = 200
_TOO_MANY: Final = "Too many headers"
OTHER_VERSION: Final = "Other version"
"""What is said in the place of the parser's words of a version that it reads and this server does not speak."""
_HTTP2: Final = "Pause on PRI"
_TLS: Final = "HTTPS traffic"
_CARET: Final = re.compile(r"\s*\n\s*\^?\s*")


def unread_problem(status: int, error: BaseException | None, message: str | None) -> ProblemError:
    """Return the problem for what the parser says of a request that it could not read.

    `status` is the parser's; 500 stands for a failure of ours, of which nothing is told.
    """
    if status >= 500:
        return ProblemError(problems.INTERNAL, "the replica failed")
    text = (message or "").strip()
    if isinstance(error, LineTooLong):
        # The parser collects a target in a `bytearray`, and the parts of a header as `bytes`.
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
        return ProblemError(problems.INVALID_DOCUMENT, "send HTTP/1.1; no other version is spoken here but HTTP/1.0")
    return ProblemError(problems.INVALID_DOCUMENT, f"this is not an HTTP request: {_one_line(text)}")


def _one_line(text: str) -> str:
    """Return the parser's words, which show the place with a caret in a line below, in one line."""
    return _CARET.sub(" ", text).strip()[:_TOLD_CHARS]


def _speaks_tls() -> bytes:
    problem = ProblemError(problems.INVALID_DOCUMENT, "this port speaks TLS: write https:// in the URL")
    status, headers, body = problem.parts()
    headers |= {"Content-Length": str(len(body)), "Connection": "close"}
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"HTTP/1.1 {status} Bad Request\r\n{lines}\r\n".encode() + body


SPEAKS_TLS: Final = _speaks_tls()
"""Answer to a request in plain HTTP at a door that speaks TLS."""
