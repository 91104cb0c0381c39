"""Which agents are alive: leases, suspects, unfit agents, losses of one agent and of many."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from raftflow.coordinator.leader.agent_status import AgentStatus
from raftflow.coordinator.leader.leases import Leases
from raftflow.coordinator.leader.liveness import UNHEARD_S
from raftflow.domain.commands import DrainAgent
from raftflow.domain.tasks.states import AgentState, TaskState
from raftflow.machine.tables.agents import Agent


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
    assert one.replica.leader.liveness.leases.next_expiry_s() is None
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
    loop = one.replica.leader.liveness
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
    leader.liveness.leases._heard_s["a1"] -= 3.0
    leader.liveness._arm_leases()
    await one.until(lambda: "a1" in leader.liveness.status.suspects)
    assert (leader.liveness.public_state("a1", "up"), leader.liveness.public_state("a2", "up")) == ("suspect", "up")
    assert leader.liveness.public_state("a1", "draining") == "draining"
    await one.submit("t", "u")
    await one.until(lambda: one.machine.state.agents["a2"].live)
    assert not one.machine.state.agents["a1"].live
    answer = await one.work(incarnation, 1)
    assert [item.task_id for item in answer.assign] == ["u"]
    assert leader.liveness.public_state("a1", "up") == "up"


async def test_a_suspect_that_is_lost_and_back_gets_work(bench: Any) -> None:
    one = await bench(lease_ms=400, poll_wait_ms=50)
    await one.register()
    leader = one.replica.leader
    await one.until(lambda: "a1" in leader.liveness.status.suspects)
    await one.until(lambda: one.machine.state.agents["a1"].state is AgentState.LOST)
    assert not leader.liveness.status.suspects
    workflow = await one.submit("t", "u")
    incarnation = await one.register(instance="2" * 8)
    assert leader.liveness.public_state("a1", "up") == "returned"
    fence = (await one.work(incarnation, 1)).assign[0].fence
    await one.work(incarnation, 2, seen=fence, ends=[one.end(fence, workflow, "t", "failed")])
    assert leader.liveness.public_state("a1", "up") == "returned"
    fence = one.machine.state.fence
    await one.work(incarnation, 3, seen=fence, ends=[one.end(fence, workflow, "u")])
    assert leader.liveness.public_state("a1", "up") == "up"


def test_an_agent_that_returned_is_up_like_others_after_a_minute() -> None:
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
    assert one.replica.leader.liveness.loss_throttle.active
    seq = 1
    while any(agents[name].present for name in names[:-1]):
        seq += 1
        await one.work(incarnations["a7"], seq, name="a7")
    assert agents["a7"].state is AgentState.UP
    assert one.replica.leader.liveness.loss_throttle.begun == 1
    assert "given up slowly" in caplog.text
    await one.until(lambda: not one.replica.leader.liveness.loss_throttle.active)


async def test_a_pause_of_the_leader_makes_nobody_suspect(bench: Any) -> None:
    one = await bench(lease_ms=1_000, poll_wait_ms=100)
    await one.register()
    leader = one.replica.leader
    now_s = asyncio.get_running_loop().time()
    leader.liveness.leases.contact("a1", now_s - 0.7)
    leader.liveness._check_leases(now_s)
    assert list(leader.liveness.status.suspects) == ["a1"]
    leader.liveness._check_leases(now_s - 1.0)
    assert not leader.liveness.status.suspects


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
    assert one.replica.leader.liveness.public_state("a1", "up") == "up", "it is no suspect yet"
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
    assert one.replica.leader.liveness.unheard == {"gone": None}, "it is not waited for longer"
    await one.poll(gone, 1, name="gone")
    assert not one.replica.leader.liveness.unheard


@pytest.mark.parametrize(
    ("count", "silent", "reasons"), [(1, 1, ["lost"]), (3, 3, ["lost_together"] * 3), (5, 2, ["lost"] * 2)]
)
async def test_a_loss_of_most_of_a_small_fleet_counts_against_none(
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


async def test_an_agent_that_says_that_it_is_unfit_gets_nothing_until_it_is_fit(bench: Any) -> None:
    one = await bench(lease_ms=4_000, poll_wait_ms=100)
    incarnation = await one.register(cpu=4)
    await one.register("a2", cpu=4, instance="2" * 8)
    leader = one.replica.leader
    await one.work(incarnation, 2, trouble="its disk is full")
    assert (leader.liveness.public_state("a1", "up"), leader.liveness.status.unfit) == (
        "unfit",
        {"a1": "its disk is full"},
    )
    assert leader.liveness.public_state("a1", "draining") == "draining"
    await one.work(incarnation, 1)
    assert leader.liveness.status.unfit, "an older poll says nothing new"
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
    assert (leader.liveness.public_state("a1", "up"), leader.liveness.status.unfit) == ("up", {})


async def test_an_unfit_agent_that_is_silent_or_lost(bench: Any) -> None:
    one = await bench(lease_ms=400, poll_wait_ms=50)
    incarnation = await one.register()
    leader = one.replica.leader
    await one.work(incarnation, 1, trouble="no descriptors")
    await one.until(lambda: "a1" in leader.liveness.status.suspects)
    leader.liveness.note_contact("a1")
    assert "a1" in one.replica.planner.suspects(), "heard, and as unfit as before"
    await one.until(lambda: one.machine.state.agents["a1"].state is AgentState.LOST)
    assert (leader.liveness.status.unfit, one.replica.planner.suspects()) == ({}, frozenset())


async def test_leases_that_end_apart_are_one_mass_loss(bench: Any) -> None:
    """Agents that vanish together were heard at different times, so their leases end at different times."""
    one = await bench(lease_ms=1_000, poll_wait_ms=100)
    liveness = one.replica.leader.liveness
    names = [f"a{number}" for number in range(5)]
    for name in names:
        await one.register(name, instance=name * 4)
    now_s = asyncio.get_running_loop().time()
    for number, name in enumerate(names):
        liveness.leases.contact(name, now_s + (0.0 if number == 0 else 0.4))
    state = one.machine.state
    await one.until(lambda: state.agents["a0"].state is AgentState.LOST)
    assert liveness.loss_throttle.active
    await one.until(lambda: all(state.agents[name].state is AgentState.LOST for name in names))
    assert liveness.loss_throttle.begun == 1
    await one.until(lambda: not liveness.loss_throttle.active)
