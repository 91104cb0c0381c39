"""What the state machine answers to a command."""

from __future__ import annotations

from typing import Literal

import msgspec

from raftflow.domain.rejections import Rejection


class _Reply(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """Base of every acceptance."""


class Done(_Reply, frozen=True, tag="done"):
    """Accepted. `changed` is false if nothing had to change."""

    changed: bool = True


class WorkflowAccepted(_Reply, frozen=True, tag="workflow"):
    """The workflow is in the table."""

    workflow_id: str
    warnings: tuple[str, ...] = ()
    """Among them demands that no present agent can meet."""


class AgentAccepted(_Reply, frozen=True, tag="agent"):
    """The agent is up under this incarnation."""

    name: str
    incarnation: int


class Placed(_Reply, frozen=True, tag="placed"):
    """How many placements held, and the fences that they got, in order; 0 for one that was skipped."""

    fences: tuple[int, ...]


Verdict = Literal["accepted", "duplicate", "stale"]


class EndVerdict(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What became of one reported end."""

    fence: int
    verdict: Verdict
    current_attempt: int | None = None
    """For a stale report: the number of the task's present or last attempt, None if the task is unknown."""


class Reported(_Reply, frozen=True, tag="reported"):
    """One verdict per reported end, in order."""

    verdicts: tuple[EndVerdict, ...]


class StepVerdict(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What became of one step."""

    verdict: Literal["recorded", "known", "stale", "mismatch", "limit", "invalid"]
    """`known`: there is a record under its key already, and that one counts. `mismatch`: that one is of another
    function."""
    detail: str = ""
    """Why it was refused, and what to do."""
    used_up: bool = False
    """A budget of its workflow is used up: the next step should not begin."""


class StepsRecorded(_Reply, frozen=True, tag="steps"):
    """One verdict per step, in order."""

    verdicts: tuple[StepVerdict, ...]


class RateVerdict(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What became of one request to take from a rate limit."""

    verdict: Literal["taken", "known", "wait", "stale", "mismatch", "limit", "invalid"]
    """`known`: an attempt of the task has taken it before. `wait`: the bucket has too little."""
    detail: str = ""
    """Why it was refused, and what to do."""
    wait_ms: int = 0
    """After this time the bucket has enough, if nobody else takes from it."""


class RatesTaken(_Reply, frozen=True, tag="rates"):
    """One verdict per request, in order."""

    verdicts: tuple[RateVerdict, ...]


class TasksSpawned(_Reply, frozen=True, tag="spawned"):
    """Where the children are in the workflow, in the order of the command, those that were there before included."""

    positions: tuple[int, ...]
    added: int
    """How many of them are new."""


EffectStatus = Literal["begun", "open", "known", "uncertain", "busy"]


class EffectBegun(_Reply, frozen=True, tag="effect"):
    """Where an effect is, as an attempt that begins it must know."""

    status: EffectStatus
    """`begun`: call it. `open`: an earlier call may have happened, and the attempt holds the intent from now on.
    `known`: it has a record. `uncertain`: a person has to decide. `busy`: another attempt of the task, which is live,
    holds the intent."""
    number: int = 0
    """What people know it by."""
    wait: int = 0
    """Of an uncertain one: the wait for which its task parks."""


class EffectEnded(_Reply, frozen=True, tag="effect_ended"):
    """The outcome of an effect is in the log. `changed` is false if it was before."""

    changed: bool = True
    wait: int = 0
    """Of an uncertain one: the wait for which its task parks; 0 if it is resolved already."""


class WaitBegun(_Reply, frozen=True, tag="wait"):
    """A wait of an attempt, or its record."""

    number: int
    """Of the open wait; 0 if it has ended."""
    record: bytes = b""
    """JSON; empty while it is open."""


class SignalTaken(_Reply, frozen=True, tag="signal"):
    """What became of a signal."""

    state: Literal["delivered", "kept", "repeated"]
    """`delivered` to a wait, `kept` for one that will begin, or `repeated`: its key was counted before."""
    task_id: str = ""
    """The task whose wait took it."""


class Fired(_Reply, frozen=True, tag="fired"):
    """How many timers fired."""

    count: int


class Retired(_Reply, frozen=True, tag="retired"):
    """Which workflows were forgotten."""

    workflow_ids: tuple[str, ...]


class BundlesRetired(_Reply, frozen=True, tag="bundles"):
    """Which code bundles were forgotten."""

    digests: tuple[str, ...]


class Cleared(_Reply, frozen=True, tag="cleared"):
    """How many cached results were forgotten."""

    count: int


AnyReply = (
    Done
    | WorkflowAccepted
    | AgentAccepted
    | Placed
    | Reported
    | StepsRecorded
    | RatesTaken
    | TasksSpawned
    | EffectBegun
    | EffectEnded
    | WaitBegun
    | SignalTaken
    | Fired
    | Retired
    | BundlesRetired
    | Cleared
    | Rejection
)
