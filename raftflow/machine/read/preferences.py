"""What the scheduler weighs of a task beside its shape: where it wants to go and where not, and what it may."""

from __future__ import annotations

from typing import TYPE_CHECKING

from raftflow.domain.tasks.feasibility import NEAR_MAX
from raftflow.domain.tasks.states import AttemptOutcome
from raftflow.machine.rules.lateness import declared
from raftflow.machine.rules.ledger import held_by
from raftflow.machine.rules.stopping import under_way
from raftflow.machine.tables.tasks import attempt_of, attempts_of

if TYPE_CHECKING:
    from raftflow.machine.machine import Machine
    from raftflow.machine.tables.tasks import Attempt, Task
    from raftflow.machine.tables.workflows import Workflow

NEAR_NEEDS_MAX = 1_000
"""Needs of a task that are asked where their results were made."""

_FAILURES = frozenset({AttemptOutcome.FAILED, AttemptOutcome.TIMEOUT, AttemptOutcome.ABANDONED})
_TAKEN_AWAY = frozenset(
    {AttemptOutcome.LOST, AttemptOutcome.ABANDONED, AttemptOutcome.AGENT_FAULT, AttemptOutcome.MOVED}
)


def taken_away(last: Attempt) -> bool:
    """Tell whether an attempt was under way and ended by no fault of its own: lost, moved, stopped by its agent."""
    return last.outcome in _TAKEN_AWAY


def near(workflow: Workflow, task: Task) -> tuple[str, ...]:
    """Return the agents on which what a task needs was made, those that made most of it first."""
    tasks = workflow.tasks
    if len(task.needs) == 1:
        last = tasks[task.needs[0]].last
        return () if last is None else (last.agent,)
    made: dict[str, int] = {}
    for need in task.needs[:NEAR_NEEDS_MAX]:
        last = tasks[need].last
        if last is not None:
            made[last.agent] = made.get(last.agent, 0) + 1
    return tuple(sorted(made, key=made.__getitem__, reverse=True)[:NEAR_MAX])


def avoided(machine: Machine, task: Task) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the agents that a task should rather not go to, and those that it must not if there is another one.

    The first are those on which attempts of it failed. The second are those with which attempts were lost or that
    could not run them, and of the first those on which nothing has succeeded since. One that could not run it by its
    own fault gets no work until it can, so it is better than one of the others.
    """
    failed: dict[str, None] = {}
    never: dict[str, None] = {}
    unable: dict[str, None] = {}
    agents = machine.state.agents
    for attempt in attempts_of(task):
        name = attempt.agent
        if attempt.outcome is AttemptOutcome.LOST:
            never[name] = None
        elif attempt.outcome is AttemptOutcome.AGENT_FAULT:
            unable[name] = None
        elif attempt.outcome in _FAILURES:
            known = agents.get(name)
            (failed if known is None or not known.streak else never)[name] = None
    if not never:
        never = unable
    else:
        failed |= {name: None for name in unable if name not in never}
    return tuple(failed), tuple(never)


def budget(machine: Machine, workflow_id: str) -> int | None:
    """Return how many more tasks of a workflow may be placed now, None if it sets no limit or is not known."""
    workflow = machine.state.workflows.get(workflow_id)
    if workflow is None or workflow.max_parallel is None:
        return None
    return max(0, workflow.max_parallel - under_way(workflow))


def holdings(machine: Machine, name: str) -> list[tuple[int, tuple[tuple[str, int], ...]]]:
    """Return what the running attempts of an agent hold, each with the time (ms) at which it is expected to end.

    What a task is expected to take is what its rank adds to the largest one after it.
    """
    agent = machine.state.agents.get(name)
    if agent is None:
        return []
    held = []
    for fence, (workflow, task) in agent.live.items():
        attempt = attempt_of(task, fence)
        if attempt.started_ms:
            demand = tuple(held_by(agent, workflow.profiles[task.profile].shape).items())
            held.append((attempt.started_ms + declared(workflow, task), demand))
    return held
