"""Attempts that end: reports of agents, and what an end means for the task."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from raftflow.domain import limits
from raftflow.domain.commands import AttemptEnd
from raftflow.domain.limits import AGENT_FAULTS_MAX, AGENTS_LOST_MAX, RESULT_SMALL_BYTES
from raftflow.domain.rejections import Rejection, RejectionCode
from raftflow.domain.replies import EndVerdict, Reported
from raftflow.domain.tasks.states import FINAL, AttemptOutcome, TaskEvent, TaskState
from raftflow.domain.values.results import result_problem
from raftflow.machine.commands.children import cancel_children
from raftflow.machine.commands.parking import park, park_problem
from raftflow.machine.rules import cache, growth, learning, ledger
from raftflow.machine.rules.backups import decide, drop, larger, mishaps_of, part
from raftflow.machine.rules.context import COALESCE_MIN, move
from raftflow.machine.rules.dependents import is_last_need
from raftflow.machine.rules.quarantine import contradict, note_end
from raftflow.machine.rules.step_limits import MEET_STEPS
from raftflow.machine.rules.stopping import cancel_downstream, reach, stop_workflow
from raftflow.machine.tables.tasks import ORDER_MOVE, ORDER_NONE, ORDER_STOP, Attempt, attempt_of
from raftflow.machine.tables.timers import BACKOFF

if TYPE_CHECKING:
    from raftflow.domain.commands import OfferEnds, ReportAttempts
    from raftflow.machine.rules.context import ApplyContext
    from raftflow.machine.tables.agents import Agent
    from raftflow.machine.tables.tasks import Profile, Task
    from raftflow.machine.tables.workflows import Workflow

LOSSES_MAX = 100
"""Attempts in a row that may end as abandoned, or missing on an agent that is there, before the task fails."""

# Looking up a member of an enum takes as long as a small call, and a task's life has many.
_RUNNING, _DONE = TaskState.RUNNING, TaskState.SUCCEEDED
_SUCCEEDED, _LOST = AttemptOutcome.SUCCEEDED, AttemptOutcome.LOST
_CANCELLED, _MOVED = AttemptOutcome.CANCELLED, AttemptOutcome.MOVED
_PARKS = AttemptOutcome.PARKED
_SUCCEEDS, _NEEDS_MET = TaskEvent.SUCCEEDED, TaskEvent.NEEDS_MET
_NEVER_REPORTED = frozenset(
    {AttemptOutcome.LOST, AttemptOutcome.SUPERSEDED, AttemptOutcome.MOVED, AttemptOutcome.FENCED}
)
_OFFERABLE = frozenset({TaskState.READY, TaskState.DELAYED})
_FULL = (
    "the results of all workflows have {} bytes, and no more than {} are kept; leave large results in files, or wait "
    "until older workflows are forgotten"
)
_DOUBLINGS_MAX = 40
_CONTINUED = frozenset({_PARKS, AttemptOutcome.OUTGROWN})
"""The next attempt does what this one could not, at no cost in retries."""
_FAILURES = frozenset({AttemptOutcome.FAILED, AttemptOutcome.TIMEOUT, AttemptOutcome.CANCELLED})


# --- reports


def report_attempts(step: ApplyContext, command: ReportAttempts) -> Reported | Rejection:
    """Take the ends that an agent reports, in order."""
    agent = step.state.agents.get(command.agent)
    if agent is None or agent.incarnation != command.incarnation or not agent.present:
        return _stale_incarnation(command)
    verdicts = tuple([_report_end(step, agent, end) for end in command.ends])
    for fence in command.missing:
        found = agent.live.get(fence)
        if found is not None:
            workflow, task = found
            end_attempt(step, agent, workflow, task, unreported(fence, _LOST, "the agent no longer had it"))
        elif fence in agent.void:
            _forget_void(step, agent, fence)
    return Reported(verdicts)


def _stale_incarnation(command: ReportAttempts | OfferEnds) -> Rejection:
    fences = ", ".join(str(end.fence) for end in command.ends[:20])
    return Rejection(
        RejectionCode.STALE_INCARNATION,
        f"agent {command.agent!r} is not present under incarnation {command.incarnation}: it was lost or has "
        f"registered again, so its attempts are void; register again (reported fences: {fences or 'none'})",
    )


def _report_end(step: ApplyContext, agent: Agent, end: AttemptEnd) -> EndVerdict:
    """Take one end."""
    fence = end.fence
    found = agent.live.get(fence)
    if found is not None:
        workflow, task = found
        if task.id == end.task_id and workflow.id == end.workflow_id:
            if end.outcome is not _SUCCEEDED and end.outcome in _NEVER_REPORTED:
                end = msgspec.structs.replace(end, outcome=AttemptOutcome.ABANDONED)
            end_attempt(step, agent, workflow, task, end)
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
            and (attempt.outcome is end.outcome or (attempt.outcome is _MOVED and end.outcome is _CANCELLED))
        ):
            return EndVerdict(fence, "duplicate")
    return EndVerdict(fence, "stale", ended.attempts)


def offer_ends(step: ApplyContext, command: OfferEnds) -> Reported | Rejection:
    """Take the results that an agent brings back from a former incarnation, where they are still useful."""
    agent = step.state.agents.get(command.agent)
    if agent is None or agent.incarnation != command.incarnation or not agent.present:
        return _stale_incarnation(command)
    return Reported(tuple([_offer_end(step, agent, end) for end in command.ends]))


def _offer_end(step: ApplyContext, agent: Agent, end: AttemptEnd) -> EndVerdict:
    """Take one result if its attempt was the task's last and was lost, and the task was not started since."""
    workflow = step.state.workflows.get(end.workflow_id)
    task = None if workflow is None else workflow.by_id.get(end.task_id)
    if workflow is None or task is None:
        return EndVerdict(end.fence, "stale")
    if workflow.blocked:
        reach(step, workflow, task)
    attempt = task.last
    if attempt is None or attempt.fence != end.fence or attempt.agent != agent.name:
        return EndVerdict(end.fence, "stale", task.attempts)
    if attempt.outcome is _SUCCEEDED and end.outcome is _SUCCEEDED:
        return EndVerdict(end.fence, "duplicate")
    if (
        attempt.outcome is not _LOST
        or task.state not in _OFFERABLE
        or end.outcome is not _SUCCEEDED
        or result_problem(end.result) is not None
    ):
        return EndVerdict(end.fence, "stale", task.attempts)
    move(step, workflow, task, TaskEvent.OFFERED, attempt)
    task.mishaps = None
    _take_result(step, workflow, task, workflow.profiles[task.profile], end)
    attempt.outcome = _SUCCEEDED
    attempt.finished_ms = step.clock_ms
    attempt.exit_code = end.exit_code
    attempt.error = ""
    _meet_needs(step, workflow, task)
    return EndVerdict(end.fence, "accepted")


def _forget_void(step: ApplyContext, agent: Agent, fence: int) -> None:
    """The agent has stopped an attempt that was over here."""
    step.touch_agent(agent)
    agent.void.remove(fence)


# --- ends


def end_attempt(
    step: ApplyContext, agent: Agent, workflow: Workflow, task: Task, end: AttemptEnd, *, counts_loss: bool = False
) -> None:
    """End a live attempt: decide what becomes of the task, free what it held, and let the agent's queue move up.

    Where the task has another live attempt, a success supersedes that one, and so does a failure if no retry is left.
    Any other end leaves the task to it, and what the end means counts when that one ends without success (`backups`).
    Else:

    | outcome         | told to stop                        | otherwise                                   |
    | --------------- | ----------------------------------- | ------------------------------------------- |
    | succeeded       | succeeded: the work is done         | succeeded                                   |
    | failed, timeout | cancelled                           | delayed while retries are left, then failed |
    | cancelled       | cancelled                           | as failed                                   |
    | moved           | does not occur                      | ready                                       |
    | lost, abandoned | cancelled                           | ready; failed in the end (`_count_loss`)    |
    | agent_fault     | cancelled                           | ready; as failed in the end                 |
    | released        | cancelled                           | ready                                       |
    | outgrown        | cancelled                           | ready with more memory; at its limit failed |
    | parked          | cancelled                           | parked; ready when its children have ended  |

    With `counts_loss` its agent was lost while it ran, and the loss counts against the task.
    """
    last = task.last
    attempt = last if last is not None and last.fence == end.fence else attempt_of(task, end.fence)
    if workflow.blocked:
        reach(step, workflow, task)
    running = task.state is _RUNNING
    profile = workflow.profiles[task.profile]
    outcome, error = end.outcome, end.error
    result = end.result
    if (
        outcome is not _SUCCEEDED
        or error
        or (result and (len(result) > RESULT_SMALL_BYTES or result_problem(result) is not None))
    ):
        outcome, error = _judged(step, task, attempt, end)
    if agent.faults or outcome is not _SUCCEEDED:
        note_end(step, agent, outcome)
    if task.backup is not None:
        if outcome is _SUCCEEDED or (outcome is _PARKS and attempt.order != ORDER_STOP):
            decide(step, workflow, task, attempt, f"{outcome.value} first")
        elif (
            told := _end_beside_another(step, workflow, task, attempt, end, outcome, error, counts_loss)
        ) is not None:
            attempt.exit_code = end.exit_code
            attempt.error = told
            return
    if outcome is _SUCCEEDED:
        move(step, workflow, task, _SUCCEEDS, attempt)
        _take_result(step, workflow, task, profile, end)
    elif outcome in _CONTINUED and attempt.order != ORDER_STOP:
        take = park if outcome is _PARKS else _grow
        error = take(step, workflow, task, attempt, end)
    else:
        _end_without_success(step, workflow, task, attempt, outcome, error or outcome.value, counts_loss=counts_loss)
    if task.mishaps is not None:
        part(task, task.mishaps)
    attempt.outcome = outcome
    attempt.finished_ms = step.clock_ms
    attempt.exit_code = end.exit_code
    attempt.error = error
    attempt.order = ORDER_NONE
    del agent.live[attempt.fence]
    step.agents_changed[agent.name] = None
    if running:
        ledger.release(agent, profile.shape)
    else:
        agent.queue.remove(attempt.fence)
    if task.state is _DONE:
        _meet_needs(step, workflow, task)
    elif task.state is TaskState.FAILED or task.claim:
        fall_back(step, workflow, task)
    if agent.queue and agent.present:
        ledger.promote(step, agent)


def _is_full(step: ApplyContext, result: bytes) -> bool:
    """Tell whether one more large result would pass the limit."""
    return step.state.result_bytes + len(result) > limits.RESULTS_BYTES_MAX


def _judged(step: ApplyContext, task: Task, attempt: Attempt, end: AttemptEnd) -> tuple[AttemptOutcome, str]:
    """Return the outcome and the error of an attempt, whatever its agent says."""
    outcome, error = end.outcome, end.error
    if outcome is _SUCCEEDED:
        problem = result_problem(end.result)
        if problem is None and len(end.result) > RESULT_SMALL_BYTES and _is_full(step, end.result):
            problem = _FULL.format(step.state.result_bytes, limits.RESULTS_BYTES_MAX)
        if problem is not None:
            outcome, error = AttemptOutcome.FAILED, problem
    elif outcome is AttemptOutcome.CANCELLED:
        if attempt.order == ORDER_MOVE:
            return AttemptOutcome.MOVED, ""  # no fault to report, whatever the agent says
        if not error and attempt.order != ORDER_STOP:
            error = "the agent cancelled it without having been told to"
    elif outcome is _PARKS and attempt.order != ORDER_STOP and (problem := park_problem(task, end.result)):
        outcome, error = AttemptOutcome.FAILED, problem
    return outcome, error[: limits.ERROR_CHARS_MAX]


def _take_result(step: ApplyContext, workflow: Workflow, task: Task, profile: Profile, end: AttemptEnd) -> None:
    """Note the result of a task that has just succeeded, and what is to be learnt from it."""
    if task.losses:
        task.losses = 0
    task.finished_ms = step.clock_ms
    result = end.result
    if result:  # as `set_result` does, without the call: this is the hot path
        task.result = result
        size = len(result)
        workflow.result_bytes += size
        step.state.result_bytes += size
    if task.attempts > 1:
        task.mishaps = None
        contradict(step, task)
    learning.learn(step, profile, end.duration_ms, end.cpu_ms, end.peak_mib)
    if task.family is not None:
        learning.learn_span(step, profile, task)


def _end_beside_another(  # noqa: PLR0917 - the end of an attempt, in the order of all functions here
    step: ApplyContext,
    workflow: Workflow,
    task: Task,
    attempt: Attempt,
    end: AttemptEnd,
    outcome: AttemptOutcome,
    error: str,
    counts_loss: bool,  # noqa: FBT001
) -> str | None:
    """End one of a task's two attempts without success.

    Returns its error if the other one goes on; None if this end decides, and then it is the only one that is left.
    """
    stopping = attempt.order == ORDER_STOP
    failed = not stopping and outcome in _FAILURES
    grown = None
    if outcome is AttemptOutcome.OUTGROWN and not stopping:
        grown, error = _more_memory(step, workflow, task, end)
        failed = grown is None
    if failed and task.failures >= workflow.profiles[task.profile].retries:
        decide(step, workflow, task, attempt, "failed, and no retry is left")
        return None
    drop(step, workflow, task, attempt, outcome)
    mishaps = mishaps_of(task)
    mishaps.failed |= failed
    mishaps.agents_lost += counts_loss
    mishaps.grown = grown
    return error


def _more_memory(step: ApplyContext, workflow: Workflow, task: Task, end: AttemptEnd) -> tuple[int | None, str]:
    """Return the next profile of a task that outgrew its memory, None if it may not have more; and why, in words."""
    profile = workflow.profiles[task.profile]
    why = f"used {end.peak_mib} MiB, more than its demand of {growth.memory_of(profile)} MiB"
    number = growth.grow(step, workflow, profile, end.peak_mib)
    if task.mishaps is not None:
        number = larger(workflow, number, task.mishaps.grown)
    if number is None:
        return None, f"outgrew all the memory that it may have: {why}"
    return number, f"{why}; the next attempt gets {growth.memory_of(workflow.profiles[number])} MiB"


def _grow(step: ApplyContext, workflow: Workflow, task: Task, attempt: Attempt, end: AttemptEnd) -> str:
    """Give a task that outgrew its memory more of it, or count a failure if it may not. Returns the error."""
    number, why = _more_memory(step, workflow, task, end)
    if number is None or _owes_failure(task):
        _count_failure(step, workflow, task, attempt, why)
    else:
        move(step, workflow, task, TaskEvent.OUTGROWN, attempt)
    if number is not None:
        mishaps_of(task).grown = number
        task.losses = 0
    return why


def _owes_failure(task: Task) -> bool:
    """Tell whether the attempt beside the only one that is left failed, which has not counted yet."""
    return task.mishaps is not None and task.mishaps.failed


def _end_without_success(  # noqa: PLR0917 - the end of an attempt, in the order of all functions here
    step: ApplyContext,
    workflow: Workflow,
    task: Task,
    attempt: Attempt,
    outcome: AttemptOutcome,
    why: str,
    *,
    counts_loss: bool,
) -> None:
    """Decide what becomes of a task whose only attempt ended without success."""
    if attempt.order == ORDER_STOP:
        move(step, workflow, task, TaskEvent.CANCELLED, attempt)
        task.finished_ms = step.clock_ms
        task.detail = "stopped"
    elif _gives_up(step, workflow, task, attempt, why, counts_loss=counts_loss):
        pass
    elif outcome is AttemptOutcome.AGENT_FAULT:
        _count_agent_fault(step, workflow, task, attempt, why)
    elif outcome in _FAILURES or _owes_failure(task):
        _count_failure(step, workflow, task, attempt, why)
    elif outcome is AttemptOutcome.RELEASED:
        move(step, workflow, task, TaskEvent.RELEASED, attempt)
    elif outcome is _MOVED:
        move(step, workflow, task, TaskEvent.MOVED, attempt)
    else:
        _count_loss(step, workflow, task, attempt, why)


def _gives_up(
    step: ApplyContext, workflow: Workflow, task: Task, attempt: Attempt, why: str, *, counts_loss: bool
) -> bool:
    """Count an agent that was lost while a task ran there; tell whether the task has failed for too many of them."""
    if counts_loss:
        step.touch_task(workflow, task)
        mishaps_of(task).agents_lost += 1
    lost = 0 if task.mishaps is None else task.mishaps.agents_lost
    if lost < AGENTS_LOST_MAX:
        return False
    reason = f"its agents were lost {lost} times while it ran: it may be what stops them; last: {why}"
    _fail_for_good(step, workflow, task, attempt, reason)
    return True


def unreported(fence: int, outcome: AttemptOutcome, why: str) -> AttemptEnd:
    """Make the end of a live attempt that its agent did not report."""
    return AttemptEnd(fence, "", "", outcome, error=why)


def _count_failure(step: ApplyContext, workflow: Workflow, task: Task, attempt: Attempt, why: str) -> None:
    """An attempt failed: another one follows after a pause, or the task has failed."""
    profile = workflow.profiles[task.profile]
    if task.failures >= profile.retries:
        _fail_for_good(step, workflow, task, attempt, why)
    else:
        move(step, workflow, task, TaskEvent.FAILED_RETRY, attempt)
        delay_ms = min(profile.retry_delay_ms << min(task.failures, _DOUBLINGS_MAX), profile.retry_delay_max_ms)
        task.due_ms = step.clock_ms + delay_ms
        step.set_timer(workflow, task, task.due_ms, BACKOFF)
    task.failures += 1
    task.losses = 0


def _count_agent_fault(step: ApplyContext, workflow: Workflow, task: Task, attempt: Attempt, why: str) -> None:
    """An agent could not do its part: the task goes elsewhere, unless that has happened too often."""
    step.touch_task(workflow, task)
    mishaps = mishaps_of(task)
    mishaps.agent_faults += 1
    if mishaps.agent_faults > AGENT_FAULTS_MAX:
        reason = f"{mishaps.agent_faults} agents could not run it: it may be what breaks them; last: {why}"
        _count_failure(step, workflow, task, attempt, reason)
    elif _owes_failure(task):
        _count_failure(step, workflow, task, attempt, why)
    else:
        move(step, workflow, task, TaskEvent.AGENT_FAULT, attempt)


def _count_loss(step: ApplyContext, workflow: Workflow, task: Task, attempt: Attempt, why: str) -> None:
    """An attempt was taken away without its own fault, or so it seems: only so often if its agent is still there."""
    if not step.state.agents[attempt.agent].present:
        move(step, workflow, task, TaskEvent.AGENT_LOST, attempt)
        return
    if task.losses >= LOSSES_MAX:
        reason = f"lost {task.losses + 1} agents in a row: it may be what stops them; last: {why}"
        _fail_for_good(step, workflow, task, attempt, reason)
    else:
        move(step, workflow, task, TaskEvent.AGENT_LOST, attempt)
    task.losses += 1


def _fail_for_good(step: ApplyContext, workflow: Workflow, task: Task, attempt: Attempt, why: str) -> None:
    move(step, workflow, task, TaskEvent.FAILED_FINAL, attempt)
    task.finished_ms = step.clock_ms
    task.detail = why


def _meet_needs(step: ApplyContext, workflow: Workflow, task: Task) -> None:
    """Tell the tasks that need this one that it has succeeded."""
    dependents = workflow.dependents[task.position]
    if not (dependents or workflow.caches):
        return
    count = len(dependents)
    if workflow.caches or count >= COALESCE_MIN or workflow.blocked or MEET_STEPS * count >= step.budget:
        cache.succeeded(step, workflow, task)
        return
    step.budget -= MEET_STEPS * count
    tasks = workflow.tasks
    for position in dependents:
        dependent = tasks[position]
        step.touch_task(workflow, dependent)
        ready = is_last_need(dependent)
        dependent.open_needs -= 1
        if ready:
            move(step, workflow, dependent, _NEEDS_MET)


def fall_back(step: ApplyContext, workflow: Workflow, task: Task) -> None:
    """Do what follows for others when an attempt ended without success."""
    if task.state is TaskState.FAILED:
        _fail(step, workflow, task)
    if task.claim:
        cache.attempt_over(step, workflow, task)


def _fail(step: ApplyContext, workflow: Workflow, task: Task) -> None:
    """Do what the workflow says about a task that failed and has no retries left; a child is its parent's matter."""
    origin = task.origin
    if origin is not None and workflow.tasks[origin.parent].state not in FINAL:
        origin.handled = True
        workflow.handled += 1
        cancel_children(step, workflow, task)
    elif workflow.on_failure == "continue":
        cancel_downstream(step, workflow, task)
        cancel_children(step, workflow, task)
    elif not workflow.stopping and workflow.open:
        step.touch_workflow(workflow)
        workflow.stopping = True
        stop_workflow(step, workflow, f"{task.id} failed")
