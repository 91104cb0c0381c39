"""The leader's own work: leases, timers, placing, retention; and none of it on a follower."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from raftflow.coordinator.commit.coalesced_task import CoalescedTask
from raftflow.coordinator.commit.submitter import NoLeaderError
from raftflow.coordinator.config.replica_config import Limits
from raftflow.coordinator.leader import leader_loop as leader_module
from raftflow.coordinator.leader.agent_status import AgentStatus
from raftflow.coordinator.leader.leader_loop import UNHEARD_S
from raftflow.coordinator.leader.leases import Leases
from raftflow.coordinator.leader.retention import Retention
from raftflow.domain.commands import ControlWorkflow, DrainAgent
from raftflow.domain.rejections import Rejection
from raftflow.domain.tasks.states import AgentState, TaskState, WorkflowState
from raftflow.machine.tables.state import Agent


def test_leases_expire_after_lease_and_margin() -> None:
    leases = Leases(10_000)
    leases.contact("a", 100.0)
    leases.contact("b", 104.0)
    assert leases.next_expiry_s() == 111.0
    assert leases.expired(110.9) == []
    assert leases.expired(111.0) == ["a"]
    leases.contact("a", 111.0)
    assert leases.next_expiry_s() == 115.0
    leases.renew_all(120.0)
    assert leases.next_expiry_s() == 131.0
    leases.forget("b")
    leases.clear()
    assert leases.next_expiry_s() is None


async def test_a_silent_agent_is_lost_and_its_task_runs_elsewhere(bench: Any) -> None:
    one = await bench(lease_ms=300, poll_wait_ms=100)
    await one.register("a1", instance="1" * 8)
    workflow = await one.submit("t")
    await one.until(lambda: one.machine.state.agents["a1"].live)
    assert one.machine.state.agents["a1"].state is AgentState.UP
    await one.until(lambda: one.machine.state.agents["a1"].state is AgentState.LOST)
    assert one.machine.state.workflows[workflow].tasks[0].state is TaskState.READY
    second = await one.register("a2", instance="2" * 8)
    answer = await one.work(second, 1, name="a2")
    assert [item.attempt for item in answer.assign] == [2]


async def test_an_agent_that_polls_is_kept(bench: Any) -> None:
    one = await bench(lease_ms=300, poll_wait_ms=100)
    incarnation = await one.register()
    seq = 0
    started = asyncio.get_running_loop().time()
    while asyncio.get_running_loop().time() < started + 0.8:
        seq += 1
        await one.work(incarnation, seq)
    assert one.machine.state.agents["a1"].state is AgentState.UP


async def test_a_new_leader_gives_everybody_a_fresh_lease(bench: Any) -> None:
    one = await bench(lease_ms=400, poll_wait_ms=100)
    await one.register()
    await asyncio.sleep(0.3)
    one.log.lose_leadership()
    assert one.replica.leader.leases.next_expiry_s() is None
    await asyncio.sleep(0.3)
    assert one.machine.state.agents["a1"].state is AgentState.UP, "a follower declares nobody lost"
    one.log.gain_leadership()
    await one.until(lambda: one.replica.leader.leading)
    started = asyncio.get_running_loop().time()
    await one.until(lambda: one.machine.state.agents["a1"].state is AgentState.LOST)
    assert asyncio.get_running_loop().time() - started >= 0.4


async def test_a_pause_of_the_leader_costs_no_lease(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    one = await bench(lease_ms=1_000, poll_wait_ms=100)
    await one.register()
    loop = one.replica.leader
    now_s = asyncio.get_running_loop().time()
    loop.leases.contact("a1", now_s - 20.0)
    loop._check_leases(now_s - 18.9)
    assert len(loop.removals) == 0
    loop._check_leases(now_s)
    assert len(loop.removals) == 0
    await asyncio.sleep(0.01)
    assert one.machine.state.agents["a1"].state is AgentState.UP


def test_suspicion_comes_before_the_lease_is_over() -> None:
    leases = Leases(10_000, 3_000)
    leases.contact("a", 100.0)
    leases.contact("b", 104.0)
    assert (leases.suspects(104.9), leases.suspects(105.0)) == ([], ["a"])
    assert leases.next_suspicion_s({}) == 105.0
    assert leases.next_suspicion_s({"a"}) == 109.0
    assert leases.next_suspicion_s({"a", "b"}) is None
    patient = Leases(10_000, 5_000)
    patient.contact("a", 100.0)
    assert (patient.suspects(106.9), patient.suspects(107.0)) == ([], ["a"]), "polls are held for half the lease"


async def test_a_silent_agent_gets_nothing_more_until_it_is_heard(bench: Any) -> None:
    one = await bench(lease_ms=4_000, poll_wait_ms=100)
    incarnation = await one.register(cpu=4)
    await one.register("a2", instance="2" * 8)
    leader = one.replica.leader
    leader.leases._heard_s["a1"] -= 3.0
    leader._arm_leases()
    await one.until(lambda: "a1" in leader.status.suspects)
    assert (leader.public_state("a1", "up"), leader.public_state("a2", "up")) == ("suspect", "up")
    assert leader.public_state("a1", "draining") == "draining"
    await one.submit("t", "u")
    await one.until(lambda: one.machine.state.agents["a2"].live)
    assert not one.machine.state.agents["a1"].live
    answer = await one.work(incarnation, 1)
    assert [item.task_id for item in answer.assign] == ["u"]
    assert leader.public_state("a1", "up") == "up"


async def test_a_suspect_that_is_lost_and_back_gets_work(bench: Any) -> None:
    one = await bench(lease_ms=400, poll_wait_ms=50)
    await one.register()
    leader = one.replica.leader
    await one.until(lambda: "a1" in leader.status.suspects)
    await one.until(lambda: one.machine.state.agents["a1"].state is AgentState.LOST)
    assert not leader.status.suspects
    workflow = await one.submit("t", "u")
    incarnation = await one.register(instance="2" * 8)
    assert leader.public_state("a1", "up") == "returned"
    fence = (await one.work(incarnation, 1)).assign[0].fence
    await one.work(incarnation, 2, seen=fence, ends=[one.end(fence, workflow, "t", "failed")])
    assert leader.public_state("a1", "up") == "returned"
    fence = one.machine.state.fence
    await one.work(incarnation, 3, seen=fence, ends=[one.end(fence, workflow, "u")])
    assert leader.public_state("a1", "up") == "up"


def test_who_returned_is_up_like_others_after_a_minute() -> None:
    status = AgentStatus()
    agent = Agent("a1", "i", 3, capacity={}, labels={}, prefetch=0)
    status.note_change(agent, 10.0)
    assert status.public_state("a1", "up", 11.0) == "up", "it is new, not back"
    again = Agent("a1", "j", 4, capacity={}, labels={}, prefetch=0)
    again.losses = 1
    status.note_change(again, 20.0)
    status.note_change(again, 70.0)
    assert (status.public_state("a1", "up", 79.9), status.public_state("a1", "up", 80.0)) == ("returned", "up")
    other = AgentStatus()
    other.note_agent(again)
    other.note_change(again, 20.0)
    assert other.public_state("a1", "up", 21.0) == "up", "it was there before this replica led"


async def test_a_mass_loss_is_slow_and_who_is_heard_again_is_kept(bench: Any, caplog: Any) -> None:
    one = await bench(lease_ms=600, poll_wait_ms=100)
    names = [f"a{number}" for number in range(1, 8)]
    incarnations = {name: await one.register(name, instance=name * 4) for name in names}
    agents = one.machine.state.agents
    await one.until(lambda: agents["a1"].state is AgentState.LOST)
    await one.work(incarnations["a7"], 1, name="a7")
    assert sum(agent.present for agent in agents.values()) >= 3, "they do not go all at once"
    assert one.replica.leader.loss_throttle.active
    seq = 1
    while any(agents[name].present for name in names[:-1]):
        seq += 1
        await one.work(incarnations["a7"], seq, name="a7")
    assert agents["a7"].state is AgentState.UP
    assert one.replica.leader.loss_throttle.begun == 1
    assert "given up slowly" in caplog.text
    await one.until(lambda: not one.replica.leader.loss_throttle.active)


async def test_a_pause_of_the_leader_makes_nobody_suspect(bench: Any) -> None:
    one = await bench(lease_ms=1_000, poll_wait_ms=100)
    await one.register()
    leader = one.replica.leader
    now_s = asyncio.get_running_loop().time()
    leader.leases.contact("a1", now_s - 0.7)
    leader._check_leases(now_s)
    assert list(leader.status.suspects) == ["a1"]
    leader._check_leases(now_s - 1.0)
    assert not leader.status.suspects


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


async def test_agents_that_were_not_heard_in_this_term_get_nothing(bench: Any) -> None:
    """What is placed with one that has yet to find the new leader would wait there, while another could run it."""
    one = await bench()
    incarnations = {name: await one.register(name, instance=name * 4) for name in ("a1", "a2", "a3")}
    one.log.lose_leadership()
    one.log.gain_leadership()
    await one.until(lambda: one.replica.leader.leading)
    assert one.replica.planner.suspects() == set(incarnations)
    await one.submit(*(f"t{number}" for number in range(3)))
    answer = await one.work(incarnations["a2"], 1, name="a2")
    assert (len(answer.assign), one.replica.planner.suspects()) == (1, {"a1", "a3"})
    agents = one.machine.state.agents
    await one.until(lambda: one.replica.planner.settled)
    assert [len(agent.live) for agent in agents.values()] == [0, 1, 0]
    assert one.replica.leader.public_state("a1", "up") == "up", "it is no suspect yet"
    await one.replica.propose(one.removal("a3", incarnations["a3"]))
    assert one.replica.planner.suspects() == {"a1"}
    assert len((await one.work(incarnations["a1"], 1)).assign) == 1
    assert not one.replica.planner.suspects()
    again = await one.register("a3", instance="b" * 8)
    assert len((await one.work(again, 1, name="a3")).assign) == 1, "who registers is heard"


async def test_nothing_queues_at_a_full_agent_while_others_are_yet_to_be_heard(bench: Any) -> None:
    one = await bench()
    full, idle, gone = [await one.register(name, instance=name * 4, prefetch=8) for name in ("full", "idle", "gone")]
    for name in ("idle", "gone"):
        await one.replica.propose(one.control(name, "drain"))
    await one.submit("long")
    (item,) = (await one.work(full, 1, name="full")).assign
    for name in ("idle", "gone"):
        await one.replica.propose(one.control(name, "resume"))
    one.log.lose_leadership()
    one.log.gain_leadership()
    await one.until(lambda: one.replica.leader.leading)
    await one.poll(full, 2, name="full", seen=item.fence, running=[item.fence])
    await one.submit("next")
    await one.until(lambda: one.replica.planner.settled)
    assert [len(agent.queue) for agent in one.machine.state.agents.values()] == [0, 0, 0]
    assert [item.task_id for item in (await one.work(idle, 1, name="idle")).assign] == ["next"]
    await one.submit("third")
    await one.until(lambda: any(agent.queue for agent in one.machine.state.agents.values()), 2 * UNHEARD_S)
    assert one.replica.leader.unheard == {"gone": None}, "it is not waited for longer"
    await one.poll(gone, 1, name="gone")
    assert not one.replica.leader.unheard


@pytest.mark.parametrize(
    ("count", "silent", "reasons"), [(1, 1, ["lost"]), (3, 3, ["lost_together"] * 3), (5, 2, ["lost"] * 2)]
)
async def test_a_loss_of_most_of_a_small_fleet_is_told_apart(
    bench: Any, count: int, silent: int, reasons: list[str]
) -> None:
    one = await bench(lease_ms=400, poll_wait_ms=100)
    names = [f"a{number}" for number in range(count)]
    incarnations = {name: await one.register(name, instance=name * 4) for name in names}
    agents = one.machine.state.agents
    seq = 0
    while sum(not agent.present for agent in agents.values()) < silent:
        seq += 1
        for name in names[silent:]:
            await one.poll(incarnations[name], seq, name=name)
        await asyncio.sleep(0.02)
    assert [agents[name].losses for name in names[:silent]] == [int(reason == "lost") for reason in reasons]
    assert all(agents[name].present for name in names[silent:])


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


async def test_an_coalesced_runs_once_for_many_kicks_and_again_if_kicked_meanwhile() -> None:
    runs: list[int] = []
    gate = asyncio.Event()

    async def work() -> None:
        runs.append(len(runs))
        await gate.wait()

    coalesced = CoalescedTask("test", work, lambda error: pytest.fail(str(error)))
    coalesced.kick()
    await asyncio.sleep(0)
    assert runs == [], "not started"
    coalesced.start()
    settled = asyncio.Event()
    assert not coalesced.when_settled(settled.set), "nothing was asked for"
    for _ in range(3):
        coalesced.kick()
    assert coalesced.when_settled(settled.set)
    await asyncio.sleep(0)
    coalesced.kick()
    later = asyncio.Event()
    assert coalesced.when_settled(later.set)
    gate.set()
    await settled.wait()
    await later.wait()
    assert runs == [0, 1]


async def test_an_coalesced_that_found_no_leader_tries_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raftflow.coordinator.commit.coalesced_task.RETRY_S", 0.01)
    runs: list[int] = []
    done = asyncio.Event()

    async def work() -> None:
        runs.append(1)
        if len(runs) < 3:
            raise NoLeaderError("none")
        done.set()

    coalesced = CoalescedTask("test", work, lambda error: pytest.fail(str(error)))
    coalesced.start()
    coalesced.kick()
    await asyncio.wait_for(done.wait(), 5)
    assert len(runs) == 3


async def test_a_bug_in_an_coalesced_is_told() -> None:
    told: list[BaseException] = []

    async def work() -> None:
        raise KeyError("bug")

    coalesced = CoalescedTask("test", work, told.append)
    coalesced.start()
    coalesced.kick()
    await asyncio.sleep(0.01)
    assert [type(error) for error in told] == [KeyError]


async def test_stopping_an_coalesced_releases_who_waits() -> None:
    async def work() -> None:
        await asyncio.Event().wait()

    coalesced = CoalescedTask("test", work, lambda error: pytest.fail(str(error)))
    coalesced.start()
    coalesced.kick()
    released = asyncio.Event()
    assert coalesced.when_settled(released.set)
    await asyncio.sleep(0)
    coalesced.stop()
    assert released.is_set()


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


async def test_an_agent_that_says_that_it_is_unfit_gets_nothing_until_it_is_fit(bench: Any) -> None:
    one = await bench(lease_ms=4_000, poll_wait_ms=100)
    incarnation = await one.register(cpu=4)
    await one.register("a2", cpu=4, instance="2" * 8)
    leader = one.replica.leader
    await one.work(incarnation, 2, trouble="its disk is full")
    assert (leader.public_state("a1", "up"), leader.status.unfit) == ("unfit", {"a1": "its disk is full"})
    assert leader.public_state("a1", "draining") == "draining"
    await one.work(incarnation, 1)
    assert leader.status.unfit, "an older poll says nothing new"
    workflow = await one.submit("t")
    await one.until(lambda: one.machine.state.agents["a2"].live)
    assert not one.machine.state.agents["a1"].live
    await one.replica.propose(DrainAgent(at_ms=one.replica.clock.now_ms(), actor="", name="a2"), "client")
    waiting = await one.submit("u")
    told = one.replica.explain(waiting, "u")
    assert (told.waiting, "a1 (unfit: its disk is full)" in told.reason) == ("agents-away", True), workflow
    assert any(each.why == "it is unfit: its disk is full" for each in told.candidates)
    answer = await one.work(incarnation, 3)
    assert [item.task_id for item in answer.assign] == ["u"]
    assert (leader.public_state("a1", "up"), leader.status.unfit) == ("up", {})


async def test_an_unfit_agent_that_is_silent_or_lost(bench: Any) -> None:
    one = await bench(lease_ms=400, poll_wait_ms=50)
    incarnation = await one.register()
    leader = one.replica.leader
    await one.work(incarnation, 1, trouble="no descriptors")
    await one.until(lambda: "a1" in leader.status.suspects)
    leader.note_contact("a1")
    assert "a1" in one.replica.planner.suspects(), "heard, and as unfit as before"
    await one.until(lambda: one.machine.state.agents["a1"].state is AgentState.LOST)
    assert (leader.status.unfit, one.replica.planner.suspects()) == ({}, frozenset())
