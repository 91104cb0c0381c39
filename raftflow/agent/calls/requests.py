"""The lines of the attempt socket: `raftflow/agent/SOCKET.md` describes them for users."""

from __future__ import annotations

import contextlib
from typing import Annotated, Any, Final

import msgspec

from raftflow.domain import limits
from raftflow.domain.contract.calls import ChildKey, ChildRanges, FunctionName, Occurrence, StepName
from raftflow.domain.contract.common import Number
from raftflow.domain.tasks.children import ParkMode

LINE_BYTES_MAX: Final = 256 * 1024
"""Bytes of one request."""
SLEEP_S_MAX: Final = limits.DURATION_MS_MAX / 1000

Id = int | str | None
"""Names a request for its answer."""


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


class FailStep(_AttemptRequest, tag="fail"):
    """A step that was begun failed: the next one of its name takes its occurrence."""

    name: StepName
    occurrence: Occurrence


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
    """Wait for children: the attempt ends now, and another one follows when they have ended."""

    keys: ChildKeys = []
    children: ChildRanges = []
    mode: ParkMode = "all"


class DropChildren(_AttemptRequest, tag="cancel"):
    """Cancel children."""

    keys: ChildKeys = []
    children: ChildRanges = []


AnyRequest = (
    BeginStep
    | FinishStep
    | FailStep
    | Sleep
    | Now
    | RandomNumber
    | AddChildren
    | LookAtChildren
    | Park
    | DropChildren
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
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        request_id: Id = None
        with contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            request_id = _decode_id(line).id
        raise RequestFault(request_id, f"not a request: {str(error)[:300]}") from None


def accept(request_id: Id, told: Any) -> bytes:
    """Return the line that answers a request with success."""
    return b'{"id":%s,"ok":%s}\n' % (_encode(request_id), _encode(told))


def refuse(request_id: Id, kind: str, detail: str) -> bytes:
    """Return the line that answers a request with an error."""
    return _encode({"id": request_id, "error": {"type": kind, "detail": detail}}) + b"\n"
