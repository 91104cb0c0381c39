"""What running attempts ask of the cluster, as their agent passes it on: `POST /v1/agents/{id}/calls`.

One request carries calls of many attempts. Each names the fence of its attempt, and gets an answer of its own. A call
may be sent again: a step has one record, whatever is sent how often.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from raftflow.domain import limits
from raftflow.domain.contract.common import Number
from raftflow.domain.tasks.effects import EffectOutcome
from raftflow.domain.tasks.waits import AskedKind

StepName = Annotated[str, msgspec.Meta(min_length=1, max_length=limits.NAME_CHARS_MAX)]
Occurrence = Annotated[int, msgspec.Meta(ge=1, le=limits.STEPS_PER_TASK_MAX)]
ChildKey = Annotated[str, msgspec.Meta(min_length=1, max_length=limits.SPAWN_KEY_CHARS_MAX)]
ChildRanges = Annotated[
    list[tuple[Number, Number]],
    msgspec.Meta(max_length=limits.PARK_RANGES_MAX),
]
"""First and last number of each range. Other tasks in them do not count."""
EffectDetail = Annotated[str, msgspec.Meta(max_length=limits.EFFECT_DETAIL_CHARS_MAX)]
FunctionName = Annotated[str, msgspec.Meta(max_length=limits.FUNCTION_CHARS_MAX)]


Spent = Annotated[
    dict[
        Annotated[str, msgspec.Meta(max_length=limits.BUDGET_NAME_CHARS_MAX)],
        Annotated[int, msgspec.Meta(ge=0, le=limits.BUDGET_MILLIONTHS_MAX)],
    ],
    msgspec.Meta(max_length=limits.BUDGETS_PER_WORKFLOW_MAX),
]
WaitDuration = Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
LimitName = Annotated[str, msgspec.Meta(min_length=1, max_length=limits.RATE_NAME_CHARS_MAX)]
UnitCount = Annotated[int, msgspec.Meta(ge=1, le=limits.RATE_AMOUNT_MAX)]


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
    spent: Spent = {}
    """What the step has spent, in millionths by name."""


class FindStep(
    msgspec.Struct, kw_only=True, forbid_unknown_fields=True, omit_defaults=True, tag_field="call", tag="find"
):
    """Look a step up that an earlier attempt may have recorded."""

    fence: Number
    name: StepName
    occurrence: Occurrence


class TakeRate(
    msgspec.Struct, kw_only=True, forbid_unknown_fields=True, omit_defaults=True, tag_field="call", tag="rate"
):
    """Take units of a rate limit, as a durable step. The answer says that they are taken, or when to ask again."""

    fence: Number
    name: StepName
    occurrence: Occurrence
    limit: LimitName
    count: UnitCount = 1


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


class OpenEffect(
    msgspec.Struct, kw_only=True, forbid_unknown_fields=True, omit_defaults=True, tag_field="call", tag="effect_begin"
):
    """Begin an effect: the answer comes when its intent is committed, or says what is known of it."""

    fence: Number
    begin: Number
    """Which beginning of an effect this is in the attempt: it tells a repeated call from a new one."""
    name: StepName
    occurrence: Occurrence
    function: FunctionName = ""
    """What the effect calls. One that was begun with another function is refused."""


class CloseEffect(
    msgspec.Struct, kw_only=True, forbid_unknown_fields=True, omit_defaults=True, tag_field="call", tag="effect_end"
):
    """End an effect: the answer comes when its outcome is committed."""

    fence: Number
    begin: Number
    name: StepName
    occurrence: Occurrence
    outcome: EffectOutcome
    result: msgspec.Raw = msgspec.field(default_factory=lambda: msgspec.Raw(b"null"))
    """Of one that is done."""
    detail: EffectDetail = ""
    """Why it is uncertain; of one that is done: why its result cannot be recorded."""


class StartWait(
    msgspec.Struct, kw_only=True, forbid_unknown_fields=True, omit_defaults=True, tag_field="call", tag="wait"
):
    """Begin a wait of the task, or find it, or its record: name and occurrence are its key, as that of a step."""

    fence: Number
    kind: AskedKind
    name: StepName
    occurrence: Occurrence
    timeout: float | WaitDuration | None = None
    """Seconds, or a duration as in documents; None for as long as it takes."""
    on_timeout: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    """What counts then, any JSON; of an approval one of its choices."""
    request: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    """What an approval asks (`title`, `details`, `choices`), or the JSON Schema of the payload of a signal."""


AnyCall = (
    RecordStep
    | FindStep
    | TakeRate
    | SpawnChildren
    | FindChildren
    | StopChildren
    | OpenEffect
    | CloseEffect
    | StartWait
)


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
    fence: int = 0
    """Of the attempt that recorded it."""


class StepRecorded(msgspec.Struct, kw_only=True, omit_defaults=True, tag_field="answer", tag="recorded"):
    """The step is recorded."""

    used_up: bool = False
    """A budget of the workflow is used up: the next step should not begin."""


class StepsKnown(msgspec.Struct, kw_only=True, omit_defaults=True, tag_field="answer", tag="known"):
    """The step has a record, which counts: the first of these. Records that follow it may come with it.

    None if the step has no record.
    """

    steps: list[KnownStep] = []
    used_up: bool = False
    """A budget of the workflow is used up: a step that has no record should not begin."""


class RateTaken(msgspec.Struct, kw_only=True, tag_field="answer", tag="taken"):
    """The units are taken, now or by an earlier attempt."""


class RateWait(msgspec.Struct, kw_only=True, tag_field="answer", tag="wait"):
    """The rate limit has too little, or others come first: ask again after this time, and keep the place in line."""

    wait_ms: int


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


class EffectOpened(msgspec.Struct, kw_only=True, omit_defaults=True, tag_field="answer", tag="effect"):
    """Where the effect is. One that has a record is answered with `known`."""

    status: Literal["begun", "open", "uncertain", "busy"]
    """`begun`: call it. `open`: an earlier call may have happened, and the attempt holds the intent from now on.
    `uncertain`: a person has to decide. `busy`: another attempt of the task holds the intent; ask again."""
    number: int
    """What people know it by."""
    idempotency_key: str
    """The same in all attempts: what the called service can recognise the effect by."""
    wait: int = 0
    """Of an uncertain one: the wait for which the attempt parks."""


class EffectClosed(msgspec.Struct, kw_only=True, omit_defaults=True, tag_field="answer", tag="effect_ended"):
    """The outcome of the effect is committed."""

    wait: int = 0
    """Of an uncertain one: the wait for which the attempt parks; 0 if it is resolved already."""


class WaitAnswered(msgspec.Struct, kw_only=True, omit_defaults=True, tag_field="answer", tag="waits"):
    """The wait is open, or has its record."""

    wait: int = 0
    """Its number; 0 if it has ended."""
    record: msgspec.Raw = msgspec.field(default_factory=lambda: msgspec.Raw(b"null"))
    """An object with `outcome` (`signal`, `invalid`, `timeout`, `decided`), and what belongs to it."""


class RefusedCall(msgspec.Struct, kw_only=True, tag_field="answer", tag="refused"):
    """The call was refused, and nothing was changed."""

    type: Literal["stale", "mismatch", "limit", "invalid"]
    """`stale`: the attempt is over. `mismatch`: the key is taken by something else. `limit`: a limit would be
    passed."""
    detail: str


AnyAnswer = (
    StepRecorded
    | StepsKnown
    | RateTaken
    | RateWait
    | ChildrenSpawned
    | ChildrenFound
    | ChildrenStopped
    | EffectOpened
    | EffectClosed
    | WaitAnswered
    | RefusedCall
)


class CallsResponse(msgspec.Struct, kw_only=True):
    """One answer per call, in the order of the calls."""

    now_ms: int
    """The cluster's clock."""
    answers: list[AnyAnswer]
