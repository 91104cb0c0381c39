"""Commands that running attempts ask for, through their agents. `commands.py` offers these too, beside the others."""

from __future__ import annotations

import msgspec

from raftflow.domain.command import Command
from raftflow.domain.tasks.budgets import Amounts
from raftflow.domain.tasks.effects import EffectOutcome
from raftflow.domain.tasks.workflow import TaskSpec


class StepToRecord(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A step that an attempt has done."""

    fence: int
    name: str
    occurrence: int
    """How many steps of that name the attempt has begun, this one included."""
    function: str
    """What the step ran; empty if it is not told."""
    result: bytes
    """JSON."""
    spent: Amounts = ()
    """What it has spent, which counts against the budgets of its workflow."""


class RecordSteps(Command, frozen=True, tag="steps.record"):
    """Record steps of live attempts of one agent. Replies `StepsRecorded`, a verdict for each.

    A step has one record: name and occurrence are its key in its task, over all attempts. So a command that comes
    twice changes nothing the second time. Refused as a whole (stale incarnation) as `ReportAttempts`.
    """

    agent: str
    incarnation: int
    steps: tuple[StepToRecord, ...]


class ChildTask(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, gc=False):
    """A child in a `SpawnTasks`. One of the profiles that come with it tells what it runs."""

    key: str
    """Its key among the children of its parent."""
    profile: int
    """Index of its profile."""


class SpawnTasks(Command, frozen=True, tag="tasks.spawn"):
    """Add children to the workflow of a running attempt, all or nothing. Replies `TasksSpawned`.

    A child that its parent has under this key already is found, and must be equal: so a repeated command changes
    nothing. Refused if the attempt is over or is told to stop.
    """

    agent: str
    incarnation: int
    fence: int
    """Of the attempt that asks."""
    profiles: tuple[TaskSpec, ...]
    """What the children run and want, without needs. Ids do not count."""
    children: tuple[ChildTask, ...]


class CancelChildren(Command, frozen=True, tag="tasks.cancel"):
    """Cancel children of the task of a running attempt, with everything that they spawned. Replies `Done`.

    Tasks that have ended, and tasks of other parents, stay as they are.
    """

    agent: str
    incarnation: int
    fence: int
    """Of the attempt that asks."""
    children: tuple[int, ...]
    """Their positions in the workflow."""


class BeginEffect(Command, frozen=True, tag="effects.begin"):
    """Put the intent of an effect into the log, before it is called. Replies `EffectBegun`.

    Refused if the attempt is over or is told to stop. A command that comes twice gets the same reply.
    """

    agent: str
    incarnation: int
    fence: int
    """Of the attempt that asks."""
    begin: int
    """Which beginning of an effect this is in the attempt, from 1: it tells a repeated command from a new one."""
    name: str
    occurrence: int
    """How many effects and steps of that name the attempt has begun, this one included."""
    function: str
    """What the effect calls; empty if it is not told."""


class EndEffect(Command, frozen=True, tag="effects.end"):
    """Put the outcome of an effect into the log. Replies `EffectEnded`.

    Only the attempt that holds the intent can, while it is live.
    """

    agent: str
    incarnation: int
    fence: int
    begin: int
    """Of the `BeginEffect` that this is the end of."""
    name: str
    occurrence: int
    outcome: EffectOutcome
    result: bytes = b""
    """JSON, of one that is done."""
    detail: str = ""
    """Why it is uncertain; of one that is done: why its result cannot be recorded."""
