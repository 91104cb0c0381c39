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
ChildKey = Annotated[str, msgspec.Meta(min_length=1, max_length=limits.SPAWN_KEY_CHARS_MAX)]
ChildRanges = Annotated[
    list[tuple[Number, Number]],
    msgspec.Meta(max_length=limits.PARK_RANGES_MAX),
]
"""First and last number of each range. Other tasks in them do not count."""
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


class SpawnChildren(
    msgspec.Struct, kw_only=True, forbid_unknown_fields=True, omit_defaults=True, tag_field="call", tag="spawn"
):
    """Add children to the workflow of the attempt, all or nothing. The answer comes when that is committed.

    A child whose key the task has used before is found, in whatever attempt that was, and must be the same task.
    """

    fence: Number
    tasks: Annotated[list[msgspec.Raw], msgspec.Meta(min_length=1, max_length=limits.SPAWN_TASKS_MAX)]
    """As in a document, without `needs`. The `id` of each is its key among the children of this task."""
    defaults: msgspec.Raw = msgspec.field(default_factory=lambda: msgspec.Raw(b"{}"))
    """As in a document."""


class FindChildren(
    msgspec.Struct, kw_only=True, forbid_unknown_fields=True, omit_defaults=True, tag_field="call", tag="children"
):
    """Look at children of the task: how many have ended, and their ends."""

    fence: Number
    keys: Annotated[list[ChildKey], msgspec.Meta(max_length=limits.SPAWN_TASKS_MAX)] = []
    """Those with these keys."""
    children: ChildRanges = []
    """Those with numbers in these ranges. All children without keys and ranges."""
    ends: bool = False
    """Show the ends, in the order of the numbers. Else they are counted."""
    begin: Number = 0
    """The number with which the ends begin: `next` of the answer before."""


class StopChildren(
    msgspec.Struct, kw_only=True, forbid_unknown_fields=True, omit_defaults=True, tag_field="call", tag="cancel"
):
    """Cancel children of the task that have not ended, and what they have spawned."""

    fence: Number
    children: ChildRanges


AnyCall = RecordStep | FindStep | SpawnChildren | FindChildren | StopChildren


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


class ChildrenSpawned(msgspec.Struct, kw_only=True, tag_field="answer", tag="spawned"):
    """The children are tasks of the workflow."""

    children: list[int]
    """Number of each child, in the order of the call."""


class ChildEnd(msgspec.Struct, kw_only=True, omit_defaults=True):
    """How a child has ended."""

    number: int
    id: str
    state: Literal["succeeded", "failed", "cancelled"]
    result: msgspec.Raw = msgspec.field(default_factory=lambda: msgspec.Raw(b"null"))
    error: str = ""


class ChildrenFound(msgspec.Struct, kw_only=True, omit_defaults=True, tag_field="answer", tag="children"):
    """What is known of children: counts, or ends if those were asked for."""

    total: int = 0
    open: int = 0
    """Those that have not ended."""
    first: ChildEnd | None = None
    """The one that ended first."""
    failed: ChildEnd | None = None
    """The first that ended without success."""
    numbers: list[int] = []
    """Of the children whose keys were named, in their order."""
    ends: list[ChildEnd] = []
    """Up to the first child that has not ended, as far as they are small together."""
    next: int | None = None
    """Where the next ends begin."""


class ChildrenStopped(msgspec.Struct, kw_only=True, tag_field="answer", tag="stopped"):
    """What had not ended is cancelled, or was told to stop."""


class RefusedCall(msgspec.Struct, kw_only=True, tag_field="answer", tag="refused"):
    """The call was refused, and nothing was changed."""

    type: Literal["stale", "mismatch", "limit", "invalid"]
    """`stale`: the attempt is over. `mismatch`: the key is taken by something else. `limit`: a limit would be
    passed."""
    detail: str


AnyAnswer = StepRecorded | StepsKnown | ChildrenSpawned | ChildrenFound | ChildrenStopped | RefusedCall


class CallsResponse(msgspec.Struct, kw_only=True):
    """One answer per call, in the order of the calls."""

    now_ms: int
    """The cluster's clock."""
    answers: list[AnyAnswer]
