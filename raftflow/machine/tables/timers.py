"""Timers of tasks (ends of back-offs and waits, deadlines of attempts) and of agents (ends of drains, quarantines).

Nothing here is state of its own: every timer follows from a task (`due_ms` while it is delayed, the deadline of its
running attempt), from an open wait, or from an agent, so a restored machine builds the same ones. The heap is allowed
to hold timers that no longer hold; they are recognised by asking the task, and dropped when they come up.
"""

from __future__ import annotations

from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING

from raftflow.domain.tasks.states import TaskState

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from raftflow.machine.tables.tasks import Task
    from raftflow.machine.tables.workflows import Workflow

BACKOFF = 0
"""Instead of a fence: the timer is the end of a back-off."""

_SWEEP_MIN = 1_024
_SLACK = 64

Timer = tuple[int, int, int, int]
"""Due time in ms, number of the workflow, position of the task, fence of the attempt or `BACKOFF`. For the end of a
wait its number, negative, is in place of a fence."""


def is_current(workflow: Workflow, task: Task, due_ms: int, fence: int) -> bool:
    """Tell whether a timer of this task still means something."""
    if fence == BACKOFF:
        return task.state is TaskState.DELAYED and task.due_ms == due_ms
    if fence < 0:
        row = None if workflow.waits is None else workflow.waits.rows.get(-fence)
        return row is not None and row.end is None and row.deadline_ms == due_ms
    if task.state is not TaskState.RUNNING:
        return False
    last, backup = task.last, task.backup
    return (last is not None and last.fence == fence) or (backup is not None and backup.fence == fence)


class Timers:
    """A heap of timers in the order (due time, workflow, task, fence)."""

    def __init__(self) -> None:
        self._heap: list[Timer] = []
        self._swept_size = 0

    def __len__(self) -> int:
        """Count them, those that no longer hold included."""
        return len(self._heap)

    def __iter__(self) -> Iterator[Timer]:
        """In no order."""
        return iter(self._heap)

    def add(self, workflow: Workflow, task: Task, due_ms: int, fence: int) -> None:
        """Add a timer."""
        heappush(self._heap, (due_ms, workflow.number, task.position, fence))

    def next_due_ms(self, workflows: Mapping[int, Workflow]) -> int | None:
        """Return when the earliest timer that still holds is due."""
        heap = self._heap
        while heap:
            due_ms, number, position, fence = heap[0]
            workflow = workflows.get(number)
            if workflow is not None and is_current(workflow, workflow.tasks[position], due_ms, fence):
                return due_ms
            heappop(heap)
        return None

    def pop_due(self, workflows: Mapping[int, Workflow], now_ms: int) -> tuple[Workflow, Task, int] | None:
        """Take the earliest timer that holds and is due: its workflow, its task, and its fence as in `Timer`."""
        due_ms = self.next_due_ms(workflows)
        if due_ms is None or due_ms > now_ms:
            return None
        _, number, position, fence = heappop(self._heap)
        workflow = workflows[number]
        return workflow, workflow.tasks[position], fence

    def sweep(self, workflows: Mapping[int, Workflow]) -> None:
        """Drop timers that no longer hold once they may be the most: attempts that ended long before a deadline."""
        if len(self._heap) < _SWEEP_MIN or len(self._heap) < 2 * self._swept_size:
            return
        kept = []
        for timer in self._heap:
            due_ms, number, position, fence = timer
            workflow = workflows.get(number)
            if workflow is not None and is_current(workflow, workflow.tasks[position], due_ms, fence):
                kept.append(timer)
        heapify(kept)
        self._heap = kept
        self._swept_size = max(len(kept), _SWEEP_MIN // 2)


class AgentTimers:
    """Due times in ms by agent, at most one for each, earliest first; ties in order of the names.

    The heap may hold timers that were set again or cleared since: the table tells which ones count.
    """

    def __init__(self) -> None:
        self._due_ms: dict[str, int] = {}
        self._heap: list[tuple[int, str]] = []

    def set(self, name: str, due_ms: int) -> None:
        """Set an agent's timer, in place of the one that it has."""
        self._due_ms[name] = due_ms
        heappush(self._heap, (due_ms, name))
        if len(self._heap) > 2 * len(self._due_ms) + _SLACK:
            self._heap = [(due_ms, name) for name, due_ms in self._due_ms.items()]
            heapify(self._heap)

    def clear(self, name: str) -> None:
        """Drop an agent's timer, if it has one."""
        self._due_ms.pop(name, None)

    def by_name(self) -> dict[str, int]:
        """Return all of them, for checks."""
        return dict(self._due_ms)

    def next_due_ms(self) -> int | None:
        """Return when the earliest is due, None without one."""
        heap = self._heap
        while heap:
            due_ms, name = heap[0]
            if self._due_ms.get(name) == due_ms:
                return due_ms
            heappop(heap)
        return None

    def pop_due(self, now_ms: int) -> str | None:
        """Take the earliest one that is due and return its agent's name, None if none is due."""
        due_ms = self.next_due_ms()
        if due_ms is None or due_ms > now_ms:
            return None
        _, name = heappop(self._heap)
        del self._due_ms[name]
        return name
