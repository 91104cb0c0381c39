"""Agents that come and go: losses in succession, quarantine, failure history."""

from __future__ import annotations

import pytest

from raftflow.domain.events import TimerSet
from raftflow.domain.replies import AgentAccepted, Done
from raftflow.machine.machine import Machine
from raftflow.machine.read import queries
from raftflow.machine.rules.quarantine import FORGET_MS, QUARANTINE_FIRST_MS, QUARANTINE_MAX_MS, SUCCESSION_MS

MINUTE_MS = 60_000


@pytest.fixture
def online(drive):
    """An agent, and another one beside it: alone it would never be in quarantine."""
    drive.register()
    drive.register("other", capacity={"gpu": 1000})
    return drive


def agent(drive, name="a1"):
    return drive.machine.state.agents[name]


def lose(drive, after_ms=0):
    """The agent is lost after a time, and its successor registers; returns what that is in then."""
    drive.now_ms += after_ms
    drive.remove()
    drive.register(instance=f"i{drive.index}")
    return agent(drive).state.value


def quarantine_ms(drive):
    return agent(drive).quarantine_until_ms - drive.now_ms


def test_the_first_loss_is_forgiven(online):
    assert lose(online) == "up"
    assert (agent(online).losses, agent(online).lost_ms) == (1, online.now_ms)


def test_losses_in_succession_double_the_quarantine(online):
    lose(online)
    found = []
    for _ in range(8):
        assert lose(online, MINUTE_MS) == "quarantine"
        found.append(quarantine_ms(online) // 1000)
    assert found == [10, 20, 40, 80, 160, 300, 300, 300]
    assert online.records[-1].detail == "agent a1 is in quarantine for 300 s: lost 9 times in short succession"
    assert online.records[-2].detail == "agent a1 was lost 9 times in short succession"


@pytest.mark.parametrize(
    ("between_ms", "losses", "state"),
    [
        (SUCCESSION_MS, 3, "quarantine"),
        (SUCCESSION_MS + 1, 2, "quarantine"),
        (FORGET_MS - 1, 2, "quarantine"),
        (FORGET_MS, 1, "up"),
    ],
)
def test_time_between_losses(online, between_ms, losses, state):
    lose(online)
    lose(online, 1)
    assert lose(online, between_ms) == state
    assert agent(online).losses == losses


def test_one_that_stayed_away_for_long_is_up_at_once(online):
    lose(online)
    online.remove()
    online.now_ms += FORGET_MS
    online.register(instance="i9")
    assert (agent(online).state, agent(online).losses) == ("up", 2)


def test_in_quarantine_it_gets_no_work_and_then_some(online):
    lose(online)
    lose(online)
    assert TimerSet(agent(online).quarantine_until_ms) in online.events
    online.submit(online.bag(2))
    assert (online.place(0), len(online.machine.state.kinds)) == ((0,), 1)
    assert queries.agent_room(online.machine, "a1") is None
    view = queries.agent_view(online.machine, "a1")
    assert (view.state, view.losses, view.quarantine_until) == ("quarantine", 2, "2023-11-14T22:13:30.000Z")
    assert not view.up
    assert online.fire(QUARANTINE_FIRST_MS - 1) == 0
    assert online.fire(1) == 1
    assert online.records[-1].detail == "the quarantine of agent a1 is over"
    assert [event.name for event in online.events if hasattr(event, "name")] == ["a1"]
    assert online.place(0) == (1,)


def test_resume_ends_it_at_once(online):
    lose(online)
    lose(online)
    assert online.resume() == Done()
    assert (agent(online).state, online.machine.state.next_timer_ms) == ("up", None)
    assert online.resume() == Done(changed=False)
    assert agent(online).losses == 2, "the next loss counts on"


def test_a_drain_takes_its_place(online):
    lose(online)
    lose(online)
    online.drain(5_000)
    assert (agent(online).state, online.machine.state.next_timer_ms) == ("draining", online.now_ms + 5_000)
    online.resume()
    assert (agent(online).state, len(online.machine.state.kinds)) == ("up", 2)


def test_another_instance_under_the_name_is_a_loss_too(online):
    """Its process died and came back before its lease was over."""
    assert online.register(instance="i2") == AgentAccepted("a1", 3)
    assert agent(online).state == "up"
    online.register(instance="i3")
    assert agent(online).state == "quarantine"
    assert "in quarantine for 10 s" in online.records[-1].detail
    online.register(instance="i3", cpu=4)
    assert (agent(online).state, len(online.machine.state.kinds)) == ("quarantine", 1)


def test_who_says_goodbye_does_not_flap(online):
    for number in range(5):
        online.remove(reason="left")
        online.register(instance=f"i{number}")
    assert (agent(online).state, agent(online).losses) == ("up", 0)


def test_one_in_quarantine_may_be_lost_or_leave(online):
    lose(online)
    lose(online)
    online.remove(reason="left")
    assert (agent(online).state, online.machine.state.next_timer_ms) == ("left", None)
    online.register(instance="i9")
    assert (agent(online).state, agent(online).losses) == ("up", 2)


def test_faults_are_the_share_of_failed_attempts(online):
    online.submit(online.bag(1, retries=1_000, retry_delay_ms=0))
    history = []
    for outcome in ["failed"] * 2 + ["timeout"] + ["abandoned", "released", "succeeded"]:
        online.fire()
        (fence,) = online.place(0)
        online.finish(fence, outcome)
        history.append(agent(online).faults)
    assert history == [62, 120, 175, 175, 175, 164]
    assert queries.agent_view(online.machine, "a1").faults_per_mille == 164


def test_faults_stay_below_one_in_one_and_are_forgotten(online):
    online.submit(online.bag(1, retries=1_000, retry_delay_ms=0))
    for _ in range(150):
        online.fire()
        online.finish(online.place(0)[0], "failed")
    assert 950 < agent(online).faults < 1_000
    online.submit(online.bag(150), "wf-2")
    for position in range(150):
        online.finish(online.place(position, workflow_id="wf-2")[0])
    assert agent(online).faults == 0


def test_an_attempt_that_the_agent_dropped_is_its_fault(online):
    online.submit(online.bag(1))
    online.place(0)
    online.report(missing=(1,))
    assert agent(online).faults == 62


def test_a_lost_agent_is_one_fault_however_much_it_held(online):
    online.register("a2", cpu=8)
    online.submit(online.bag(8))
    online.place(*range(8), agent="a2")
    online.remove("a2")
    assert (online.states(), agent(online, "a2").faults) == ("EEEEEEEE", 62)
    online.register("a2", instance="i2")
    assert agent(online, "a2").faults == 62


def test_what_was_called_off_is_no_fault(online):
    online.submit(online.bag(1))
    online.place(0)
    online.control("cancel")
    online.finish(1, "cancelled")
    assert agent(online).faults == 0


def test_a_restored_machine_remembers(online):
    lose(online)
    lose(online)
    copy = Machine()
    copy.restore(online.machine.snapshot())
    assert copy.state.next_timer_ms == online.now_ms + QUARANTINE_FIRST_MS
    before, after = agent(online), copy.state.agents["a1"]
    assert (after.losses, after.lost_ms, after.faults) == (before.losses, before.lost_ms, before.faults)


def test_many_notes_are_cut(online, monkeypatch):
    monkeypatch.setattr("raftflow.machine.apply.NOTES_MAX", 2)
    for name in ("a1", "a2", "a3"):
        online.register(name)
        online.drain(1, name)
    online.fire(1)
    assert online.records[-1].detail == (
        "the drain of agent a1 is over, attempts to move: 0; the drain of agent a2 is over, attempts to move: 0; "
        "and 1 more"
    )


def test_the_bounds_are_as_documented():
    assert (QUARANTINE_FIRST_MS, QUARANTINE_MAX_MS, SUCCESSION_MS, FORGET_MS) == (
        10_000,
        5 * MINUTE_MS,
        10 * MINUTE_MS,
        60 * MINUTE_MS,
    )


def test_a_failure_beside_a_backup_counts(online):
    online.register("a2")
    online.submit(online.bag(1, retries=1, backup=True))
    online.place(0)
    online.back_up(0, agent="a2")
    online.finish(1, "failed")
    assert (online.states(), agent(online).faults, agent(online, "a2").faults) == ("R", 62, 0)


def test_a_drain_moves_one_of_two_attempts(online):
    online.register("a2")
    online.submit(online.bag(1, backup=True))
    online.place(0)
    (fence,) = online.back_up(0, agent="a2")
    online.drain(1, "a2")
    online.fire(1)
    assert (online.orders("a1"), online.orders("a2")) == (([], []), ([fence], []))
    online.finish(fence, "cancelled", agent="a2")
    assert (online.states(), online.task(0).last.agent) == ("R", "a1")


def flap(drive, name):
    """An agent is lost twice and comes back."""
    for number in range(2):
        drive.remove(name)
        drive.register(name, instance=f"{name}-{number}")


def test_one_that_returns_to_an_empty_fleet_is_spared(online):
    online.remove("other", reason="left")
    for _ in range(3):
        assert lose(online) == "up"
    assert agent(online).losses == 3
    assert online.records[-1].detail == "agent a1 is spared a quarantine: no other agent is up"
    online.register("other")
    assert lose(online) == "quarantine", "it counts as soon as there is another one"


@pytest.mark.parametrize(
    "go",
    [
        lambda drive: drive.remove("other"),
        lambda drive: drive.remove("other", reason="left"),
        lambda drive: drive.drain_leaving("other"),
        lambda drive: drive.drain(0, "other"),
        lambda drive: drive.drain(1_000, "other"),
    ],
)
def test_when_the_last_agent_goes_every_quarantine_ends(online, go):
    online.register("a2")
    flap(online, "a1")
    flap(online, "a2")
    assert [agent(online, name).state for name in ("a1", "a2", "other")] == ["quarantine", "quarantine", "up"]
    go(online)
    assert [agent(online, name).state for name in ("a1", "a2")] == ["up", "up"]
    assert not {"a1", "a2"} & online.machine.state.agent_timers.by_name().keys()
    assert "the quarantine of agent a1 is over: no other agent is up" in online.records[-1].detail
    online.submit(online.bag(1))
    assert online.place(0) == (1,)


def test_quarantines_hold_while_somebody_is_up(online):
    online.register("a2")
    flap(online, "a1")
    online.remove("a2")
    assert agent(online).state == "quarantine"


def test_a_mass_loss_counts_against_nobody(online):
    """The whole fleet is cut off five times within ten minutes: it works at once each time, and afterwards."""
    names = ("a1", "other", "a2")
    online.register("a2")
    for cut in range(5):
        online.now_ms += 2 * MINUTE_MS
        for name in names:
            online.remove(name, reason="lost_together")
        assert online.records[-1].detail == "agent a2 was lost with many others, which counts against none of them"
        for name in names:
            online.register(name, instance=f"{name}-{cut}")
        assert [
            (agent(online, name).state, agent(online, name).losses, agent(online, name).faults) for name in names
        ] == [("up", 0, 0)] * 3
    assert lose(online) == "up", "the first loss of its own"
    assert lose(online) == "quarantine"


def test_a_mass_loss_leaves_what_an_agent_did_before(online):
    lose(online)
    online.remove(reason="lost_together")
    online.register(instance="i9")
    assert (agent(online).state, agent(online).losses) == ("up", 1)
    assert lose(online) == "quarantine"
    online.remove(reason="lost_together")
    online.register(instance="i99")
    assert (agent(online).state, agent(online).losses) == ("up", 1), "it comes back from the mass loss, not its own"
