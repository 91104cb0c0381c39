"""The leader's ready tasks, grouped by shape, each group in the order in which its tasks should run.

A decision then costs per shape and not per task: tasks of one shape fit on the same agents. The queue mirrors what
the machine holds as ready; it is filled workflow by workflow when a replica becomes leader, and follows the
events from then on. A task that was proposed and not yet decided is *held*: it stays in the queue and is not shown.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterable, Mapping
from heapq import heappop, heappush
from itertools import chain

from raftflow.domain.rooms import ReadyTask, Shape
from raftflow.scheduler.view import NO_BUDGETS, Group

TaskKey = tuple[str, int]
"""Workflow id and position."""
_LaneKey = tuple[Shape, str]
"""Shape, and the workflow if it limits itself, else empty."""

OrderKey = tuple[int, int, int, int, int]
"""See `order_key`."""
_Entry = tuple[OrderKey, int, ReadyTask]
"""A task under its key and its serial number, which settles every comparison."""
_Table = dict[str, dict[int, _Entry]]
"""Entries by workflow and position."""
_NOBODY: dict[int, _Entry] = {}

POINTS_PER_AGE_STEP = 5
"""Priority that a workflow gains over later ones with each `AGE_STEP_MS` that it is older."""


def order_key(task: ReadyTask) -> OrderKey:
    """Sort by what was lost first, then priority with ageing, then rank, then submission, then position.

    A workflow gains priority over those that come after it, a point a minute, so that nothing waits for ever behind
    a stream of more urgent work; that needs no clock, for both of any two get older alike. Inside a workflow what was
    lost goes first, and rank decides alone.
    """
    return (
        0 if task.lost else 1,
        workflow_order(task.age, task.priority),
        -task.rank,
        task.number,
        task.task,
    )


def workflow_order(age: int, priority: int) -> int:
    """Sort workflows by priority with ageing; `age` is when one was submitted, in steps of `AGE_STEP_MS`."""
    return age * POINTS_PER_AGE_STEP - priority


class _Lane:
    """The tasks of one shape.

    `_front` is the sorted beginning of the order, `_heap` has the rest. Showing the first n moves what is missing
    from the heap to the front, where it stays, so an unchanged queue is not sorted again. Removed entries are left
    behind and skipped: an entry counts only while it is the one in the queue's table.
    """

    __slots__ = ("_front", "_heap", "size")

    def __init__(self) -> None:
        self._front: list[_Entry] = []
        self._heap: list[_Entry] = []
        self.size = 0

    def add(self, entry: _Entry) -> None:
        if self._front and entry < self._front[-1]:
            insort(self._front, entry)
        else:
            heappush(self._heap, entry)
        self.size += 1

    def first(self, limit: int, table: _Table, held: dict[TaskKey, None]) -> list[ReadyTask]:
        """Return up to `limit` tasks that are neither removed nor held, in order."""
        shown = []
        kept = []
        place = 0
        for place, entry in enumerate(self._front):  # noqa: B007 - where the walk ended is wanted below
            task = entry[2]
            if table.get(task.workflow_id, _NOBODY).get(task.task) is entry:
                kept.append(entry)
                if (task.workflow_id, task.task) not in held:
                    shown.append(task)
                    if len(shown) == limit:
                        break
        self._front[: place + 1] = kept
        heap = self._heap
        while heap and len(shown) < limit:
            entry = heappop(heap)
            task = entry[2]
            if table.get(task.workflow_id, _NOBODY).get(task.task) is entry:
                self._front.append(entry)
                if (task.workflow_id, task.task) not in held:
                    shown.append(task)
        if len(self._front) > 4 * limit + 64:
            for entry in self._front[2 * limit :]:
                heappush(heap, entry)
            del self._front[2 * limit :]
        return shown

    def dissolve(self, count: int) -> int:
        """Free up to `count` entries; returns how many."""
        entries = self._front or self._heap
        taken = min(count, len(entries))
        if taken:
            del entries[-taken:]
        return taken


class ReadyQueue:
    """Ready tasks by shape. Adding and removing cost O(log n).

    There may be a million: what is kept for each is out of the garbage collector's sight, and no table has all of
    them, for it would have to be copied to grow.
    """

    def __init__(self) -> None:
        self._lanes: dict[_LaneKey, _Lane] = {}
        self._table: _Table = {}
        self._held: dict[TaskKey, None] = {}
        self._serial = 0
        self._size = 0

    def __len__(self) -> int:
        """Count the tasks, held ones included."""
        return self._size

    def __contains__(self, key: TaskKey) -> bool:
        return key[1] in self._table.get(key[0], _NOBODY)

    @property
    def shapes(self) -> int:
        """How many different shapes wait, counted anew for each workflow that limits itself."""
        return len(self._lanes)

    def add(self, task: ReadyTask) -> None:
        """Add a task that became ready. One that is there already is left as it is."""
        entries = self._table.get(task.workflow_id)
        if entries is None:
            entries = self._table[task.workflow_id] = {}
        elif task.task in entries:
            return
        self._serial += 1
        self._size += 1
        entry = entries[task.task] = (order_key(task), self._serial, task)
        lane_key = _lane_key(task)
        lane = self._lanes.get(lane_key)
        if lane is None:
            lane = self._lanes[lane_key] = _Lane()
        lane.add(entry)

    def discard(self, workflow_id: str, task: int) -> None:
        """Remove a task that is no longer ready, if it is there."""
        entries = self._table.get(workflow_id)
        entry = None if entries is None else entries.pop(task, None)
        if entry is None:
            return
        if not entries:
            del self._table[workflow_id]
        self._size -= 1
        self._held.pop((workflow_id, task), None)
        lane_key = _lane_key(entry[2])
        lane = self._lanes[lane_key]
        lane.size -= 1
        if lane.size == 0:
            del self._lanes[lane_key]

    def dissolve(self, count: int) -> bool:
        """Free up to `count` entries of a queue that is not used any more. False once nothing is left.

        Freeing a million tasks at once would take a second.
        """
        while count > 0 and self._table:
            workflow_id, entries = next(iter(self._table.items()))
            taken = min(count, len(entries))
            for _ in range(taken):
                entries.popitem()
            if not entries:
                del self._table[workflow_id]
            count -= taken
        while count > 0 and self._lanes:
            key, lane = next(iter(self._lanes.items()))
            taken = lane.dissolve(count)
            if not taken:
                del self._lanes[key]
            count -= max(1, taken)
        return bool(self._table or self._lanes)

    def limited(self) -> list[str]:
        """Return the workflows that limit how many of their tasks are under way, of those with ready tasks."""
        return list(dict.fromkeys(workflow_id for _, workflow_id in self._lanes if workflow_id))

    def hold(self, keys: Iterable[TaskKey]) -> None:
        """Hide tasks that were proposed, until `let_go`."""
        for key in keys:
            if key in self:
                self._held[key] = None

    def let_go(self, keys: Iterable[TaskKey]) -> None:
        """Show tasks again whose proposal was decided. Those that were placed have left the queue by their event."""
        for key in keys:
            self._held.pop(key, None)

    def groups(self, limit: int, budgets: Mapping[str, int] = NO_BUDGETS) -> tuple[Group, ...]:
        """Return every shape with the first `limit` of its tasks, shapes in order of their first task.

        `budgets` says how many tasks each workflow that limits itself may start; no more of each shape are shown.
        """
        found: dict[Shape, list[list[ReadyTask]]] = {}
        for (shape, workflow_id), lane in self._lanes.items():
            most = min(limit, budgets.get(workflow_id, limit)) if workflow_id else limit
            tasks = lane.first(most, self._table, self._held) if most > 0 else []
            if tasks:
                found.setdefault(shape, []).append(tasks)
        groups = []
        for shape, lists in found.items():
            tasks = lists[0] if len(lists) == 1 else sorted(chain.from_iterable(lists), key=order_key)[:limit]
            groups.append(Group(shape=shape, tasks=tuple(tasks)))
        groups.sort(key=lambda group: order_key(group.tasks[0]))
        return tuple(groups)


def _lane_key(task: ReadyTask) -> _LaneKey:
    # A workflow that limits itself has lanes of its own: what it may not start must not stand before others.
    return task.shape, task.workflow_id if task.limited else ""
