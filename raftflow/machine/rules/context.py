"""What applying an entry works on, and the one function that moves a task.

Order matters in two ways. `move` and the `touch_*` methods hand the record to an open snapshot before it changes, so
they come before every change of a task's, workflow's or agent's fields. And what follows from a move (an event, a
count, the end of the workflow) happens here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from raftflow.domain.events import (
    AgentChanged,
    Event,
    TaskNotReady,
    TaskReady,
    TimerSet,
    WorkflowChanged,
    WorkflowNotReady,
    WorkflowReady,
)
from raftflow.domain.events import WorkflowFinished as Finished
from raftflow.domain.features import LEVEL, highest_need
from raftflow.domain.tasks.states import FINAL, TRANSITIONS, TaskEvent, TaskState
from raftflow.machine.rules.step_limits import STEP_LIMITS, StepLimits
from raftflow.machine.tables.discard import Discarded
from raftflow.machine.tables.tasks import Parking, is_awaited
from raftflow.machine.tables.waits.waits import WaitEnd

if TYPE_CHECKING:
    from raftflow.machine.tables.agents import Agent
    from raftflow.machine.tables.copy_on_write import CopyOnWrite
    from raftflow.machine.tables.state import State
    from raftflow.machine.tables.tasks import Attempt, SpawnOrigin, Task
    from raftflow.machine.tables.waits.waits import WaitRow
    from raftflow.machine.tables.workflows import Workflow

Transition = tuple[str, str, str, str, str, int, int, str]
"""The fields of `contract.AuditTransition`, which has the same encoding."""

_READY, _PARKED, _DONE = TaskState.READY, TaskState.PARKED, TaskState.SUCCEEDED

NOTES_MAX = 20
"""Notes in the detail of one audit record. Of the others their number is told."""

COALESCE_MIN = 1_000
"""From this many moves of tasks of one workflow on, one event reports all of them."""


class TransitionError(Exception):
    """A move that the table does not have: a bug in this package. It stops the replica."""


class _CompiledTransition:
    """A line of the transition table, with what follows from it computed in advance."""

    __slots__ = ("after", "opened", "readies", "unreadies", "words")

    def __init__(self, before: TaskState, event: TaskEvent, after: TaskState) -> None:
        self.after = after
        self.words = (before.name.lower(), event.name.lower(), after.name.lower())
        self.opened = (before in FINAL) - (after in FINAL)
        self.readies = after is _READY
        self.unreadies = before is _READY


_TABLE: list[list[_CompiledTransition | None]] = [
    [
        _CompiledTransition(before, event, TRANSITIONS[before, event]) if (before, event) in TRANSITIONS else None
        for event in TaskEvent
    ]
    for before in TaskState
]


class ApplyContext:
    """The state, the clock, and what the current entry has caused so far."""

    __slots__ = (
        "agents_changed",
        "budget",
        "clock_ms",
        "coalescing",
        "copying",
        "discarded",
        "events",
        "highest_need",
        "index",
        "level_max",
        "limits",
        "notes",
        "state",
        "transitions",
        "waits_due",
        "workflows_changed",
    )

    def __init__(self, state: State, level_max: int = LEVEL, limits: StepLimits = STEP_LIMITS) -> None:
        self.state = state
        self.limits = limits
        self.budget = limits.inline_max
        """Steps that the current command may still do."""
        self.level_max = level_max
        """The highest feature level that this replica understands. Replicas may differ in it, and in nothing else."""
        self.highest_need = highest_need()
        """The highest feature level that any command needs."""
        self.clock_ms = 0
        self.index = 0
        """Of the current entry."""
        self.copying: CopyOnWrite | None = None
        """The open snapshot."""
        self.discarded = Discarded()
        """What left the tables and is large."""
        self.transitions: list[Transition] = []
        """Of the current command."""
        self.notes: list[str] = []
        """What else the current command did, in words for the audit."""
        self.events: list[Event] = []
        self.coalescing: Workflow | None = None
        """A workflow of which many tasks move now, reported by one event: see `coalesce_events`."""
        self.waits_due: list[tuple[Workflow, Task]] = []
        """Tasks whose waits begin at the end of the current command: their documents say that they wait."""
        self.agents_changed: dict[str, None] = {}
        self.workflows_changed: dict[str, None] = {}

    def take_events(self) -> list[Event]:
        """Return the events of the entry, and forget them."""
        events = self.events
        events.extend([AgentChanged(name) for name in self.agents_changed])
        events.extend([WorkflowChanged(workflow_id) for workflow_id in self.workflows_changed])
        self.events = []
        self.agents_changed.clear()
        self.workflows_changed.clear()
        return events

    def spend(self, steps: int) -> bool:
        """Take steps from the budget of the command. False, and nothing is taken, if it has not as many."""
        if steps > self.budget:
            return False
        self.budget -= steps
        return True

    def finish_if_over(self, workflow: Workflow) -> None:
        """Finish a workflow if all its tasks have ended and nothing of it is on the agenda."""
        if workflow.open == 0 and not workflow.jobs and not workflow.finished_ms:
            _finish(self, workflow)

    def touch_task(self, workflow: Workflow, task: Task) -> None:
        """Call it before every change of a task other than a move."""
        if self.copying is not None:
            self.copying.before_task(workflow, task)

    def touch_workflow(self, workflow: Workflow) -> None:
        """Call it before every change of a workflow's own fields."""
        if self.copying is not None:
            self.copying.before_workflow(workflow)
        self.workflows_changed[workflow.id] = None

    def touch_agent(self, agent: Agent) -> None:
        """Call it before every change of an agent's own fields (its account and queue follow from its tasks)."""
        if self.copying is not None:
            self.copying.before_agent(agent)
        self.agents_changed[agent.name] = None

    def set_timer(self, workflow: Workflow, task: Task, due_ms: int, fence: int) -> None:
        """Add a timer, and tell the leader if it is now the earliest of those that still hold."""
        state = self.state
        earliest_ms = state.next_timer_ms
        state.timers.add(workflow, task, due_ms, fence)
        if earliest_ms is None or due_ms < earliest_ms:
            self.events.append(TimerSet(due_ms))
        state.timers.sweep(state.by_number)

    def set_agent_timer(self, agent: Agent, due_ms: int) -> None:
        """Set an agent's timer, and tell the leader if it is now the earliest of all."""
        state = self.state
        earliest_ms = state.next_timer_ms
        state.agent_timers.set(agent.name, due_ms)
        if earliest_ms is None or due_ms < earliest_ms:
            self.events.append(TimerSet(due_ms))


def move(
    step: ApplyContext, workflow: Workflow, task: Task, event: TaskEvent, attempt: Attempt | None = None
) -> None:
    """Let `event` happen to a task: the only way in which a task's state changes.

    `attempt` is the one that the event is about. Raises `TransitionError` if the table has no such transition.
    """
    row = _TABLE[task.state][event]
    if row is None:
        raise TransitionError(
            f"{workflow.id}/{task.id}: {event.name} cannot happen to a task that is {task.state.name}"
        )
    if step.copying is not None:
        step.copying.before_task(workflow, task)
    counts = workflow.counts
    counts[task.state] -= 1
    counts[row.after] += 1
    task.state = row.after
    before, name, after = row.words
    if attempt is None:
        step.transitions.append((workflow.id, task.id, before, name, after, 0, 0, ""))
    else:
        step.transitions.append(
            (workflow.id, task.id, before, name, after, attempt.number, attempt.fence, attempt.agent)
        )
    step.workflows_changed[workflow.id] = None
    if row.readies:
        if not workflow.held and workflow is not step.coalescing:
            step.events.append(TaskReady(workflow.id, task.position))
    elif row.unreadies and not workflow.held and workflow is not step.coalescing:
        step.events.append(TaskNotReady(workflow.id, task.position))
    if row.opened:
        workflow.open += row.opened
        if task.parking is not None and task.parking.open:
            _withdraw_waits(step, workflow, task, task.parking)
        if task.origin is not None:
            _tell_parent(step, workflow, task, task.origin, row.opened)
        if workflow.open == 0 and not workflow.jobs:
            _finish(step, workflow)


def _tell_parent(step: ApplyContext, workflow: Workflow, child: Task, origin: SpawnOrigin, opened: int) -> None:
    """Count a child that has ended (-1), or runs again (1). A parked parent that has nothing to wait for goes on."""
    parent = workflow.tasks[origin.parent]
    family = parent.family
    assert family is not None  # noqa: S101 - it has this child
    step.touch_task(workflow, parent)
    family.open += opened
    parking = parent.parking
    if parent.state is _PARKED and parking is not None and is_awaited(parking, child.position):
        parking.awaited_open += opened
        # A task of a workflow that is being stopped stays as it is until it is cancelled.
        over = not parking.awaited_open or parking.mode == "any"
        if not workflow.stop_pending and (over or (parking.mode == "succeeded" and child.state is not _DONE)):
            wake(step, workflow, parent)


def wake(step: ApplyContext, workflow: Workflow, task: Task) -> None:
    """Make a parked task ready: what it waited for has happened."""
    move(step, workflow, task, TaskEvent.WAIT_OVER)
    clear_awaits(task)


def parking_of(task: Task) -> Parking:
    """Return what a task waits for. The caller has kept the task as it was."""
    parking = task.parking
    if parking is None:
        parking = task.parking = Parking()
    return parking


def clear_awaits(task: Task) -> None:
    """Note that a task is not parked any more. It has moved before."""
    parking = task.parking
    if parking is None:
        return
    if parking.open or parking.idle_parks or parking.asked_ms:
        task.parking = Parking(open=parking.open, idle_parks=parking.idle_parks, asked_ms=parking.asked_ms)
    else:
        task.parking = None


def close_wait(step: ApplyContext, workflow: Workflow, task: Task, row: WaitRow, end: WaitEnd) -> None:
    """Take a wait from the open ones."""
    step.touch_task(workflow, task)
    step.state.waits.end(row, end)
    parking = parking_of(task)
    parking.open = tuple([number for number in parking.open if number != row.number])


def _withdraw_waits(step: ApplyContext, workflow: Workflow, task: Task, parking: Parking) -> None:
    """End the waits of a task that has ended without them."""
    waits = workflow.waits
    assert waits is not None  # noqa: S101 - it has these
    for number in parking.open:
        step.state.waits.end(waits.rows[number], WaitEnd("withdrawn", step.clock_ms))
    parking.open = ()
    clear_awaits(task)


@contextmanager
def coalesce_events(step: ApplyContext, workflow: Workflow, count: int, *, ready: bool) -> Iterator[None]:
    """Report about `count` moves of a workflow's tasks, to READY or from it, by one event if there are many.

    The event covers all ready tasks of the workflow, also those that were ready before.
    """
    if count < COALESCE_MIN or workflow.held:
        yield
        return
    step.coalescing = workflow
    try:
        yield
    finally:
        step.coalescing = None
    step.events.append(WorkflowReady(workflow.id) if ready else WorkflowNotReady(workflow.id))


def set_result(step: ApplyContext, workflow: Workflow, task: Task, result: bytes) -> None:
    """Give a task that has just succeeded its result."""
    task.result = result
    workflow.result_bytes += len(result)
    step.state.result_bytes += len(result)


def _finish(step: ApplyContext, workflow: Workflow) -> None:
    """Note that the last task of a workflow ended."""
    state = step.state
    step.touch_workflow(workflow)
    state.finished_number += 1
    workflow.finished_number = state.finished_number
    workflow.finished_ms = step.clock_ms
    workflow.paused = workflow.held = False
    state.finished[workflow.id] = workflow
    state.live_tasks -= len(workflow.tasks)
    step.events.append(Finished(workflow.id, workflow.state))
