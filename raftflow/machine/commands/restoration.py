"""Fencing off: a copied state becomes the beginning of a new cluster.

A backup may be old. The cluster from which it was taken went on, and its agents may still run. So nothing that was
given out there may be given out here again, and nothing that was started there may count here:

- The attempts that were live in the copy end as `fenced`, and their tasks become ready. Results that agents bring
  back later are stale.
- Fences and incarnations continue above everything that the other cluster can have used. The first number is the time
  of the restoration in microseconds (`FENCES_PER_MS`). No cluster starts a million attempts in a second, so a later
  restoration is always ahead, also of an earlier one of the same copy. `FENCE_GAP` covers a clock that was set back.
- Timers are moved by the time that has passed since the copy: what was left of a pause is left of it now.

Nothing here is a command: it happens once, before the new cluster starts, to a state that no replica serves yet. All
replicas of the new cluster do the same to the same copy.
"""

from __future__ import annotations

from typing import Final

import msgspec

from raftflow.domain.tasks.states import AgentState, AttemptOutcome, TaskState
from raftflow.machine.commands.agenda import work_off
from raftflow.machine.commands.agents import take_out
from raftflow.machine.rules.context import ApplyContext
from raftflow.machine.tables.timers import BACKOFF

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


def _shift_timers(step: ApplyContext, shift_ms: int) -> None:
    """Move the ends of back-offs. Other timers belong to live attempts and present agents: none are left now."""
    for workflow in step.state.workflows.values():
        for task in workflow.tasks:
            if task.state is TaskState.DELAYED and shift_ms:
                step.touch_task(workflow, task)
                task.due_ms += shift_ms
                step.set_timer(workflow, task, task.due_ms, BACKOFF)
