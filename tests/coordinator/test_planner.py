"""The planner's queue follows the tables, whatever happens while a large workflow is taken out of it or into it."""

from __future__ import annotations

import pytest
from scenario import Scenario
from transcripts import TranscriptCommand

from raftflow.coordinator.placement import planner as planner_module
from raftflow.domain.events import TaskReady, WorkflowNotReady, WorkflowReady


def test_a_task_that_becomes_ready_while_its_workflow_leaves_takes_the_new_priority(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    leader = Scenario()
    for name, priority in (("large", 10), ("other", 50)):
        tasks = tuple(f"t{number}" for number in range(6))
        leader.run(TranscriptCommand("workflow", (name,), {"priority": str(priority)}, tasks))
    assert leader.planner.first_ready(1)[0].workflow_id == "other"
    monkeypatch.setattr(planner_module, "SLICE", 2)
    leader.machine.tables.workflows["large"].priority = 90
    leader.planner.observe([WorkflowNotReady("large"), WorkflowReady("large")])
    leader.planner.catch_up()
    assert leader.planner.behind
    leader.planner.observe([TaskReady("large", 0)])
    while leader.planner.behind:
        leader.planner.catch_up()
    ready = leader.planner.first_ready(12)
    assert [task.workflow_id for task in ready] == ["large"] * 6 + ["other"] * 6
    assert {task.priority for task in ready[:6]} == {90}
