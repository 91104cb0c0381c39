"""Tasks, their attempts, why they wait, and their output, as the API shows them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from raftflow.domain import limits
from raftflow.domain.tasks.effects import EffectResolution


class AttemptView(msgspec.Struct, kw_only=True):
    """One attempt of a task."""

    attempt: int
    fence: int
    agent: str
    outcome: str | None = None
    """None while it is queued or running."""
    exit_code: int | None = None
    error: str = ""
    assigned_at: str | None = None
    started_at: str | None = None
    finished_at: str | None = None
    index: int | None = None
    """Place in the log of the decision that made it; None while it is not known."""
    usage: UsageView | None = None
    """Of an attempt that runs, as its agent last told the leader."""


class UsageView(msgspec.Struct, kw_only=True):
    """What a running attempt uses."""

    cpu_ms: int
    memory_mib: int
    peak_mib: int
    progress: float | None
    """0 to 1, None if the task does not tell."""
    age_s: float
    """How long ago the leader was told."""


class TaskView(msgspec.Struct, kw_only=True):
    """What `task list` and `task show` print. Lists leave `history` empty."""

    id: str
    state: Literal["waiting", "ready", "running", "succeeded", "failed", "cancelled", "parked"]
    attempt: int
    """Number of the present or last attempt; 0 before the first."""
    agent: str | None = None
    started_at: str | None = None
    finished_at: str | None = None
    result: Any = None
    detail: str = ""
    """For a person: `queued on a1`, `next attempt at ...`, `stopping`."""
    needs: list[str] = []
    history: list[AttemptView] = []
    usage: UsageView | None = None
    """Of the present attempt while it runs; lists leave it out."""
    cached: bool = False
    """It succeeded by the result of an equal task."""
    parent: str | None = None
    """The task that spawned it; None for a task that came with the workflow."""
    children: int = 0
    """Tasks that it has spawned."""
    steps: int = 0
    """Durable steps that its attempts have recorded."""
    backup: bool = False
    """A second attempt may start beside one that is late: then it may run twice at the same time."""


class TaskPage(msgspec.Struct, kw_only=True):
    """Tasks in document order."""

    tasks: list[TaskView]
    next: str | None = None


WaitingKind = Literal[
    "", "needs", "equal-task", "back-off", "paused", "no-agent", "never-fits", "agents-away", "max-parallel",
    "exclusive", "reserved", "avoids", "no-room", "next", "queued", "children", "rate",
    "signal", "approval", "effect", "budget",
]  # fmt: skip
"""What a task waits for, empty if it does not wait.

    needs         other tasks of its workflow
    equal-task    an equal task whose result it will take
    back-off      the pause after a failed attempt
    paused        its workflow goes on
    no-agent      any agent at all
    never-fits    an agent with such labels, as much of a resource, or all of it at once: none that is up has
    agents-away   those that could run it take no new work: draining, quarantined, suspect
    max-parallel  its workflow has as many tasks under way as it may
    exclusive     an agent on which nothing runs
    reserved      an agent is kept for it until it fits, or those with room are kept for another task
    avoids        another agent than the one with which it was lost
    no-room       room on an agent
    next          the next decision: an agent has room
    queued        those before it in the queue of its agent
    children      tasks that it has spawned
    budget        a budget of its workflow is used up
    rate          a rate limit has too little, or is not set
    signal        a signal to its workflow
    approval      the decision of a person
    effect        a person who says whether something was done
"""


class CandidateView(msgspec.Struct, kw_only=True):
    """An agent as a task saw it when it was placed."""

    agent: str
    where: Literal["run", "queue", "no"]
    score: list[int]
    """Compared one after the other, the least is best."""
    why: str


class TaskExplanation(msgspec.Struct, kw_only=True):
    """Why a task is where it is."""

    id: str
    state: str
    reason: str
    waits_for: list[str] = []
    waiting: WaitingKind = ""
    agent: str | None = None
    """Where its present or last attempt was placed."""
    index: int | None = None
    """Index in the log of the decision that placed it."""
    candidates: list[CandidateView] = []
    """Best first; as far as the leader remembers them."""


class TaskLog(msgspec.Struct, kw_only=True):
    """A piece of an attempt's output. It begins and ends at the border of a character."""

    attempt: int
    agent: str
    stream: Literal["stdout", "stderr"]
    offset: int
    """Byte of the stream at which the piece begins."""
    text: str
    """Bytes that are not UTF-8 are replaced."""
    data: bytes | None = None
    """The bytes of the piece, base64 in JSON; null if they are exactly `text` in UTF-8."""
    skipped: int = 0
    """Bytes right before the piece that are not kept, from the offset that was asked for on."""
    next: int | None = None
    """Offset to ask for next."""
    size: int
    """Bytes that the attempt has written so far, kept or not."""
    truncated: bool
    """True if bytes of the stream are not kept."""
    complete: bool
    """True if the attempt has ended."""

    def content(self) -> bytes:
        """Return the bytes of the piece."""
        return self.text.encode() if self.data is None else self.data


EffectWord = Literal["begun", "open", "done", "not_done", "uncertain", "retry", "failed"]


class EffectView(msgspec.Struct, kw_only=True, omit_defaults=True):
    """A call of the world outside that must not happen twice."""

    id: int
    workflow: str
    task: str
    name: str
    occurrence: int
    """Which effect of that name in the task it is, from 1."""
    function: str
    """What it calls."""
    state: EffectWord
    """`begun`: a running attempt is calling. `open`: the attempt ended without an outcome; the next one finds out.
    `uncertain`: nobody can tell whether it was done, so resolve it. `retry`: it was resolved to be called again."""
    idempotency_key: str
    """What the called service can recognise it by."""
    fence: int
    """Of the attempt that began it last."""
    begun_at: str
    changed_at: str
    detail: str = ""
    """Why it is uncertain, or was resolved so."""
    resolved_by: str = ""


class EffectPage(msgspec.Struct, kw_only=True, omit_defaults=True):
    """Effects by workflow, those of a workflow in the order in which they were begun."""

    effects: list[EffectView]
    next: str | None = None
    """The cursor of the next page, if there is one."""


class EffectDecision(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """`POST /v1/effects/{id}`: what a person decides about an effect without an outcome."""

    resolution: EffectResolution
    """`done`: it has happened. `retry`: call it again, with the same idempotency key. `fail`: it has failed, so
    every attempt that comes to it gets an error."""
    result: msgspec.Raw = msgspec.field(default_factory=lambda: msgspec.Raw(b"null"))
    """Of one that is done: what the call returned, as JSON."""
    detail: Annotated[
        str,
        msgspec.Meta(
            max_length=limits.EFFECT_DETAIL_CHARS_MAX, extra_json_schema={"description": "why, for the audit"}
        ),
    ] = ""
