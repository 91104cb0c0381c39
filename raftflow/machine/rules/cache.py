"""Results that stand for those of equal tasks, and equal tasks that run once.

Two tasks are equal if they come to the same key (`domain.cachekeys`), whatever workflows they are in. When the needs
of a cached task are met, one of three things happens:

    a result is cached under its key     it succeeds with that result (`CACHED`)
    no equal task is on its way          it becomes ready, and is the *owner* of the claim on the key
    one is                               it stays waiting, in the *line* behind the owner

When the owner succeeds, its result is cached and the line succeeds with it. When it ends otherwise, the best of the
line becomes the owner. Only tasks of the same shape share a claim: none waits for one that may never find an agent
although it could run itself. An owner that has not started yields to one that is more urgent, or whose workflow
is not paused (`YIELDED`).

A success can be that of many: those in line, whatever needs them and is cached too, and so on. They are worked off
in a list, not by recursion, and beyond `CASCADE_MAX` successes in one command tasks run by themselves. So does a task
that is given more than `CACHE_INPUTS_BYTES_MAX`, unless it names its key.

A task that its document makes a wait is admitted here too: the wait begins when the command that admits it is done
(`commands/waits/documents.py`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from raftflow.domain.limits import CACHE_INPUTS_BYTES_MAX, CACHE_LINE_MAX
from raftflow.domain.replies import Cleared
from raftflow.domain.tasks.program import TaskWait
from raftflow.domain.tasks.states import FINAL, TaskEvent, TaskState
from raftflow.domain.values.cachekeys import automatic_key, fill
from raftflow.machine.rules.agenda import owe_needs
from raftflow.machine.rules.context import COALESCE_MIN, coalesce_events, move, set_result
from raftflow.machine.rules.dependents import is_last_need
from raftflow.machine.rules.step_limits import MEET_STEPS
from raftflow.machine.tables.results import CachedResult, Claim

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from raftflow.domain.commands import ClearCache
    from raftflow.domain.tasks.feasibility import Shape
    from raftflow.machine.rules.context import ApplyContext
    from raftflow.machine.tables.agenda import AgendaJob
    from raftflow.machine.tables.state import State
    from raftflow.machine.tables.tasks import Task
    from raftflow.machine.tables.workflows import Workflow

CASCADE_MAX = 100_000

_SEPARATOR = "\0"
"""Between the key and the shape in a claim; keys do not hold it."""
_IDLE = frozenset({TaskState.READY, TaskState.DELAYED})

_Work = list[tuple["Workflow", "Task"]]
"""Tasks that succeeded and whose dependents were not told yet."""


# --- what happens to tasks


def admit(step: ApplyContext, workflow: Workflow, tasks: Iterable[Task]) -> None:
    """Admit waiting tasks whose needs are met: each reuses a result, runs, or waits for an equal one."""
    work: _Work = []
    for task in tasks:
        _enter(step, workflow, task, work)
    _cascade(step, work)


def succeeded(step: ApplyContext, workflow: Workflow, task: Task) -> None:
    """Tell all that wait for a task that it has succeeded: those that need it, and those that are equal to it."""
    _cascade(step, [(workflow, task)])


def attempt_over(step: ApplyContext, workflow: Workflow, task: Task) -> None:
    """Note that the last attempt of a task with a claim ended without success."""
    if task.state in FINAL:
        release_claim(step, workflow, task)
    else:
        _challenge(step, step.state.claims[task.claim])


def release_claim(step: ApplyContext, workflow: Workflow, task: Task) -> None:
    """Take a task that ended without success out of its claim. The best of the line follows an owner."""
    name = task.claim
    claim = step.state.claims[name]
    member = (workflow.number, task.position)
    step.touch_task(workflow, task)
    task.claim = ""
    if claim.owner == member:
        claim.owner = None
        best = _best(step.state, claim)
        if best is not None:
            _promote(step, claim, best)
    else:
        del claim.line[member]
    if claim.owner is None and not claim.line:
        del step.state.claims[name]


def reconsider(step: ApplyContext, tasks: Iterable[Task]) -> None:
    """Look again who runs among equal tasks: the workflow of these was paused or resumed, or its priority changed."""
    for name in dict.fromkeys([task.claim for task in tasks if task.claim]):
        _challenge(step, step.state.claims[name])


def waits_for(state: State, workflow: Workflow, task: Task) -> tuple[Workflow, Task] | None:
    """Return the equal task that a task waits for, None if it does not wait for one."""
    claim = state.claims.get(task.claim) if task.claim else None
    if claim is None or claim.owner is None or claim.owner == (workflow.number, task.position):
        return None
    return _find(state, claim.owner)


def _enter(step: ApplyContext, workflow: Workflow, task: Task, work: _Work) -> None:
    """Admit one task."""
    state = step.state
    if type(workflow.profiles[task.profile].program) is TaskWait:
        step.waits_due.append((workflow, task))
        return
    if _is_given_too_much(workflow, task):
        move(step, workflow, task, TaskEvent.NEEDS_MET)
        return
    key = key_of(workflow, task)
    full = len(work) >= CASCADE_MAX
    entry = None if full else state.results.use(key, step.clock_ms)
    if entry is not None:
        _reuse(step, workflow, task, entry)
        work.append((workflow, task))
        return
    name = f"{key}{_SEPARATOR}{_shape_text(workflow.profiles[task.profile].shape)}"
    member = (workflow.number, task.position)
    claim = state.claims.get(name)
    if full or (claim is not None and len(claim.line) >= CACHE_LINE_MAX):
        move(step, workflow, task, TaskEvent.NEEDS_MET)
    elif claim is None or claim.owner is None:
        # A claim has no owner while the workflows of all tasks in its line are being stopped.
        state.claims.setdefault(name, Claim(None)).owner = member
        move(step, workflow, task, TaskEvent.NEEDS_MET)
        task.claim = name
    else:
        step.touch_task(workflow, task)
        step.workflows_changed[workflow.id] = None
        task.claim = name
        claim.line[member] = None
        _challenge(step, claim, member)


def _cascade(step: ApplyContext, work: _Work) -> None:
    """Report successes until every waiting task has its result. `work` grows meanwhile."""
    for workflow, task in work:
        if task.claim:
            _publish(step, workflow, task, work)
        dependents = workflow.dependents[task.position]
        if not dependents:
            continue
        if not step.spend(1 + MEET_STEPS * len(dependents)):
            owe_needs(step, workflow, task.position)
        elif len(dependents) < COALESCE_MIN:
            _tell(step, workflow, dependents, work)
        else:
            with coalesce_events(step, workflow, len(dependents), ready=True):
                _tell(step, workflow, dependents, work)


def continue_needs(step: ApplyContext, workflow: Workflow, job: AgendaJob) -> bool:
    """Tell the next tasks that what they need has succeeded. Returns True when all know it."""
    while job.cursor < len(job.positions):
        if step.budget <= 0:
            return False
        dependents = workflow.dependents[job.positions[job.cursor]]
        piece = dependents[job.offset : job.offset + max(step.budget // MEET_STEPS, 1)]
        step.budget -= 1 + MEET_STEPS * len(piece)
        job.offset += len(piece)
        if job.offset == len(dependents):
            job.cursor, job.offset = job.cursor + 1, 0
        work: _Work = []
        _tell(step, workflow, piece, work)
        _cascade(step, work)
    return True


def _tell(step: ApplyContext, workflow: Workflow, dependents: Sequence[int], work: _Work) -> None:
    """Count a success for those that waited for it."""
    tasks = workflow.tasks
    for position in dependents:
        dependent = tasks[position]
        step.touch_task(workflow, dependent)
        # A task of a workflow that is being stopped stays as it is until it is cancelled.
        ready = is_last_need(dependent) and not workflow.stop_pending
        dependent.open_needs -= 1
        if ready:
            profile = workflow.profiles[dependent.profile]
            if profile.cache is None and type(profile.program) is not TaskWait:
                move(step, workflow, dependent, TaskEvent.NEEDS_MET)
            else:
                _enter(step, workflow, dependent, work)


def _publish(step: ApplyContext, workflow: Workflow, task: Task, work: _Work) -> None:
    """Cache the result of an owner that succeeded, and give it to those in line."""
    state = step.state
    name = task.claim
    step.touch_task(workflow, task)
    task.claim = ""
    line = sorted(state.claims.pop(name).line)
    entry = CachedResult(
        key=name.partition(_SEPARATOR)[0],
        result=task.result,
        workflow_id=workflow.id,
        task_id=task.id,
        made_ms=step.clock_ms,
        used_ms=step.clock_ms,
        hits=len(line),
    )
    state.results.put(entry)
    for member in line:
        waited, waiter = _find(state, member)
        if waited.stop_pending:
            step.touch_task(waited, waiter)
            waiter.claim = ""
            continue
        _reuse(step, waited, waiter, entry)
        work.append((waited, waiter))


def _reuse(step: ApplyContext, workflow: Workflow, task: Task, entry: CachedResult) -> None:
    """Let a task succeed with a cached result."""
    workflow.cached += 1
    move(step, workflow, task, TaskEvent.CACHED)
    task.claim = ""
    task.cached = True
    task.losses = 0
    task.mishaps = None
    task.finished_ms = step.clock_ms
    set_result(step, workflow, task, entry.result)
    task.detail = f"has the result of {entry.workflow_id}/{entry.task_id}, cached as {entry.key}"


# --- who runs among equal tasks


def _challenge(step: ApplyContext, claim: Claim, newcomer: tuple[int, int] | None = None) -> None:
    """Let an owner that has not started yield to a better one of the line (to `newcomer` alone if it is given)."""
    state = step.state
    assert claim.owner is not None  # noqa: S101 - it lacks one only while all that wait for it are being stopped
    workflow, task = _find(state, claim.owner)
    best = _best(state, claim) if newcomer is None else newcomer
    if task.state not in _IDLE or best is None or _order(state, best) >= _order(state, claim.owner):
        return
    move(step, workflow, task, TaskEvent.YIELDED)
    claim.line[claim.owner] = None
    _promote(step, claim, best)


def _promote(step: ApplyContext, claim: Claim, member: tuple[int, int]) -> None:
    """Make one of the line the owner."""
    del claim.line[member]
    claim.owner = member
    workflow, task = _find(step.state, member)
    move(step, workflow, task, TaskEvent.NEEDS_MET)


def _best(state: State, claim: Claim) -> tuple[int, int] | None:
    """Return the task of the line that should run first; none of a workflow that is being stopped."""
    waiting = [member for member in claim.line if not _stops(state.by_number[member[0]])]
    return min(waiting, key=lambda member: (_order(state, member), member), default=None)


def _stops(workflow: Workflow) -> bool:
    return workflow.cancelled or workflow.stopping


def _order(state: State, member: tuple[int, int]) -> tuple[bool, int]:
    workflow = state.by_number[member[0]]
    return workflow.paused or workflow.used_up, -workflow.priority


def _find(state: State, member: tuple[int, int]) -> tuple[Workflow, Task]:
    workflow = state.by_number[member[0]]
    return workflow, workflow.tasks[member[1]]


# --- keys


def _is_given_too_much(workflow: Workflow, task: Task) -> bool:
    """Tell whether it would take long to make the automatic key of a task."""
    if workflow.profiles[task.profile].cache:
        return False
    tasks = workflow.tasks
    return sum([len(tasks[need].result) for need in task.needs]) > CACHE_INPUTS_BYTES_MAX


def key_of(workflow: Workflow, task: Task) -> str:
    """Return the key of a cached task whose needs have succeeded."""
    profile = workflow.profiles[task.profile]
    if profile.cache:
        return fill(profile.cache, lambda need: workflow.by_id[need].result)
    return automatic_key(
        (profile.program, profile.cwd, workflow.code) if workflow.code else (profile.program, profile.cwd),
        profile.env,
        [(workflow.tasks[need].id, workflow.tasks[need].result) for need in task.needs],
    )


def _shape_text(shape: Shape) -> str:
    demand = ",".join([f"{name}={amount}" for name, amount in shape.demand])
    labels = ",".join([f"{name}={value}" for name, value in shape.labels])
    return f"{demand};{labels};{shape.exclusive}"


# --- the command


def clear_cache(step: ApplyContext, command: ClearCache) -> Cleared:
    """Forget cached results."""
    results = step.state.results
    if command.key is not None:
        return Cleared(int(results.drop(command.key)))
    dropped = [results.drop(entry.key) for entry in list(results) if entry.key.startswith(command.prefix)]
    return Cleared(len(dropped))
