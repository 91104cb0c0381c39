"""The table of transitions: nothing else moves a task, and the picture of it is current."""

from __future__ import annotations

from pathlib import Path

import pytest

import raftflow.machine
from raftflow.domain.tasks.states import TRANSITIONS, TaskEvent, TaskState
from raftflow.machine.diagram import END, START, redrawn
from raftflow.machine.rules.context import ApplyContext, TransitionError, move
from raftflow.machine.rules.stopping import give_order


@pytest.mark.parametrize("before", TaskState, ids=lambda state: state.name)
@pytest.mark.parametrize("event", TaskEvent, ids=lambda event: event.name)
def test_only_the_table_moves_a_task(new_drive, before, event):
    drive = new_drive(checked=False)
    drive.submit(drive.bag(2))
    workflow = drive.machine.state.workflows["wf-1"]
    task = workflow.tasks[0]
    workflow.counts = [10] * len(TaskState)
    task.state = before
    step = ApplyContext(drive.machine.state)
    if (before, event) in TRANSITIONS:
        move(step, workflow, task, event)
        assert task.state is TRANSITIONS[before, event]
    else:
        with pytest.raises(TransitionError, match=event.name):
            move(step, workflow, task, event)
        assert (task.state, step.transitions) == (before, [])


def test_an_order_is_for_attempts(drive):
    drive.submit()
    give_order(ApplyContext(drive.machine.state), drive.machine.state.workflows["wf-1"], drive.task(0), 2)
    assert drive.task(0).last is None


def test_the_drawn_parts_of_the_page_are_current():
    document = (Path(raftflow.machine.__file__).parent / "README.md").read_text(encoding="utf-8")
    assert redrawn(document) == document, "run scripts/draw_machine"


@pytest.mark.parametrize("document", ["", START.format("transitions"), END.format("transitions")])
def test_a_picture_needs_its_place(document):
    with pytest.raises(ValueError, match="lacks the marks"):
        redrawn(document)
