"""Timers of tasks and of agents."""

from __future__ import annotations

from typing import TYPE_CHECKING

from raftflow.domain.tasks.states import TaskState
from raftflow.machine.schema.declaration import Limit, Reason, Restoring, Table
from raftflow.machine.tables.tasks import attempt_of
from raftflow.machine.tables.timers import BACKOFF

if TYPE_CHECKING:
    from collections.abc import Iterator

    from raftflow.machine.tables.state import State
    from raftflow.machine.tables.tasks import Task
    from raftflow.machine.tables.workflows import Workflow


def _derive(restoring: Restoring) -> None:
    """Set a timer for each back-off and for each attempt with a deadline."""
    timers = restoring.state.timers
    for workflow in restoring.state.workflows.values():
        if workflow.counts[TaskState.DELAYED]:
            for task in workflow.tasks:
                if task.state is TaskState.DELAYED:
                    timers.add(workflow, task, task.due_ms, BACKOFF)
        if workflow.waits is not None:
            for due_ms, number, position in _ends_of_waits(workflow):
                timers.add(workflow, workflow.tasks[position], due_ms, -number)
    for fence, workflow, task in restoring.live:
        deadline_ms = attempt_of(task, fence).deadline_ms
        if deadline_ms:
            timers.add(workflow, task, deadline_ms, fence)


def _ends_of_waits(workflow: Workflow) -> list[tuple[int, int, int]]:
    """Return when each open wait ends, with its number and the position of its task."""
    rows = () if workflow.waits is None else workflow.waits.rows.values()
    return [(row.deadline_ms, row.number, row.task) for row in rows if row.deadline_ms and row.end is None]


def _problems(state: State, _: int) -> Iterator[str]:
    timers = set(state.timers)
    for workflow in state.workflows.values():
        for due_ms, number, position in _ends_of_waits(workflow):
            if (due_ms, workflow.number, position, -number) not in timers:
                yield f"workflow {workflow.id}: the timer of wait {number} for {due_ms} is missing"
        for task in workflow.tasks:
            for due_ms, fence in _timers_of(task):
                if (due_ms, workflow.number, task.position, fence) not in timers:
                    yield f"task {workflow.id}/{task.id}: its timer for {due_ms} is missing"


def _timers_of(task: Task) -> list[tuple[int, int]]:
    """Return the timers that a task must have: when each is due, and its fence or `BACKOFF`."""
    if task.state is TaskState.DELAYED:
        return [(task.due_ms, BACKOFF)]
    if task.state is TaskState.RUNNING:
        attempts = (task.last, task.backup)
        return [(each.deadline_ms, each.fence) for each in attempts if each is not None and each.deadline_ms]
    return []


TIMERS = Table(
    name="timers",
    about="ends of back-offs and of waits, and deadlines of running attempts",
    saved=Reason("tasks, attempts and waits hold their times"),
    derive=_derive,
    problems=_problems,
    limit=Reason(
        "two for each live task, one for each open wait; `Timers.sweep` drops void ones before they are the most"
    ),
    retire=Reason("a timer of a task that is gone is void"),
    parts=Reason("one list of plain tuples; it is freed at once"),
)


def _derive_agent_timers(restoring: Restoring) -> None:
    for agent in restoring.state.agents.values():
        if agent.timer_ms:
            restoring.state.agent_timers.set(agent.name, agent.timer_ms)


def _agent_timer_problems(state: State, _: int) -> Iterator[str]:
    wanted_ms = {name: agent.timer_ms for name, agent in state.agents.items() if agent.timer_ms}
    if wanted_ms != state.agent_timers.by_name():
        yield f"timers of agents are {state.agent_timers.by_name()}, the agents give {wanted_ms}"


AGENT_TIMERS = Table(
    name="agent_timers",
    about="ends of drains and quarantines",
    saved=Reason("the agents hold their times"),
    derive=_derive_agent_timers,
    problems=_agent_timer_problems,
    limit=Limit(name="AGENTS_MAX", rows=lambda state: len(state.agent_timers.by_name())),
    retire=Reason("an agent outlives the workflows whose tasks it ran"),
    parts=Reason("one for each agent at most"),
)
