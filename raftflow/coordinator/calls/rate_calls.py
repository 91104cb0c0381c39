"""Answers running attempts that take from rate limits: they may go on, or how long they should wait.

Nobody is held here: an attempt that has to wait asks again after that time (`placement/rate_waiters.py`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from raftflow.domain.commands import RateToTake, TakeRates
from raftflow.domain.contract.views import RateTaken, RateWait, RefusedCall
from raftflow.domain.rejections import Rejection
from raftflow.domain.replies import RatesTaken
from raftflow.machine.read import steps as step_reads
from raftflow.machine.read.spending import rates

if TYPE_CHECKING:
    from raftflow.coordinator.clock import WallClock
    from raftflow.coordinator.commit.submitter import Submitter
    from raftflow.coordinator.placement.rate_waiters import RateWaiters, WaiterKey
    from raftflow.domain.contract.views import AnyAnswer, TakeRate
    from raftflow.domain.replies import RateVerdict
    from raftflow.machine.machine import Machine


class RateCalls:
    """Answers calls that take from rate limits. Only the leader uses it."""

    def __init__(
        self, *, machine: Machine, submitter: Submitter, clock: WallClock, rate_waiters: RateWaiters
    ) -> None:
        self._machine = machine
        self._submitter = submitter
        self._clock = clock
        self._waiters = rate_waiters

    async def take(self, agent: str, incarnation: int, calls: list[TakeRate]) -> list[AnyAnswer]:
        """Take what can be taken now, all by one command."""
        answers = [self._answer_now(agent, incarnation, call) for call in calls]
        open_calls = [call for call, answer in zip(calls, answers, strict=True) if answer is None]
        taken = iter(await self._propose(agent, incarnation, open_calls) if open_calls else ())
        return [next(taken) if answer is None else answer for answer in answers]

    def _now_ms(self) -> int:
        return max(self._clock.now_ms(), self._machine.clock_ms)

    def _answer_now(self, agent: str, incarnation: int, call: TakeRate) -> AnyAnswer | None:
        """Return the answer if it needs no command: it is taken already, or others come first."""
        key = _key_of(call)
        step = (call.name, call.occurrence)
        known = step_reads.known_steps(self._machine, agent, incarnation, call.fence, step, ahead=False)
        if known is None or known:
            return None  # the log knows whether the attempt lives, and whether it is the same step
        now_ms = self._now_ms()
        ahead = self._waiters.ahead_of(call.limit, now_ms, key)
        wait_ms = rates.wait_of(self._machine, call.limit, call.count, now_ms, ahead)
        return self._wait(call, wait_ms) if wait_ms else None

    def _wait(self, call: TakeRate, wait_ms: int) -> RateWait:
        return RateWait(wait_ms=self._waiters.wait(call.limit, _key_of(call), call.count, wait_ms, self._now_ms()))

    async def _propose(self, agent: str, incarnation: int, calls: list[TakeRate]) -> list[AnyAnswer]:
        reply = await self._submitter.propose(
            TakeRates(
                at_ms=self._clock.now_ms(),
                actor=f"agent:{agent}",
                agent=agent,
                incarnation=incarnation,
                takes=tuple(
                    [RateToTake(call.fence, call.limit, call.count, call.name, call.occurrence) for call in calls]
                ),
            )
        )
        if isinstance(reply, Rejection):
            return [RefusedCall(type="stale", detail=reply.message) for _ in calls]
        assert isinstance(reply, RatesTaken)  # noqa: S101 - the machine's contract
        return [self._answer(call, verdict) for call, verdict in zip(calls, reply.verdicts, strict=True)]

    def _answer(self, call: TakeRate, verdict: RateVerdict) -> AnyAnswer:
        if verdict.verdict == "wait":
            return self._wait(call, verdict.wait_ms)
        self._waiters.leave(call.limit, _key_of(call))
        if verdict.verdict == "taken" or verdict.verdict == "known":  # noqa: PLR1714 - mypy narrows it so
            return RateTaken()
        return RefusedCall(type=verdict.verdict, detail=verdict.detail)


def _key_of(call: TakeRate) -> WaiterKey:
    return call.fence, call.name, call.occurrence
