"""Whose fault an attempt's end was: agents that could not do their part, and agents on which everything fails."""

from __future__ import annotations

from itertools import count

import pytest

from raftflow.domain.limits import AGENT_FAULTS_MAX
from raftflow.machine.machine import Machine
from raftflow.machine.read import queries
from raftflow.machine.read.preferences import avoided
from raftflow.machine.rules.quarantine import CONTRADICTIONS_MAX, QUARANTINE_FIRST_MS, QUARANTINE_MAX_MS

FULL = "no space left on device"


@pytest.fixture
def two(drive):
    """Two agents of four places, at the newest level."""
    drive.register("a1", cpu=4, prefetch=4)
    drive.register("a2", cpu=4, prefetch=4)
    return drive


def agent(drive, name="a1"):
    return drive.machine.state.agents[name]


# --- what an agent could not do


def test_it_costs_no_retry_and_goes_elsewhere(two):
    two.submit(two.bag(1, retries=0))
    two.place(0)
    assert two.finish(1, "agent_fault", error=FULL) == "accepted"
    assert (two.states(), two.task(0).failures) == ("E", 0)
    assert two.transitions() == ["t0 running agent_fault ready"]
    ready = queries.ready_task(two.machine, "wf-1", 0)
    assert (ready.avoid, ready.avoid_hard, ready.lost) == ((), ("a1",), True)
    assert agent(two).faults > 0
    assert agent(two).streak == 0, "the attempt says nothing about what fails there"
    two.place(0, agent="a2")
    two.finish(2, agent="a2")
    assert (two.states(), two.state()) == ("S", "succeeded")
    assert agent(two).contradicted == 0


def test_a_queued_attempt_of_which_the_agent_says_so(two):
    two.submit(two.bag(5))
    two.place(0, 1, 2, 3, 4)
    two.finish(5, "agent_fault", error=FULL)
    assert two.states() == "RRRRE"


def test_a_task_that_breaks_every_agent_is_given_up(two):
    two.submit(two.bag(1, retries=0))
    for fence in range(1, AGENT_FAULTS_MAX + 1):
        two.place(0)
        two.finish(fence, "agent_fault", error=FULL)
        assert two.states() == "E"
    two.place(0)
    two.finish(AGENT_FAULTS_MAX + 1, "agent_fault", error=FULL)
    assert two.states() == "F"
    told = queries.task_view(two.machine, "wf-1", "t0").detail
    assert told == f"{AGENT_FAULTS_MAX + 1} agents could not run it: it may be what breaks them; last: {FULL}"


def test_a_retry_of_the_workflow_counts_anew(two):
    two.submit(two.bag(1, retries=0))
    for fence in range(1, AGENT_FAULTS_MAX + 2):
        two.place(0)
        two.finish(fence, "agent_fault", error=FULL)
    two.control("retry")
    two.place(0)
    two.finish(AGENT_FAULTS_MAX + 2, "agent_fault", error=FULL)
    assert two.states() == "E"


def test_what_was_told_to_stop_is_stopped(two):
    two.submit(two.bag(1))
    two.place(0)
    two.control("cancel")
    two.finish(1, "agent_fault", error=FULL)
    assert (two.states(), two.state()) == ("C", "cancelled")


def test_of_two_attempts_the_other_one_goes_on(two):
    two.submit(two.bag(1, retries=1, backup=True))
    two.place(0)
    two.back_up(0, agent="a2")
    two.finish(1, "agent_fault", error=FULL)
    assert two.states() == "R"
    two.finish(2, agent="a2")
    assert two.states() == "S"


def test_a_failure_beside_it_still_counts(two):
    two.submit(two.bag(1, retries=1, backup=True, retry_delay_ms=10))
    two.place(0)
    two.back_up(0, agent="a2")
    two.finish(2, "failed", agent="a2")
    two.finish(1, "agent_fault", error=FULL)
    assert (two.states(), two.task(0).failures) == ("D", 1)


# --- an agent on which everything fails


def fail_here_and_succeed_there(drive, tasks=1, here="a1", there="a2"):
    """Let tasks fail on one agent and succeed on another one."""
    for _ in range(tasks):
        number = next(drive.numbers)
        drive.submit(drive.bag(1, retries=3, retry_delay_ms=0), workflow_id=f"w{number}")
        (first,) = drive.place(0, agent=here, workflow_id=f"w{number}")
        drive.finish(first, "failed", agent=here)
        drive.fire()
        (second,) = drive.place(0, agent=there, workflow_id=f"w{number}")
        drive.finish(second, agent=there)


@pytest.fixture
def numbered(two):
    two.numbers = count(1)
    return two


def test_a_task_that_failed_where_nothing_succeeds_goes_elsewhere(two):
    two.submit(two.bag(2, retries=1, retry_delay_ms=0))
    two.place(0, 1)
    two.finish(1, "failed")
    ready = queries.ready_task(two.machine, "wf-1", 0)
    assert ready is None, "it waits for its pause"
    two.fire()
    ready = queries.ready_task(two.machine, "wf-1", 0)
    assert (ready.avoid, ready.avoid_hard) == ((), ("a1",))
    two.finish(2)
    ready = queries.ready_task(two.machine, "wf-1", 0)
    assert (ready.avoid, ready.avoid_hard) == (("a1",), ()), "something has succeeded there since"


def test_it_is_put_aside_when_tasks_that_failed_there_succeed_elsewhere(numbered):
    fail_here_and_succeed_there(numbered, CONTRADICTIONS_MAX - 1)
    assert agent(numbered).state == "up"
    fail_here_and_succeed_there(numbered)
    black = agent(numbered)
    assert (black.state, black.quarantine_until_ms - numbered.now_ms) == ("quarantine", QUARANTINE_FIRST_MS)
    assert numbered.records[-1].detail == (
        "agent a1 is in quarantine for 10 s: 3 tasks that failed there succeeded elsewhere, and nothing has "
        "succeeded there since"
    )
    assert agent(numbered, "a2").state == "up"


def test_each_further_one_doubles_it(numbered):
    fail_here_and_succeed_there(numbered, CONTRADICTIONS_MAX)
    found = []
    for _ in range(7):
        numbered.fire(QUARANTINE_MAX_MS)
        assert agent(numbered).state == "up"
        fail_here_and_succeed_there(numbered)
        found.append((agent(numbered).quarantine_until_ms - numbered.now_ms) // 1000)
    assert found == [20, 40, 80, 160, 300, 300, 300]


def test_a_success_there_forgets_it(numbered):
    fail_here_and_succeed_there(numbered, CONTRADICTIONS_MAX - 1)
    fail_here_and_succeed_there(numbered, here="a2", there="a1")
    assert (agent(numbered).streak, agent(numbered).contradicted) == (0, 0)
    fail_here_and_succeed_there(numbered, CONTRADICTIONS_MAX - 1)
    assert agent(numbered).state == "up"


def test_no_quarantine_where_nobody_else_is_up(numbered):
    fail_here_and_succeed_there(numbered, CONTRADICTIONS_MAX - 1)
    number = next(numbered.numbers)
    numbered.submit(numbered.bag(1, retries=3, retry_delay_ms=0), workflow_id=f"w{number}")
    (first,) = numbered.place(0, workflow_id=f"w{number}")
    numbered.finish(first, "failed")
    numbered.fire()
    (second,) = numbered.place(0, agent="a2", workflow_id=f"w{number}")
    numbered.drain(name="a2")
    numbered.finish(second, agent="a2")
    assert (agent(numbered).state, agent(numbered).contradicted) == ("up", CONTRADICTIONS_MAX)


def test_a_queue_is_asked_back_from_an_agent_that_is_put_aside(numbered):
    fail_here_and_succeed_there(numbered, CONTRADICTIONS_MAX - 1)
    numbered.submit(numbered.bag(6), workflow_id="more")
    fences = numbered.place(0, 1, 2, 3, 4, 5, workflow_id="more")
    numbered.recall(fences[5])
    number = next(numbered.numbers)
    numbered.submit(numbered.bag(1, retries=3, retry_delay_ms=0), workflow_id=f"w{number}")
    (queued,) = numbered.place(0, workflow_id=f"w{number}")
    numbered.finish(queued, "failed")
    numbered.fire()
    (second,) = numbered.place(0, agent="a2", workflow_id=f"w{number}")
    numbered.finish(second, agent="a2")
    assert agent(numbered).state == "quarantine"
    assert numbered.orders() == ([], list(fences[4:6]))
    assert numbered.states("more") == "RRRRQQ"
    for fence in fences[:4]:
        numbered.finish(fence)
    assert agent(numbered).state == "quarantine", "it serves its time, though a success forgets the rest"
    assert agent(numbered).contradicted == 0


def test_an_agent_that_is_gone_or_aside_already(numbered):
    fail_here_and_succeed_there(numbered, CONTRADICTIONS_MAX)
    until = agent(numbered).quarantine_until_ms
    numbered.submit(numbered.bag(2, retries=3, retry_delay_ms=0), workflow_id="w")
    numbered.fire(QUARANTINE_FIRST_MS)
    for fence in numbered.place(0, 1, workflow_id="w"):
        numbered.finish(fence, "failed")
    numbered.fire()
    first, second = numbered.place(0, 1, agent="a2", workflow_id="w")
    numbered.finish(first, agent="a2")
    later = agent(numbered).quarantine_until_ms
    assert later > until
    numbered.finish(second, agent="a2")
    assert agent(numbered).quarantine_until_ms == later, "it is in quarantine already"
    assert agent(numbered).contradicted == CONTRADICTIONS_MAX + 2
    numbered.remove("a1", reason="left")
    numbered.forget("a1")
    numbered.submit(numbered.bag(1), workflow_id="last")
    numbered.finish(numbered.place(0, agent="a2", workflow_id="last")[0], agent="a2")


def test_a_contradiction_by_an_agent_that_was_forgotten(numbered):
    numbered.submit(numbered.bag(1, retries=1, retry_delay_ms=0), workflow_id="w")
    (first,) = numbered.place(0, workflow_id="w")
    numbered.finish(first, "failed")
    numbered.remove("a1", reason="left")
    numbered.forget("a1")
    numbered.fire()
    (second,) = numbered.place(0, agent="a2", workflow_id="w")
    numbered.finish(second, agent="a2")
    assert numbered.states("w") == "S"


def test_the_next_incarnation_and_a_snapshot_know_it(numbered):
    fail_here_and_succeed_there(numbered, 2)
    copy = Machine()
    copy.restore(numbered.machine.snapshot())
    assert (copy.state.agents["a1"].streak, copy.state.agents["a1"].contradicted) == (2, 2)
    numbered.remove("a1", reason="left")
    numbered.register("a1", instance="i2", cpu=4)
    assert (agent(numbered).streak, agent(numbered).contradicted) == (2, 2)


def test_a_task_that_failed_in_a_black_hole_goes_rather_where_it_could_not_run(two):
    """That agent takes work only when it says that it can, and a failure would cost a retry."""
    two.submit(two.bag(1, retries=3, retry_delay_ms=0))
    two.place(0)
    two.finish(1, "agent_fault", error=FULL)
    assert avoided(two.machine, two.task(0)) == ((), ("a1",))
    two.place(0, agent="a2")
    two.finish(2, "failed", agent="a2")
    two.fire()
    assert avoided(two.machine, two.task(0)) == (("a1",), ("a2",))
    two.place(0)
    two.finish(3, "agent_fault", error=FULL)
    two.place(0, agent="a2")
    two.finish(4, "agent_fault", agent="a2", error=FULL)
    assert avoided(two.machine, two.task(0)) == (("a1",), ("a2",)), "each agent is named once"
