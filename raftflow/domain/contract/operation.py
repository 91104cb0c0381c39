"""What an operation of the HTTP API is: everything about it that the server and its clients must agree on."""

from __future__ import annotations

import enum
import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
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
    """Who may ask. `contract/identities/grants.py` says which roles may; all may in a cluster without tokens."""

    OPEN = "everybody"
    """Everybody, under any host name."""
    ANY = "any role"
    """Everybody who has a valid token."""
    READ = "read"
    """Those who may look at workflows, agents and replicas."""
    SUBMIT = "submit"
    """Those who may run programs on the agents."""
    APPROVE = "approve"
    """Those who decide for people: approvals, uncertain effects, budgets."""
    OPERATE = "operate"
    """Those who look after agents, limits and replicas."""
    ADMIN = "admin"
    """Those who decide who is let in, and who get copies of everything."""
    AGENT = "agent"
    """Agents, each under its own name."""
    REPLICA = "replica"
    """Other replicas of the cluster, which send its token and prove that they have the cluster's secret."""


class UsedBy(enum.Enum):
    """Which program sends the request. Each operation of the first two has a method there."""

    CLIENT = "client"
    """The SDK and the command line (`client.aio`)."""
    AGENT = "agent"
    """Agents (`agent.exchange`)."""
    REPLICA = "replica"
    """The other replicas (`api.forwarding`)."""
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


@dataclass(frozen=True, kw_only=True, slots=True)
class Verb:
    """How the command line offers an operation: `raftflow NOUN NAME`.

    The help is the operation's summary and details. The arguments are the variable parts of the path. Most verbs need
    no code: the command line makes them of the declaration (`cli/cluster_commands/operation_verbs.py`).
    """

    noun: str
    name: str
    parts: tuple[str, ...] = ()
    """What the help calls the variable parts of the path, in order. By default their names in capitals."""
    given: Mapping[str, str] = field(default_factory=dict)
    """Query parameters and fields of the body that the user gives, and how: `--peer HOST:PORT` is an option with a
    word for its value, `N` is an argument. Type, bounds and help come from the parameter, or from the body's type.
    The name of a field in seconds ends in `_s`: the user writes a duration."""
    stale: bool = False
    """Offers `--stale`, for an operation that the leader reads."""
    columns: Mapping[str, str] = field(default_factory=dict)
    """Columns of the table of the answer's entries: title to key, which may go deeper (`tasks.total`)."""
    whole: bool = False
    """`-o json` prints the whole answer, and not only its entries."""
    line: str = ""
    """The line that a person gets, with fields of the answer in braces. By default every field has a line."""
    by_hand: bool = False
    """The verb does more than send one request and print the answer: its code is in the file of its noun."""


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
    access: Access
    """Who may ask."""
    summary: str
    """One sentence, without the point at its end."""
    answer: type[Answer]
    """Type of a successful answer; `bytes` for text."""
    details: str = ""
    """What else there is to know: whole sentences, for the description of the API and the help of the verb."""
    used_by: UsedBy = UsedBy.CLIENT
    status: int = 200
    """Of a successful answer."""
    media_type: str = "application/json"
    """Of a successful answer."""
    items: str = ""
    """The field of the answer that has the entries of a listing. One with the parameter `cursor` comes in pages."""
    answer_s: float = 10.0
    """How long the client waits for the answer to one request."""
    verb: Verb | None = None
    """How the command line offers it."""
    no_verb: str = ""
    """Why the command line does not offer an operation of the client."""
    body: Any = None
    """Type of the request body, None for none; `bytes` for a body that is not JSON."""
    body_media_type: str = "application/json"
    body_schema: str = ""
    """Name of the body's schema, for a body that is not decoded into a type."""
    body_required: bool = True
    params: tuple[Param, ...] = ()
    path_rules: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """What variable parts of the path must be like, in the words of a JSON Schema, if others are refused. Most have
    no rule: what is not there is not found."""
    extra_problems: tuple[ProblemKind, ...] = ()
    """Problems of this operation beside those that follow from its other fields."""

    @property
    def is_paged(self) -> bool:
        """True for a listing that comes in pages."""
        return any(param.name == CURSOR.name for param in self.params)

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
