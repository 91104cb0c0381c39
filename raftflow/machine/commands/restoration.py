"""Fencing off: a copied state becomes the beginning of a new cluster.

A backup may be old. The cluster from which it was taken went on, and its agents may still run. So nothing that was
given out there may be given out here again, and nothing that was started there may count here:

- The attempts that were live in the copy end as `fenced`, and their tasks become ready. Results that agents bring
  back later are stale.
- Fences and incarnations continue above everything that the other cluster can have used. The first number is the time
  of the restoration in microseconds (`FENCES_PER_MS`). No cluster starts a million attempts in a second, so a later
  restoration is always ahead, also of an earlier one of the same copy. `FENCE_GAP` covers a clock that was set back.
- Effects without an outcome may have happened in the other cluster, also those that were not done when the copy was
  made. The next attempt finds them open: it asks `verify`, or a person, and calls nothing on its own.
- Timers are moved by the time that has passed since the copy: what was left of a pause is left of it now.

Nothing here is a command: it happens once, before the new cluster starts, to a state that no replica serves yet. All
replicas of the new cluster do the same to the same copy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec
from msgspec.structs import replace

from raftflow.domain.tasks.effects import EffectState
from raftflow.domain.tasks.states import AgentState, AttemptOutcome, TaskState
from raftflow.machine.commands.agenda import work_off
from raftflow.machine.commands.agents import take_out
from raftflow.machine.commands.effects.changes import AGAIN
from raftflow.machine.rules.context import ApplyContext
from raftflow.machine.tables.timers import BACKOFF

if TYPE_CHECKING:
    from raftflow.machine.tables.waits.waits import WorkflowWaits
    from raftflow.machine.tables.workflows import Workflow

FENCE_GAP: Final = 1_000_000_000
"""Fences and incarnations are at least this far above the last ones of the copy."""
FENCES_PER_MS: Final = 1_000

_OFFERABLE = frozenset({TaskState.READY, TaskState.DELAYED})


class Restoration(msgspec.Struct, frozen=True):
    """What all replicas of the new cluster agree on before it starts."""

    cluster: str
    """Id of the new cluster."""
    origin: str
    """Id of the cluster from which the copy comes."""
    at_ms: int
    """When the new cluster begins."""


def first_number(last: int, at_ms: int) -> int:
    """Return the fence or incarnation from which a restored cluster continues."""
    return max(last + FENCE_GAP, at_ms * FENCES_PER_MS)


def fence_off(step: ApplyContext, restoration: Restoration) -> None:
    """Change the state into that of a new cluster. The caller seals the audit record."""
    state = step.state
    shift_ms = max(restoration.at_ms - step.clock_ms, 0)
    step.clock_ms = max(step.clock_ms, restoration.at_ms)
    work_off(step)
    for agent in list(state.agents.values()):
        why = f"cluster {restoration.origin} was restored as {restoration.cluster}"
        take_out(step, agent, AgentState.LOST, why, mass=True, outcome=AttemptOutcome.FENCED)
    _refuse_offers(step)
    _doubt_effects(step)
    _shift_timers(step, shift_ms)
    state.fence = first_number(state.fence, restoration.at_ms)
    state.incarnation = first_number(state.incarnation, restoration.at_ms)
    step.notes.insert(0, f"restored from cluster {restoration.origin}; fences continue at {state.fence + 1}")


def _refuse_offers(step: ApplyContext) -> None:
    """Let no agent bring back the result of an attempt that it lost before the copy was made."""
    for workflow in step.state.workflows.values():
        for task in workflow.tasks:
            last = task.last
            if last is not None and last.outcome is AttemptOutcome.LOST and task.state in _OFFERABLE:
                step.touch_task(workflow, task)
                last.outcome = AttemptOutcome.FENCED


def _doubt_effects(step: ApplyContext) -> None:
    """Let every effect without an outcome be open: the cluster that went on may have called it."""
    effects = step.state.effects
    for number, workflow in effects.unrecorded.items():
        row = effects.workflows[workflow].rows[number]
        if row.state in AGAIN:
            effects.replace(replace(row, state=EffectState.BEGUN, changed_ms=step.clock_ms))
    if effects.unrecorded:
        step.notes.append(
            f"{len(effects.unrecorded)} effects have no outcome: nobody calls them again without a check"
        )


def _shift_timers(step: ApplyContext, shift_ms: int) -> None:
    """Move the ends of back-offs and waits. Others belong to live attempts and present agents: none are left."""
    for workflow in step.state.workflows.values():
        for task in workflow.tasks:
            if task.state is TaskState.DELAYED and shift_ms:
                step.touch_task(workflow, task)
                task.due_ms += shift_ms
                step.set_timer(workflow, task, task.due_ms, BACKOFF)
        if workflow.waits is not None and shift_ms:
            _shift_waits(step, workflow, workflow.waits, shift_ms)


def _shift_waits(step: ApplyContext, workflow: Workflow, waits: WorkflowWaits, shift_ms: int) -> None:
    for row in list(waits.rows.values()):
        if row.deadline_ms and row.end is None:
            moved = replace(row, deadline_ms=row.deadline_ms + shift_ms)
            waits.rows[row.number] = moved
            step.set_timer(workflow, workflow.tasks[row.task], moved.deadline_ms, -row.number)
