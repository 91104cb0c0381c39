"""The leader's own work: timers, placing, retention; and none of it on a follower."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from raftflow.coordinator.commit.submitter import NoLeaderError
from raftflow.coordinator.config.replica_config import Limits
from raftflow.coordinator.leader import leader_loop as leader_module
from raftflow.coordinator.leader.retention import Retention
from raftflow.domain.commands import ControlWorkflow
from raftflow.domain.rejections import Rejection
from raftflow.domain.tasks.states import TaskState, WorkflowState


async def test_a_back_off_ends_by_itself(bench: Any) -> None:
    one = await bench()
    incarnation = await one.register()
    workflow = await one.submit("t", retries=1, retry_delay_ms=50, retry_delay_max_ms=50)
    first = (await one.work(incarnation, 1)).assign[0].fence
    await one.work(incarnation, 2, seen=first, ends=[one.end(first, workflow, "t", "failed")])
    assert one.machine.state.workflows[workflow].tasks[0].state is TaskState.DELAYED
    polling = asyncio.ensure_future(one.work(incarnation, 3, seen=first))
    await asyncio.sleep(0.1)
    one.clock.ms += 200
    one.replica.leader._timer_due()
    answer = await polling
    assert [item.attempt for item in answer.assign] == [2]


async def test_timers_go_on_while_the_wall_clock_is_behind(bench: Any) -> None:
    """A clock that once ran ahead, here or elsewhere, delays no back-off until the others have caught up with it."""
    one = await bench()
    incarnation = await one.register()
    workflow = await one.submit("t", retries=1, retry_delay_ms=30, retry_delay_max_ms=30)
    fence = (await one.work(incarnation, 1)).assign[0].fence
    one.clock.ms -= 3_600_000
    await one.work(incarnation, 2, seen=fence, ends=[one.end(fence, workflow, "t", "failed")])
    assert one.machine.state.workflows[workflow].tasks[0].state is TaskState.DELAYED
    await one.until(lambda: one.machine.state.workflows[workflow].tasks[0].state is TaskState.RUNNING)


async def test_finished_workflows_are_forgotten(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leader_module, "RETIRE_EVERY_S", 0.02)
    monkeypatch.setattr(leader_module, "RETIRE_COUNT_MAX", 1)
    one = await bench(limits=Limits(retention_ms=60_000))
    incarnation = await one.register(cpu=2)
    workflows = [await one.submit("t"), await one.submit("t")]
    await one.until(lambda: len(one.machine.state.agents["a1"].live) == 2)
    answer = await one.work(incarnation, 1)
    ends = [one.end(item.fence, item.workflow_id, "t") for item in answer.assign]
    await one.work(incarnation, 2, seen=answer.assign[-1].fence, ends=ends)
    assert [one.machine.state.workflows[w].state for w in workflows] == [WorkflowState.SUCCEEDED] * 2
    index = one.machine.applied_index
    await asyncio.sleep(0.1)
    assert one.machine.applied_index == index, "nothing is proposed before its time"
    one.clock.ms += 70_000
    await one.until(lambda: not one.machine.state.workflows)


@pytest.mark.parametrize("limit", [{"kept_workflows": 2}, {"kept_tasks": 5}])
async def test_the_oldest_finished_workflows_make_room(
    bench: Any, monkeypatch: pytest.MonkeyPatch, limit: dict[str, int]
) -> None:
    """With two tasks each: no more than two of them, or than five tasks, are kept however young they are."""
    monkeypatch.setattr(leader_module, "RETIRE_EVERY_S", 0.02)
    one = await bench(limits=Limits(**limit))
    workflows = []
    for _ in range(5):
        workflows.append(await one.submit("t", "u"))
        at_ms = one.clock.now_ms()
        await one.replica.propose(
            ControlWorkflow(at_ms=at_ms, actor="client:x", workflow_id=workflows[-1], action="cancel")
        )
        one.clock.ms += 1
    running = await one.submit("t", "u", "v")
    await one.until(lambda: list(one.machine.state.workflows) == [*workflows[3:], running])
    for _ in range(3):
        before = one.replica.leader._retire_timer
        await one.until(lambda before=before: one.replica.leader._retire_timer is not before)
    assert list(one.machine.state.workflows) == [*workflows[3:], running]


def test_the_oldest_results_make_room() -> None:
    retention = Retention(ms=1_000, workflows=9, tasks=9, result_bytes=10)
    finished: Any = {
        name: SimpleNamespace(finished_ms=at_ms, tasks=[1], result_bytes=size)
        for name, at_ms, size in (("a", 1, 6), ("b", 2, 6), ("c", 3, 4))
    }
    assert retention.excess(finished, 10) == (1, 1)
    finished["d"] = SimpleNamespace(finished_ms=4, tasks=[1], result_bytes=11)
    assert retention.excess(finished, 10) == (4, 4), "one that is larger than all that is kept is not kept either"


async def test_a_follower_places_nothing(bench: Any) -> None:
    one = await bench()
    incarnation = await one.register()
    one.log.lose_leadership()
    with pytest.raises(NoLeaderError):
        await one.submit("t")
    one.log.gain_leadership()
    await one.until(lambda: one.replica.leader.leading)
    workflow = await one.submit("t")
    assert len((await one.work(incarnation, 1)).assign) == 1
    assert one.machine.state.workflows[workflow].tasks[0].state is TaskState.RUNNING


async def test_a_workflow_that_limits_itself_holds_nobody_back(bench: Any) -> None:
    one = await bench()
    incarnation = await one.register(cpu=4)
    limited = await one.submit("a", "b", "c", max_parallel=1)
    other = await one.submit("d", "e")
    await one.until(lambda: len(one.machine.state.agents["a1"].live) == 3)
    answer = await one.work(incarnation, 1)
    assert [(item.workflow_id, item.task_id) for item in answer.assign] == [
        (limited, "a"),
        (other, "d"),
        (other, "e"),
    ]
    seq, fence = 1, answer.assign[0].fence
    for task, following in (("a", "b"), ("b", "c")):
        seq += 1
        running = [item for item in one.machine.state.agents["a1"].live if item != fence]
        end = one.end(fence, limited, task)
        answer = await one.work(incarnation, seq, seen=one.machine.state.fence, running=running, ends=[end])
        assert [item.task_id for item in answer.assign] == [following]
        fence = answer.assign[0].fence


async def test_what_was_ready_before_an_election_is_placed_after_it(bench: Any) -> None:
    one = await bench()
    workflow = await one.submit("t")
    one.log.lose_leadership()
    one.log.gain_leadership()
    await one.until(lambda: one.replica.leader.leading)
    incarnation = await one.register()
    answer = await one.work(incarnation, 1)
    assert [item.workflow_id for item in answer.assign] == [workflow]


async def test_a_bug_while_leading_stops_the_replica(bench: Any) -> None:
    one = await bench()

    def broken() -> Any:
        raise ZeroDivisionError("bug in the planner")

    one.replica.leader._planner.plan = broken
    await one.submit("t")
    failure = await asyncio.wait_for(one.replica.wait_failed(), 5)
    assert "bug in the planner" in str(failure)
    assert not one.replica.leader.leading
    assert not one.replica.status().ready
    assert not isinstance(failure, Rejection)
