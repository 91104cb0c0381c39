"""The ready queue: groups by shape, in order, with tasks that come, go, and are held while a proposal is decided."""

from __future__ import annotations

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from raftflow.domain.rooms import ReadyTask, shape_of
from raftflow.scheduler.queue import ReadyQueue, order_key


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
        ready(4, priority=60),
        ready(5, priority=60, rank=1),
    ):
        queue.add(task)
    assert shown(queue) == [[("wf-1", 5), ("wf-1", 4), ("wf-1", 3), ("wf-1", 1), ("wf-1", 2), ("wf-2", 0)]]
    assert shown(queue, 2) == [[("wf-1", 5), ("wf-1", 4)]]


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


def test_held_tasks_are_hidden_until_let_go():
    queue = ReadyQueue()
    for number in range(3):
        queue.add(ready(number))
    queue.hold([("wf-1", 0), ("wf-1", 9)])
    assert shown(queue) == [[("wf-1", 1), ("wf-1", 2)]]
    queue.hold([("wf-1", 1), ("wf-1", 2)])
    assert shown(queue) == []
    queue.discard("wf-1", 1)
    queue.let_go([("wf-1", 0), ("wf-1", 1)])
    assert shown(queue) == [[("wf-1", 0)]]
    assert len(queue) == 2


def test_what_left_before_it_was_shown_is_never_shown() -> None:
    queue = ReadyQueue()
    for number in range(3):
        queue.add(ready(number))
    queue.discard("wf-1", 0)
    queue.hold([("wf-1", 1)])
    assert shown(queue, 1) == [[("wf-1", 2)]]


OPERATIONS = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.integers(0, 40), st.integers(0, 3)),
        st.tuples(st.just("discard"), st.integers(0, 40), st.just(0)),
        st.tuples(st.just("hold"), st.integers(0, 40), st.just(0)),
        st.tuples(st.just("let_go"), st.integers(0, 40), st.just(0)),
        st.tuples(st.just("show"), st.integers(1, 5), st.just(0)),
        st.tuples(st.just("fill"), st.integers(0, 1), st.just(0)),
    ),
    max_size=60,
)


@settings(max_examples=300, derandomize=True, deadline=None)
@given(OPERATIONS)
def test_the_queue_shows_what_a_sorted_list_would(operations):
    queue = ReadyQueue()
    model: dict[tuple[str, int], ReadyTask] = {}
    held: set[tuple[str, int]] = set()
    for kind, number, rank in operations:
        key = ("wf-1", number)
        if kind == "add":
            task = ready(number, rank=rank, cpu=1 + number % 2)
            queue.add(task)
            model.setdefault(key, task)
        elif kind == "discard":
            queue.discard(*key)
            model.pop(key, None)
            held.discard(key)
        elif kind == "hold":
            queue.hold([key])
            held |= {key} & set(model)
        elif kind == "let_go":
            queue.let_go([key])
            held.discard(key)
        elif kind == "fill":
            for more in range(100, 200):
                task = ready(more, rank=more % 7, cpu=1 + number)
                queue.add(task)
                model.setdefault(("wf-1", more), task)
        else:
            _compare(queue, model, held, number)
    for limit in (1, 3, 150, 2):
        _compare(queue, model, held, limit)


def _compare(queue: ReadyQueue, model: dict, held: set, limit: int) -> None:
    lanes: dict = {}
    for key, task in model.items():
        if key not in held:
            lanes.setdefault(task.shape, []).append(task)
    expected = [tuple(sorted(tasks, key=order_key)[:limit]) for tasks in lanes.values()]
    expected.sort(key=lambda tasks: order_key(tasks[0]))
    assert [group.tasks for group in queue.groups(limit)] == expected
    assert len(queue) == len(model)


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
    assert slices == 6
    assert queue.shapes == 0
    assert not queue.dissolve(2)
