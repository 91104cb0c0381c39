"""Agents: registration, draining, loss."""

from __future__ import annotations

import pytest

from raftflow.domain import limits
from raftflow.domain.rejections import RejectionCode
from raftflow.domain.replies import AgentAccepted, Done


def test_a_repeated_registration_gets_the_same_incarnation(drive):
    assert drive.register() == AgentAccepted("a1", 1)
    before = drive.facts()
    assert drive.register() == AgentAccepted("a1", 1)
    assert drive.facts() == before


def test_another_instance_takes_over(drive):
    drive.register(prefetch=1)
    drive.submit(drive.bag(2))
    drive.place(0, 1)
    assert drive.register(instance="i2") == AgentAccepted("a1", 2)
    assert drive.states() == "EE"
    assert drive.free() == 1000
    assert drive.place(0) == (3,)


def test_an_instance_that_was_lost_comes_back_under_a_new_incarnation(drive):
    drive.register()
    drive.remove()
    assert drive.register() == AgentAccepted("a1", 2)


BAD = {
    "name": {"name": "a b"},
    "instance": {"instance": ""},
    "resources": {"capacity": {"cpu": -1}},
    "labels": {"labels": {"": "x"}},
    "prefetch": {"prefetch": limits.PREFETCH_MAX + 1},
}


@pytest.mark.parametrize("path", BAD)
def test_a_broken_registration_is_refused(drive, path):
    reply = drive.register(**BAD[path])
    assert (reply.code, reply.problems[0].path) == (RejectionCode.INVALID, path)


def test_a_changed_capacity_is_taken_if_what_runs_fits(drive):
    drive.register(cpu=1, prefetch=1)
    drive.submit(drive.bag(2))
    drive.place(0, 1)
    assert drive.register(cpu=2, prefetch=1) == AgentAccepted("a1", 1)
    assert (drive.states(), drive.free()) == ("RR", 0)
    assert drive.register(cpu=1).code is RejectionCode.CONFLICT
    assert drive.register(capacity={"gpu": 1}).code is RejectionCode.CONFLICT
    drive.drain_leaving()
    assert drive.register(capacity={"cpu": 3000, "gpu": 1}) == AgentAccepted("a1", 1)
    assert (drive.free(), drive.machine.state.kinds) == (1000, {})


def test_a_resource_that_nobody_uses_may_go(drive):
    drive.register(capacity={"cpu": 1000, "gpu": 5})
    assert drive.register(capacity={"cpu": 1000}) == AgentAccepted("a1", 1)


def test_a_draining_agent_ends_what_runs(drive):
    drive.register(prefetch=2)
    drive.submit(drive.bag(3))
    drive.submit(drive.bag(1), "wf-2")
    drive.place(0, 1)
    drive.place(0, workflow_id="wf-2")
    drive.control("cancel", "wf-2")
    assert drive.drain_leaving() == Done()
    assert drive.orders() == ([3], [2])
    assert drive.drain_leaving() == Done(changed=False)
    assert drive.place(2) == (0,)
    drive.finish(2, "released")
    drive.finish(1)
    assert drive.states() == "SEE"
    drive.finish(3, "released")
    assert drive.resume() == Done()
    assert drive.place(1) == (4,)


def test_nobody_resumes_an_agent_that_does_not_exist(drive):
    assert drive.resume("a9").code is RejectionCode.NOT_FOUND


def test_resume_lets_the_queue_be_but_for_paused_workflows(drive):
    drive.register(prefetch=2)
    drive.submit(drive.bag(2))
    drive.submit(drive.bag(1), "wf-2")
    drive.place(0, 1)
    drive.place(0, workflow_id="wf-2")
    drive.control("pause", "wf-2")
    drive.drain_leaving()
    assert drive.orders() == ([], [2, 3])
    drive.resume()
    assert drive.orders() == ([], [3])


def test_a_lost_agent_s_work_is_ready_again_in_order(drive):
    drive.register(cpu=2, prefetch=1)
    drive.submit(drive.bag(3))
    drive.place(2, 0, 1)
    assert drive.remove() == Done()
    assert drive.transitions() == [
        "t2 running agent_lost ready",
        "t0 running agent_lost ready",
        "t1 queued agent_lost ready",
    ]
    assert (drive.machine.state.agents["a1"].state, drive.task(0).failures) == ("lost", 0)
    assert drive.remove() == Done(changed=False)
    assert drive.drain_leaving().code is RejectionCode.CONFLICT


def test_a_draining_agent_may_leave(drive):
    drive.register()
    drive.drain_leaving()
    assert drive.remove(reason="left") == Done()
    assert drive.machine.state.agents["a1"].state == "left"


def test_commands_about_agents_that_are_not_there(drive):
    assert drive.remove("a9", incarnation=1).code is RejectionCode.NOT_FOUND
    assert drive.drain_leaving("a9").code is RejectionCode.NOT_FOUND
    drive.register()
    assert drive.remove(incarnation=9).code is RejectionCode.STALE_INCARNATION


def test_gone_agents_make_room_for_new_ones(drive, monkeypatch):
    monkeypatch.setattr(limits, "AGENTS_MAX", 2)
    drive.register("a1")
    drive.register("a2")
    assert drive.register("a3").limit == 2
    drive.remove("a2")
    assert drive.register("a3") == AgentAccepted("a3", 3)
    assert list(drive.machine.state.agents) == ["a1", "a3"]
