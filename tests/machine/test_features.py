"""The cluster's feature level: raised once all understand it, kept in snapshots, obeyed by `apply`."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from raftflow.domain import commands as c
from raftflow.domain.features import (
    FAULTS_LEVEL,
    LEVEL,
    LEVEL_FIRST,
    NEEDS,
    ONLINE_LEVEL,
    PIECES_LEVEL,
    FeatureLevelError,
    level_of,
)
from raftflow.domain.rejections import RejectionCode
from raftflow.domain.replies import Done, WorkflowAccepted
from raftflow.domain.tasks.program import CommandLine
from raftflow.domain.tasks.workflow import TaskSpec, WorkflowSpec
from raftflow.machine.machine import Machine
from raftflow.machine.rules.audit_chain import decode_record


def raise_to(level: int, **supported: int) -> c.RaiseFeatureLevel:
    told = tuple(c.Supported(member, understood) for member, understood in supported.items())
    return c.RaiseFeatureLevel(at_ms=1, actor="leader:n1", level=level, supported=told)


def apply(machine: Machine, command: c.AnyCommand) -> Any:
    result = machine.apply(machine.applied_index + 1, 1, c.encode_entry((command,)))
    return result.replies[0], decode_record(result.audit[0])


def test_raised_when_every_member_understands_it() -> None:
    machine = Machine()
    assert machine.state.feature_level == LEVEL_FIRST
    refused, record = apply(machine, raise_to(2, n1=2, n2=1, n3=2))
    assert refused.code is RejectionCode.CONFLICT and "n2" in refused.message and record.outcome == "conflict"
    assert apply(machine, raise_to(2))[0].code is RejectionCode.INVALID
    assert machine.state.feature_level == 1
    assert apply(machine, raise_to(2, n1=2, n2=3))[0] == Done()
    assert machine.state.feature_level == 2
    for again in (2, 1):
        assert apply(machine, raise_to(again, n1=2))[0] == Done(changed=False)
    assert machine.state.feature_level == 2


def test_a_replica_that_does_not_understand_the_level_stops() -> None:
    machine = Machine(level_max=1)
    with pytest.raises(FeatureLevelError, match=r"levels up to 1\. Start the version"):
        apply(machine, raise_to(2, n1=2, n2=2))


def test_a_snapshot_of_a_higher_level_is_refused_and_changes_nothing() -> None:
    newer, older = Machine(), Machine(level_max=1)
    apply(newer, raise_to(2, n1=2))
    pieces = list(newer.snapshot())
    with pytest.raises(FeatureLevelError):
        older.restore(pieces)
    assert older.applied_index == 0
    again = Machine()
    again.restore(pieces)
    assert (again.state.feature_level, again.chain) == (2, newer.chain)
    assert b"".join(again.snapshot()) == b"".join(pieces)


def test_a_command_above_the_level_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine()
    monkeypatch.setitem(NEEDS, c.FireTimers, 2)
    command = c.FireTimers(at_ms=5, actor="leader:n1")
    refused, record = apply(machine, command)
    assert refused.code is RejectionCode.FEATURE_LEVEL
    assert "timers.fire needs feature level 2" in refused.message
    assert record.outcome == "feature_level"
    apply(machine, raise_to(2, n1=2))
    assert apply(machine, command)[1].outcome == "ok"


@pytest.mark.parametrize(
    ("workflow", "task"),
    [
        ({"max_parallel": 2}, {}),
        ({}, {"kind": "fit"}),
        ({}, {"cache": ""}),
        ({}, {"exclusive": True}),
        ({}, {"memory_max_mib": 64}),
    ],
)
def test_a_workflow_that_older_replicas_cannot_read(workflow: dict[str, Any], task: dict[str, Any]) -> None:
    spec = WorkflowSpec(name="w", tasks=(TaskSpec(id="a", program=CommandLine(("x",)), **task),), **workflow)
    command = c.SubmitWorkflow(at_ms=1, actor="client:t", workflow_id="wf-1", spec=spec)
    assert level_of(command) == ONLINE_LEVEL
    machine = Machine()
    apply(machine, raise_to(2, n1=2))
    refused, _ = apply(machine, command)
    assert refused.code is RejectionCode.FEATURE_LEVEL and "workflow.submit needs feature level 3" in refused.message
    apply(machine, raise_to(3, n1=3))
    assert apply(machine, command)[0] == WorkflowAccepted("wf-1", ("a: no agent is up; it waits until one comes",))


def test_backups_need_their_level() -> None:
    task = TaskSpec(id="a", program=CommandLine(("x",)), backup=True)
    stamp: dict[str, Any] = {"at_ms": 1, "actor": "client:t", "workflow_id": "wf-1"}
    spec = WorkflowSpec(name="w", tasks=(TaskSpec(id="b", program=CommandLine(("x",))), task))
    part = c.TaskPart(0, "a", 0, 1)
    for command in (
        c.SubmitWorkflow(**stamp, spec=spec),
        c.AddTasks(**stamp, number=0, profiles=(task,), tasks=(part,)),
    ):
        assert level_of(command) == FAULTS_LEVEL
        machine = Machine()
        apply(machine, raise_to(4, n1=4))
        assert apply(machine, command)[0].code is RejectionCode.FEATURE_LEVEL
    plain = (msgspec.structs.replace(task, backup=False),)
    assert level_of(c.AddTasks(**stamp, number=0, profiles=plain, tasks=(part,))) == PIECES_LEVEL


def test_a_plain_workflow_needs_no_level() -> None:
    spec = WorkflowSpec(name="w", tasks=(TaskSpec(id="a", program=CommandLine(("x",))),))
    assert level_of(c.SubmitWorkflow(at_ms=1, actor="client:t", workflow_id="wf-1", spec=spec)) == LEVEL_FIRST


@pytest.mark.parametrize(("reason", "level"), [("lost", 1), ("left", 1), ("lost_together", FAULTS_LEVEL)])
def test_a_mass_loss_needs_a_level(reason: Any, level: int) -> None:
    command = c.RemoveAgent(at_ms=1, actor="leader:n1", name="a1", incarnation=1, reason=reason)
    assert level_of(command) == level
    assert command.mass == (reason == "lost_together")
    machine = Machine()
    apply(machine, raise_to(4, n1=4))
    assert apply(machine, command)[0].code is (
        RejectionCode.FEATURE_LEVEL if level == FAULTS_LEVEL else RejectionCode.NOT_FOUND
    )
    apply(machine, raise_to(5, n1=5))
    assert apply(machine, command)[0].code is RejectionCode.NOT_FOUND


def test_what_commands_need_is_understood_by_this_program() -> None:
    assert all(LEVEL_FIRST < level <= LEVEL for level in NEEDS.values())
