"""What a handler gets and what a route is: the routes are data, from which the server and OpenAPI are made."""

from __future__ import annotations

import enum
import re
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
from aiohttp import web

from raftflow.api.http import problems
from raftflow.api.http.problems import ProblemError, ProblemKind, from_rejection
from raftflow.coordinator.replica import Replica
from raftflow.domain import limits
from raftflow.domain.contract.views import HEADER_IDEMPOTENCY_KEY, FieldProblem
from raftflow.domain.rejections import Rejection
from raftflow.domain.replies import AnyReply

if TYPE_CHECKING:
    from raftflow.api.admission.gated_connection import AdmissionControl

KEY_CHARS_MAX = 200
KEY_PATTERN = r"^[!-~]+$"
"""Of an idempotency key."""
_KEY = re.compile(rf"[!-~]{{1,{KEY_CHARS_MAX}}}")

UNKNOWN_CLIENT = "unknown"
"""Stands for the address of a connection that has none."""
LEADER_WAIT_S = 1.0
"""How long a request waits for an election that is under way before it is answered with 503."""
LEADER_LOOK_S = 0.02


class Access(enum.Enum):
    """Which replica answers."""

    LOCAL = "local"
    """The one that was asked."""
    READ = "read"
    """The leader, linearizably; with `?stale` the one that was asked, from what it has."""
    WRITE = "write"
    """The leader."""
    POLL = "poll"
    """The leader; others say where it is with 307."""


SMALL_PAGE = 100
"""Entries of a listing that are no trouble."""


class Cost(enum.Enum):
    """How much work a call makes."""

    USUAL = "usual"
    PAGE = "page"
    """A listing: large if more than `SMALL_PAGE` entries are wanted."""
    LARGE = "large"
    """Some milliseconds of the loop: such calls run one at a time."""
    LONG = "long"
    """Reads everything, mostly beside the loop: one at a time, and few may wait."""


class Param(NamedTuple):
    """A query parameter."""

    name: str
    kind: str
    """`string`, `integer` or `boolean`."""
    description: str
    choices: tuple[str, ...] = ()
    least: int = 0
    most: int = limits.NUMBER_MAX
    default: int | str | None = None
    chars_max: int = limits.QUERY_CHARS_MAX
    pattern: str = ""
    """What a text has to match, for the description; the handler checks it."""


class Request:
    """One request on its way through a handler."""

    __slots__ = ("admission", "body", "client", "replica", "request", "route")

    def __init__(  # noqa: PLR0917 - all of them are needed
        self,
        replica: Replica,
        route: Route,
        request: web.Request,
        body: bytes,
        admission: AdmissionControl,
        client: str,
    ) -> None:
        self.admission = admission
        self.replica = replica
        self.route = route
        self.request = request
        self.body = body
        self.client = client
        """The address that the request came from, whichever replica it was sent to: clients take turns by it."""

    def path(self, name: str) -> str:
        """Return a part of the path: a name. Raises `ProblemError` if nothing can have it."""
        value = self.request.match_info[name]
        if len(value) > limits.NAME_CHARS_MAX:
            raise ProblemError(
                problems.NOT_FOUND,
                f"nothing is called {value[:80]!r}...: names have at most {limits.NAME_CHARS_MAX} characters",
            )
        return value

    def text(self, name: str) -> str | None:
        """Return a query parameter, or its default. Raises `ProblemError`."""
        param = next(param for param in self.route.params if param.name == name)
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
        param = next(param for param in self.route.params if param.name == name)
        text = self.text(name)
        if text is None:
            return None
        if not (text.isascii() and text.isdigit() and len(text) < 20 and param.least <= int(text) <= param.most):
            raise _bad_param(name, f"{text[:80]!r} is not a whole number from {param.least} to {param.most}")
        return int(text)

    def require_number(self, name: str) -> int:
        """Return a query parameter that has a default. Raises `ProblemError`."""
        value = self.number(name)
        assert value is not None, name  # noqa: S101 - the route's table gives a default
        return value

    def hold_s(self, name: str) -> float:
        """Return how long the answer may be held, in seconds: a parameter in ms; not at all for HEAD.

        Raises `ProblemError`.
        """
        wait_ms = self.require_number(name)
        return 0.0 if self.request.method == "HEAD" else wait_ms / 1000

    @property
    def idempotency_key(self) -> str:
        """The client's key, or an empty text if it sent none. Raises `ProblemError` if it cannot be one."""
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
    """What a handler gives back: a struct of the contract and perhaps more."""

    content: Any
    status: int = 200
    headers: dict[str, str] | None = None


def as_json(content: bytes) -> Response:
    """Return an answer that was encoded bit by bit."""
    return Response(content, headers={"Content-Type": "application/json"})


Handler = Callable[[Request], Awaitable[Response]]


class Route(NamedTuple):
    """One operation of the API."""

    method: str
    path: str
    access: Access
    handler: Handler
    summary: str
    answer: Any
    """Type of a successful answer."""
    status: int = 200
    media: str = ""
    """Media type of the answer, if it is another than the type tells."""
    body: Any = None
    """Type of the request body, None for none."""
    body_schema: str = ""
    """Name of the body's schema, for one that is not decoded into a type (`openapi`)."""
    body_required: bool = True
    small: bool = False
    """True if the body is no larger than a poll may be."""
    cure: str = ""
    """What to do about a body that is too large; empty for what is usual."""
    params: tuple[Param, ...] = ()
    problems: tuple[ProblemKind, ...] = ()
    """Those that this operation adds to the ones that every operation has."""
    is_open: bool = False
    """True if no token is asked for."""
    cost: Cost = Cost.USUAL


def is_key(text: str) -> bool:
    """Tell whether a text can be an idempotency key."""
    return _KEY.fullmatch(text) is not None


def accepted(reply: AnyReply) -> Any:
    """Return the state machine's reply unless it is a refusal. Raises `ProblemError`."""
    if isinstance(reply, Rejection):
        raise from_rejection(reply)
    return reply


def found(view: Any, what: str) -> Any:
    """Return the view unless it is None. Raises `ProblemError`."""
    if view is None:
        raise ProblemError(problems.NOT_FOUND, f"there is no {what[:300]}")
    return view


def check_query(route: Route, request: web.Request) -> None:
    """Refuse parameters that the operation does not know: a typing error must not pass for a filter."""
    known = {param.name for param in route.params}
    if route.access is Access.READ:
        known.add("stale")
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
