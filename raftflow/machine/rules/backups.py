"""Backup attempts: a second try of a running task on another agent, and what happens when one of the two is over.

    last     the attempt that was there first
    backup   the one that may overtake it; only while the task runs, started from the beginning, never queued

Only a task that allows it (`backup`) has one, an attempt has one at most, and a backup has none, also when it is the
only one that is left. It counts for `max_parallel` as every attempt.

The first to succeed wins. The other one is ended in the same moment (`superseded`), what it held is free again, and
its fence is void: its agent is told to stop it. While the other one goes on, which then is `last`, alone,

    a failure   counts when that one ends without success, so the two cost one retry at most; it counts at once if no
                retry is left: then the task has failed, and the other one is superseded
    outgrown    raises the demand of the next attempt; it counts as a failure if the task may not have more
    a loss      counts against the task as every loss
    the rest    costs nothing

Orders to stop go to both, and the task is cancelled when neither is left.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from raftflow.domain.limits import ATTEMPT_HISTORY_MAX
from raftflow.domain.replies import Placed
from raftflow.domain.tasks.feasibility import suits
from raftflow.domain.tasks.states import AgentState, AttemptOutcome, TaskEvent, TaskState
from raftflow.machine.rules import ledger
from raftflow.machine.rules.context import move
from raftflow.machine.rules.growth import memory_of
from raftflow.machine.rules.lateness import why_backup
from raftflow.machine.rules.stopping import at_limit, void
from raftflow.machine.tables.spending.rates import take_all
from raftflow.machine.tables.tasks import ORDER_NONE, Attempt, LossHistory

if TYPE_CHECKING:
    from raftflow.domain.commands import CommitBackups, Placement
    from raftflow.machine.rows import ProfileRow, TaskRow
    from raftflow.machine.rules.context import ApplyContext
    from raftflow.machine.tables.tasks import Profile, Task
    from raftflow.machine.tables.workflows import Workflow


def commit_backups(step: ApplyContext, command: CommitBackups) -> Placed:
    """Start the backups that still can be started."""
    return Placed(tuple([_start(step, placement) for placement in command.placements]))


def _start(step: ApplyContext, placement: Placement) -> int:
    """Start one backup and return its fence, or 0 if the placement no longer holds."""
    state = step.state
    workflow = state.workflows.get(placement.workflow_id)
    agent = state.agents.get(placement.agent)
    if (
        workflow is None
        or agent is None
        or not 0 <= placement.task < len(workflow.tasks)
        or workflow.held
        or agent.incarnation != placement.incarnation
        or agent.state is not AgentState.UP
        or agent.queue
    ):
        return 0
    task = workflow.tasks[placement.task]
    profile = workflow.profiles[task.profile]
    if (
        not (allows_backup(profile) and wants_backup(task))
        or at_limit(workflow)
        or _holder(task) == agent.name
        or not (ledger.fits(agent, profile.shape) and suits(profile.shape, agent.capacity, agent.labels))
        or (profile.rates and not take_all(state.rates, profile.rates, step.clock_ms))
    ):
        return 0
    state.fence = fence = state.fence + 1
    attempt = Attempt(
        task.attempts + 1, fence, agent.name, agent.incarnation, assigned_ms=step.clock_ms, index=step.index
    )
    move(step, workflow, task, TaskEvent.BACKUP_STARTED, attempt)
    assert task.last is not None  # noqa: S101 - a task that runs has an attempt
    why = why_backup(state, workflow, task, task.last, step.clock_ms)
    step.notes.append(f"{workflow.id}/{task.id}: backup attempt {attempt.number} on {agent.name}, because {why}")
    task.backup = attempt
    task.attempts = attempt.number
    mishaps_of(task).paired = True
    workflow.backups += 1
    agent.live[fence] = (workflow, task)
    ledger.allocate(agent, profile.shape)
    ledger.start(step, workflow, task, attempt, profile)
    step.agents_changed[agent.name] = None
    return fence


def allows_backup(profile: ProfileRow) -> bool:
    """Tell whether a task may run twice at the same time: only its document can allow it."""
    return profile.backup


def wants_backup(task: TaskRow) -> bool:
    """Tell whether a task runs, is to go on, and its attempt had no other beside it."""
    last = task.last
    return (
        task.state is TaskState.RUNNING
        and last is not None
        and not last.ordered
        and (task.mishaps is None or not task.mishaps.paired)
    )


def _holder(task: Task) -> str:
    return "" if task.last is None else task.last.agent


def mishaps_of(task: Task) -> LossHistory:
    """Return the record of a task's mishaps, to change it. The caller has touched the task."""
    found = task.mishaps
    if found is None:
        found = task.mishaps = LossHistory()
    return found


def decide(step: ApplyContext, workflow: Workflow, task: Task, attempt: Attempt, why: str) -> None:
    """Of two attempts make this one, which decides what becomes of the task, the only one."""
    loser = task.backup if attempt is task.last else task.last
    assert loser is not None  # noqa: S101 - there are two
    void(step, step.state.agents[loser.agent], loser.fence)
    drop(step, workflow, task, loser, AttemptOutcome.SUPERSEDED)
    loser.error = f"attempt {attempt.number} {why}"


def part(task: Task, mishaps: LossHistory) -> None:
    """The last of a task's attempts is over, and what it meant was decided: the next one is on its own again."""
    if mishaps.grown is not None:
        task.profile = mishaps.grown
    if mishaps.agents_lost or mishaps.agent_faults:
        mishaps.paired = mishaps.failed = False
        mishaps.grown = None
    else:
        task.mishaps = None


def larger(workflow: Workflow, one: int | None, other: int | None) -> int | None:
    """Return the one of two profiles of a task that has more memory."""
    if one is None or other is None:
        return other if one is None else one

    def memory(number: int) -> int:
        profile: Profile = workflow.profiles[number]
        return memory_of(profile)

    return max(one, other, key=memory)


def drop(step: ApplyContext, workflow: Workflow, task: Task, attempt: Attempt, outcome: AttemptOutcome) -> None:
    """End one of a task's two attempts; the other one goes on alone."""
    move(step, workflow, task, TaskEvent.BACKUP_ENDED, attempt)
    if attempt is task.last:
        task.last = task.backup
    task.backup = None
    workflow.backups -= 1
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
