"""Attempts: placing them, and what their ends mean for the task."""

from __future__ import annotations

from typing import TYPE_CHECKING

from raftflow.domain import limits
from raftflow.domain.checks import result_problem
from raftflow.domain.rejections import Rejection, RejectionCode
from raftflow.domain.replies import EndVerdict, Fired, Placed, Reported
from raftflow.domain.rooms import fits_in, suits
from raftflow.domain.task import LIVE_ATTEMPT, AgentState, AttemptOutcome, TaskEvent, TaskState
from raftflow.machine import ledger
from raftflow.machine.flow import cancel_downstream, stop_workflow
from raftflow.machine.state import ORDER_NONE, ORDER_STOP, VOID_FENCES_MAX, Attempt
from raftflow.machine.step import move
from raftflow.machine.timers import BACKOFF

if TYPE_CHECKING:
    from raftflow.domain.commands import AttemptEnd, CommitPlacements, FireTimers, Placement, ReportAttempts
    from raftflow.machine.state import Agent, Task, Workflow
    from raftflow.machine.step import Step

LOSSES_MAX = 100
"""Attempts that may be lost in a row before the task counts as one that kills its agents."""

TIMERS_PER_COMMAND_MAX = 4_096
"""Timers that one command fires; the rest stays due."""

_READY, _QUEUED, _RUNNING, _WAITING = TaskState.READY, TaskState.QUEUED, TaskState.RUNNING, TaskState.WAITING
_FAILURES = frozenset({AttemptOutcome.FAILED, AttemptOutcome.TIMEOUT, AttemptOutcome.CANCELLED})


# --- placing


def commit_placements(step: Step, command: CommitPlacements) -> Placed:
    """Assign what still can be assigned."""
    return Placed(tuple([_place(step, placement) for placement in command.placements]))


def _place(step: Step, placement: Placement) -> int:
    """Assign one task and return the attempt's fence, or 0 if the placement no longer holds."""
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
    ):
        return 0
    task = workflow.tasks[placement.task]
    if task.state is not _READY:
        return 0
    profile = workflow.profiles[task.profile]
    shape = profile.shape
    if not agent.queue and fits_in(shape, agent.free):
        if shape.labels and not suits(shape, agent.capacity, agent.labels):
            return 0
        event = TaskEvent.STARTED
    elif len(agent.queue) < agent.prefetch and suits(shape, agent.capacity, agent.labels):
        event = TaskEvent.QUEUED
    else:
        return 0
    state.fence = fence = state.fence + 1
    now_ms = step.clock_ms
    attempt = Attempt(task.attempts + 1, fence, agent.name, agent.incarnation, now_ms)
    move(step, workflow, task, event, attempt)
    if task.last is not None:
        task.history = (*task.history, task.last)[1 - limits.ATTEMPT_HISTORY_MAX :]
    task.last = attempt
    task.attempts = attempt.number
    agent.live[fence] = (workflow, task)
    if event is TaskEvent.STARTED:
        ledger.allocate(agent, shape)
        ledger.start(step, workflow, task, attempt, profile)
    else:
        agent.queue.append(fence)
    step.agents_changed[agent.name] = None
    if not workflow.placed:
        step.touch_workflow(workflow)
        workflow.placed = True
    return fence


# --- reports


def report_attempts(step: Step, command: ReportAttempts) -> Reported | Rejection:
    """Take the ends that an agent reports, in order."""
    agent = step.state.agents.get(command.agent)
    if agent is None or agent.incarnation != command.incarnation or not agent.present:
        fences = ", ".join(str(end.fence) for end in command.ends[:20])
        return Rejection(
            RejectionCode.STALE_INCARNATION,
            f"agent {command.agent!r} is not known under incarnation {command.incarnation}: it was lost or registered "
            f"anew, so its attempts are void; register again (reported fences: {fences or 'none'})",
        )
    verdicts = tuple([_report_end(step, agent, end) for end in command.ends])
    for fence in command.missing:
        found = agent.live.get(fence)
        if found is not None:
            end_attempt(step, agent, found[0], found[1], AttemptOutcome.LOST, "the agent no longer had it")
        elif fence in agent.void:
            _forget_void(step, agent, fence)
    return Reported(verdicts)


def _report_end(step: Step, agent: Agent, end: AttemptEnd) -> EndVerdict:
    """Take one end."""
    fence = end.fence
    found = agent.live.get(fence)
    if found is not None:
        workflow, task = found
        if task.id == end.task_id and workflow.id == end.workflow_id:
            outcome = AttemptOutcome.ABANDONED if end.outcome is AttemptOutcome.LOST else end.outcome
            end_attempt(step, agent, workflow, task, outcome, end.error, end.exit_code, end.result)
            return EndVerdict(fence, "accepted")
    elif agent.void and fence in agent.void:
        _forget_void(step, agent, fence)
    known = step.state.workflows.get(end.workflow_id)
    ended = None if known is None else known.by_id.get(end.task_id)
    if ended is None:
        return EndVerdict(fence, "stale")
    for attempt in (ended.last, *ended.history):
        if (
            attempt is not None
            and attempt.fence == fence
            and attempt.agent == agent.name
            and attempt.incarnation == agent.incarnation
            and attempt.outcome is end.outcome
        ):
            return EndVerdict(fence, "duplicate")
    return EndVerdict(fence, "stale", ended.attempts)


def _forget_void(step: Step, agent: Agent, fence: int) -> None:
    """The agent has let go of an attempt that was over here."""
    step.touch_agent(agent)
    agent.void.remove(fence)


# --- ends


def end_attempt(
    step: Step,
    agent: Agent,
    workflow: Workflow,
    task: Task,
    outcome: AttemptOutcome,
    error: str = "",
    exit_code: int | None = None,
    result: bytes = b"",
) -> None:
    """End a live attempt: free what it held, decide what becomes of the task, and let the agent's queue move up.

    | outcome                     | told to stop      | otherwise                                  |
    | --------------------------- | ----------------- | ------------------------------------------ |
    | succeeded                   | succeeded: the work is done, and what needs it can use it      |
    | failed, timeout             | cancelled         | delayed while retries are left, then failed |
    | cancelled                   | cancelled         | as failed: nobody asked for it             |
    | lost, abandoned             | cancelled         | ready; failed after `LOSSES_MAX` in a row  |
    | released                    | cancelled         | ready                                      |
    """
    attempt = task.last
    assert attempt is not None  # noqa: S101 - what is in the live table has one
    running = task.state is _RUNNING
    told_to_stop = attempt.order == ORDER_STOP
    if outcome is AttemptOutcome.SUCCEEDED:
        problem = result_problem(result)
        if problem is not None:
            outcome, error = AttemptOutcome.FAILED, problem
    elif outcome is AttemptOutcome.CANCELLED and not told_to_stop:
        error = error or "the agent cancelled it without having been told to"
    error = error[: limits.ERROR_CHARS_MAX]
    profile = workflow.profiles[task.profile]
    failed_for_good = False
    if outcome is AttemptOutcome.SUCCEEDED:
        move(step, workflow, task, TaskEvent.SUCCEEDED, attempt)
        task.losses = 0
        task.finished_ms = step.clock_ms
        task.result = result
    elif told_to_stop:
        move(step, workflow, task, TaskEvent.CANCELLED, attempt)
        task.finished_ms = step.clock_ms
        task.detail = "stopped"
    elif outcome in _FAILURES:
        failed_for_good = task.failures >= profile.retries
        move(step, workflow, task, TaskEvent.FAILED_FINAL if failed_for_good else TaskEvent.FAILED_RETRY, attempt)
        task.failures += 1
        task.losses = 0
        if failed_for_good:
            task.finished_ms = step.clock_ms
            task.detail = error or outcome.value
        else:
            delay_ms = min(profile.retry_delay_ms << min(task.failures - 1, 40), profile.retry_delay_max_ms)
            task.due_ms = step.clock_ms + delay_ms
            step.set_timer(workflow, task, task.due_ms, BACKOFF)
    elif outcome is AttemptOutcome.RELEASED:
        move(step, workflow, task, TaskEvent.RELEASED, attempt)
    else:
        failed_for_good = task.losses >= LOSSES_MAX
        move(step, workflow, task, TaskEvent.FAILED_FINAL if failed_for_good else TaskEvent.AGENT_LOST, attempt)
        task.losses += 1
        if failed_for_good:
            task.finished_ms = step.clock_ms
            task.detail = (
                f"lost {task.losses} agents in a row: it may be what stops them; last: {error or outcome.value}"
            )
    attempt.outcome = outcome
    attempt.finished_ms = step.clock_ms
    attempt.exit_code = exit_code
    attempt.error = error
    attempt.order = ORDER_NONE
    del agent.live[attempt.fence]
    step.agents_changed[agent.name] = None
    if running:
        ledger.release(agent, profile.shape)
    else:
        agent.queue.remove(attempt.fence)
    if outcome is AttemptOutcome.SUCCEEDED:
        meet_needs(step, workflow, task)
    elif failed_for_good:
        _fail(step, workflow, task)
    if agent.queue and agent.present:
        ledger.promote(step, agent)


def meet_needs(step: Step, workflow: Workflow, task: Task) -> None:
    """Tell the tasks that need this one that it has succeeded."""
    tasks = workflow.tasks
    for position in workflow.dependents[task.position]:
        dependent = tasks[position]
        step.touch_task(workflow, dependent)
        dependent.open_needs -= 1
        if dependent.open_needs == 0 and dependent.state is _WAITING:
            move(step, workflow, dependent, TaskEvent.NEEDS_MET)


def _fail(step: Step, workflow: Workflow, task: Task) -> None:
    """Do what the workflow wants done when a task has failed for good."""
    if workflow.on_failure == "continue":
        cancel_downstream(step, workflow, task)
    elif not workflow.stopping and workflow.open:
        step.touch_workflow(workflow)
        workflow.stopping = True
        stop_workflow(step, workflow, f"{task.id} failed")


# --- timers


def fire_timers(step: Step, command: FireTimers) -> Fired:  # noqa: ARG001 - the clock has taken its time already
    """Fire what is due: delayed tasks are ready again, overdue attempts are given up."""
    state = step.state
    count = 0
    while count < TIMERS_PER_COMMAND_MAX:
        due = state.timers.pop_due(state.by_number, step.clock_ms)
        if due is None:
            break
        workflow, task, fence = due
        if fence == BACKOFF:
            move(step, workflow, task, TaskEvent.BACKOFF_OVER)
        else:
            _give_up(step, workflow, task)
        count += 1
    return Fired(count)


def _give_up(step: Step, workflow: Workflow, task: Task) -> None:
    """End an attempt whose agent should have ended it long ago, and have the agent stop it."""
    attempt = task.last
    assert attempt is not None and task.state in LIVE_ATTEMPT  # noqa: S101, PT018 - `is_current` has seen to it
    agent = step.state.agents[attempt.agent]
    step.touch_agent(agent)
    agent.void = [*agent.void, attempt.fence][-VOID_FENCES_MAX:]
    end_attempt(
        step, agent, workflow, task, AttemptOutcome.TIMEOUT, "the agent did not end it within its timeout and grace"
    )
