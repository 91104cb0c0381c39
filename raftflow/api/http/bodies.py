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
from raftflow.domain.values.exact import TWICE, ValueFault, decode_json, find_fault, read_json, twice_fault

T = TypeVar("T")

BODY_TIMEOUT_S = 30.0
"""A body that takes longer to arrive comes from a client that is stuck, or means harm."""

_EXPLAINED_BYTES_MAX = 64 * 1024
"""Of a body that is no JSON: in larger ones nobody looks for the place, for that costs the loop."""

_encode = msgspec.json.Encoder().encode
_PATH = re.compile(r" - at `\$?\.?(?P<path>.*)`$")


class BrokenBodyError(Exception):
    """The body cannot be read any further. Says why."""


async def read_body(request: web.Request, limit: int, cure: str = "") -> bytes:
    """Read a whole body of at most `limit` bytes. Raises `ProblemError`, which says how to make it smaller."""
    if request.content_length is not None and request.content_length > limit:
        raise _too_large(limit, cure)
    await _go_ahead(request)
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


async def _go_ahead(request: web.Request) -> None:
    """Tell a client that waits for it to send its body."""
    if request.headers.get("Expect", "").lower() == "100-continue" and request.version == HttpVersion11:
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0  # the answer has not begun


def _too_large(limit: int, cure: str) -> ProblemError:
    cure = cure or "split the request, or put large data into files that it names"
    return ProblemError(
        problems.TOO_LARGE,
        f"the body is larger than {limit} bytes; {cure}",
        limit=limit,
        headers={"Connection": "close"},  # what is left of the body is not read
    )


def require_plain(request: web.Request) -> None:
    """Refuse a body that is compressed: nothing is inflated here, whatever it is. Raises `ProblemError`."""
    for name, plain in (("Content-Encoding", "identity"), ("Transfer-Encoding", "chunked")):
        for value in request.headers.getall(name, ()):
            if value.strip(" \t").lower() not in (plain, ""):
                raise ProblemError(
                    problems.UNSUPPORTED_MEDIA,
                    f"send the body as it is, without {name}: {value[:80]!r}",
                    headers={"Connection": "close"},  # the body is not read
                )


def require_json(request: web.Request) -> None:
    """Refuse bodies that do not say that they are JSON.

    A page of another web site can make a browser post forms and texts to a replica, but not JSON.
    """
    if request.content_type != "application/json":
        raise ProblemError(
            problems.UNSUPPORTED_MEDIA, f"send Content-Type: application/json, not {request.content_type[:80]!r}"
        )


def decode(body: bytes, into: type[T]) -> T:
    """Decode a request. Raises `ProblemError` with the path of what is wrong."""
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
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        fault = _explain(body) if len(body) <= _EXPLAINED_BYTES_MAX else None
        if fault is not None and fault.path:
            raise _not_right(fault) from None
        raise ProblemError(problems.INVALID_DOCUMENT, f"the body is not JSON: {str(error)[:500]}") from None
    # What reads back as it was sent, as all that agents and clients of ours send does, has no key twice.
    if _encode(request) != body:
        _require_each_key_once(body)
    return request


def _require_each_key_once(body: bytes) -> None:
    try:
        fault = twice_fault(body, decode_json(body))
    except (RecursionError, msgspec.DecodeError):  # in a result, which is looked at for itself
        return
    if fault is not None and fault.message == TWICE:
        raise _not_right(fault)


def _explain(body: bytes) -> ValueFault | None:
    """Return the first part of a body that is no value."""
    try:
        return find_fault(read_json(body))
    except ValueFault as fault:
        return fault


def _not_right(fault: ValueFault) -> ProblemError:
    return ProblemError(
        problems.INVALID_DOCUMENT,
        f"the body is invalid: {fault}",
        errors=[FieldProblem(fault.path, fault.message)],
    )
