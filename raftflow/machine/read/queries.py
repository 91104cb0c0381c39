"""Questions that the API, the leader and the agents' exchange ask. They read, and change nothing."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from raftflow.domain import limits
from raftflow.domain.contract.views import (
    AgentView,
    AttemptView,
    CachedResultView,
    CachePage,
    KindList,
    KindView,
    LedgerLine,
    LedgerView,
    TaskCounts,
    TaskPage,
    TaskView,
    WorkflowPage,
    WorkflowView,
)
from raftflow.domain.tasks.resources import show_resources
from raftflow.domain.tasks.states import LIVE_ATTEMPT, PUBLIC_NAME, TaskState
from raftflow.domain.values.times import iso_utc, iso_utc_or_none
from raftflow.machine.read.exchange import assignments, live_fences, orders
from raftflow.machine.read.explain import explain
from raftflow.machine.read.preferences import budget, holdings
from raftflow.machine.read.scheduling import (
    agent_room,
    agent_rooms,
    ready_positions,
    ready_task,
    ready_tasks,
    urgency_of,
    workflows_with_ready,
)
from raftflow.machine.read.spending.budgets import pause_reason
from raftflow.machine.read.steps import count_of
from raftflow.machine.rules import learning
from raftflow.machine.rules.learning import Estimate, estimate_of
from raftflow.machine.tables.tasks import ORDER_MOVE, ORDER_STOP, attempts_of

if TYPE_CHECKING:
    from raftflow.machine.machine import Machine
    from raftflow.machine.tables.agents import Agent
    from raftflow.machine.tables.tasks import Attempt, Task
    from raftflow.machine.tables.workflows import Workflow

__all__ = [
    "AgentCapacity",
    "agent_list",
    "agent_room",
    "agent_rooms",
    "agent_view",
    "assignments",
    "attempt_location",
    "budget",
    "cache_page",
    "expected_times",
    "explain",
    "holdings",
    "kind_estimate",
    "kinds",
    "ledger_accounts",
    "ledger_line",
    "ledger_view",
    "live_fences",
    "orders",
    "ready_positions",
    "ready_task",
    "ready_tasks",
    "task_page",
    "task_view",
    "urgency_of",
    "workflow_page",
    "workflow_view",
    "workflows_with_ready",
]

PAGE_BYTES = 1024 * 1024
"""About how many bytes of results and needs of tasks go into one page; one task always does."""

_NEED_BYTES = 64
"""What a need counts for in an answer."""


# --- workflows and tasks


def workflow_view(machine: Machine, workflow_id: str) -> WorkflowView | None:
    """Show a workflow, None if it is not known."""
    workflow = machine.state.workflows.get(workflow_id)
    if workflow is None:
        return None
    view, facts = _workflow_view(workflow), workflow.facts
    view.levels = facts.levels
    view.critical_path = [workflow.tasks[position].id for position in facts.path]
    view.critical_path_s = facts.path_ms / 1000
    return view


def _workflow_view(workflow: Workflow) -> WorkflowView:
    counts = workflow.settled_counts
    return WorkflowView(
        id=workflow.id,
        name=workflow.name,
        state=workflow.state.value,
        tasks=TaskCounts(
            total=len(workflow.tasks),
            succeeded=counts[TaskState.SUCCEEDED],
            failed=counts[TaskState.FAILED],
            running=counts[TaskState.RUNNING],
            ready=counts[TaskState.READY] + counts[TaskState.QUEUED],
            waiting=counts[TaskState.WAITING] + counts[TaskState.DELAYED],
            cancelled=counts[TaskState.CANCELLED],
            cached=workflow.cached,
            parked=counts[TaskState.PARKED],
        ),
        submitted_at=iso_utc(workflow.submitted_ms),
        finished_at=iso_utc_or_none(workflow.finished_ms),
        priority=workflow.priority,
        warnings=list(workflow.warnings),
        code=workflow.code or None,
        pause_reason=pause_reason(workflow),
    )


def workflow_page(machine: Machine, state: str | None, limit: int, cursor: str | None) -> WorkflowPage:
    """List workflows, newest first, those in `state` only if it is given.

    `cursor` is the `next` of the page before. Raises `ValueError` if it is not a cursor.
    """
    by_number = machine.state.by_number
    numbers = list(by_number)
    start = len(numbers) if cursor is None else bisect_left(numbers, _cursor(cursor))
    limit = max(1, min(limit, limits.PAGE_ENTRIES_MAX))
    views: list[WorkflowView] = []
    for place in range(start - 1, -1, -1):
        workflow = by_number[numbers[place]]
        if state is not None and workflow.state.value != state:
            continue
        if len(views) == limit:
            return WorkflowPage(workflows=views, next=str(numbers[place] + 1))
        views.append(_workflow_view(workflow))
    return WorkflowPage(workflows=views)


def _cursor(text: str) -> int:
    """Read a cursor. Raises `ValueError` if this module did not make it."""
    if not (text.isascii() and text.isdigit() and len(text) <= limits.CURSOR_CHARS_MAX):
        raise ValueError(f"{text[:40]!r} is not a cursor: use the `next` of a page, or none")
    return int(text)


def task_page(machine: Machine, workflow_id: str, limit: int, cursor: str | None) -> TaskPage | None:
    """List a workflow's tasks in document order, None if it is not known. Raises `ValueError` as `workflow_page`.

    A page ends early when its results and needs have `PAGE_BYTES` together.
    """
    workflow = machine.state.workflows.get(workflow_id)
    if workflow is None:
        return None
    start = 0 if cursor is None else _cursor(cursor)
    end = start + max(1, min(limit, limits.PAGE_ENTRIES_MAX))
    size = 0
    for place, task in enumerate(workflow.tasks[start:end], start):
        size += len(task.result) + len(task.needs) * _NEED_BYTES
        if size > PAGE_BYTES and place > start:
            end = place
            break
    views = [_task_view(workflow, task, history=False) for task in workflow.tasks[start:end]]
    return TaskPage(tasks=views, next=str(end) if end < len(workflow.tasks) else None)


def task_view(machine: Machine, workflow_id: str, task_id: str) -> TaskView | None:
    """Show a task with its attempts, None if it or its workflow is not known."""
    found = _find(machine, workflow_id, task_id)
    return None if found is None else _task_view(*found, history=True)


def _find(machine: Machine, workflow_id: str, task_id: str) -> tuple[Workflow, Task] | None:
    workflow = machine.state.workflows.get(workflow_id)
    task = None if workflow is None else workflow.by_id.get(task_id)
    return None if workflow is None or task is None else (workflow, task)


def _task_view(workflow: Workflow, task: Task, *, history: bool) -> TaskView:
    last = task.last
    return TaskView(
        id=task.id,
        state=PUBLIC_NAME[task.state],  # type: ignore[arg-type]  # the table holds just these words
        attempt=task.attempts if last is None else last.number,
        agent=None if last is None else last.agent,
        started_at=None if last is None else iso_utc_or_none(last.started_ms),
        finished_at=iso_utc_or_none(task.finished_ms),
        result=msgspec.Raw(task.result) if task.result else None,
        detail=_detail(task),
        cached=task.cached,
        backup=workflow.profiles[task.profile].backup,
        needs=[workflow.tasks[need].id for need in task.needs],
        history=[_attempt_view(attempt) for attempt in attempts_of(task)] if history else [],
        parent=None if task.origin is None else workflow.tasks[task.origin.parent].id,
        children=0 if task.family is None else task.family.count,
        steps=count_of(workflow, task),
    )


def _detail(task: Task) -> str:
    attempt = task.last
    if task.state is TaskState.DELAYED:
        return f"next attempt at {iso_utc(task.due_ms)}"
    if attempt is not None and task.state in LIVE_ATTEMPT:
        if attempt.order == ORDER_STOP:
            return "stopping"
        if attempt.order == ORDER_MOVE:
            return "moving to another agent"
        if task.state is TaskState.QUEUED:
            return f"queued on {attempt.agent}"
    return task.detail


def _attempt_view(attempt: Attempt) -> AttemptView:
    return AttemptView(
        attempt=attempt.number,
        fence=attempt.fence,
        agent=attempt.agent,
        outcome=None if attempt.outcome is None else attempt.outcome.value,
        exit_code=attempt.exit_code,
        error=attempt.error,
        assigned_at=iso_utc_or_none(attempt.assigned_ms),
        started_at=iso_utc_or_none(attempt.started_ms),
        finished_at=iso_utc_or_none(attempt.finished_ms),
        index=attempt.index or None,
    )


def attempt_location(
    machine: Machine, workflow_id: str, task_id: str, attempt: int | None
) -> tuple[str, int, int] | None:
    """Return agent, fence and number of an attempt (the last if None), None if it is not known (any more)."""
    found = _find(machine, workflow_id, task_id)
    if found is None:
        return None
    task = found[1]
    for known in [task.last] if attempt is None else attempts_of(task):
        if known is not None and attempt in {None, known.number}:
            return known.agent, known.fence, known.number
    return None


# --- agents and the ledger


class AgentCapacity(NamedTuple):
    """What an agent has, and what of it is free."""

    name: str
    capacity: Mapping[str, int]
    free: Mapping[str, int]


def agent_list(machine: Machine) -> list[AgentView]:
    """Show every agent in order of the names, gone ones included."""
    agents = machine.state.agents
    return [_agent_view(agents[name]) for name in sorted(agents)]


def agent_view(machine: Machine, name: str) -> AgentView | None:
    """Show an agent, None if it is not known."""
    agent = machine.state.agents.get(name)
    return None if agent is None else _agent_view(agent)


def _agent_view(agent: Agent) -> AgentView:
    return AgentView(
        id=agent.name,
        name=agent.name,
        state=agent.state.value,
        incarnation=agent.incarnation,
        resources=dict(show_resources(agent.capacity)),
        allocated=_allocated(agent),
        labels=agent.labels,
        running=len(agent.live) - len(agent.queue),
        queued=len(agent.queue),
        quarantine_until=iso_utc_or_none(agent.quarantine_until_ms),
        losses=agent.losses,
        faults_per_mille=agent.faults,
        drain_deadline=iso_utc_or_none(max(agent.drain_deadline_ms, 0)),
        drained=agent.drained,
    )


def _allocated(agent: Agent) -> dict[str, float]:
    return dict(show_resources({name: amount - agent.free[name] for name, amount in agent.capacity.items()}))


def ledger_view(machine: Machine) -> LedgerView:
    """Show the account of every agent that is present."""
    index, accounts = ledger_accounts(machine)
    return LedgerView(index=index, agents=[ledger_line(account) for account in accounts])


def ledger_accounts(machine: Machine) -> tuple[int, list[AgentCapacity]]:
    """Return the applied index and a copy of every account, in order of the names; `ledger_line` shows one.

    A copy takes a tenth of what it takes to show it, so that thousands can be shown bit by bit.
    """
    agents = sorted(machine.state.agents.items())
    accounts = [AgentCapacity(name, agent.capacity, dict(agent.free)) for name, agent in agents if agent.present]
    return machine.applied_index, accounts


def ledger_line(account: AgentCapacity) -> LedgerLine:
    """Show an account."""
    allocated = {name: amount - account.free[name] for name, amount in account.capacity.items()}
    return LedgerLine(
        name=account.name,
        capacity=dict(show_resources(account.capacity)),
        allocated=dict(show_resources(allocated)),
    )


# --- cached results


def cache_page(machine: Machine, prefix: str, limit: int, cursor: str | None) -> CachePage:
    """List the cached results whose keys begin with `prefix`, in order of the keys.

    `cursor` is the `next` of the page before: the last key of it.
    """
    results = machine.state.results
    keys = sorted(
        entry.key for entry in results if entry.key.startswith(prefix) and (cursor is None or entry.key > cursor)
    )
    limit = max(1, min(limit, limits.PAGE_ENTRIES_MAX))
    found = [entry for key in keys[:limit] if (entry := results.get(key)) is not None]
    return CachePage(
        entries=[
            CachedResultView(
                key=entry.key,
                size=len(entry.result),
                workflow_id=entry.workflow_id,
                task_id=entry.task_id,
                made_at=iso_utc(entry.made_ms),
                used_at=iso_utc(entry.used_ms),
                hits=entry.hits,
            )
            for entry in found
        ],
        total=len(results),
        bytes=results.size_bytes,
        next=keys[limit - 1] if len(keys) > limit else None,
    )


# --- what was learnt


def expected_times(machine: Machine) -> dict[str, int]:
    """Return the expected duration in ms, at least 1, of the tasks of every known kind."""
    return learning.expected_times(machine.state)


def kinds(machine: Machine) -> KindList:
    """Show what was learnt of every kind of tasks, in order of the names."""
    learnt = machine.state.kinds_learnt
    return KindList(
        kinds=[
            KindView(
                kind=kind,
                count=estimate.count,
                mean_s=estimate.mean_ms / 1000,
                deviation_s=estimate.deviation_ms / 1000,
                span_s=estimate.span_ms / 1000 if estimate.span_ms else None,
                cpu_s=estimate.cpu_ms / 1000 if estimate.cpu_ms else None,
                peak_mib=estimate.peak_mib or None,
                learnt_at=iso_utc(learnt[kind].last_ms),
            )
            for kind in sorted(learnt)
            for estimate in [estimate_of(learnt[kind])]
        ]
    )


def kind_estimate(machine: Machine, workflow_id: str, task: int) -> Estimate | None:
    """Return what is known of the kind of a task (by position), None if nothing is or there is no such task."""
    workflow = machine.state.workflows.get(workflow_id)
    if workflow is None or not 0 <= task < len(workflow.tasks):
        return None
    return learning.estimate(machine.state, workflow.profiles[workflow.tasks[task].profile].kind)
