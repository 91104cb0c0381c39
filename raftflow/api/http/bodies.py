"""Reading what clients send: bounded in bytes, in time and in depth, and decoded into the contract's types."""

from __future__ import annotations

import asyncio
import re
from typing import TypeVar

import msgspec
from aiohttp import web

from raftflow.api.http import problems
from raftflow.api.http.aiohttp_internals import HttpVersion11
from raftflow.api.http.problems import ProblemError
from raftflow.domain.contract.views import FieldProblem
from raftflow.domain.values.exact import (
    TWICE,
    UNREADABLE,
    ValueFault,
    decode_json,
    find_fault,
    read_json,
    twice_fault,
)

T = TypeVar("T")

BODY_TIMEOUT_S = 30.0
"""Time for a body to arrive. A client that takes longer is stuck or hostile."""

_SEARCHED_BYTES_MAX = 64 * 1024
"""In a larger body that is not JSON the place of the error is not searched: that would block the loop."""

_encode = msgspec.json.Encoder().encode
_PATH = re.compile(r" - at `\$?\.?(?P<path>.*)`$")


class BrokenBodyError(Exception):
    """The rest of the body cannot be read. The text says why."""


async def read_body(request: web.Request, limit: int, cure: str = "") -> bytes:
    """Read a whole body of at most `limit` bytes. Raises `ProblemError`; `cure` says how to make a body smaller."""
    if request.content_length is not None and request.content_length > limit:
        raise _too_large(limit, cure)
    await _send_continue(request)
    first, more = b"", bytearray()
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            async for piece in request.content.iter_any():
                if not first:
                    first = piece
                else:
                    more += piece
                if len(first) + len(more) > limit:
                    raise _too_large(limit, cure)
    except TimeoutError:
        raise ProblemError(
            problems.INVALID_DOCUMENT,
            f"the body did not arrive within {BODY_TIMEOUT_S:g} s",
            headers={"Connection": "close"},
        ) from None
    except ConnectionError:
        raise ProblemError(problems.INVALID_DOCUMENT, "the connection was lost before the body had arrived") from None
    except (BrokenBodyError, web.RequestPayloadError) as error:
        raise ProblemError(problems.INVALID_DOCUMENT, str(error), headers={"Connection": "close"}) from None
    return first + more if more else first


async def _send_continue(request: web.Request) -> None:
    """Send `100 Continue` to a client that waits for it."""
    if request.headers.get("Expect", "").lower() == "100-continue" and request.version == HttpVersion11:
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0  # the answer itself has not begun


def _too_large(limit: int, cure: str) -> ProblemError:
    cure = cure or "split the request, or put large data into files that it names"
    return ProblemError(
        problems.TOO_LARGE,
        f"the body is larger than {limit} bytes; {cure}",
        limit=limit,
        headers={"Connection": "close"},  # the rest of the body is not read
    )


def require_plain(request: web.Request) -> None:
    """Refuse a compressed body: nothing is inflated here. Raises `ProblemError`."""
    for name, plain in (("Content-Encoding", "identity"), ("Transfer-Encoding", "chunked")):
        for value in request.headers.getall(name, ()):
            if value.strip(" \t").lower() not in (plain, ""):
                raise ProblemError(
                    problems.UNSUPPORTED_MEDIA,
                    f"send the body without {name}: {value[:80]!r}",
                    headers={"Connection": "close"},  # the body is not read
                )


def require_media_type(request: web.Request, media_type: str) -> None:
    """Refuse a body that is not declared as JSON, or as the type that the operation takes.

    A page of another web site can make a browser post forms and plain text to a replica, but no other types.
    """
    declared = request.headers.get("Content-Type", "")
    if request.content_type != media_type or not declared:
        raise ProblemError(problems.UNSUPPORTED_MEDIA, f"send Content-Type: {media_type}, not {declared[:80]!r}")


def decode(body: bytes, into: type[T]) -> T:
    """Decode a request. Raises `ProblemError` with the path of the fault."""
    try:
        request = msgspec.json.decode(body, type=into)
    except msgspec.ValidationError as error:
        text = str(error)
        match = _PATH.search(text)
        message = text[: match.start()] if match else text
        path = match["path"] if match else ""
        raise ProblemError(
            problems.INVALID_DOCUMENT, f"the body is invalid: {text[:500]}", errors=[FieldProblem(path, message)]
        ) from None
    except UNREADABLE as error:
        fault = _find_fault(body) if len(body) <= _SEARCHED_BYTES_MAX else None
        if fault is not None and fault.path:
            raise _invalid_body(fault) from None
        raise ProblemError(problems.INVALID_DOCUMENT, f"the body is not JSON: {str(error)[:500]}") from None
    # A body that encodes to the same bytes has no key twice. Everything that our agents and clients send is such.
    if _encode(request) != body:
        _require_unique_keys(body)
    return request


def _require_unique_keys(body: bytes) -> None:
    try:
        fault = twice_fault(body, decode_json(body))
    except UNREADABLE:  # in a result, which is checked separately
        return
    if fault is not None and fault.message == TWICE:
        raise _invalid_body(fault)


def _find_fault(body: bytes) -> ValueFault | None:
    """Return the first part of a body that is not a JSON value."""
    try:
        return find_fault(read_json(body))
    except ValueFault as fault:
        return fault


def _invalid_body(fault: ValueFault) -> ProblemError:
    return ProblemError(
        problems.INVALID_DOCUMENT,
        f"the body is invalid: {fault}",
        errors=[FieldProblem(fault.path, fault.message)],
    )
