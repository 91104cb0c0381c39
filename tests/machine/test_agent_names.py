"""Who may have an agent's name, how long a drain lasts, and how an agent that is gone for good is forgotten."""

from __future__ import annotations

import pytest

from raftflow.domain import limits
from raftflow.domain.rejections import RejectionCode
from raftflow.domain.replies import AgentAccepted, Done
from raftflow.machine.machine import Machine
from raftflow.machine.read import queries


@pytest.fixture
def one(drive):
    """An agent that is up."""
    drive.register()
    return drive


# --- names


@pytest.mark.parametrize("home", ["", "another"])
def test_a_second_agent_under_a_name_that_lives_is_refused(one, home):
    one.submit(one.bag(1))
    one.place(0)
    refused = one.register(instance="i2", home=home)
    assert refused.code is RejectionCode.NAME_IN_USE
    assert "--name" in refused.message
    assert one.states() == "R", "the first one goes on"
    agent = one.machine.state.agents["a1"]
    assert (agent.instance, agent.incarnation, agent.losses, agent.faults) == ("i1", 1, 0, 0)
    assert one.finish(1) == "accepted"


def test_two_agents_without_a_home_are_not_the_same(one):
    one.register("a2", home="")
    assert one.register("a2", instance="i2", home="").code is RejectionCode.NAME_IN_USE


def test_a_process_of_the_same_home_takes_the_place_of_the_one_before(one):
    assert one.register(instance="i2") == AgentAccepted("a1", 2)


@pytest.mark.parametrize("reason", ["lost", "left"])
def test_a_name_is_free_when_its_agent_is_gone(one, reason):
    one.remove(reason=reason)
    assert one.register(instance="i2", home="another") == AgentAccepted("a1", 2)
    assert one.machine.state.agents["a1"].state == "up", "nothing is held against it"


def test_a_home_of_many_characters(one):
    assert one.register("a2", home="x" * 65).code is RejectionCode.INVALID


# --- drains


@pytest.mark.parametrize("reason", ["lost", "left"])
@pytest.mark.parametrize("deadline_ms", [0, 1_000])
def test_a_drain_outlives_its_agent(one, reason, deadline_ms):
    one.drain(deadline_ms)
    one.remove(reason=reason)
    assert queries.agent_view(one.machine, "a1").drained
    one.register(instance="i2")
    view = queries.agent_view(one.machine, "a1")
    assert (view.state, view.drained, view.drain_deadline) == ("draining", True, None)
    assert "drains on" in one.records[-1].detail
    assert one.machine.state.next_timer_ms is None
    assert one.resume() == Done()
    view = queries.agent_view(one.machine, "a1")
    assert (view.state, view.drained) == ("up", False)


def test_a_drained_agent_that_flaps_is_drained_and_not_in_quarantine(one):
    one.drain()
    for number in range(3):
        one.remove()
        one.register(instance=f"j{number}")
    agent = one.machine.state.agents["a1"]
    assert (agent.state, agent.quarantine_until_ms, agent.losses) == ("draining", 0, 3)
    assert one.machine.state.next_timer_ms is None
    assert one.fire(10 * 60_000) == 0


def test_the_drain_of_an_agent_that_leaves_ends_with_it(one):
    one.drain_leaving()
    one.remove(reason="left")
    one.register(instance="i2")
    assert one.machine.state.agents["a1"].state == "up"


def test_an_agent_that_leaves_and_was_drained_too_stays_drained(one):
    one.drain_leaving()
    assert one.drain() == Done()
    assert one.drain() == Done(changed=False)
    one.remove(reason="left")
    one.register(instance="i2")
    assert one.machine.state.agents["a1"].state == "draining"


def test_an_agent_that_is_gone_can_be_drained_and_resumed(one):
    one.remove()
    assert one.drain() == Done()
    assert one.drain() == Done(changed=False)
    assert one.resume() == Done()
    assert one.resume().code is RejectionCode.CONFLICT
    one.drain()
    one.register(instance="i2")
    assert one.machine.state.agents["a1"].state == "draining"


def test_a_snapshot_has_drain_and_home(one):
    one.drain()
    one.remove()
    copy = Machine()
    copy.restore(one.machine.snapshot())
    agent = copy.state.agents["a1"]
    assert (agent.drained, agent.home) == (True, "home of a1")


def test_a_snapshot_is_not_changed_by_what_comes_after(one):
    pieces = one.machine.snapshot()
    one.drain()
    copy = Machine()
    copy.restore(pieces)
    assert not copy.state.agents["a1"].drained


def test_of_agents_that_are_gone_a_drained_one_is_forgotten_last(one, monkeypatch):
    monkeypatch.setattr(limits, "AGENTS_MAX", 2)
    one.drain()
    one.remove()
    one.register("a2")
    one.remove("a2")
    one.register("a3")
    assert list(one.machine.state.agents) == ["a1", "a3"]


# --- forgetting


@pytest.mark.parametrize("reason", ["lost", "left"])
def test_an_agent_that_is_gone_is_forgotten(one, reason):
    one.submit(one.bag(1, retries=1))
    one.place(0)
    one.drain()
    one.remove(reason=reason)
    assert one.forget() == Done()
    assert queries.agent_view(one.machine, "a1") is None
    assert one.states() == "E", "its task is ready again"
    one.register(instance="i2")
    agent = one.machine.state.agents["a1"]
    assert (agent.state, agent.losses, agent.faults) == ("up", 0, 0)


def test_an_agent_that_is_present_is_not_forgotten(one):
    refused = one.forget()
    assert refused.code is RejectionCode.CONFLICT
    assert "Stop it" in refused.message
    assert one.forget("a9").code is RejectionCode.NOT_FOUND
