"""The watch on the leader: queued work that moves to idle agents, backups of late attempts, and why."""

from __future__ import annotations

import asyncio
import math
from typing import Any

import pytest

from raftflow.coordinator.placement import rebalancer as watch_module
from raftflow.coordinator.placement.agent_stats import AgentStats
from raftflow.coordinator.placement.planner import REMEMBERED_MAX
from raftflow.coordinator.sessions.agent_session import DELIVERIES_APART_S, DELIVERIES_MAX, AgentSession
from raftflow.coordinator.sessions.instructions import Instructions
from raftflow.domain.contract.views import AgentLoad, Assignment, AttemptUsage
from raftflow.domain.tasks.feasibility import AgentRoom
from raftflow.domain.tasks.program import CommandLine

SECOND_MS = 1_000


async def online(bench: Any, **options: Any) -> Any:
    one = await bench(**options)
    one.replica.rebalance_loop.stop()  # the tests look themselves
    return one


async def settled(one: Any) -> None:
    """Wait until the scheduler has found nothing more to place."""
    await one.until(lambda: one.replica.planner.settled)


def look(one: Any) -> list[Any]:
    return list(one.replica.rebalance_loop._rebalancer.decide())


async def learn(one: Any, incarnation: int, ms: int, count: int = 6, agent: str = "a1") -> int:
    """Let an agent run tasks of the kind `true` that take so long; returns its last fence."""
    workflow = await one.submit(*(f"t{n}" for n in range(count)))
    seen = 0
    ends: list[Any] = []
    for seq in range(1, 100):
        answer = await one.work(incarnation, seq, name=agent, seen=seen, ends=ends)
        ends = [one.end(item.fence, workflow, item.task_id, duration_ms=ms) for item in answer.assign]
        seen = max([seen, *(item.fence for item in answer.assign)])
        if one.machine.state.workflows[workflow].finished_ms:
            return int(seen)
    raise AssertionError("the tasks did not come")


def later(one: Any, ms: int) -> None:
    """Let time go on for the watch alone."""
    watch = one.replica.rebalance_loop._rebalancer
    watch._now_ms = lambda: one.machine.clock_ms + ms

    def delivered_s(agent: str, fence: int) -> float | None:
        at_s: float | None = one.poll_service.delivered_s(agent, fence)
        return None if at_s is None else at_s - ms / 1000

    watch._delivered_s = delivered_s


@pytest.mark.parametrize(("slow", "moved"), [("a1", 8), ("a2", 1)])
async def test_how_much_is_moved_follows_from_the_speeds(bench: Any, slow: str, moved: int) -> None:
    """A slow agent is left with little, and an idle one that is slow is given little."""
    one = await online(bench)
    first = await one.register("a1", prefetch=10)
    await one.submit(*(f"t{n}" for n in range(9)))
    await one.work(first, 1)
    await one.register("a2", prefetch=10)
    one.replica.agent_stats.note_duration(slow, SECOND_MS, 10 * SECOND_MS)
    await settled(one)
    (recall,) = look(one)
    assert (recall.agent, len(recall.fences)) == ("a1", moved)


async def test_nothing_is_moved_while_fresh_work_waits(bench: Any) -> None:
    one = await online(bench)
    await one.register("a1", prefetch=4)
    await one.submit(*(f"t{n}" for n in range(9)))
    await settled(one)
    one.replica.planner.settled = False
    await one.register("a2", prefetch=4)
    assert look(one) == []


@pytest.mark.parametrize("fields", [{}, {"expected_ms": 100}, {"kind": "true"}, {"max_parallel": 1, "backup": True}])
async def test_who_may_not_run_twice_gets_none(bench: Any, fields: dict[str, Any]) -> None:
    """However late it is, and however sure that is."""
    one = await online(bench)
    first = await one.register("a1")
    seen = await learn(one, first, 200, count=20)
    workflow = await one.submit("charge", **fields)
    await one.work(first, 500, seen=seen)
    await one.register("a2")
    await settled(one)
    one.clock.ms += 60 * SECOND_MS
    for ms in (SECOND_MS, 30 * SECOND_MS, 3600 * SECOND_MS):
        later(one, ms)
        assert look(one) == []
    reason = one.replica.explain(workflow, "charge").reason
    assert " s and is late" in reason
    assert ("`backup = true`" in reason) != ("max_parallel" in reason)


async def test_who_is_in_time_gets_none(bench: Any) -> None:
    one = await online(bench)
    first = await one.register("a1")
    await one.register("a2")
    await one.submit("unknown", backup=True)
    await one.work(first, 1)
    await settled(one)
    later(one, 3600 * SECOND_MS)
    assert look(one) == [], "nobody knows how long that takes"


async def test_progress_that_ends_soon_is_waited_for(bench: Any) -> None:
    one = await online(bench)
    first = await one.register("a1")
    seen = await learn(one, first, 2_000)
    await one.submit("late", backup=True)
    (item,) = (await one.work(first, 500, seen=seen)).assign
    later(one, 20 * SECOND_MS)
    await one.register("a2")
    for seq, progress, wanted in ((501, 0.95, 0), (502, 0.2, 1)):
        usage = [AttemptUsage(fence=item.fence, cpu_ms=1, memory_mib=1, peak_mib=1, progress=progress)]
        await one.poll(first, seq, seen=item.fence, running=[item.fence], usage=usage)
        await settled(one)
        assert len(look(one)) == wanted


async def test_a_slow_agent_is_not_waited_for(bench: Any) -> None:
    one = await online(bench)
    second = await one.register("a2")
    await learn(one, second, 2_000, agent="a2")
    slow = await one.register("a1")
    for _ in range(5):
        one.replica.agent_stats.note_duration("a1", 2_000, 20_000)
    await settled(one)
    rooms = one.replica.planner.rooms()
    assert (rooms["a1"].speed, rooms["a2"].speed) == (125, 1_000)
    await one.submit("x", "y", backup=True)
    await settled(one)
    agents = one.machine.state.agents
    assert (len(agents["a1"].live), len(agents["a2"].live)) == (1, 1)
    assert look(one) == [], "the other one is busy"
    workflow, task = next(iter(agents["a2"].live.values()))
    fence = task.last.fence
    await one.poll(second, 900, name="a2", seen=fence, ends=[one.end(fence, workflow.id, task.id, duration_ms=2_000)])
    await settled(one)
    assert look(one) == [], "the slow one has not even been sent its task"
    assert len((await one.work(slow, 1, name="a1")).assign) == 1
    (command,) = look(one)
    assert [placement.agent for placement in command.placements] == ["a2"]


async def test_late_counts_from_delivery(bench: Any) -> None:
    """An attempt that reached its agent only now has not run yet, whenever it was placed."""
    one = await online(bench)
    first = await one.register("a1")
    seen = await learn(one, first, 2_000)
    await one.submit("late", backup=True)
    await settled(one)
    watch = one.replica.rebalance_loop._rebalancer
    watch._now_ms = lambda: one.machine.clock_ms + 20 * SECOND_MS
    await one.register("a2")
    await settled(one)
    assert look(one) == [], "it was not delivered"
    await one.work(first, 500, seen=seen)
    assert look(one) == [], "it was delivered just now"
    later(one, 20 * SECOND_MS)
    assert len(look(one)) == 1


async def test_no_backup_for_an_agent_that_was_not_heard_in_this_term(bench: Any) -> None:
    one = await online(bench)
    first = await one.register("a1")
    seen = await learn(one, first, 2_000)
    await one.submit("late", backup=True)
    (item,) = (await one.work(first, 500, seen=seen)).assign
    second = await one.register("a2")
    one.log.lose_leadership()
    one.log.gain_leadership()
    await one.until(lambda: one.replica.leader.leading)
    one.replica.rebalance_loop.stop()
    await one.poll(second, 500, name="a2")
    later(one, 20 * SECOND_MS)
    await settled(one)
    assert look(one) == []
    await one.poll(first, 501, seen=item.fence, running=[item.fence])
    await settled(one)
    assert len(look(one)) == 1, "it was delivered before, and is late by its whole time"


def test_what_a_session_knows_of_deliveries() -> None:
    session = AgentSession("a1", 1)
    assert session.delivered_s(0) is None
    session.note_seen(4)
    for number in range(DELIVERIES_MAX + 1):
        session.note_answer(news(10 + 10 * number), float(number))
    session.note_answer(news(500), DELIVERIES_MAX + DELIVERIES_APART_S / 2)
    assert [session.delivered_s(fence) for fence in (4, 10, 11, 20, 21)] == [-math.inf, -math.inf, 1.0, 1.0, 2.0]
    assert (session.delivered_s(500), session.delivered_s(501)) == (float(DELIVERIES_MAX), None)
    session.note_seen(600)
    assert session.delivered_s(501) == -math.inf, "somebody else sent it"


def news(fence: int) -> Instructions:
    item = Assignment(
        fence=fence,
        workflow_id="w",
        workflow_name="w",
        task_id="t",
        attempt=1,
        resources={},
        program=CommandLine(("true",)),
    )
    return Instructions([item], [], [], draining=False)


async def test_the_loop_runs_while_there_is_work_and_rests_without(
    bench: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch_module, "WATCH_S", 0.02)
    one = await bench()
    first = await one.register("a1", prefetch=10)
    await one.until(lambda: one.replica.rebalance_loop._timer is None)
    workflow = await one.submit(*(f"t{n}" for n in range(4)))
    answer = await one.work(first, 1)
    fences = [item.fence for item in answer.assign]
    await one.register("a2", prefetch=10)
    told = await one.work(first, 2, seen=fences[-1], running=fences[:1], queued=fences[1:])
    assert told.release, "asked back within a few looks"
    ends = [one.end(item.fence, workflow, item.task_id) for item in answer.assign]
    await one.poll(first, 3, seen=fences[-1], ends=ends)
    await one.until(lambda: one.replica.rebalance_loop._timer is None)


async def test_the_leader_says_why_this_agent(bench: Any) -> None:
    one = await online(bench)
    await one.register("a1", cpu=4)
    second = await one.register("a2")
    workflow = await one.submit("a", "b<a")
    answer = await one.work(second, 1, name="a2")
    told = one.replica.explain(workflow, "a")
    assert told.agent == "a2"
    assert told.index == one.machine.state.workflows[workflow].tasks[0].last.index
    assert [(found.agent, found.where) for found in told.candidates] == [("a2", "run"), ("a1", "run")]
    fence = answer.assign[0].fence
    await one.poll(second, 2, name="a2", seen=fence, ends=[one.end(fence, workflow, "a")])
    told = one.replica.explain(workflow, "b")
    assert (told.agent, told.candidates) == ("a2", [])
    assert "with the report" in told.reason
    assert one.replica.explain(workflow, "nothing") is None


async def test_the_leader_says_who_could_take_a_task_that_waits(bench: Any) -> None:
    one = await online(bench)
    await one.register("a1")
    workflow = await one.submit("large", resources={"cpu": 9_000})
    told = one.replica.explain(workflow, "large")
    assert [(found.agent, found.where) for found in told.candidates] == [("a1", "no")]
    assert "it offers " in told.candidates[0].why


async def test_decisions_are_remembered_within_a_bound(bench: Any) -> None:
    one = await online(bench)
    first = await one.register("a1")
    oldest = await one.submit("t")
    seen = (await one.work(first, 1)).assign[0].fence
    await one.poll(first, 2, seen=seen, ends=[one.end(seen, oldest, "t")])
    assert one.replica.planner.decision_of(oldest, 0) is not None
    for seq in range(3, REMEMBERED_MAX + 3):
        workflow = await one.submit("t")
        seen = (await one.work(first, 2 * seq, seen=seen)).assign[0].fence
        await one.poll(first, 2 * seq + 1, seen=seen, ends=[one.end(seen, workflow, "t")])
    assert one.replica.planner.decision_of(oldest, 0) is None
    assert "not remembered" in one.replica.explain(oldest, "t").reason


def room(name: str = "a1") -> AgentRoom:
    return AgentRoom(name=name, incarnation=1, capacity={"cpu": 4_000}, free={"cpu": 4_000})


def test_the_agent_stats_tells_of_changes_in_coarse_steps() -> None:
    agent_stats = AgentStats()
    load = AgentLoad(cpu_count=4, memory_free_mib=4_000, cpu_busy_per_mille=100, run_queue=0)
    agent_stats.note_load("a1", load)
    assert agent_stats.take_changed() == {"a1": None}
    agent_stats.note_load("a1", AgentLoad(cpu_count=4, memory_free_mib=4_001, cpu_busy_per_mille=120, run_queue=0))
    assert agent_stats.take_changed() == {}
    agent_stats.note_load("a1", AgentLoad(cpu_count=4, memory_free_mib=4_001, cpu_busy_per_mille=990, run_queue=9))
    assert agent_stats.take_changed() == {"a1": None}
    assert agent_stats.annotate(room()).pressure > 0
    agent_stats.forget("a1")
    assert agent_stats.annotate(room()) == room()


def test_the_agent_stats_measures_speed() -> None:
    agent_stats = AgentStats()
    agent_stats.note_duration("a1", 50, 5_000)
    assert agent_stats.speed("a1") == 1_000, "too short to tell"
    agent_stats.note_duration("a1", 1_000, 10_000)
    assert agent_stats.speed("a1") == 100, "a crawl is believed at once"
    for _ in range(40):
        agent_stats.note_duration("a1", 1_000, 500)
    assert 1_900 <= agent_stats.speed("a1") <= 2_000
    agent_stats.clear()
    assert agent_stats.speed("a1") == 1_000


async def test_a_new_leader_begins_with_nothing(bench: Any) -> None:
    one = await online(bench)
    one.replica.agent_stats.note_load("a1", AgentLoad(cpu_count=4))
    one.replica.poll_service.step_down()
    assert one.replica.agent_stats.take_changed() == {}
    await asyncio.sleep(0)
