"""The lines of the attempt socket: `raftflow/agent/SOCKET.md` describes them for users."""

from __future__ import annotations

import contextlib
from typing import Annotated, Any, Final, Literal

import msgspec

from raftflow.domain import limits
from raftflow.domain.contract.calls import (
    ChildKey,
    ChildRanges,
    EffectDetail,
    FunctionName,
    LimitName,
    Occurrence,
    StepName,
    UnitCount,
    WaitDuration,
)
from raftflow.domain.contract.common import Number
from raftflow.domain.tasks.budgets import AMOUNT_CHARS_MAX
from raftflow.domain.tasks.children import ParkMode
from raftflow.domain.values.exact import UNREADABLE

LINE_BYTES_MAX: Final = 256 * 1024
"""Bytes of one request."""
SLEEP_S_MAX: Final = limits.DURATION_MS_MAX / 1000

Id = int | str | None
"""Names a request for its answer."""


SpentAmounts = Annotated[
    dict[
        Annotated[str, msgspec.Meta(max_length=limits.BUDGET_NAME_CHARS_MAX)],
        int | float | Annotated[str, msgspec.Meta(max_length=AMOUNT_CHARS_MAX)],
    ],
    msgspec.Meta(max_length=limits.BUDGETS_PER_WORKFLOW_MAX),
]
"""Numbers with at most six decimals, or text that has one."""


class _AttemptRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, tag_field="call"):
    id: Id = None


class BeginStep(_AttemptRequest, tag="step"):
    """Begin a step: find its record, or learn under which occurrence to record it."""

    name: StepName
    function: FunctionName = ""
    unasked: bool = False
    """Ask as well how many of the next steps need no such request."""


class FinishStep(_AttemptRequest, tag="record"):
    """Record a step that was begun. The answer comes when the record is committed."""

    name: StepName
    occurrence: Occurrence | None = None
    """None for a step that was not begun by a request: it takes the next occurrence of its name."""
    function: FunctionName = ""
    result: msgspec.Raw = msgspec.field(default_factory=lambda: msgspec.Raw(b"null"))
    spent: SpentAmounts = {}
    """What the step has spent."""


class FailStep(_AttemptRequest, tag="fail"):
    """A step that was begun failed: the next one of its name takes its occurrence."""

    name: StepName
    occurrence: Occurrence | None = None
    """None for a step that was not begun by a request, and has spent something."""
    spent: SpentAmounts = {}
    """What the step has spent, although it failed."""


class SpendAmounts(_AttemptRequest, tag="spend"):
    """Count what was spent outside of a step."""

    amounts: Annotated[SpentAmounts, msgspec.Meta(min_length=1)]
    name: StepName = "raftflow.spend"


class Sleep(_AttemptRequest, tag="sleep"):
    """Sleep until a time that the first attempt has recorded. The answer comes then."""

    seconds: Annotated[float, msgspec.Meta(ge=0, le=SLEEP_S_MAX)]
    name: StepName = "raftflow.sleep"


class Now(_AttemptRequest, tag="now"):
    """Return the time, in seconds since 1970, that the first attempt has recorded."""

    name: StepName = "raftflow.now"


class RandomNumber(_AttemptRequest, tag="random"):
    """Return a number from 0 to 1 that the first attempt has recorded."""

    name: StepName = "raftflow.random"


class TakeUnits(_AttemptRequest, tag="rate"):
    """Take units of a rate limit. The answer comes when they are taken."""

    limit: LimitName
    count: UnitCount = 1
    name: Annotated[str, msgspec.Meta(max_length=limits.NAME_CHARS_MAX)] = ""
    """By default one for each limit."""


ChildKeys = Annotated[list[ChildKey], msgspec.Meta(max_length=limits.SPAWN_TASKS_MAX)]


class AddChildren(_AttemptRequest, tag="spawn"):
    """Add children. The answer comes when that is committed."""

    tasks: Annotated[list[msgspec.Raw], msgspec.Meta(min_length=1, max_length=limits.SPAWN_TASKS_MAX)]
    defaults: msgspec.Raw = msgspec.field(default_factory=lambda: msgspec.Raw(b"{}"))


class LookAtChildren(_AttemptRequest, tag="children"):
    """Count children, or show their ends."""

    keys: ChildKeys = []
    children: ChildRanges = []
    ends: bool = False
    begin: Number = 0


class Park(_AttemptRequest, tag="park"):
    """Wait for children, or for what has a number: the attempt ends now, and another one follows after that."""

    keys: ChildKeys = []
    children: ChildRanges = []
    waits: Annotated[list[Number], msgspec.Meta(max_length=limits.PARK_WAITS_MAX)] = []
    """Numbers of waits, of which one has to end. With them, no keys and ranges stand for no children."""
    mode: ParkMode = "all"


class DropChildren(_AttemptRequest, tag="cancel"):
    """Cancel children."""

    keys: ChildKeys = []
    children: ChildRanges = []


class EffectBegin(_AttemptRequest, tag="effect_begin"):
    """Begin an effect. The answer comes when its intent is committed, or says what is known of it."""

    name: StepName
    function: FunctionName = ""


class EffectEnd(_AttemptRequest, tag="effect_end"):
    """Tell the outcome of an effect that was begun."""

    name: StepName
    occurrence: Occurrence
    outcome: Literal["done", "not_done", "uncertain", "unknown"]
    """`unknown` leaves the intent as it is: the next beginning of the effect finds it."""
    result: msgspec.Raw = msgspec.field(default_factory=lambda: msgspec.Raw(b"null"))
    detail: EffectDetail = ""


Timeout = Annotated[float, msgspec.Meta(ge=0, le=SLEEP_S_MAX)] | WaitDuration


class AskSignal(_AttemptRequest, tag="wait"):
    """Wait for a signal to the workflow: the answer is its record, or the number of the open wait to park for."""

    name: StepName
    timeout: Timeout | None = None
    on_timeout: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    schema: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


Choices = Annotated[tuple[str, ...], msgspec.Meta(min_length=1, max_length=limits.CHOICES_MAX)]


class AskApproval(_AttemptRequest, tag="approval"):
    """Ask people to decide. The answer is as that of `wait`."""

    title: StepName
    details: msgspec.Raw = msgspec.field(default_factory=lambda: msgspec.Raw(b"null"))
    choices: Choices = ("approve", "deny")
    timeout: Timeout | None = None
    on_timeout: str | None = None
    name: Annotated[str, msgspec.Meta(max_length=limits.NAME_CHARS_MAX)] = ""
    """Of its record; by default the title."""


AnyRequest = (
    BeginStep
    | FinishStep
    | FailStep
    | Sleep
    | Now
    | RandomNumber
    | TakeUnits
    | SpendAmounts
    | AddChildren
    | LookAtChildren
    | Park
    | DropChildren
    | EffectBegin
    | EffectEnd
    | AskSignal
    | AskApproval
)

_request_decoder: msgspec.json.Decoder[AnyRequest] = msgspec.json.Decoder(AnyRequest)
_encode = msgspec.json.Encoder().encode


class _IdOnly(msgspec.Struct):
    id: Id = None


_decode_id = msgspec.json.Decoder(_IdOnly).decode


class RequestFault(Exception):  # noqa: N818 - a fault, as everywhere here
    """A line that is not a request."""

    def __init__(self, request_id: Id, detail: str) -> None:
        super().__init__(detail)
        self.request_id = request_id
        self.detail = detail


def read_request(line: bytes) -> AnyRequest:
    """Read one line. Raises `RequestFault`."""
    try:
        return _request_decoder.decode(line)
    except UNREADABLE as error:
        request_id: Id = None
        with contextlib.suppress(*UNREADABLE):
            request_id = _decode_id(line).id
        raise RequestFault(request_id, f"not a request: {str(error)[:300]}") from None


def accept(request_id: Id, told: Any) -> bytes:
    """Return the line that answers a request with success."""
    return b'{"id":%s,"ok":%s}\n' % (_encode(request_id), _encode(told))


def accept_plain(request_id: Id) -> bytes:
    """Return the line that answers a request with success, and says nothing more."""
    if type(request_id) is int:
        return b'{"id":%d,"ok":{}}\n' % request_id
    return accept(request_id, {})


def refuse(request_id: Id, kind: str, detail: str) -> bytes:
    """Return the line that answers a request with an error."""
    return _encode({"id": request_id, "error": {"type": kind, "detail": detail}}) + b"\n"
