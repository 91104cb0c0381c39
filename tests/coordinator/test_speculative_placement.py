"""What a report makes ready travels in the report's own log entry, if the guess is safe."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from raftflow.coordinator.placement.speculative import AHEAD_MAX, placements_after
from raftflow.domain.commands import ChildTask, ControlWorkflow, DrainAgent, SpawnTasks, SubmitWorkflow
from raftflow.domain.tasks.program import CommandLine, TaskWait
from raftflow.domain.tasks.states import TaskState
from raftflow.domain.tasks.workflow import TaskSpec, WorkflowSpec
from raftflow.machine.read import invariants


async def submit(one: Any, *tasks: TaskSpec, priority: int = 50) -> str:
    """Submit a graph and return its id."""
    one.sent += 1
    workflow_id = f"graph-{one.sent}"
    await one.replica.propose(
        SubmitWorkflow(
            at_ms=one.clock.ms,
            actor="client:test",
            workflow_id=workflow_id,
            spec=WorkflowSpec(name="g", tasks=tasks, priority=priority),
        )
    )
    return workflow_id


def task(task_id: str, *needs: str, **fields: Any) -> TaskSpec:
    return TaskSpec(id=task_id, needs=needs, program=CommandLine(("true",)), **fields)


def guesses(one: Any, *ends: Any) -> list[int]:
    return [placement.task for placement in placements_after(one.machine, "a1", ends)]


async def test_a_hop_of_a_chain_costs_one_entry(bench: Any) -> None:
    one = await bench()
    incarnation = await one.register()
    workflow = await one.submit("a", "b<a", "c<b")
    seen = (await one.work(incarnation, 1)).assign[0].fence
    for seq, (ended, following) in enumerate([("a", "b"), ("b", "c")], start=2):
        before = one.machine.applied_index
        answer = await one.poll(incarnation, seq, seen=seen, ends=[one.end(seen, workflow, ended)])
        assert [item.task_id for item in answer.assign] == [following]
        assert one.machine.applied_index == before + 1
        seen = answer.assign[0].fence
    assert invariants.check(one.machine) == []


@pytest.mark.parametrize(("mode", "ends"), [("all", 2), ("any", 1)])
async def test_a_parked_task_goes_on_in_the_entry_of_its_last_child(bench: Any, mode: str, ends: int) -> None:
    one = await bench()
    incarnation = await one.register(cpu=4)
    workflow = await submit(one, task("t"))
    (parent,) = (await one.work(incarnation, 1)).assign
    about = {"at_ms": one.clock.ms, "actor": "agent:a1", "agent": "a1", "incarnation": incarnation}
    children = tuple(ChildTask(key, 0) for key in "abc")
    spawn = SpawnTasks(**about, fence=parent.fence, profiles=(task("child"),), children=children)
    assert (await one.replica.propose(spawn)).positions == (1, 2, 3)
    condition = msgspec.Raw(b'{"mode":"%s","children":[[1,2]]}' % mode.encode())
    park = one.end(parent.fence, workflow, "t", "parked", result=condition)
    running = {item.task_id: item.fence for item in (await one.poll(incarnation, 2, ends=[park])).assign}
    assert [*running] == ["t:a", "t:b", "t:c"]
    assert guesses(one, one.end(running["t:c"], workflow, "t:c")) == [], "it does not wait for this one"
    for seq, child in enumerate(["t:a", "t:b"][:ends], start=3):
        before = one.machine.applied_index
        end = one.end(running.pop(child), workflow, child)
        answer = await one.poll(incarnation, seq, seen=end.fence, ends=[end], running=list(running.values()))
        assert one.machine.applied_index == before + 1
    assert answer.assign[-1].task_id == "t"
    assert invariants.check(one.machine) == []


async def test_a_wait_of_the_document_gets_no_agent(bench: Any) -> None:
    one = await bench()
    incarnation = await one.register()
    wait = TaskSpec(id="w", needs=("t",), program=TaskWait("signal", "go"), resources={}, expected_ms=0)
    workflow = await submit(one, task("t"), wait, task("u", "t"))
    (found,) = (await one.work(incarnation, 1)).assign
    assert guesses(one, one.end(found.fence, workflow, "t")) == [2]


async def test_who_waits_already_is_not_passed(bench: Any) -> None:
    one = await bench()
    incarnation = await one.register()
    workflow = await submit(one, task("a"), task("b", "a"), priority=0)
    seen = (await one.work(incarnation, 1)).assign[0].fence
    await submit(one, task("urgent"), priority=100)
    answer = await one.poll(incarnation, 2, seen=seen, ends=[one.end(seen, workflow, "a")])
    assert [item.task_id for item in answer.assign] == ["urgent"]


async def test_ends_of_one_report_count_together(bench: Any) -> None:
    one = await bench()
    incarnation = await one.register(cpu=2)
    workflow = await submit(one, task("a"), task("b"), task("both", "a", "b"), task("after", "a"))
    assigned = (await one.work(incarnation, 1)).assign
    ends = {item.task_id: one.end(item.fence, workflow, item.task_id) for item in assigned}
    assert guesses(one, ends["a"]) == [3]
    assert guesses(one, ends["b"]) == []
    assert guesses(one, ends["a"], ends["b"]) == [2, 3]


@pytest.mark.parametrize("outcome", ["failed", "timeout", "abandoned"])
async def test_only_a_success_makes_anything_ready(bench: Any, outcome: str) -> None:
    one = await bench()
    incarnation = await one.register()
    workflow = await one.submit("a", "b<a")
    fence = (await one.work(incarnation, 1)).assign[0].fence
    assert guesses(one, one.end(fence, workflow, "a", outcome)) == []
    assert guesses(one, one.end(fence, workflow, "a")) == [1]
    assert guesses(one, one.end(fence + 1, workflow, "a")) == []


async def test_what_does_not_fit_the_agent_is_left_to_the_scheduler(bench: Any) -> None:
    one = await bench()
    incarnation = await one.register(cpu=2)
    workflow = await submit(
        one,
        task("a"),
        task("large", "a", resources={"cpu": 3000}),
        task("labelled", "a", labels={"zone": "x"}),
        task("whole", "a", resources={"cpu": 2000}),
        task("small", "a"),
    )
    fence = (await one.work(incarnation, 1)).assign[0].fence
    assert guesses(one, one.end(fence, workflow, "a")) == [3]


async def test_no_guess_for_who_gets_no_work(bench: Any) -> None:
    one = await bench()
    incarnation = await one.register()
    workflow = await one.submit("a", "b<a")
    fence = (await one.work(incarnation, 1)).assign[0].fence
    end = one.end(fence, workflow, "a")
    assert placements_after(one.machine, "nobody", [end]) == ()
    steps: list[tuple[Any, list[int]]] = [("pause", []), ("resume", [1]), ("cancel", [])]
    for action, expected in steps:
        await one.replica.propose(
            ControlWorkflow(at_ms=one.clock.ms, actor="client:x", workflow_id=workflow, action=action)
        )
        assert guesses(one, end) == expected
    await one.replica.propose(DrainAgent(at_ms=one.clock.ms, actor="client:x", name="a1"))
    assert guesses(one, end) == []


async def test_a_guess_that_does_not_hold_changes_nothing(bench: Any) -> None:
    one = await bench()
    incarnation = await one.register()
    workflow = await one.submit("a", "b<a")
    fence = (await one.work(incarnation, 1)).assign[0].fence
    too_large = one.end(fence, workflow, "a", result=b'"' + b"x" * 70_000 + b'"')
    assert guesses(one, too_large) == [1]
    answer = await one.poll(incarnation, 2, seen=fence, ends=[too_large])
    assert ([verdict.verdict for verdict in answer.verdicts], answer.assign) == (["accepted"], [])
    states = [each.state for each in one.machine.state.workflows[workflow].tasks]
    assert states == [TaskState.FAILED, TaskState.CANCELLED]
    assert invariants.check(one.machine) == []


async def test_guesses_of_one_report_are_bounded(bench: Any) -> None:
    one = await bench()
    incarnation = await one.register(cpu=1000)
    workflow = await submit(one, task("a"), *(task(f"t{n}", "a") for n in range(AHEAD_MAX + 10)))
    fence = (await one.work(incarnation, 1)).assign[0].fence
    assert len(guesses(one, one.end(fence, workflow, "a"))) == AHEAD_MAX
