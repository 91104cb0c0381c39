"""Backup attempts: a second try of a running task on another agent, and what happens when one of the two is over.

    last     the attempt that was there first
    backup   the one that may overtake it; only while the task runs, started from the beginning, never queued

The first to succeed wins. The other one is ended in the same moment (`superseded`), what it held is free again, and
its fence is void: its agent is told to stop it. An end without success costs nothing while the other one goes on,
which then is `last`, alone. Orders to stop go to both, and the task is cancelled when neither is left.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from raftflow.domain.limits import ATTEMPT_HISTORY_MAX
from raftflow.domain.replies import Placed
from raftflow.domain.rooms import suits
from raftflow.domain.task import AgentState, AttemptOutcome, TaskEvent, TaskState
from raftflow.machine import ledger
from raftflow.machine.flow import void
from raftflow.machine.state import ORDER_NONE, Attempt, attempt_of
from raftflow.machine.step import move

if TYPE_CHECKING:
    from raftflow.domain.commands import CommitBackups, Placement
    from raftflow.machine.state import Agent, Task, Workflow
    from raftflow.machine.step import Step


def commit_backups(step: Step, command: CommitBackups) -> Placed:
    """Start the backups that still can be started."""
    return Placed(tuple([_start(step, placement) for placement in command.placements]))


def _start(step: Step, placement: Placement) -> int:
    """Start one backup and return its fence, or 0 if the placement no longer holds."""
    state = step.state
    workflow = state.workflows.get(placement.workflow_id)
    agent = state.agents.get(placement.agent)
    if (
        workflow is None
        or agent is None
        or not 0 <= placement.task < len(workflow.tasks)
        or workflow.paused
        or agent.incarnation != placement.incarnation
        or agent.state is not AgentState.UP
        or agent.queue
    ):
        return 0
    task = workflow.tasks[placement.task]
    profile = workflow.profiles[task.profile]
    if not _wants_backup(task, agent) or not (
        ledger.fits(agent, profile.shape) and suits(profile.shape, agent.capacity, agent.labels)
    ):
        return 0
    state.fence = fence = state.fence + 1
    attempt = Attempt(
        task.attempts + 1, fence, agent.name, agent.incarnation, assigned_ms=step.clock_ms, index=step.index
    )
    move(step, workflow, task, TaskEvent.BACKUP_STARTED, attempt)
    task.backup = attempt
    task.attempts = attempt.number
    agent.live[fence] = (workflow, task)
    ledger.allocate(agent, profile.shape)
    ledger.start(step, workflow, task, attempt, profile)
    step.agents_changed[agent.name] = None
    return fence


def _wants_backup(task: Task, agent: Agent) -> bool:
    """Tell whether a task runs on another agent, alone, and is to go on."""
    last = task.last
    return (
        task.state is TaskState.RUNNING
        and task.backup is None
        and last is not None
        and last.order == ORDER_NONE
        and last.agent != agent.name
    )


def win(step: Step, workflow: Workflow, task: Task, fence: int) -> None:
    """Of two attempts make the one with this fence, which has succeeded, the only one."""
    winner = attempt_of(task, fence)
    loser = task.backup if winner is task.last else task.last
    assert loser is not None  # noqa: S101 - there are two
    void(step, step.state.agents[loser.agent], loser.fence)
    drop(step, workflow, task, loser, AttemptOutcome.SUPERSEDED)
    loser.error = f"attempt {winner.number} succeeded first"


def drop(step: Step, workflow: Workflow, task: Task, attempt: Attempt, outcome: AttemptOutcome) -> None:
    """End one of a task's two attempts without an effect on the task; the other one goes on alone."""
    move(step, workflow, task, TaskEvent.BACKUP_ENDED, attempt)
    if attempt is task.last:
        task.last = task.backup
    task.backup = None
    attempt.outcome = outcome
    attempt.finished_ms = step.clock_ms
    attempt.order = ORDER_NONE
    remember(task, attempt)
    agent = step.state.agents[attempt.agent]
    del agent.live[attempt.fence]
    ledger.release(agent, workflow.profiles[task.profile].shape)
    step.agents_changed[agent.name] = None
    if agent.queue and agent.present:
        ledger.promote(step, agent)


def remember(task: Task, attempt: Attempt) -> None:
    """Add an attempt that is over to the task's history, which is in order of the numbers and bounded."""
    history = (*task.history, attempt)
    if len(history) > 1 and history[-2].number > attempt.number:
        history = tuple(sorted(history, key=lambda each: each.number))
    task.history = history[1 - ATTEMPT_HISTORY_MAX :]
