"""What came back for one request: a body, a problem that allows another try, or a failed connection."""

from __future__ import annotations

import os
from typing import Final, NamedTuple

import aiohttp
import msgspec

from raftflow.client.errors import BadAnswer
from raftflow.domain.contract.views import PROBLEM_TYPE_PREFIX, Problem
from raftflow.domain.values.exact import UNREADABLE

ANSWER_BYTES_MAX: Final = 256 * 1024 * 1024
PROBLEM_BYTES_MAX: Final = 1024 * 1024
"""Bytes of an answer that is not a success."""
_RETRY_AFTER_MAX_S = 10.0
RETRIED_STATUSES: Final = frozenset({429, 502, 503, 504})
REQUEST_FAILURES: Final = (aiohttp.ClientError, TimeoutError, OSError)
"""These end one request; the call goes on with another peer."""


class RetryableProblem(NamedTuple):
    """A problem after which the call may be tried again."""

    problem: Problem
    after_s: float
    """How long the replica asks the client to wait."""


def retry_after_s(response: aiohttp.ClientResponse) -> float:
    """Return the wait that an overloaded replica asks for. Without a leader, frequent tries find one early."""
    text = response.headers.get("Retry-After", "")
    seconds = response.status == 429 and text.isascii() and text.isdigit()
    return min(float(text), _RETRY_AFTER_MAX_S) if seconds else 0.0


def describe_failure(error: Exception) -> str:
    """Say in a few words why a request failed."""
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return f"its certificate is not trusted: {error.certificate_error}"
    if isinstance(error, aiohttp.ClientConnectorError):
        number = error.os_error.errno or 0
        return (os.strerror(number) if number > 0 else error.os_error.strerror or "no connection").lower()
    if isinstance(error, TimeoutError):
        return "no answer in time"
    return str(error) or type(error).__name__


async def read_body(response: aiohttp.ClientResponse) -> bytes:
    """Read a body of bounded size. A compressed body is refused: the request did not ask for one."""
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


def problem_of(status: int, data: bytes, peer: str) -> Problem:
    """Decode a problem document, or make one from an answer that has none."""
    try:
        return msgspec.json.decode(data, type=Problem)
    except UNREADABLE:
        word = "unavailable" if status in RETRIED_STATUSES else "unexpected"
        text = data[:200].decode("utf-8", "replace").strip()
        return Problem(
            type=PROBLEM_TYPE_PREFIX + word,
            title=f"Status {status}",
            status=status,
            detail=f"{peer} answered without a problem document; is it a raftflow replica? {text}".strip(),
        )
