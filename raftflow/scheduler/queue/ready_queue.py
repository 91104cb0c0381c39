"""The leader's ready tasks, grouped by shape, each group in the order in which its tasks should run.

A decision then costs per shape and not per task: tasks of one shape fit on the same agents. The queue mirrors what
the machine holds as ready; it is filled workflow by workflow when a replica becomes leader, and follows the
events from then on.
"""

from __future__ import annotations

from collections.abc import Mapping
from operator import itemgetter

from raftflow.domain.tasks.feasibility import ReadyTask, Shape
from raftflow.domain.values.rates import Rates
from raftflow.scheduler.order import OrderKey, workflow_order
from raftflow.scheduler.queue.workflow_queues import Entry, WaitingWorkflow, WorkflowQueues, cut
from raftflow.scheduler.view import NO_BUDGETS, Group

TaskKey = tuple[str, int]
"""Workflow id and position."""
_LaneKey = tuple[Shape, str, Rates]
"""Shape, the workflow if it limits itself, else empty, and what is taken of rate limits."""
_FREED_AT_ONCE = 1_000
"""Entries that may be freed in one go."""


class ReadyQueue:
    """Ready tasks by shape. Adding and removing cost O(log n).

    There may be a million. The garbage collector does not track their entries. No table holds all of them, because
    it would be copied when it grows. They are freed in steps, because a million at once takes a tenth of a second.
    """

    def __init__(self) -> None:
        self.now_ms = 0
        """The cluster's time, which the owner keeps up to date: turns end by it."""
        self._lanes: dict[_LaneKey, WorkflowQueues] = {}
        self._table: dict[str, WaitingWorkflow] = {}
        self._serial = 0
        self._size = 0
        self._turns = 0
        """How many turns have ended."""
        self._refuse: list[list[Entry]] = []

    def __len__(self) -> int:
        """Count the tasks."""
        return self._size

    def __contains__(self, key: TaskKey) -> bool:
        workflow = self._table.get(key[0])
        return workflow is not None and key[1] in workflow.entries

    @property
    def shapes(self) -> int:
        """How many different shapes wait; each workflow that limits itself has its own."""
        return len(self._lanes)

    def add(self, task: ReadyTask) -> None:
        """Add a task that became ready. One that is there already is left as it is."""
        workflow = self._table.get(task.workflow_id)
        if workflow is None:
            order = workflow_order(task.age, task.priority)
            workflow = self._table[task.workflow_id] = WaitingWorkflow(task.priority, order, self._turns)
        elif task.task in workflow.entries:
            return
        self._serial += 1
        self._size += 1
        entry = (0 if task.lost else 1, -task.rank, task.task, self._serial, task)
        workflow.entries[task.task] = entry
        lane_key = _lane_key(task)
        lane = self._lanes.get(lane_key)
        if lane is None:
            lane = self._lanes[lane_key] = WorkflowQueues()
        lane.add(entry, workflow)

    def discard(self, workflow_id: str, task: int) -> None:
        """Remove a task that is no longer ready, if it is there. That counts as a part of its workflow's turn."""
        workflow = self._table.get(workflow_id)
        entry = None if workflow is None else workflow.entries.pop(task, None)
        if workflow is None or entry is None:
            return
        self._size -= 1
        if workflow.serve(self.now_ms, self._turns + 1):
            self._turns += 1
        if not workflow.entries:
            del self._table[workflow_id]
        lane_key = _lane_key(entry[4])
        lane = self._lanes[lane_key]
        refuse = lane.discard(entry)
        if len(refuse) > _FREED_AT_ONCE:
            self._refuse.append(refuse)
        if not len(lane):
            del self._lanes[lane_key]

    @property
    def untidy(self) -> bool:
        """True while `tidy` has something to do."""
        return bool(self._refuse)

    def tidy(self, count: int) -> int:
        """Free up to `count` entries of tasks that left earlier. Returns how much of `count` is left."""
        while count > 0 and self._refuse:
            taken = cut(self._refuse[-1], count)
            if not taken:
                self._refuse.pop()
            count -= max(1, taken)
        return count

    def dissolve(self, count: int) -> bool:
        """Free up to `count` entries of a queue that is not used any more. False once nothing is left."""
        count = self.tidy(count)
        while count > 0 and self._table:
            workflow_id, workflow = self._table.popitem()
            taken = min(count, len(workflow.entries))
            for _ in range(taken):
                workflow.entries.popitem()
            if workflow.entries:
                self._table[workflow_id] = workflow
            count -= taken
        while count > 0 and self._lanes:
            lane_key, lane = self._lanes.popitem()
            taken = lane.dissolve(count)
            if taken:
                self._lanes[lane_key] = lane
            count -= max(1, taken)
        return bool(self._refuse or self._table or self._lanes)

    def limited(self) -> list[str]:
        """Return the workflows that limit how many of their tasks are under way, of those with ready tasks."""
        return list(dict.fromkeys(workflow_id for _, workflow_id, _ in self._lanes if workflow_id))

    def rates(self) -> list[Rates]:
        """Return what the ready tasks take of rate limits, without those that take nothing."""
        return list(dict.fromkeys(rates for _, _, rates in self._lanes if rates))

    def groups(
        self, limit: int, budgets: Mapping[str, int] = NO_BUDGETS, rate_units: Mapping[str, int] = NO_BUDGETS
    ) -> tuple[Group, ...]:
        """Return every shape with the first `limit` of its tasks, shapes in order of their first task.

        `budgets` says how many tasks each workflow that limits itself may start, `rate_units` what rate limits have;
        no more tasks than that are shown.
        """
        found: dict[Shape, list[tuple[OrderKey, ReadyTask]]] = {}
        several: dict[Shape, None] = {}
        for (shape, workflow_id, rates), lane in self._lanes.items():
            most = min(limit, budgets.get(workflow_id, limit)) if workflow_id else limit
            for name, count in rates:
                most = min(most, rate_units.get(name, 0) // count)
            first = lane.first(most)
            if not first:
                continue
            if shape in found:
                found[shape] += first
                several[shape] = None
            else:
                found[shape] = first
        for shape in several:
            found[shape] = sorted(found[shape], key=itemgetter(0))[:limit]
        groups = [
            Group(shape=shape, keys=tuple([key for key, _ in tasks]), tasks=tuple([task for _, task in tasks]))
            for shape, tasks in found.items()
        ]
        groups.sort(key=lambda group: group.keys[0])
        return tuple(groups)


def _lane_key(task: ReadyTask) -> _LaneKey:
    # A workflow that limits itself has lanes of its own, and so have tasks that take of rate limits: those that may
    # not start must not block others.
    return task.shape, task.workflow_id if task.limited else "", task.rates
