"""What an operation of the HTTP API is: everything about it that the server and its clients must agree on."""

from __future__ import annotations

import enum
import functools
import re
from dataclasses import dataclass
from typing import Any, Final, Generic, Literal, NamedTuple, TypeVar

from raftflow.domain import limits
from raftflow.domain.contract import problem_kinds
from raftflow.domain.contract.problem_kinds import ProblemKind

Answer = TypeVar("Answer")

_PATH_PART: Final = re.compile(r"\{(\w+)\}")
_EVERY_OPERATION: Final = (
    problem_kinds.INVALID_DOCUMENT,
    problem_kinds.FORBIDDEN,
    problem_kinds.URI_TOO_LONG,
    problem_kinds.UNSUPPORTED_MEDIA,
    problem_kinds.QUEUE_FULL,
    problem_kinds.HEADERS_TOO_LARGE,
    problem_kinds.INTERNAL,
)


class AnsweredBy(enum.Enum):
    """Which replica answers."""

    ASKED_REPLICA = "asked replica"
    """The one that was asked."""
    LEADER_READ = "leader; with `?stale` the asked replica"
    """The leader, linearizably. With `?stale` the one that was asked, from what it has applied."""
    LEADER_WRITE = "leader"
    """The leader. Others pass the request on to it."""
    LEADER_POLL = "leader; others answer 307"
    """The leader. Others answer with its address."""


class Access(enum.Enum):
    """Who may ask."""

    TOKEN = "token"  # noqa: S105 - a word, not a secret
    """Clients with the cluster's token; everybody if the cluster has none."""
    OPEN = "everybody"
    """Everybody, under any host name."""


class UsedBy(enum.Enum):
    """Which program sends the request. Each operation of the first two has a method there."""

    CLIENT = "client"
    """The SDK and the command line (`client.aio`)."""
    AGENT = "agent"
    """Agents (`agent.exchange`)."""
    TOOL = "other tools"
    """Programs of others: load balancers, Prometheus, editors."""


class Param(NamedTuple):
    """A query parameter."""

    name: str
    kind: Literal["string", "integer", "boolean"]
    description: str
    choices: tuple[str, ...] = ()
    minimum: int = 0
    maximum: int = limits.NUMBER_MAX
    default: int | str | None = None
    chars_max: int = limits.QUERY_CHARS_MAX
    pattern: str = ""
    """What a string must match. It is for the description; the handler checks it."""


IDEMPOTENCY_KEY_CHARS_MAX: Final = 200
IDEMPOTENCY_KEY_PATTERN: Final = r"^[!-~]+$"

STALE: Final = Param(
    "stale", "string", "answer from what the asked replica has applied, which may be behind the leader"
)
"""Every `LEADER_READ` has this parameter. Its value does not matter."""

PAGE_SIZE: Final = Param(
    "limit", "integer", "most entries of the answer", minimum=1, maximum=limits.PAGE_ENTRIES_MAX, default=100
)
CURSOR: Final = Param(
    "cursor",
    "string",
    "the `next` of the page before",
    pattern=limits.CURSOR_PATTERN,
    chars_max=limits.CURSOR_CHARS_MAX,
)


@functools.cache
def _names_in(path: str) -> tuple[str, ...]:
    return tuple(_PATH_PART.findall(path))


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Operation(Generic[Answer]):
    """One operation of the API."""

    name: str
    """The `operationId` of the OpenAPI document."""
    method: Literal["GET", "POST", "DELETE"]
    path: str
    """With the names of its variable parts in braces."""
    answered_by: AnsweredBy
    summary: str
    answer: type[Answer]
    """Type of a successful answer; `bytes` for text."""
    access: Access = Access.TOKEN
    used_by: UsedBy = UsedBy.CLIENT
    status: int = 200
    """Of a successful answer."""
    media_type: str = "application/json"
    """Of a successful answer."""
    items: str = ""
    """The field of the answer that has the entries of a listing. One with the parameter `cursor` comes in pages."""
    body: Any = None
    """Type of the request body, None for none."""
    body_schema: str = ""
    """Name of the body's schema, for a body that is not decoded into a type."""
    body_required: bool = True
    params: tuple[Param, ...] = ()
    extra_problems: tuple[ProblemKind, ...] = ()
    """Problems of this operation beside those that follow from its other fields."""

    @property
    def path_names(self) -> tuple[str, ...]:
        """The names of the variable parts of the path, in order."""
        return _names_in(self.path)

    def target(self, *parts: str) -> str:
        """Return the path with its variable parts filled in; they must be quoted already."""
        return self.path.format(**dict(zip(self.path_names, parts, strict=True)))

    def problems(self) -> tuple[ProblemKind, ...]:
        """Return every kind of problem that the operation can answer with."""
        kinds = [*_EVERY_OPERATION, *self.extra_problems]
        if self.access is not Access.OPEN:
            kinds += [problem_kinds.UNAUTHORIZED, problem_kinds.WRONG_HOST]
        if self.path_names:
            kinds.append(problem_kinds.NOT_FOUND)
        if self.answered_by is not AnsweredBy.ASKED_REPLICA:
            kinds.append(problem_kinds.NO_LEADER)
        if self.method != "GET":
            kinds.append(problem_kinds.OUTCOME_UNKNOWN)
            if self.answered_by is AnsweredBy.LEADER_WRITE:
                kinds.append(problem_kinds.REQUEST_MISMATCH)
        return tuple(dict.fromkeys(kinds))
