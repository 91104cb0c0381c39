"""Effects: what attempts have called in the world outside, or may have. An effect goes with its workflow."""

from __future__ import annotations

from typing import Final

import msgspec

from raftflow.domain import limits
from raftflow.domain.tasks.effects import EffectState
from raftflow.machine.tables.steps import STEP_OVERHEAD_BYTES

EffectKey = tuple[int, str, int]
"""Position of the task, name, occurrence."""

RESERVED_BYTES: Final = (
    limits.STEP_RESULT_BYTES_MAX + limits.NAME_CHARS_MAX + limits.FUNCTION_CHARS_MAX + STEP_OVERHEAD_BYTES
)
"""What is kept free for the record of an effect that has none yet."""


class Effect(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """One effect. Every change makes another row, so that an open snapshot keeps the one that it has."""

    number: int
    """From 1, over all workflows."""
    workflow: int
    """Number of the workflow."""
    task: int
    """Position of the task."""
    name: str
    occurrence: int
    function: str
    """What it calls."""
    state: EffectState
    fence: int
    """Of the attempt that holds the intent, or held it last."""
    begin: int
    """Which beginning of an effect in that attempt this is."""
    first: bool
    """No call of an earlier beginning is without an outcome."""
    begun_ms: int
    """When the intent came into the log for the first time."""
    changed_ms: int
    detail: str = ""
    """Why it is uncertain, or why a person decided so."""
    actor: str = ""
    """Who resolved it."""

    @property
    def key(self) -> EffectKey:
        """What no other effect of the workflow has."""
        return self.task, self.name, self.occurrence


class WorkflowEffects(msgspec.Struct, gc=False, eq=False):
    """The effects of one workflow."""

    rows: dict[int, Effect] = msgspec.field(default_factory=dict)
    """By number, in order."""
    numbers: dict[EffectKey, int] = msgspec.field(default_factory=dict)
    by_task: dict[int, list[int]] = msgspec.field(default_factory=dict)
    """The numbers of each task that has effects."""
    unrecorded: dict[int, int] = msgspec.field(default_factory=dict)
    """How many effects of each task have no record; tasks without such effects may be missing."""
    unrecorded_count: int = 0
    """Of all tasks."""

    def find(self, task: int, name: str, occurrence: int) -> Effect | None:
        """Return an effect by its key, None without one."""
        number = self.numbers.get((task, name, occurrence))
        return None if number is None else self.rows[number]

    def count(self, row: Effect, change: int) -> None:
        """Count one more effect without a record (1), or one less (-1)."""
        self.unrecorded[row.task] = self.unrecorded.get(row.task, 0) + change
        self.unrecorded_count += change
