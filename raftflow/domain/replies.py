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


class StepsRecorded(_Reply, frozen=True, tag="steps"):
    """One verdict per step, in order."""

    verdicts: tuple[StepVerdict, ...]


class TasksSpawned(_Reply, frozen=True, tag="spawned"):
    """Where the children are in the workflow, in the order of the command, those that were there before included."""

    positions: tuple[int, ...]
    added: int
    """How many of them are new."""


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
    | TasksSpawned
    | Fired
    | Retired
    | BundlesRetired
    | Cleared
    | Rejection
)
