"""An agent that is heard while it is being given up: nobody may run what it runs, however the removal ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from raftflow.coordinator.commit.submitter import NoLeaderError
from raftflow.coordinator.leader import removals as removals_module
from raftflow.domain.contract.views import PollResponse
from raftflow.domain.rejections import Rejection, RejectionCode
from raftflow.domain.tasks.states import AgentState
from raftflow.replication.log import Outcome, Rejected, Unknown


class Gate:
    """Holds back the entries of a log, each until the test says what becomes of it."""

    def __init__(self, log: Any) -> None:
        self._submit = log.submit
        self.waiting: list[asyncio.Future[Outcome | None]] = []
        self._opened = False
        log.submit = self.submit

    async def submit(self, entry: bytes, timeout_s: float) -> Outcome:
        if self._opened:
            return await self._submit(entry, timeout_s)
        decided: asyncio.Future[Outcome | None] = asyncio.get_running_loop().create_future()
        self.waiting.append(decided)
        outcome = await decided
        return await self._submit(entry, timeout_s) if outcome is None else outcome

    def open(self) -> None:
        """Hold nothing back any more, so that the replica can stop whatever the test found."""
        self._opened = True
        while self.waiting:
            self.let()

    def let(self, outcome: Outcome | None = None) -> None:
        """Let the oldest entry into the log, or end it in another way."""
        self.waiting.pop(0).set_result(outcome)


@pytest.fixture
async def given_up(bench: Any) -> AsyncIterator[tuple[Any, int, Gate]]:
    """A replica on which the removal of a silent agent, which was given an attempt, is on its way."""
    one = await bench()
    incarnation = await one.register()
    await one.submit("t")
    await one.until(lambda: one.machine.state.agents["a1"].live)
    gate = Gate(one.log)
    leader = one.replica.leader
    leader.liveness.leases._heard_s["a1"] -= 6.0
    leader.liveness._check_leases(asyncio.get_running_loop().time())
    await one.until(lambda: gate.waiting)
    assert ("a1", incarnation) in leader.liveness.removals
    yield one, incarnation, gate
    gate.open()


async def waits(polling: asyncio.Future[Any]) -> None:
    """Give a poll every chance to be answered, and see that it is not."""
    done, _ = await asyncio.wait((polling,), timeout=0.05)
    assert not done, polling.result()


async def test_a_poll_during_the_removal_renews_nothing_and_starts_nothing(given_up: tuple[Any, int, Gate]) -> None:
    one, incarnation, gate = given_up
    polling = asyncio.ensure_future(one.poll(incarnation, 1, wait_ms=0))
    await waits(polling)
    gate.let()
    answer = await asyncio.wait_for(polling, 5)
    assert isinstance(answer, Rejection)
    assert answer.code is RejectionCode.STALE_INCARNATION
    assert one.machine.state.agents["a1"].state is AgentState.LOST


async def test_while_it_is_unknown_whether_the_agent_was_removed_it_is_not_answered(
    given_up: tuple[Any, int, Gate], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(removals_module, "RETRY_S", 0.001)
    one, incarnation, gate = given_up
    polling = asyncio.ensure_future(one.poll(incarnation, 1, wait_ms=0))
    gate.let(Unknown("timeout"))
    await waits(polling)
    await one.until(lambda: gate.waiting)
    gate.let()
    answer = await asyncio.wait_for(polling, 5)
    assert isinstance(answer, Rejection)
    assert answer.code is RejectionCode.STALE_INCARNATION
    assert len(one.replica.leader.liveness.removals) == 0


async def test_an_agent_that_could_not_be_removed_and_is_heard_is_kept(given_up: tuple[Any, int, Gate]) -> None:
    one, incarnation, gate = given_up
    polling = asyncio.ensure_future(one.poll(incarnation, 1, wait_ms=0))
    await waits(polling)
    gate.let(Rejected("queue_full"))
    answer = await asyncio.wait_for(polling, 5)
    assert isinstance(answer, PollResponse)
    assert [item.task_id for item in answer.assign] == ["t"]
    assert one.replica.leader.liveness.leases.expired(asyncio.get_running_loop().time()) == []
    assert gate.waiting == []


async def test_a_poll_is_sent_away_if_the_leader_is_replaced_during_the_removal(
    given_up: tuple[Any, int, Gate],
) -> None:
    one, incarnation, gate = given_up
    polling = asyncio.ensure_future(one.poll(incarnation, 1, wait_ms=0))
    await waits(polling)
    one.log.lose_leadership()
    with pytest.raises(NoLeaderError):
        await asyncio.wait_for(polling, 5)
    gate.let(Unknown("no_leader"))


async def test_a_bug_in_a_removal_stops_the_replica(
    given_up: tuple[Any, int, Gate], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, _, gate = given_up

    def broken() -> int:
        raise ZeroDivisionError("bug in the clock")

    monkeypatch.setattr(one.replica.leader.liveness.removals._clock, "now_ms", broken)
    monkeypatch.setattr(removals_module, "RETRY_S", 0.001)
    gate.let(Unknown("timeout"))
    failure = await asyncio.wait_for(one.replica.wait_failed(), 5)
    assert "bug in the clock" in str(failure)
