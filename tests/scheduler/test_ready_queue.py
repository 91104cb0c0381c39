"""The ready queue: groups by shape, in order, with tasks that come and go, and workflows that take turns."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable
from typing import Any
from unittest.mock import patch

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from raftflow.domain.tasks.feasibility import AGE_STEP_MS, ReadyTask, Shape, shape_of
from raftflow.scheduler.order import OrderKey, order_key
from raftflow.scheduler.queue import workflow_queues
from raftflow.scheduler.queue.ready_queue import ReadyQueue
from raftflow.scheduler.queue.workflow_queues import TURN_MS, TURN_QUICK_MS, TURN_TASKS


def ready(task: int, *, cpu: int = 1, priority: int = 50, rank: int = 0, workflow: int = 1) -> ReadyTask:
    return ReadyTask(
        workflow_id=f"wf-{workflow}",
        task=task,
        shape=shape_of({"cpu": cpu}, {}),
        priority=priority,
        rank=rank,
        number=workflow,
    )


def shown(queue: ReadyQueue, limit: int = 100) -> list[list[tuple[str, int]]]:
    return [[(task.workflow_id, task.task) for task in group.tasks] for group in queue.groups(limit)]


def test_order_is_priority_then_rank_then_submission_then_position():
    queue = ReadyQueue()
    for task in (
        ready(2),
        ready(1),
        ready(0, workflow=2),
        ready(3, rank=5),
        ready(4, workflow=3, priority=60),
        ready(5, workflow=3, priority=60, rank=1),
        ready(6, workflow=2, rank=3),
    ):
        queue.add(task)
    assert shown(queue) == [
        [("wf-3", 5), ("wf-3", 4), ("wf-1", 3), ("wf-2", 6), ("wf-1", 1), ("wf-1", 2), ("wf-2", 0)]
    ]
    assert shown(queue, 2) == [[("wf-3", 5), ("wf-3", 4)]]


def test_groups_are_by_shape_and_in_order_of_their_first():
    queue = ReadyQueue()
    queue.add(ready(0, cpu=1))
    queue.add(ready(1, cpu=2, rank=1))
    queue.add(ready(2, cpu=1, rank=2))
    assert shown(queue) == [[("wf-1", 2), ("wf-1", 0)], [("wf-1", 1)]]
    assert queue.shapes == 2
    queue.discard("wf-1", 1)
    assert (queue.shapes, len(queue)) == (1, 2)


def test_a_task_is_there_once():
    queue = ReadyQueue()
    queue.add(ready(0))
    queue.add(ready(0))
    assert len(queue) == 1
    queue.discard("wf-1", 0)
    queue.discard("wf-1", 0)
    assert ("wf-1", 0) not in queue
    queue.add(ready(0, rank=3))
    assert queue.groups(9)[0].tasks[0].rank == 3


def test_what_left_before_it_was_shown_is_never_shown() -> None:
    queue = ReadyQueue()
    for number in range(3):
        queue.add(ready(number))
    queue.discard("wf-1", 0)
    assert shown(queue, 1) == [[("wf-1", 1)]]
    queue.discard("wf-1", 2)
    assert shown(queue) == [[("wf-1", 1)]]


# --- turns


def leave(queue: ReadyQueue, workflow: int, tasks: Iterable[int]) -> None:
    for task in tasks:
        queue.discard(f"wf-{workflow}", task)


def first_of(queue: ReadyQueue) -> str:
    return queue.groups(1)[0].tasks[0].workflow_id


def test_one_task_does_not_wait_behind_a_million_that_came_before_it():
    queue = ReadyQueue()
    for task in range(3 * TURN_TASKS):
        queue.add(ready(task, rank=9))
    leave(queue, 1, range(10))
    queue.add(ready(0, workflow=2))
    leave(queue, 1, range(10, TURN_TASKS - 1))
    assert first_of(queue) == "wf-1"
    leave(queue, 1, [TURN_TASKS - 1])
    assert shown(queue, 2) == [[("wf-2", 0), ("wf-1", TURN_TASKS)]]


def test_a_stream_of_small_workflows_does_not_keep_a_large_one_from_its_turn():
    queue = ReadyQueue()
    for task in range(3 * TURN_TASKS):
        queue.add(ready(task))
    leave(queue, 1, range(TURN_TASKS))
    queue.add(ready(0, workflow=2))  # after its first turn: neither has had one since
    assert shown(queue, 2) == [[("wf-1", TURN_TASKS), ("wf-1", TURN_TASKS + 1)]]


def test_large_workflows_take_turns():
    queue = ReadyQueue()
    for workflow in (1, 2, 3):
        for task in range(2 * TURN_TASKS):
            queue.add(ready(task, workflow=workflow))
    seen = []
    while len(queue):
        group = queue.groups(100)[0]
        if not seen or seen[-1] != group.tasks[0].workflow_id:
            seen.append(group.tasks[0].workflow_id)
        for task in group.tasks:
            queue.discard(task.workflow_id, task.task)
    assert seen == ["wf-1", "wf-2", "wf-3"] * 2


def test_a_turn_ends_with_the_first_task_after_its_time():
    queue = ReadyQueue()
    for task in range(9):
        queue.add(ready(task, rank=9))
    queue.add(ready(0, workflow=2))
    queue.now_ms = 5_000  # waiting is no part of the turn
    leave(queue, 1, [0])
    queue.now_ms += TURN_MS - 1
    leave(queue, 1, [1])
    assert first_of(queue) == "wf-1"
    queue.now_ms += 1
    assert first_of(queue) == "wf-1"
    leave(queue, 1, [2])
    assert first_of(queue) == "wf-2"


def test_a_turn_of_quick_tasks_is_over_after_half_a_second():
    queue = ReadyQueue()
    for task in range(TURN_TASKS):
        queue.add(ready(task, rank=9))
    queue.add(ready(0, workflow=2))
    leave(queue, 1, range(50))
    queue.now_ms += TURN_QUICK_MS - 1
    leave(queue, 1, [50])
    assert first_of(queue) == "wf-1"
    queue.now_ms += 1
    leave(queue, 1, [51])
    assert first_of(queue) == "wf-2"


def test_a_turn_of_slow_tasks_is_longer():
    queue = ReadyQueue()
    for task in range(TURN_TASKS):
        queue.add(ready(task, rank=9))
    queue.add(ready(0, workflow=2))
    leave(queue, 1, range(40))
    queue.now_ms += TURN_QUICK_MS
    leave(queue, 1, range(40, 49))
    assert first_of(queue) == "wf-1"


def test_priority_goes_before_turns_and_is_gained_anew_after_one():
    queue = ReadyQueue()
    for task in range(2 * TURN_TASKS):
        queue.add(ready(task, priority=51))
    queue.add(ready(0, workflow=2))
    leave(queue, 1, range(TURN_TASKS))
    assert first_of(queue) == "wf-1", "more urgent, turn or not"
    queue.now_ms = AGE_STEP_MS
    leave(queue, 1, range(TURN_TASKS, 2 * TURN_TASKS - 1))
    assert first_of(queue) == "wf-1"
    queue.add(ready(2 * TURN_TASKS, priority=51))
    leave(queue, 1, [2 * TURN_TASKS - 1])
    assert first_of(queue) == "wf-2", "it has waited longer than the other by more than a point"


def test_what_was_lost_waits_for_no_turn():
    queue = ReadyQueue()
    for task in range(TURN_TASKS + 1):
        queue.add(ready(task))
    leave(queue, 1, range(TURN_TASKS))
    queue.add(ready(0, workflow=2, priority=90))
    queue.add(msgspec.structs.replace(ready(0), lost=True))
    assert shown(queue) == [[("wf-1", 0), ("wf-2", 0), ("wf-1", TURN_TASKS)]]


class Model:
    """The queue, told naively: everything is sorted each time."""

    def __init__(self) -> None:
        self.tasks: dict[tuple[str, int], ReadyTask] = {}
        self.order: dict[str, int] = {}
        self.turn: dict[str, int] = {}
        self.left: dict[str, list[int]] = {}
        self.turns = 0

    def add(self, task: ReadyTask) -> None:
        if task.workflow_id not in self.order:
            self.order[task.workflow_id] = 5 * task.age - task.priority
            self.turn[task.workflow_id] = self.turns
            self.left[task.workflow_id] = []
        self.tasks.setdefault((task.workflow_id, task.task), task)

    def discard(self, workflow: str, task: int, now_ms: int) -> None:
        gone = self.tasks.pop((workflow, task), None)
        if gone is None:
            return
        self.left[workflow].append(now_ms)
        if len(self.left[workflow]) == SHORT_TURN or now_ms - self.left[workflow][0] >= TURN_MS:
            self.turns += 1
            self.turn[workflow] = self.turns
            self.order[workflow] = max(self.order[workflow], 5 * (now_ms // AGE_STEP_MS) - gone.priority)
            self.left[workflow] = []
        if not any(key[0] == workflow for key in self.tasks):
            del self.order[workflow], self.turn[workflow], self.left[workflow]

    def groups(self, limit: int, budgets: dict[str, int]) -> list[tuple[ReadyTask, ...]]:
        def key(task: ReadyTask) -> OrderKey:
            return order_key(task, self.order[task.workflow_id], self.turn[task.workflow_id])

        shapes: dict[Shape, list[ReadyTask]] = {}
        shown: Counter[tuple[str, Shape]] = Counter()
        for task in sorted(self.tasks.values(), key=key):
            shown[task.workflow_id, task.shape] += 1
            if not task.limited or shown[task.workflow_id, task.shape] <= budgets[task.workflow_id]:
                shapes.setdefault(task.shape, []).append(task)
        groups = [tuple(tasks[:limit]) for tasks in shapes.values()]
        return sorted(groups, key=lambda tasks: key(tasks[0]))


SHORT_TURN = 4
WORKFLOWS = st.integers(1, 5)
OPERATIONS = st.lists(
    st.one_of(
        st.tuples(st.just("add"), WORKFLOWS, st.integers(0, 12), st.integers(0, 3)),
        st.tuples(st.just("discard"), WORKFLOWS, st.integers(0, 12), st.just(0)),
        st.tuples(st.just("place"), st.integers(1, 6), st.just(0), st.just(0)),
        st.tuples(st.just("show"), st.integers(1, 6), st.integers(0, 2), st.just(0)),
        st.tuples(st.just("pass"), st.sampled_from((1, TURN_MS, AGE_STEP_MS)), st.just(0), st.just(0)),
        st.tuples(st.just("fill"), WORKFLOWS, st.integers(0, 1), st.just(0)),
    ),
    max_size=60,
)


@settings(max_examples=400, derandomize=True, deadline=None)
@given(OPERATIONS)
def test_the_queue_shows_what_a_sorted_list_would(operations):
    queue, model = ReadyQueue(), Model()

    def add(workflow: int, task: int, rank: int, cpu: int) -> None:
        found = msgspec.structs.replace(
            ready(task, rank=rank, cpu=cpu, workflow=workflow, priority=50 + workflow % 2),
            lost=rank == 3,
            limited=workflow == 5,
        )
        queue.add(found)
        model.add(found)

    def discard(workflow: str, task: int) -> None:
        queue.discard(workflow, task)
        model.discard(workflow, task, queue.now_ms)

    def compare(limit: int, budget: int = 100) -> list[tuple[ReadyTask, ...]]:
        found = [group.tasks for group in queue.groups(limit, {"wf-5": budget})]
        assert found == model.groups(limit, {"wf-5": budget})
        assert len(queue) == len(model.tasks)
        return found

    with patch.object(workflow_queues, "TURN_TASKS", SHORT_TURN), patch.object(workflow_queues, "_SLACK", 2):
        for kind, number, task, rank in operations:
            if kind == "add":
                add(number, task, rank, 1 + task % 2)
            elif kind == "discard":
                discard(f"wf-{number}", task)
            elif kind == "place":
                for shown_tasks in compare(number):
                    discard(shown_tasks[0].workflow_id, shown_tasks[0].task)
            elif kind == "pass":
                queue.now_ms += number
            elif kind == "fill":
                for more in range(100, 200):
                    add(number, more, more % 3, 1 + task)
            else:
                compare(number, task)
        for limit in (1, 3, 150, 2):
            compare(limit)


def test_places_that_are_void_are_thrown_away():
    queue = ReadyQueue()
    for task in range(1_000):
        queue.add(ready(task, rank=task))  # each is the first one
    for workflow in range(2, 1_002):
        queue.add(ready(0, workflow=workflow))
        queue.discard(f"wf-{workflow}", 0)
    lane = next(iter(queue._lanes.values()))
    assert len(lane._order) < 200
    assert len(queue.groups(2_000)[0].tasks) == 1_000


def test_what_a_large_workflow_leaves_behind_is_freed_in_slices():
    queue = ReadyQueue()
    for task in range(1_500):
        queue.add(ready(task))
    queue.add(ready(0, workflow=2))
    leave(queue, 1, range(1_500))
    assert queue.untidy
    slices = 1
    while queue.tidy(500) == 0:
        slices += 1
    assert slices == 4
    assert not queue.untidy
    assert shown(queue) == [[("wf-2", 0)]]


def test_workflows_that_limit_themselves_are_known_while_they_have_ready_tasks():
    queue = ReadyQueue()
    for workflow, limited in ((3, True), (1, False), (2, True), (3, True)):
        queue.add(msgspec.structs.replace(ready(len(queue), workflow=workflow), limited=limited))
    queue.add(msgspec.structs.replace(ready(9, cpu=2, workflow=2), limited=True))
    assert queue.limited() == ["wf-3", "wf-2"]
    for task in (0, 3):
        queue.discard("wf-3", task)
    assert queue.limited() == ["wf-2"]


def test_a_queue_that_is_not_used_any_more_is_freed_in_slices():
    queue = ReadyQueue()
    for task in range(5):
        queue.add(ready(task, cpu=1 + task % 2))
    queue.groups(1)  # some are in front, some in the heap
    slices = 1
    while queue.dissolve(2):
        slices += 1
    assert slices == 8
    assert queue.shapes == 0
    assert not queue.dissolve(2)


def test_many_tasks_that_left_are_not_skipped_one_by_one() -> None:
    """As while a cancel of a large workflow is under way: the turn that looks next would be long."""
    queue = ReadyQueue()
    for number in range(20_000):
        queue.add(ready(number))
    assert shown(queue, 2) == [[("wf-1", 0), ("wf-1", 1)]]
    for number in range(15_000):
        queue.discard("wf-1", number)
    skipped = 0

    def heappop(heap: list[Any]) -> Any:
        nonlocal skipped
        skipped += 1
        return heapq.heappop(heap)

    with patch.object(workflow_queues, "heappop", heappop):
        assert shown(queue, 2) == [[("wf-1", 15_000), ("wf-1", 15_001)]]
        for number in range(15_002, 15_010):
            queue.discard("wf-1", number)
        assert shown(queue, 4) == [[("wf-1", number) for number in (15_000, 15_001, 15_010, 15_011)]]
    assert skipped < 30
