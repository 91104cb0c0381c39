"""What a handler gets and gives back, and what a route is: an operation of the contract with its handler."""

from __future__ import annotations

import enum
import re
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
from aiohttp import web

from raftflow.api.http import problems
from raftflow.api.http.problems import ProblemError, from_rejection
from raftflow.coordinator.replica import Replica
from raftflow.domain import limits
from raftflow.domain.contract.operation import (
    IDEMPOTENCY_KEY_CHARS_MAX,
    IDEMPOTENCY_KEY_PATTERN,
    STALE,
    AnsweredBy,
    Operation,
)
from raftflow.domain.contract.views import HEADER_IDEMPOTENCY_KEY, FieldProblem
from raftflow.domain.rejections import Rejection
from raftflow.domain.replies import AnyReply

if TYPE_CHECKING:
    from raftflow.api.admission.load_shedder import LoadShedder
    from raftflow.api.http.identity import ClientIdentity
    from raftflow.coordinator.config.replica_config import Limits

_KEY = re.compile(rf"(?=.{{1,{IDEMPOTENCY_KEY_CHARS_MAX}}}\Z){IDEMPOTENCY_KEY_PATTERN}")

SMALL_PAGE = 100
"""Entries of a listing that cost little."""


class Cost(enum.Enum):
    """How much work an operation makes."""

    USUAL = "usual"
    PAGE = "page"
    """A listing: large if more than `SMALL_PAGE` entries are asked for."""
    LARGE = "large"
    """Some milliseconds of the loop: such calls run one at a time."""
    LONG = "long"
    """Reads everything, mostly beside the loop: such calls run one at a time, and few may wait."""


class Request:
    """One request, as a handler gets it."""

    __slots__ = ("body", "client", "identity", "replica", "request", "request_id", "route", "shedder")

    def __init__(  # noqa: PLR0917 - all of them are needed
        self,
        replica: Replica,
        route: Route,
        request: web.Request,
        body: bytes,
        shedder: LoadShedder,
        client: str,
        identity: ClientIdentity,
        request_id: str,
    ) -> None:
        self.shedder = shedder
        self.replica = replica
        self.route = route
        self.request = request
        self.body = body
        self.client = client
        """The address that the request came from, whichever replica it was sent to. Clients take turns by it."""
        self.identity = identity
        """Who sends it."""
        self.request_id = request_id

    @property
    def actor(self) -> str:
        """How commands and the audit name who sends it."""
        return self.identity.actor

    @property
    def operation(self) -> Operation[Any]:
        """The operation that is asked for."""
        return self.route.operation

    def path(self, name: str) -> str:
        """Return a variable part of the path. Raises `ProblemError` if it is too long for a name."""
        value = self.request.match_info[name]
        if len(value) > limits.NAME_CHARS_MAX:
            raise ProblemError(
                problems.NOT_FOUND,
                f"nothing is called {value[:80]!r}...: names have at most {limits.NAME_CHARS_MAX} characters",
            )
        return value

    def text(self, name: str) -> str | None:
        """Return a query parameter, or its default. Raises `ProblemError`."""
        param = next(param for param in self.operation.params if param.name == name)
        value = self.request.query.get(name)
        if value is None:
            return None if param.default is None else str(param.default)
        if len(value) > param.chars_max:
            raise _bad_param(name, f"has {len(value)} characters, the limit is {param.chars_max}")
        if param.choices and value not in param.choices:
            raise _bad_param(name, f"{value[:80]!r} is not one of {', '.join(param.choices)}")
        return value

    def number(self, name: str) -> int | None:
        """Return a query parameter as a number within its bounds, or its default. Raises `ProblemError`."""
        param = next(param for param in self.operation.params if param.name == name)
        text = self.text(name)
        if text is None:
            return None
        if not (text.isascii() and text.isdigit() and len(text) < 20 and param.minimum <= int(text) <= param.maximum):
            raise _bad_param(name, f"{text[:80]!r} is not a whole number from {param.minimum} to {param.maximum}")
        return int(text)

    def require_number(self, name: str) -> int:
        """Return a query parameter that has a default. Raises `ProblemError`."""
        value = self.number(name)
        assert value is not None, name  # noqa: S101 - the route's table gives a default
        return value

    def hold_s(self, name: str) -> float:
        """Return how long the answer may be held, in seconds, from a parameter in ms. Zero for HEAD.

        Raises `ProblemError`.
        """
        wait_ms = self.require_number(name)
        return 0.0 if self.request.method == "HEAD" else wait_ms / 1000

    @property
    def idempotency_key(self) -> str:
        """The client's key, empty if it sent none. Raises `ProblemError` if the key is invalid."""
        keys = self.request.headers.getall(HEADER_IDEMPOTENCY_KEY, ())
        if not keys:
            return ""
        if len(keys) > 1 or not is_key(keys[0]):
            raise ProblemError(
                problems.INVALID_DOCUMENT,
                f"{HEADER_IDEMPOTENCY_KEY} must have 1 to 200 printable ASCII characters and no spaces",
            )
        return keys[0]


class Response(NamedTuple):
    """What a handler gives back: a struct of the contract, or bytes that are encoded already."""

    content: Any
    status: int = 200
    headers: dict[str, str] | None = None


def as_json(content: bytes) -> Response:
    """Return an answer that is encoded already."""
    return Response(content, headers={"Content-Type": "application/json"})


Handler = Callable[[Request], Awaitable[Response | web.StreamResponse]]


class Route(NamedTuple):
    """An operation with the handler that answers it."""

    operation: Operation[Any]
    handler: Handler
    cost: Cost = Cost.USUAL
    small: bool = False
    """The body may be no larger than a poll."""
    cure: str = ""
    """Says how to make a body smaller that is too large; empty for the usual advice."""


def body_bytes_max(route: Route, limits: Limits) -> int:
    """Return how large the body of a request may be."""
    operation = route.operation
    small = route.small or operation.answered_by is AnsweredBy.LEADER_POLL or operation.body is None
    return limits.poll_bytes if small else limits.body_bytes


def is_key(text: str) -> bool:
    """Tell whether a string can be an idempotency key."""
    return _KEY.fullmatch(text) is not None


def require_accepted(reply: AnyReply) -> Any:
    """Return the state machine's reply. Raises `ProblemError` if it is a refusal."""
    if isinstance(reply, Rejection):
        raise from_rejection(reply)
    return reply


def require_found(view: Any, what: str) -> Any:
    """Return the view. Raises `ProblemError` if it is None."""
    if view is None:
        raise ProblemError(problems.NOT_FOUND, f"there is no {what[:300]}")
    return view


def check_query(route: Route, request: web.Request) -> None:
    """Refuse unknown parameters, so that a typing error is not ignored. Raises `ProblemError`."""
    known = {param.name for param in route.operation.params}
    if route.operation.answered_by is AnsweredBy.LEADER_READ:
        known.add(STALE.name)
    for name in request.query:
        if name not in known:
            raise _bad_param(name, f"unknown; known are {', '.join(sorted(known)) or 'none'}")
        if len(request.query.getall(name)) > 1:
            raise _bad_param(name, "is given more than once")


def _bad_param(name: str, message: str) -> ProblemError:
    return ProblemError(
        problems.INVALID_DOCUMENT,
        f"query parameter {name[:80]!r}: {message}",
        errors=[FieldProblem(f"?{name[:80]}", message)],
    )


def encode(content: Any) -> bytes:
    """Encode an answer."""
    return _encoder.encode(content)


_encoder = msgspec.json.Encoder()
