"""What left the tables is freed a little at a time, and never while a snapshot may want it."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest

from raftflow.domain import commands as c
from raftflow.machine import machine as machine_module
from raftflow.machine.machine import Machine
from raftflow.machine.tables.discard import Discarded


@pytest.fixture
def kept(drive: Any, monkeypatch: Any) -> Any:
    """A drive that frees nothing by itself."""
    monkeypatch.setattr(machine_module, "SWEPT_PER_ENTRY", 0)
    drive.register(cpu=8)
    return drive


def finished(drive: Any, size: int, workflow_id: str = "wf-1") -> Any:
    drive.submit(drive.bag(size), workflow_id)
    drive.control("cancel", workflow_id)
    workflow = drive.machine.state.workflows[workflow_id]
    drive.now_ms += 1
    assert drive.retire() == (workflow_id,)
    return workflow


def test_a_retired_workflow_goes_in_parts(kept: Any) -> None:
    workflow = finished(kept, 10)
    assert len(workflow.tasks) == 10, "not at once"
    steps = 0
    while kept.machine.sweeping:
        left = len(workflow.tasks) + len(workflow.by_id) + len(workflow.dependents)
        kept.machine.sweep(4)
        assert left - len(workflow.tasks) - len(workflow.by_id) - len(workflow.dependents) <= 4
        steps += 1
    assert (workflow.tasks, workflow.by_id, workflow.dependents, workflow.profiles) == ([], {}, [], [])
    assert 7 < steps < 12


def test_a_dropped_upload_goes_too(kept: Any) -> None:
    for command in kept.pieces(kept.chain(5))[:3]:
        kept.do(command)
    upload = kept.machine.state.uploads["wf-1"]
    kept.do(c.DropUploads(at_ms=kept.now_ms, actor="leader:r1", workflow_ids=("wf-1",)))
    assert upload.tasks
    kept.machine.sweep(100)
    assert (upload.tasks, upload.pieces, upload.workflow.by_id) == ([], [], {})
    assert not kept.machine.sweeping


def test_a_snapshot_that_is_open_sees_it_whole(kept: Any) -> None:
    kept.submit(kept.bag(5))
    kept.control("cancel")
    expected, open_ = kept.encoding(), kept.machine.snapshot()
    kept.now_ms += 1
    kept.retire()
    assert not kept.machine.sweeping
    kept.machine.sweep(1_000)
    assert b"".join(open_) == expected
    assert kept.machine.sweeping
    kept.machine.sweep(1_000)
    assert not kept.machine.sweeping


def test_a_state_that_was_replaced_goes_in_parts(kept: Any, new_drive: Any) -> None:
    """With what was on its way out of it; and the machine goes on."""
    gone = finished(kept, 3)
    kept.submit(kept.bag(20), "wf-2", request_id="r")
    workflow, state = kept.machine.state.workflows["wf-2"], weakref.ref(kept.machine.state)
    kept.machine.restore(kept.machine.snapshot())
    for _ in range(100):
        kept.machine.sweep(4)
    assert (gone.tasks, workflow.tasks, state()) == ([], [], None)
    assert kept.states("wf-2") == "E" * 20


def test_entries_free_a_little_by_themselves(drive: Any) -> None:
    workflow = finished(drive, 150)
    assert len(workflow.tasks) + len(workflow.by_id) + len(workflow.dependents) < 450
    for _ in range(5):
        drive.fire()
    assert not workflow.tasks and not drive.machine.sweeping


def test_nothing_to_free() -> None:
    nothing = Discarded()
    nothing.sweep(10)
    assert len(nothing) == 0
    assert not Machine().sweeping


def test_the_collector_has_hardly_anything_to_walk(drive: Any) -> None:
    """A full collection stops the replica for as long as it takes: the state must be outside, however large it is."""
    drive.register(cpu=8)
    drive.submit(drive.chain(20), "wf-0")
    gc.collect()
    before = len(gc.get_objects())
    for number in range(1, 101):
        drive.submit(drive.chain(20), f"wf-{number}")
    drive.records.clear()
    gc.collect()
    assert len(gc.get_objects()) - before < 2 * 100
