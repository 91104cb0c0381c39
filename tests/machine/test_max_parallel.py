"""A workflow that limits how many of its tasks are queued or running at a time."""

from __future__ import annotations

import msgspec
import pytest

from raftflow.machine.machine import Machine
from raftflow.machine.read import preferences


@pytest.fixture
def limited(drive):
    """A bag of five that wants two at a time, and an agent with room for four and a queue."""
    drive.register(cpu=4, prefetch=4)
    drive.submit(msgspec.structs.replace(drive.bag(5, retries=1, backup=True), max_parallel=2))
    return drive


def test_no_more_are_placed_than_it_allows(limited):
    fences = limited.place(0, 1, 2)
    assert (fences[2], limited.states()) == (0, "RREEE")
    limited.finish(fences[0])
    fences = limited.place(2, 3)
    assert (fences[1], limited.states()) == (0, "SRREE")


def test_queued_ones_count(limited):
    limited.register("a2", prefetch=3)
    limited.submit(limited.bag(1), "wf-2")
    limited.place(0, agent="a2", workflow_id="wf-2")
    assert limited.place(0, 1, 2, agent="a2")[2] == 0
    assert limited.states() == "QQEEE"
    assert limited.place(3) == (0,)


def test_a_task_that_waits_for_its_next_attempt_makes_room(limited):
    first, _ = limited.place(0, 1)
    limited.finish(first, "failed")
    assert limited.place(2) == (3,)
    limited.fire(60_000)
    assert limited.place(0) == (0,)


def test_a_backup_counts(limited):
    limited.register("a2")
    limited.place(0, 1)
    assert limited.back_up(0, agent="a2") == (0,), "it would be the third at a time"
    limited.finish(2)
    assert limited.back_up(0, agent="a2") == (3,)
    assert limited.place(2) == (0,)
    assert preferences.budget(limited.machine, "wf-1") == 0
    copy = Machine()
    copy.restore(limited.machine.snapshot())
    assert copy.state.workflows["wf-1"].backups == 1
    limited.finish(3, "failed", agent="a2")
    assert limited.place(2) == (4,)


def test_one_at_a_time_leaves_no_room_for_a_backup(limited):
    limited.register("a2")
    limited.submit(msgspec.structs.replace(limited.bag(1, backup=True), max_parallel=1), "wf-2")
    limited.place(0, workflow_id="wf-2")
    assert limited.back_up(0, agent="a2", workflow_id="wf-2") == (0,)


def test_others_are_not_held_back(limited):
    limited.place(0, 1)
    limited.submit(limited.bag(2), "wf-2")
    assert 0 not in limited.place(0, 1, workflow_id="wf-2")


def test_a_restored_machine_keeps_to_it(limited):
    limited.place(0, 1)
    copy = Machine()
    copy.restore(limited.machine.snapshot())
    assert copy.state.workflows["wf-1"].max_parallel == 2
