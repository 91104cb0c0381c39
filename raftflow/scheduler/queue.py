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
    behind and skipped: an entry counts only while the queue's table has its serial number.
    """

    __slots__ = ("_front", "_heap", "size")

    def __init__(self) -> None:
        self._front: list[_Entry] = []
        self._heap: list[_Entry] = []
        self.size = 0

    def add(self, task: ReadyTask, serial: int) -> None:
        entry = (order_key(task), serial, task)
        if self._front and entry < self._front[-1]:
            insort(self._front, entry)
        else:
            heappush(self._heap, entry)
        self.size += 1

    def first(self, limit: int, serials: dict[TaskKey, int], held: dict[TaskKey, None]) -> list[ReadyTask]:
        """Return up to `limit` tasks that are neither removed nor held, in order."""
        shown = []
        kept = []
        place = 0
        for place, entry in enumerate(self._front):  # noqa: B007 - where the walk ended is wanted below
            _, serial, task = entry
            identity = (task.workflow_id, task.task)
            if serials.get(identity) == serial:
                kept.append(entry)
                if identity not in held:
                    shown.append(task)
                    if len(shown) == limit:
                        break
        self._front[: place + 1] = kept
        heap = self._heap
        while heap and len(shown) < limit:
            entry = heappop(heap)
            _, serial, task = entry
            identity = (task.workflow_id, task.task)
            if serials.get(identity) == serial:
                self._front.append(entry)
                if identity not in held:
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
    """Ready tasks by shape. Adding and removing cost O(log n)."""

    def __init__(self) -> None:
        self._lanes: dict[_LaneKey, _Lane] = {}
        self._lane_of: dict[TaskKey, _LaneKey] = {}
        self._serials: dict[TaskKey, int] = {}
        self._held: dict[TaskKey, None] = {}
        self._serial = 0

    def __len__(self) -> int:
        """Count the tasks, held ones included."""
        return len(self._serials)

    def __contains__(self, key: TaskKey) -> bool:
        return key in self._serials

    @property
    def shapes(self) -> int:
        """How many different shapes wait, counted anew for each workflow that limits itself."""
        return len(self._lanes)

    def add(self, task: ReadyTask) -> None:
        """Add a task that became ready. One that is there already is left as it is."""
        key = (task.workflow_id, task.task)
        if key in self._serials:
            return
        self._serial += 1
        self._serials[key] = self._serial
        # A workflow that limits itself has lanes of its own: what it may not start must not stand before others.
        lane_key = self._lane_of[key] = (task.shape, task.workflow_id if task.limited else "")
        lane = self._lanes.get(lane_key)
        if lane is None:
            lane = self._lanes[lane_key] = _Lane()
        lane.add(task, self._serial)

    def discard(self, workflow_id: str, task: int) -> None:
        """Remove a task that is no longer ready, if it is there."""
        key = (workflow_id, task)
        if self._serials.pop(key, None) is None:
            return
        self._held.pop(key, None)
        lane_key = self._lane_of.pop(key)
        lane = self._lanes[lane_key]
        lane.size -= 1
        if lane.size == 0:
            del self._lanes[lane_key]

    def dissolve(self, count: int) -> bool:
        """Free up to `count` entries of a queue that is not used any more. False once nothing is left.

        Freeing a million tasks at once would take a second.
        """
        for table in (self._serials, self._lane_of):
            taken = min(count, len(table))
            for _ in range(taken):
                table.popitem()
            count -= taken
        while count > 0 and self._lanes:
            key, lane = next(iter(self._lanes.items()))
            taken = lane.dissolve(count)
            if not taken:
                del self._lanes[key]
            count -= max(1, taken)
        return bool(self._serials or self._lane_of or self._lanes)

    def limited(self) -> list[str]:
        """Return the workflows that limit how many of their tasks are under way, of those with ready tasks."""
        return list(dict.fromkeys(workflow_id for _, workflow_id in self._lanes if workflow_id))

    def hold(self, keys: Iterable[TaskKey]) -> None:
        """Hide tasks that were proposed, until `let_go`."""
        for key in keys:
            if key in self._serials:
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
            tasks = lane.first(most, self._serials, self._held) if most > 0 else []
            if tasks:
                found.setdefault(shape, []).append(tasks)
        groups = []
        for shape, lists in found.items():
            tasks = lists[0] if len(lists) == 1 else sorted(chain.from_iterable(lists), key=order_key)[:limit]
            groups.append(Group(shape=shape, tasks=tuple(tasks)))
        groups.sort(key=lambda group: order_key(group.tasks[0]))
        return tuple(groups)
