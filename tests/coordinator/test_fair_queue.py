"""Turns of those who wait: by lane, and by bytes."""

from __future__ import annotations

import random

import pytest

from raftflow.coordinator.commit.fair_queue import FairQueue


def drain(queue: FairQueue[str]) -> list[str]:
    return [queue.pop() for _ in range(len(queue))]


def test_one_lane_is_first_in_first_out_whatever_the_sizes() -> None:
    queue: FairQueue[str] = FairQueue(10)
    for number, size in enumerate((5, 500, 1, 70)):
        queue.add("a", size, str(number))
    assert queue.head_size() == 5
    assert drain(queue) == ["0", "1", "2", "3"]
    assert len(queue) == 0
    with pytest.raises(IndexError, match="empty"):
        queue.pop()


def test_who_has_one_item_does_not_wait_behind_a_thousand() -> None:
    queue: FairQueue[str] = FairQueue(10)
    for _ in range(1_000):
        queue.add("many", 10, "m")
    queue.pop()
    queue.add("one", 10, "o")
    assert "o" in drain(queue)[:2]


def test_small_items_are_not_held_up_by_large_ones_and_large_ones_come_too() -> None:
    queue: FairQueue[str] = FairQueue(10)
    for _ in range(3):
        queue.add("large", 100, "L")
    for _ in range(30):
        queue.add("small", 10, "s")
    order = "".join(drain(queue))
    assert order.index("L") >= 9, "as many bytes of the other come first"
    assert order.rindex("L") < len(order) - 1, "and it is not starved"
    assert order.count("L") == 3


def test_what_pop_returns_is_what_head_size_told() -> None:
    """Random traffic, with a fixed seed: sizes fit, lanes keep their order, and bytes are shared."""
    chance = random.Random(4)
    queue: FairQueue[tuple[int, int, int]] = FairQueue(16)
    seen = {0: -1, 1: -1, 2: -1}
    got = {0: 0, 1: 0, 2: 0}
    for lane, largest in enumerate((4, 40, 400)):
        for number in range(400):
            size = chance.randint(1, largest)
            queue.add(lane, size, (lane, number, size))
    while min(400 - 1 - seen[lane] for lane in seen) > 0:
        told = queue.head_size()
        lane, number, size = queue.pop()
        assert (told, number) == (size, seen[lane] + 1)
        seen[lane] = number
        got[lane] += size
    assert max(got.values()) - min(got.values()) <= 2 * 400, "while all wait, all get the same"
