"""Timers: what is due by itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

from raftflow.domain.replies import Fired
from raftflow.domain.tasks.states import AttemptOutcome, TaskEvent
from raftflow.machine.commands.attempts import end_attempt, unreported
from raftflow.machine.commands.waits.ends import time_out
from raftflow.machine.rules.context import move
from raftflow.machine.rules.quarantine import agent_due
from raftflow.machine.rules.stopping import reach, void
from raftflow.machine.tables.tasks import attempt_of
from raftflow.machine.tables.timers import BACKOFF

if TYPE_CHECKING:
    from raftflow.domain.commands import FireTimers
    from raftflow.machine.rules.context import ApplyContext
    from raftflow.machine.tables.tasks import Task
    from raftflow.machine.tables.workflows import Workflow

TIMERS_PER_COMMAND_MAX = 1_024
"""Timers that one command fires; the rest stays due."""


def fire_timers(step: ApplyContext, command: FireTimers) -> Fired:  # noqa: ARG001 - the clock has taken its time already
    """Fire what is due: drains and quarantines end, delayed tasks are ready again, overdue attempts are given up."""
    state = step.state
    count = stopped = 0  # what the stop of a workflow ends does not fire, whether or not it was there first
    while count < TIMERS_PER_COMMAND_MAX:
        name = state.agent_timers.pop_due(step.clock_ms)
        if name is None:
            break
        agent_due(step, state.agents[name])
        count += 1
    while count < TIMERS_PER_COMMAND_MAX:
        due = state.timers.pop_due(state.by_number, step.clock_ms)
        if due is None:
            break
        workflow, task, fence = due
        count += 1
        if fence < 0:
            stopped += not time_out(step, workflow, task, -fence)
        elif fence != BACKOFF:
            _give_up(step, workflow, task, fence)
        elif workflow.blocked:
            reach(step, workflow, task)
            stopped += 1
        else:
            move(step, workflow, task, TaskEvent.BACKOFF_OVER)
    return Fired(count - stopped)


def _give_up(step: ApplyContext, workflow: Workflow, task: Task, fence: int) -> None:
    """End an attempt whose agent should have ended it long ago, and have the agent stop it."""
    agent = step.state.agents[attempt_of(task, fence).agent]
    void(step, agent, fence)
    why = "the agent did not end it within its timeout and grace"
    end_attempt(step, agent, workflow, task, unreported(fence, AttemptOutcome.TIMEOUT, why))
