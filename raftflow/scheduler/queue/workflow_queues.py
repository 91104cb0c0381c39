"""The ready tasks of one shape, by workflow.

`WaitingWorkflow` is a workflow, `WorkflowQueue` its tasks, `WorkflowQueues` those of all.

Inside a workflow the order never changes. Between workflows it does, each time that a turn ends, so the queue of
a workflow moves as a whole and its tasks keep their places in it.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from heapq import heapify, heappop, heappush, heapreplace

import msgspec

from raftflow.domain.tasks.feasibility import AGE_STEP_MS, ReadyTask
from raftflow.scheduler.order import OrderKey, order_key, workflow_order

Entry = tuple[int, int, int, int, ReadyTask]
"""A task in the order inside its workflow: lost first, then rank, then position. The serial number behind them
settles every comparison."""

TURN_TASKS = 1_000
"""Tasks that leave the queue in one turn."""
TURN_MS = 300_000
"""How long a turn lasts at most, in ms. It ends with the next task that leaves the queue."""
TURN_QUICK_MS = 500
TURN_QUICK_PER_S = 100
"""A turn in which so many tasks a second leave the queue is over after `TURN_QUICK_MS`, because the next
workflow would wait for seconds otherwise. Slower turns stay long, because short turns cost makespan."""
_NOT_BEGUN = -1
_SLACK = 64


def cut(items: list[Entry] | list[_Place], count: int) -> int:
    """Remove up to `count` items from the end; returns how many."""
    taken = min(count, len(items))
    if taken > 0:
        del items[-taken:]
    return taken


class WaitingWorkflow(msgspec.Struct, gc=False):
    """A workflow with ready tasks, and its turn.

    Workflows of one priority take turns, so that a small one does not wait until a large one is done. A turn ends
    after `TURN_TASKS` tasks or `TURN_MS`, and after `TURN_QUICK_MS` if tasks are short. Then the workflow stands
    behind all of its priority that have not had a turn since, and is as young as if it had been submitted now: it
    had gained priority by waiting, and its wait is over.
    """

    priority: int
    order: int
    """`workflow_order` since its submission or the end of its last turn."""
    turn: int
    """How many turns of any workflow had ended when it was added, or when its own last turn ended."""
    entries: dict[int, Entry] = msgspec.field(default_factory=dict)
    """Its tasks, by position."""
    begun_ms: int = _NOT_BEGUN
    served: int = 0

    def serve(self, now_ms: int, turns: int) -> bool:
        """Note that a task has left the queue. True if that ends the turn, which is the one of number `turns`."""
        if self.begun_ms == _NOT_BEGUN:
            self.begun_ms = now_ms
        self.served += 1
        took_ms = now_ms - self.begun_ms
        quick = took_ms >= TURN_QUICK_MS and self.served * 1_000 >= took_ms * TURN_QUICK_PER_S
        if self.served < TURN_TASKS and took_ms < TURN_MS and not quick:
            return False
        self.turn = turns
        self.order = max(self.order, workflow_order(now_ms // AGE_STEP_MS, self.priority))
        self.begun_ms = _NOT_BEGUN
        self.served = 0
        return True


class WorkflowQueue(msgspec.Struct, gc=False):
    """The tasks of one workflow, in order.

    `front` is the sorted beginning, without what has left the queue. `heap` has the rest, where what has left is
    skipped when it comes up: an entry counts only while it is the one in the workflow's table.
    """

    workflow: WaitingWorkflow
    front: list[Entry] = msgspec.field(default_factory=list)
    heap: list[Entry] = msgspec.field(default_factory=list)
    size: int = 0
    mark: int = 0
    """Number of its place in the order of the queues. Places with another number are stale."""

    def add(self, entry: Entry) -> bool:
        """Add a task. True if it may be the first one now."""
        self.size += 1
        if self.front and entry < self.front[-1]:
            insort(self.front, entry)
            return self.front[0] is entry
        heappush(self.heap, entry)
        return not self.front and self.heap[0] is entry

    def discard(self, entry: Entry) -> None:
        """Remove a task that is in it, and no longer in the workflow's table."""
        self.size -= 1
        if self.front and entry <= self.front[-1]:
            del self.front[bisect_left(self.front, entry)]

    def at(self, index: int) -> Entry | None:
        """Return the task at an index of at most the length of the front, None behind the last one."""
        if index < len(self.front):
            return self.front[index]
        entries = self.workflow.entries
        self._drop_departed()
        while self.heap:
            entry = heappop(self.heap)
            if entries.get(entry[2]) is entry:
                self.front.append(entry)
                return entry
        return None

    def _drop_departed(self) -> None:
        """Make the heap again if much of it has left the queue: that is quicker than to skip it."""
        departed = len(self.heap) - (self.size - len(self.front))
        if departed > _SLACK and 4 * departed > len(self.heap):
            entries = self.workflow.entries
            self.heap = [entry for entry in self.heap if entries.get(entry[2]) is entry]
            heapify(self.heap)

    def trim(self, length: int) -> None:
        """Return entries to the heap if the front is much longer than `length`."""
        if len(self.front) > 4 * length + _SLACK:
            for entry in self.front[2 * length :]:
                heappush(self.heap, entry)
            del self.front[2 * length :]

    def key_of(self, entry: Entry) -> OrderKey:
        """Return the key of one of its tasks as of now."""
        return order_key(entry[4], self.workflow.order, self.workflow.turn)


_Place = tuple[OrderKey, int, WorkflowQueue]
"""The place of a workflow's queue: the key that its first task had, and its mark."""


class WorkflowQueues:
    """The tasks of one shape. Adding and removing cost O(log n).

    The key of a queue grows when its first task leaves and when its workflow's turn ends. The place is not updated
    then: it comes up too early, and is corrected at that time.
    """

    __slots__ = ("_by_workflow", "_marks", "_order")

    def __init__(self) -> None:
        self._by_workflow: dict[str, WorkflowQueue] = {}
        self._order: list[_Place] = []
        self._marks = 0

    def __len__(self) -> int:
        """Count the workflows."""
        return len(self._by_workflow)

    def add(self, entry: Entry, workflow: WaitingWorkflow) -> None:
        """Add a task."""
        name = entry[4].workflow_id
        queue = self._by_workflow.get(name)
        if queue is None:
            queue = self._by_workflow[name] = WorkflowQueue(workflow)
        if queue.add(entry):
            self._marks += 1
            queue.mark = self._marks
            heappush(self._order, (queue.key_of(entry), queue.mark, queue))
            if len(self._order) > 2 * len(self._by_workflow) + _SLACK:
                self._order = [place for place in self._order if place[2].size and place[2].mark == place[1]]
                heapify(self._order)

    def discard(self, entry: Entry) -> list[Entry]:
        """Remove a task that is in it. Returns entries that are no longer used, to be freed in steps."""
        name = entry[4].workflow_id
        queue = self._by_workflow[name]
        queue.discard(entry)
        if queue.size:
            return []
        del self._by_workflow[name]
        left, queue.heap = queue.heap, []
        return left

    def first(self, limit: int) -> list[tuple[OrderKey, ReadyTask]]:
        """Return the first `limit` tasks in order, each behind its key."""
        shown: list[tuple[OrderKey, ReadyTask]] = []
        order = self._order
        taken: list[_Place] = []
        under_way: list[tuple[OrderKey, int, WorkflowQueue, int]] = []
        """A heap of queues of which some tasks are in the result: the key of their next task, and its index."""
        while len(shown) < limit:
            self._correct_front()
            if under_way and (not order or under_way[0][0] < order[0][0]):
                _, mark, queue, index = heappop(under_way)
            elif order:
                taken.append(order[0])
                _, mark, queue = heappop(order)
                index = 0
            else:
                break
            bound = min([heap[0][0] for heap in (order, under_way) if heap], default=None)
            while len(shown) < limit and (entry := queue.at(index)) is not None:
                key = queue.key_of(entry)
                if bound is not None and bound < key:
                    heappush(under_way, (key, mark, queue, index))
                    break
                shown.append((key, entry[4]))
                index += 1
        for place in taken:
            place[2].trim(limit)
            heappush(order, place)
        return shown

    def _correct_front(self) -> None:
        """Remove stale places from the front, and give the first valid one its present key.

        The result would be correct without the key, but the queue would come up too early again and again.
        """
        order = self._order
        while order:
            key, mark, queue = order[0]
            first = queue.at(0) if queue.mark == mark else None
            if first is None:
                heappop(order)
                continue
            true_key = queue.key_of(first)
            if true_key == key:
                return
            heapreplace(order, (true_key, mark, queue))

    def dissolve(self, count: int) -> int:
        """Free up to `count` entries; returns how many, 0 once nothing is left."""
        freed = cut(self._order, count)
        while freed < count and self._by_workflow:
            name, queue = self._by_workflow.popitem()
            entries = queue.front or queue.heap
            if entries:
                self._by_workflow[name] = queue
            freed += max(1, cut(entries, count - freed))
        return freed
