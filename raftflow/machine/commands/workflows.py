"""Workflows: submission, control, retirement."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from raftflow.domain import limits
from raftflow.domain.events import TaskReady, WorkflowNotReady, WorkflowReady
from raftflow.domain.pieces import profile_key
from raftflow.domain.rejections import Rejection, RejectionCode
from raftflow.domain.replies import Done, Retired, WorkflowAccepted
from raftflow.domain.tasks.budgets import used_up_text
from raftflow.domain.tasks.checks import check_task_values, check_workflow_values
from raftflow.domain.tasks.feasibility import Shape, suits
from raftflow.domain.tasks.preparation import facts_of, levels_of, without_redundant
from raftflow.domain.tasks.program import TaskWait
from raftflow.domain.tasks.states import FINAL, TaskEvent, TaskState, WorkflowState
from raftflow.domain.tasks.workflow import (
    GraphProblem,
    TaskSpec,
    WorkflowSpec,
    check_graph,
    topological_order,
    upward_ranks,
)
from raftflow.domain.values.ids import name_problem
from raftflow.machine.commands.bundles import unknown_code
from raftflow.machine.commands.spending.rates import rate_warnings
from raftflow.machine.rules import cache, learning
from raftflow.machine.rules.agenda import begin_job, refuse_pending
from raftflow.machine.rules.context import coalesce_events, move
from raftflow.machine.rules.step_limits import ADMIT_STEPS
from raftflow.machine.rules.stopping import requeue, stop_workflow
from raftflow.machine.schema import registry
from raftflow.machine.tables.agenda import AgendaJob, JobKind
from raftflow.machine.tables.tasks import ORDER_NONE, ORDER_RELEASE, Task, is_admitted
from raftflow.machine.tables.uploads import SHAPES_MAX, profile_of
from raftflow.machine.tables.workflows import Workflow

if TYPE_CHECKING:
    from raftflow.domain.commands import ControlWorkflow, RetireWorkflows, SetPriority, SubmitWorkflow
    from raftflow.machine.rules.context import ApplyContext
    from raftflow.machine.schema import registry
    from raftflow.machine.tables.agents import AgentClass
    from raftflow.machine.tables.state import State
from raftflow.machine.tables.tasks import Profile

PROBLEMS_MAX = 100
RETIRE_MAX = 10_000


# --- submission


def submit_workflow(step: ApplyContext, command: SubmitWorkflow) -> WorkflowAccepted | Rejection:
    """Add a workflow, all of it or nothing."""
    state = step.state
    spec = command.spec
    wrong = name_problem(command.workflow_id)
    if wrong is not None:
        return invalid([GraphProblem("id", f"{command.workflow_id[:80]!r} {wrong}")])
    if command.workflow_id in state.workflows or command.workflow_id in state.uploads:
        return Rejection(RejectionCode.CONFLICT, f"there is a workflow {command.workflow_id!r} already")
    problems = check_graph(spec, PROBLEMS_MAX) + check_workflow_values(
        spec.name, spec.priority, spec.max_parallel, spec.code, spec.budgets
    )
    numbers, distinct = _distinct_profiles(spec, problems)
    if problems:
        return invalid(problems)
    refused = limit_problem(state, len(spec.tasks), new_workflow=True) or unknown_code(state, spec.code)
    if refused is not None:
        return refused
    state.bundles.refer(spec.code)
    workflow = Workflow(
        0, command.workflow_id, spec.name, priority=spec.priority, on_failure=spec.on_failure, submitted_ms=0
    )
    workflow.max_parallel = spec.max_parallel
    workflow.code = spec.code
    workflow.budgets = spec.budgets
    workflow.profiles = tuple([profile_of(task, state.shape) for task in distinct])
    warnings = warnings_of(state.kinds, _examples(workflow.profiles, distinct))
    workflow.warnings = tuple(warnings + rate_warnings(state.rates, workflow.profiles))
    _add_tasks(state, workflow, spec, numbers)
    workflow.index_tasks()
    enter(step, workflow)
    for task in workflow.tasks:
        if task.state is TaskState.READY:
            step.events.append(TaskReady(workflow.id, task.position))
    admit(step, workflow)
    return WorkflowAccepted(workflow.id, workflow.warnings)


def enter(step: ApplyContext, workflow: Workflow) -> None:
    """Enter a workflow into the tables, as the newest."""
    state = step.state
    state.workflow_number += 1
    workflow.number = state.workflow_number
    workflow.submitted_ms = step.clock_ms
    state.workflows[workflow.id] = workflow
    state.by_number[workflow.number] = workflow
    state.live_tasks += len(workflow.tasks)
    step.workflows_changed[workflow.id] = None


def invalid(problems: list[GraphProblem]) -> Rejection:
    """Refuse a command in which something is wrong."""
    first = problems[0]
    shown = problems[:PROBLEMS_MAX]
    more = f" (and {len(shown) - 1} more)" if len(shown) > 1 else ""
    return Rejection(RejectionCode.INVALID, f"{first.path}: {first.message}{more}", tuple(shown))


def limit_problem(state: State, tasks: int, *, new_workflow: bool) -> Rejection | None:
    """Refuse what would pass a limit; uploads count as if they were finished."""
    if new_workflow and len(state.workflows) + len(state.uploads) >= limits.WORKFLOWS_MAX:
        return Rejection(
            RejectionCode.LIMIT,
            f"{limits.WORKFLOWS_MAX} workflows are kept, no more fit; finished ones are retired with time",
            limit=limits.WORKFLOWS_MAX,
        )
    live = state.live_tasks + state.upload_tasks
    if live + tasks > limits.LIVE_TASKS_MAX:
        return Rejection(
            RejectionCode.LIMIT,
            f"{live} tasks are unfinished and {tasks} more would pass the limit of "
            f"{limits.LIVE_TASKS_MAX}; submit again when some have ended",
            limit=limits.LIVE_TASKS_MAX,
        )
    return None


def _distinct_profiles(spec: WorkflowSpec, problems: list[GraphProblem]) -> tuple[list[int], list[TaskSpec]]:
    """Number the tasks by their profiles, and add what is wrong with a profile, reported for its first task."""
    known: dict[bytes, int] = {}
    distinct: list[TaskSpec] = []
    numbers = []
    for position, task in enumerate(spec.tasks):
        number = known.setdefault(profile_key(task), len(distinct))
        if number == len(distinct):
            distinct.append(task)
            if len(problems) < PROBLEMS_MAX:
                problems.extend(check_task_values(task, f"tasks[{position}]"))
        elif task.expected_ms is not None and not 0 <= task.expected_ms <= limits.DURATION_MS_MAX:
            problems.append(GraphProblem(f"tasks[{position}].expected", "is out of range"))
        numbers.append(number)
    return numbers, distinct


def _add_tasks(state: State, workflow: Workflow, spec: WorkflowSpec, numbers: list[int]) -> None:
    """Make the tasks, and prepare the graph."""
    order = topological_order(spec)
    learnt_ms = [learning.expected_ms(state, profile) for profile in workflow.profiles]
    ranks = upward_ranks(spec, order, [learnt_ms[number] for number in numbers])
    position_of = {task.id: position for position, task in enumerate(spec.tasks)}
    needs = [tuple([position_of[need] for need in task.needs]) for task in spec.tasks]
    tasks: list[Task] = []
    for position, task in enumerate(spec.tasks):
        wanted = needs[position]
        waits = wanted or is_admitted(workflow.profiles[numbers[position]])
        first = TaskState.WAITING if waits else TaskState.READY
        tasks.append(Task(task.id, position, numbers[position], wanted, ranks[position], first, len(wanted)))
    levels = levels_of(needs, order)
    for position, left in without_redundant(needs, order, levels).items():
        tasks[position].waits = needs[position] = left
        tasks[position].open_needs = len(left)
    workflow.facts = facts_of(needs, order, ranks, levels)
    workflow.tasks = tasks


def admit(step: ApplyContext, workflow: Workflow) -> None:
    """Admit the tasks that do not simply run and need nothing (more), once all tasks are in the tables."""
    if not workflow.caches:
        return
    if step.spend(ADMIT_STEPS * len(workflow.tasks)):
        admit_tasks(step, workflow, workflow.tasks)
    else:
        begin_job(step, workflow, AgendaJob(JobKind.REVIVE, workflow.id, cursor=len(workflow.tasks)))


def admit_tasks(step: ApplyContext, workflow: Workflow, tasks: Sequence[Task]) -> None:
    """Admit those of these tasks that are waiting and need nothing (more)."""
    met = [task for task in tasks if task.state is TaskState.WAITING and task.open_needs == 0]
    cache.admit(step, workflow, met)


def _examples(profiles: Sequence[Profile], tasks: list[TaskSpec]) -> dict[Shape, str]:
    """Return the first shapes, each with the first task that has it."""
    shapes: dict[Shape, str] = {}
    for profile, task in zip(profiles, tasks, strict=True):
        if len(shapes) >= SHAPES_MAX:
            break
        if type(profile.program) is not TaskWait:
            shapes.setdefault(profile.shape, task.id)
    return shapes


def warnings_of(kinds: dict[AgentClass, int], examples: dict[Shape, str]) -> list[str]:
    """Say which demands no present agent can meet."""
    warnings: list[str] = []
    for shape, task_id in examples.items():
        why = never_fits(kinds, shape)
        if why is not None:
            warnings.append(f"{task_id}: {why}; it waits until one comes")
    return warnings


def never_fits(kinds: dict[AgentClass, int], shape: Shape) -> str | None:
    """Say why no agent that is up can ever run this, or None if one can."""
    if not kinds:
        return "no agent is up"
    labelled = 0
    for kind in kinds:
        capacity = dict(kind.capacity)
        labels = dict(kind.labels)
        if suits(shape, capacity, labels):
            return None
        labelled += all(labels.get(key) == value for key, value in shape.labels)
    if not labelled:
        wanted = ", ".join(f"{key}={value}" for key, value in shape.labels)
        return f"no agent that is up carries the labels {wanted}"
    for name, amount in shape.demand:
        single = Shape(((name, amount),), shape.labels)
        if not any(suits(single, dict(kind.capacity), dict(kind.labels)) for kind in kinds):
            return f"no agent that is up{' with its labels' if shape.labels else ''} has as much {name}"
    return "no agent that is up has all that it wants at once"


# --- control


def control_workflow(step: ApplyContext, command: ControlWorkflow) -> Done | Rejection:
    """Cancel, pause, resume or retry."""
    workflow = step.state.workflows.get(command.workflow_id)
    if workflow is None:
        return Rejection(RejectionCode.NOT_FOUND, f"there is no workflow {command.workflow_id[:80]!r}")
    if workflow.blocked or (workflow.jobs and command.action == "retry"):
        return refuse_pending(workflow)
    if command.action == "cancel":
        return _cancel(step, workflow)
    if command.action == "retry":
        return _retry(step, workflow)
    if workflow.finished_ms:
        return _conflict(workflow, f"it has ended as {workflow.state.value}")
    if command.action == "pause":
        return _pause(step, workflow)
    return _resume(step, workflow)


def set_priority(context: ApplyContext, command: SetPriority) -> Done | Rejection:
    """Change the priority of a workflow. What has not started takes its new place."""
    workflow = context.state.workflows.get(command.workflow_id)
    if workflow is None:
        return Rejection(RejectionCode.NOT_FOUND, f"there is no workflow {command.workflow_id[:80]!r}")
    if not 0 <= command.priority <= limits.PRIORITY_MAX:
        return Rejection(RejectionCode.INVALID, f"priority must be 0 to {limits.PRIORITY_MAX}")
    if workflow.blocked:
        return refuse_pending(workflow)
    if workflow.finished_ms:
        return _conflict(workflow, f"it has ended as {workflow.state.value}")
    if workflow.priority == command.priority:
        return Done(changed=False)
    context.touch_workflow(workflow)
    workflow.priority = command.priority
    if workflow.counts[TaskState.READY] and not workflow.held:
        context.events += [WorkflowNotReady(workflow.id), WorkflowReady(workflow.id)]
    requeue(context, workflow, ORDER_RELEASE)
    return Done()


def _conflict(workflow: Workflow, why: str) -> Rejection:
    return Rejection(RejectionCode.CONFLICT, f"workflow {workflow.id}: {why}")


def _cancel(step: ApplyContext, workflow: Workflow) -> Done | Rejection:
    if workflow.cancelled:
        return Done(changed=False)
    if workflow.finished_ms:
        return _conflict(workflow, f"it has ended as {workflow.state.value}")
    step.touch_workflow(workflow)
    workflow.cancelled = True
    stop_workflow(step, workflow, "the workflow was cancelled")
    workflow.paused = False
    workflow.hold()
    return Done()


def _pause(step: ApplyContext, workflow: Workflow) -> Done | Rejection:
    if workflow.paused:
        return Done(changed=False)
    if workflow.cancelled or workflow.stopping:
        return _conflict(workflow, "it is being stopped, there is nothing to pause")
    step.touch_workflow(workflow)
    if workflow.counts[TaskState.READY]:
        step.events.append(WorkflowNotReady(workflow.id))
    workflow.paused = workflow.held = True
    requeue(step, workflow, ORDER_RELEASE)
    return Done()


def _resume(step: ApplyContext, workflow: Workflow) -> Done | Rejection:
    used_up = workflow.find_used_up()
    if used_up is not None:
        told = used_up_text(used_up, workflow.spent_of(used_up.name))
        advice = f"raise it with `raftflow workflow budget raise {workflow.id} {used_up.name}=AMOUNT`"
        return _conflict(workflow, f"{told}; {advice}")
    if not workflow.paused:
        return Done(changed=False)
    step.touch_workflow(workflow)
    workflow.paused = workflow.held = False
    if workflow.counts[TaskState.READY]:
        step.events.append(WorkflowReady(workflow.id))
    requeue(step, workflow, ORDER_NONE)
    return Done()


def _retry(step: ApplyContext, workflow: Workflow) -> Done | Rejection:
    if not workflow.finished_ms:
        return _conflict(workflow, "it has not ended yet; cancel it first to run it again")
    if workflow.counts[TaskState.SUCCEEDED] == len(workflow.tasks) or workflow.state is WorkflowState.SUCCEEDED:
        return _conflict(workflow, "every task has succeeded, there is nothing to retry")
    full = limit_problem(step.state, len(workflow.tasks), new_workflow=False)
    if full is not None:
        return full
    step.touch_workflow(workflow)
    del step.state.finished[workflow.id]
    step.state.live_tasks += len(workflow.tasks)
    workflow.finished_ms = 0
    workflow.finished_number = 0
    workflow.cancelled = False
    workflow.stopping = False
    workflow.hold()
    if not step.spend(len(workflow.tasks)):
        begin_job(step, workflow, AgendaJob(JobKind.REVIVE, workflow.id))
        return Done()
    with coalesce_events(step, workflow, len(workflow.tasks), ready=True):
        _revive(step, workflow, workflow.tasks)
    admit(step, workflow)
    return Done()


def continue_revival(step: ApplyContext, workflow: Workflow, job: AgendaJob) -> bool:
    """Revive the next tasks, then admit the next cached ones. Returns True when the workflow is as it should be."""
    tasks = workflow.tasks
    piece = tasks[job.cursor : job.cursor + step.budget]
    step.budget -= len(piece)
    job.cursor += len(piece)
    _revive(step, workflow, piece)
    if not workflow.caches:
        return job.cursor == len(tasks)
    first = job.cursor - len(tasks)
    while first >= 0 and step.budget > 0 and first < len(tasks):
        met = tasks[first : first + max(step.budget // ADMIT_STEPS, 1)]
        step.budget -= ADMIT_STEPS * len(met)
        first += len(met)
        job.cursor += len(met)
        admit_tasks(step, workflow, met)
    return first == len(tasks)


def _revive(step: ApplyContext, workflow: Workflow, tasks: Sequence[Task]) -> None:
    for task in tasks:
        if task.state is not TaskState.SUCCEEDED and _runs_again(workflow, task):
            if task.state is TaskState.FAILED and task.origin is not None and task.origin.handled:
                workflow.handled -= 1
            waits = task.open_needs or is_admitted(workflow.profiles[task.profile])
            move(step, workflow, task, TaskEvent.REVIVED_WAITING if waits else TaskEvent.REVIVED_READY)
            task.failures = 0
            task.losses = 0
            task.mishaps = None
            task.finished_ms = 0
            task.detail = ""
            if task.origin is not None:
                task.origin.handled = False
            if task.parking is not None:
                task.parking = None


def _runs_again(workflow: Workflow, task: Task) -> bool:
    """Tell whether a retry of its workflow revives a task without success.

    It leaves a child alone if its parent settled that. Parents come before their children.
    """
    if task.origin is None:
        return True
    parent = workflow.tasks[task.origin.parent].state
    return parent not in FINAL or (parent is TaskState.SUCCEEDED and not task.origin.handled)


# --- retirement


def retire_workflows(step: ApplyContext, command: RetireWorkflows) -> Retired:
    """Forget the workflows that finished first."""
    state = step.state
    retired: list[Workflow] = []
    count_max = min(command.count_max, RETIRE_MAX)
    for workflow in state.finished.values():
        if workflow.finished_ms > command.before_ms or workflow.jobs or len(retired) >= count_max:
            break
        retired.append(workflow)
    registry.retire(state, retired)
    workflow_ids = tuple([workflow.id for workflow in retired])
    step.workflows_changed.update(dict.fromkeys(workflow_ids))
    step.discarded.put(*retired)
    return Retired(workflow_ids)
