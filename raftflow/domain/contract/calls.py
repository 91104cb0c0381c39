"""What running attempts ask of the cluster, as their agent passes it on: `POST /v1/agents/{id}/calls`.

One request carries calls of many attempts. Each names the fence of its attempt, and gets an answer of its own. A call
may be sent again: a step has one record, whatever is sent how often.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from raftflow.domain import limits
from raftflow.domain.contract.common import Number

StepName = Annotated[str, msgspec.Meta(min_length=1, max_length=limits.NAME_CHARS_MAX)]
Occurrence = Annotated[int, msgspec.Meta(ge=1, le=limits.STEPS_PER_TASK_MAX)]
FunctionName = Annotated[str, msgspec.Meta(max_length=limits.FUNCTION_CHARS_MAX)]


class RecordStep(
    msgspec.Struct, kw_only=True, forbid_unknown_fields=True, omit_defaults=True, tag_field="call", tag="record"
):
    """Record a step that an attempt has done. The answer comes when the record is committed."""

    fence: Number
    name: StepName
    occurrence: Occurrence
    """How many steps of that name the attempt has begun, this one included."""
    function: FunctionName = ""
    """What the step ran. A record of another function under this key is refused."""
    result: msgspec.Raw = msgspec.field(default_factory=lambda: msgspec.Raw(b"null"))


class FindStep(
    msgspec.Struct, kw_only=True, forbid_unknown_fields=True, omit_defaults=True, tag_field="call", tag="find"
):
    """Look a step up that an earlier attempt may have recorded."""

    fence: Number
    name: StepName
    occurrence: Occurrence


AnyCall = RecordStep | FindStep


class CallsRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """`POST /v1/agents/{id}/calls`."""

    incarnation: Number
    calls: Annotated[list[AnyCall], msgspec.Meta(max_length=limits.CALLS_MAX)]


class KnownStep(msgspec.Struct, kw_only=True, omit_defaults=True):
    """The record of a step."""

    name: str
    occurrence: int
    function: str = ""
    result: msgspec.Raw = msgspec.field(default_factory=lambda: msgspec.Raw(b"null"))
    at_ms: int
    """When it was recorded, by the cluster's clock."""


class StepRecorded(msgspec.Struct, kw_only=True, tag_field="answer", tag="recorded"):
    """The step is recorded."""


class StepsKnown(msgspec.Struct, kw_only=True, omit_defaults=True, tag_field="answer", tag="known"):
    """The step has a record, which counts: the first of these. Records that follow it may come with it.

    None if the step has no record.
    """

    steps: list[KnownStep] = []


class RefusedCall(msgspec.Struct, kw_only=True, tag_field="answer", tag="refused"):
    """The call was refused, and nothing was changed."""

    type: Literal["stale", "mismatch", "limit", "invalid"]
    """`stale`: the attempt is over. `mismatch`: the key is taken by something else. `limit`: a limit would be
    passed."""
    detail: str


AnyAnswer = StepRecorded | StepsKnown | RefusedCall


class CallsResponse(msgspec.Struct, kw_only=True):
    """One answer per call, in the order of the calls."""

    now_ms: int
    """The cluster's clock."""
    answers: list[AnyAnswer]
