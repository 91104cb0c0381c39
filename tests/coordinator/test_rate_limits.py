"""Rate limits on the leader: tasks start when the bucket has enough; attempts that wait go first, in order."""

from __future__ import annotations

from typing import Any

import pytest

from raftflow.coordinator.placement import rate_waiters as waiters_module
from raftflow.coordinator.placement.rate_waiters import LATE_MS, WAIT_MAX_MS, WAIT_MIN_MS, RateWaiters
from raftflow.domain.commands import SetRateLimit, encode_entry
from raftflow.domain.tasks.states import TaskState
from raftflow.machine.machine import Machine


def limit_of(at_ms: int, amount: int = 100, burst: int = 1, period_ms: int = 1_000) -> SetRateLimit:
    return SetRateLimit(at_ms=at_ms, actor="client:test", name="llm", amount=amount, period_ms=period_ms, burst=burst)


def states(one: Any, workflow: str) -> list[TaskState]:
    return [task.state for task in one.machine.state.workflows[workflow].tasks]


async def test_tasks_start_as_the_limit_allows_and_others_pass(bench: Any) -> None:
    one = await bench()
    await one.register(cpu=8)
    workflow = await one.submit("t", "u", rates={"llm": 1})
    other = await one.submit("v")
    await one.until(lambda: states(one, other) == [TaskState.RUNNING])
    assert states(one, workflow) == [TaskState.READY] * 2
    assert one.replica.leader._rate_timer is None, "nobody knows when the limit is set"
    await one.replica.propose(limit_of(one.clock.ms, 1, period_ms=3_600_000))
    await one.until(lambda: states(one, workflow) == [TaskState.RUNNING, TaskState.READY])
    index = one.machine.applied_index
    await one.until(lambda: one.replica.leader._rate_timer is not None)
    told = one.replica.explain(workflow, "u")
    assert told is not None and told.reason.startswith("waits for rate 'llm': about 3")
    assert one.machine.applied_index == index, "the leader proposes nothing that cannot be placed"
    await one.replica.propose(limit_of(one.clock.ms))
    await one.until(lambda: one.replica.leader._rate_timer is not None)
    one.clock.ms += 10
    await one.until(lambda: states(one, workflow) == [TaskState.RUNNING] * 2)


async def test_a_task_whose_need_ends_waits_for_its_rate(bench: Any) -> None:
    one = await bench()
    incarnation = await one.register(cpu=8)
    await one.replica.propose(limit_of(one.clock.ms, burst=2))
    workflow = await one.submit("t", "u<t", rates={"llm": 2})
    fence = (await one.work(incarnation, 1)).assign[0].fence
    await one.poll(incarnation, 2, seen=fence, ends=[one.end(fence, workflow, "t")])
    assert states(one, workflow) == [TaskState.SUCCEEDED, TaskState.READY]
    one.clock.ms += 20
    await one.until(lambda: states(one, workflow) == [TaskState.SUCCEEDED, TaskState.RUNNING])


async def test_what_attempts_wait_for_is_not_given_to_tasks(bench: Any) -> None:
    one = await bench()
    await one.register(cpu=8)
    await one.replica.propose(limit_of(one.clock.ms, burst=5))
    one.replica.rate_waiters.wait("llm", (1, "rate", 1), 5, 60_000, one.clock.ms)
    workflow = await one.submit("t", rates={"llm": 1})
    await one.until(lambda: one.replica.leader._rate_timer is not None)
    assert states(one, workflow) == [TaskState.READY]
    one.replica.rate_waiters.leave("llm", (1, "rate", 1))
    one.replica.leader.replan()
    await one.until(lambda: states(one, workflow) == [TaskState.RUNNING])


@pytest.fixture
def waiters() -> RateWaiters:
    machine = Machine()
    machine.apply(1, 1, encode_entry((limit_of(0, burst=9),)))
    return RateWaiters(machine)


def test_attempts_wait_in_the_order_in_which_they_came(waiters: RateWaiters) -> None:
    assert waiters.wait("llm", (1, "r", 1), 3, 500, 0) == 500
    assert waiters.wait("llm", (2, "r", 1), 2, 0, 0) == WAIT_MIN_MS
    assert waiters.wait("llm", (1, "r", 1), 3, 10**9, 0) == WAIT_MAX_MS
    assert [waiters.ahead_of("llm", 0, (fence, "r", 1)) for fence in (1, 2, 3)] == [0, 3, 5]
    assert waiters.all_ahead(0) == {"llm": 5} and waiters.units_left("llm", 0) == 4 and len(waiters) == 2
    late_ms = WAIT_MIN_MS + LATE_MS + 1
    assert waiters.ahead_of("llm", late_ms) == 3, "one that did not come back has lost its place"
    waiters.leave("llm", (1, "r", 1))
    waiters.leave("llm", (1, "r", 1))
    assert waiters.all_ahead(0) == {} and len(waiters) == 0
    waiters.wait("llm", (1, "r", 1), 3, 500, 0)
    waiters.reset()
    assert waiters.ahead_of("llm", 0) == 0 and len(waiters) == 0


def test_places_are_bounded(waiters: RateWaiters, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiters_module, "WAITERS_MAX", 1)
    waiters.wait("llm", (1, "r", 1), 1, 100, 0)
    assert waiters.wait("llm", (2, "r", 1), 1, 100, 0) == WAIT_MAX_MS and len(waiters) == 1
    assert waiters.wait("llm", (1, "r", 1), 1, 100, 0) == 100
