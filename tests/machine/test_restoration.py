"""A copied state becomes the beginning of a new cluster: nothing of the old one counts, and no number comes again."""

from __future__ import annotations

from typing import Any

import pytest

from raftflow.domain import commands as c
from raftflow.domain.tasks.states import AgentState, AttemptOutcome, TaskState
from raftflow.machine.commands.restoration import FENCE_GAP, FENCES_PER_MS, Restoration, first_number
from raftflow.machine.machine import Machine
from raftflow.machine.read.invariants import check
from raftflow.machine.rules.audit_chain import decode_record, verify_chain

LATER_MS = 1_700_000_000_000 + 3_600_000


def copied(drive: Any) -> Machine:
    machine = Machine()
    machine.restore(list(drive.machine.snapshot()))
    return machine


def restore(machine: Machine, at_ms: int = LATER_MS, cluster: str = "new") -> Any:
    chain = machine.chain
    result = machine.begin_cluster(machine.applied_index + 1, 9, Restoration(cluster, "old", at_ms))
    assert check(machine) == []
    record = decode_record(result.audit[0])
    assert verify_chain([record], chain) == (machine.chain, [])
    return record


def end(task: Any, outcome: str = "succeeded") -> c.AttemptEnd:
    return c.AttemptEnd(task.last.fence, "wf-1", task.id, AttemptOutcome(outcome), 0, "", b"1", 5)


def test_live_attempts_end_and_their_tasks_are_ready_again(drive: Any) -> None:
    drive.register(cpu=1, prefetch=2)
    drive.submit(drive.bag(2))
    drive.place(0, 1)
    machine = copied(drive)
    tasks = machine.state.workflows["wf-1"].tasks
    assert [task.state for task in tasks] == [TaskState.RUNNING, TaskState.QUEUED]
    record = restore(machine)
    tasks = machine.state.workflows["wf-1"].tasks
    assert [task.state for task in tasks] == [TaskState.READY] * 2
    assert [task.last.outcome for task in tasks] == [AttemptOutcome.FENCED] * 2
    assert [task.losses for task in tasks] == [0, 0]
    agent = machine.state.agents["a1"]
    assert (agent.state, agent.losses) == (AgentState.LOST, 0)
    assert (record.command, record.subject, record.term, len(record.transitions)) == ("cluster.restore", "new", 9, 2)
    assert "restored from cluster old" in record.detail


def test_numbers_continue_above_everything_that_the_old_cluster_can_have_used(drive: Any) -> None:
    drive.register()
    machine = copied(drive)
    restore(machine)
    assert machine.state.fence == machine.state.incarnation == LATER_MS * FENCES_PER_MS
    again = machine.state.fence
    restore(machine, LATER_MS - 10**9)
    assert machine.state.fence == again + FENCE_GAP, "the clock was set back"
    assert first_number(5, 0) == 5 + FENCE_GAP


def test_reports_and_offers_of_the_old_cluster_are_stale(drive: Any) -> None:
    drive.register(cpu=1)
    drive.submit(drive.bag(2))
    drive.place(0)
    drive.remove("a1")  # the first attempt was lost before the copy was made
    drive.register(cpu=1, instance="i2")
    drive.place(1)
    machine = copied(drive)
    restore(machine)
    lost, live = machine.state.workflows["wf-1"].tasks
    assert (lost.last.outcome, live.last.outcome) == (AttemptOutcome.FENCED, AttemptOutcome.FENCED)
    ends = (end(lost), end(live))

    def apply(command: c.AnyCommand) -> Any:
        return machine.apply(machine.applied_index + 1, 9, c.encode_entry((command,))).replies[0]

    stamp = {"at_ms": LATER_MS + 1, "actor": "agent:a1"}
    refused = apply(c.ReportAttempts(**stamp, agent="a1", incarnation=2, ends=ends))
    assert refused.code.value == "stale_incarnation"
    accepted = apply(
        c.RegisterAgent(**stamp, name="a1", instance="i2", capacity={"cpu": 1_000, "memory": 0}, labels={})
    )
    assert accepted.incarnation == LATER_MS * FENCES_PER_MS + 1
    offered = apply(c.OfferEnds(**stamp, agent="a1", incarnation=accepted.incarnation, ends=ends))
    assert [verdict.verdict for verdict in offered.verdicts] == ["stale", "stale"]


def test_what_was_left_of_a_pause_is_left_of_it_now(drive: Any) -> None:
    drive.register(cpu=1)
    drive.submit(drive.bag(1, retries=3, retry_delay_ms=20_000, retry_delay_max_ms=20_000))
    (fence,) = drive.place(0)
    drive.finish(fence, "failed")
    machine = copied(drive)
    task = machine.state.workflows["wf-1"].tasks[0]
    left_ms = task.due_ms - machine.clock_ms
    assert task.state is TaskState.DELAYED and left_ms > 0
    restore(machine)
    task = machine.state.workflows["wf-1"].tasks[0]
    assert task.due_ms - machine.clock_ms == left_ms
    assert machine.state.next_timer_ms == task.due_ms
    restore(machine, LATER_MS - 5)
    assert machine.state.workflows["wf-1"].tasks[0].due_ms - machine.clock_ms == left_ms


def test_the_same_copy_gives_the_same_state_everywhere(drive: Any) -> None:
    drive.register(cpu=2)
    drive.submit(drive.bag(3))
    drive.place(0, 1)
    one, other = copied(drive), copied(drive)
    restore(one)
    restore(other)
    assert one.chain == other.chain
    assert b"".join(one.snapshot()) == b"".join(other.snapshot())
    third = copied(drive)
    restore(third, cluster="another")
    assert third.chain != one.chain


def test_the_index_grows(drive: Any) -> None:
    machine = copied(drive)
    machine.applied_index = 7
    with pytest.raises(ValueError, match="went back"):
        machine.begin_cluster(7, 1, Restoration("new", "old", LATER_MS))


def effect_call(machine: Machine, kind: Any, occurrence: int, fence: int, **more: Any) -> Any:
    agent = machine.state.agents["a1"]
    who = {"actor": "agent:a1", "agent": "a1", "incarnation": agent.incarnation, "fence": fence}
    command = kind(at_ms=machine.clock_ms, **who, name="pay", occurrence=occurrence, begin=occurrence, **more)
    (reply,) = machine.apply(machine.applied_index + 1, 9, c.encode_entry((command,))).replies
    return reply


def test_effects_without_an_outcome_are_open_in_the_new_cluster(new_drive: Any) -> None:
    """Begun, or not done: the old cluster may have called each of them after the copy."""
    drive = new_drive()
    drive.register(cpu=1)
    drive.submit(drive.bag(1))
    (fence,) = drive.place(0)
    for occurrence, outcome in enumerate(("", "not_done", "uncertain", "done"), start=1):
        effect_call(drive.machine, c.BeginEffect, occurrence, fence, function="m:pay")
        if outcome:
            more = {"result": b"1"} if outcome == "done" else {}
            effect_call(drive.machine, c.EndEffect, occurrence, fence, outcome=outcome, **more)
    machine = copied(drive)
    record = restore(machine)
    assert "3 effects have no outcome: nobody calls them again without a check" in record.detail
    agent = machine.state.agents["a1"]
    register = c.RegisterAgent(
        at_ms=machine.clock_ms,
        actor="agent:a1",
        name="a1",
        instance="new",
        capacity=dict(agent.capacity),
        prefetch=0,
        home="h",
    )
    machine.apply(machine.applied_index + 1, 9, c.encode_entry((register,)))
    incarnation = machine.state.agents["a1"].incarnation
    place = c.CommitPlacements(
        at_ms=machine.clock_ms, actor="leader:n1", placements=(c.Placement("wf-1", 0, "a1", incarnation),)
    )
    (placed,) = machine.apply(machine.applied_index + 1, 9, c.encode_entry((place,))).replies
    found = [
        effect_call(machine, c.BeginEffect, occurrence, placed.fences[0], function="m:pay").status
        for occurrence in (1, 2, 3, 4)
    ]
    assert found == ["open", "open", "uncertain", "known"] and check(machine) == []
