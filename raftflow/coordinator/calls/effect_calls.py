"""Answers what running attempts ask about effects: begin one, end one. The log decides each."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from raftflow.coordinator.calls.refusals import refusal_of
from raftflow.domain.commands import BeginEffect, EndEffect
from raftflow.domain.contract.reportable import result_fault
from raftflow.domain.contract.views import EffectClosed, EffectOpened, RefusedCall, StepsKnown
from raftflow.domain.rejections import Rejection
from raftflow.domain.replies import EffectBegun, EffectEnded
from raftflow.machine.read import steps as step_reads
from raftflow.machine.read.effects import key_of

if TYPE_CHECKING:
    from raftflow.coordinator.clock import WallClock
    from raftflow.coordinator.commit.submitter import Submitter
    from raftflow.domain.contract.views import AnyAnswer, CloseEffect, OpenEffect
    from raftflow.machine.machine import Machine

_OVER = "attempt {} is over: it begins no effect any more"


class EffectCalls:
    """Answers calls about effects. Only the leader uses it."""

    def __init__(self, *, machine: Machine, submitter: Submitter, clock: WallClock) -> None:
        self._machine = machine
        self._submitter = submitter
        self._clock = clock

    async def begin(self, agent: str, incarnation: int, calls: list[OpenEffect]) -> list[AnyAnswer]:
        """Begin the effect of each call."""
        return await asyncio.gather(*[self._begin(agent, incarnation, call) for call in calls])

    async def _begin(self, agent: str, incarnation: int, call: OpenEffect) -> AnyAnswer:
        reply = await self._submitter.propose(
            BeginEffect(
                at_ms=self._clock.now_ms(),
                actor=f"agent:{agent}",
                agent=agent,
                incarnation=incarnation,
                fence=call.fence,
                begin=call.begin,
                name=call.name,
                occurrence=call.occurrence,
                function=call.function,
            )
        )
        if isinstance(reply, Rejection):
            return refusal_of(reply)
        assert isinstance(reply, EffectBegun)  # noqa: S101 - the machine's contract
        if reply.status == "known":
            key = (call.name, call.occurrence)
            known = step_reads.known_steps(self._machine, agent, incarnation, call.fence, key, ahead=False)
            if known is not None:
                return StepsKnown(steps=known)
        else:
            idempotency_key = key_of(self._machine, agent, incarnation, call.fence, call.name, call.occurrence)
            if idempotency_key is not None:
                return EffectOpened(
                    status=reply.status, number=reply.number, idempotency_key=idempotency_key, wait=reply.wait
                )
        return RefusedCall(type="stale", detail=_OVER.format(call.fence))

    async def end(self, agent: str, incarnation: int, calls: list[CloseEffect]) -> list[AnyAnswer]:
        """End the effect of each call."""
        return await asyncio.gather(*[self._end(agent, incarnation, call) for call in calls])

    async def _end(self, agent: str, incarnation: int, call: CloseEffect) -> AnyAnswer:
        fault = result_fault(bytes(call.result))
        if fault is not None:
            return RefusedCall(type="invalid", detail=fault)
        reply = await self._submitter.propose(
            EndEffect(
                at_ms=self._clock.now_ms(),
                actor=f"agent:{agent}",
                agent=agent,
                incarnation=incarnation,
                fence=call.fence,
                begin=call.begin,
                name=call.name,
                occurrence=call.occurrence,
                outcome=call.outcome,
                result=bytes(call.result) if call.outcome == "done" else b"",
                detail=call.detail,
            )
        )
        if isinstance(reply, Rejection):
            return refusal_of(reply)
        assert isinstance(reply, EffectEnded)  # noqa: S101 - the machine's contract
        return EffectClosed(wait=reply.wait)
