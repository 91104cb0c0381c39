"""Answers what running attempts ask of the cluster, as their agents pass it on.

A request carries calls of many attempts. Those of one type are answered together: all steps of a request are one
command. The log decides whether an attempt may still record something, so nothing is looked up before.

A call renews no lease, and waits for no poll. Whatever is sent again comes to the same, so an agent sends a request
again until it has an answer.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from raftflow.coordinator.calls.child_calls import ChildCalls
from raftflow.coordinator.calls.effect_calls import EffectCalls
from raftflow.coordinator.calls.rate_calls import RateCalls
from raftflow.coordinator.calls.schema_checks import SchemaChecks
from raftflow.coordinator.calls.wait_calls import WaitCalls
from raftflow.domain.commands import RecordSteps, StepToRecord
from raftflow.domain.contract.reportable import result_fault
from raftflow.domain.contract.views import (
    CallsResponse,
    CloseEffect,
    FindChildren,
    FindStep,
    OpenEffect,
    RecordStep,
    RefusedCall,
    SpawnChildren,
    StartWait,
    StepRecorded,
    StepsKnown,
    StopChildren,
    TakeRate,
)
from raftflow.domain.rejections import Rejection
from raftflow.domain.replies import StepsRecorded
from raftflow.machine.read import steps as step_reads
from raftflow.machine.read.spending.budgets import is_used_up

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from raftflow.coordinator.clock import WallClock
    from raftflow.coordinator.commit.submitter import Submitter
    from raftflow.coordinator.placement.rate_waiters import RateWaiters
    from raftflow.domain.contract.views import AnyAnswer, CallsRequest
    from raftflow.machine.machine import Machine

    Answerer = Callable[[str, int, list[Any]], Awaitable[Sequence[AnyAnswer]]]
    """Answers the calls of one type in a request, given the agent and its incarnation."""

_OVER = "attempt {} is over: it records nothing any more"


class AttemptCalls:
    """Answers the calls of all agents. Only the leader uses it.

    Args:
        barrier: confirms that this replica leads and has applied all that is committed; raises if it does not.
    """

    def __init__(
        self,
        *,
        machine: Machine,
        submitter: Submitter,
        clock: WallClock,
        barrier: Callable[[], Awaitable[int]],
        rate_waiters: RateWaiters,
    ) -> None:
        self._machine = machine
        self._submitter = submitter
        self._clock = clock
        self._barrier = barrier
        children = ChildCalls(machine=machine, submitter=submitter, clock=clock, barrier=barrier)
        rates = RateCalls(machine=machine, submitter=submitter, clock=clock, rate_waiters=rate_waiters)
        self.schemas = SchemaChecks()
        waits = WaitCalls(machine=machine, submitter=submitter, clock=clock, schemas=self.schemas)
        effects = EffectCalls(machine=machine, submitter=submitter, clock=clock)
        self._answerers: dict[type[Any], Answerer] = {
            RecordStep: self._record_steps,
            FindStep: self._find_steps,
            TakeRate: rates.take,
            SpawnChildren: children.spawn,
            FindChildren: children.find,
            StopChildren: children.stop,
            OpenEffect: effects.begin,
            CloseEffect: effects.end,
            StartWait: waits.begin,
        }

    async def answer(self, agent: str, request: CallsRequest) -> CallsResponse:
        """Answer the calls of a request, each alone. Raises `ProposeError`s."""
        groups: dict[type[Any], list[int]] = {}
        for place, call in enumerate(request.calls):
            groups.setdefault(type(call), []).append(place)
        answers: list[Any] = [None] * len(request.calls)

        async def answer_group(kind: type[Any], places: list[int]) -> None:
            calls = [request.calls[place] for place in places]
            found = await self._answerers[kind](agent, request.incarnation, calls)
            for place, answer in zip(places, found, strict=True):
                answers[place] = answer

        if len(groups) == 1:
            ((kind, places),) = groups.items()
            await answer_group(kind, places)
        else:
            await asyncio.gather(*[answer_group(kind, places) for kind, places in groups.items()])
        return CallsResponse(now_ms=self._now_ms(), answers=answers)

    def _now_ms(self) -> int:
        return max(self._clock.now_ms(), self._machine.clock_ms)

    # --- steps

    async def _record_steps(self, agent: str, incarnation: int, calls: list[RecordStep]) -> list[AnyAnswer]:
        """Record steps, all by one command."""
        faults = [result_fault(bytes(call.result)) for call in calls]
        sound = [call for call, fault in zip(calls, faults, strict=True) if fault is None]
        recorded = iter(await self._propose_steps(agent, incarnation, sound) if sound else ())
        return [next(recorded) if fault is None else RefusedCall(type="invalid", detail=fault) for fault in faults]

    async def _propose_steps(self, agent: str, incarnation: int, calls: list[RecordStep]) -> list[AnyAnswer]:
        reply = await self._submitter.propose(
            RecordSteps(
                at_ms=self._clock.now_ms(),
                actor=f"agent:{agent}",
                agent=agent,
                incarnation=incarnation,
                steps=tuple(
                    [
                        StepToRecord(
                            call.fence,
                            call.name,
                            call.occurrence,
                            call.function,
                            bytes(call.result),
                            tuple(call.spent.items()),
                        )
                        for call in calls
                    ]
                ),
            )
        )
        if isinstance(reply, Rejection):
            return [RefusedCall(type="stale", detail=reply.message) for _ in calls]
        assert isinstance(reply, StepsRecorded)  # noqa: S101 - the machine's contract
        answers: list[AnyAnswer] = []
        for call, verdict in zip(calls, reply.verdicts, strict=True):
            if verdict.verdict == "recorded":
                answers.append(StepRecorded(used_up=verdict.used_up))
            elif verdict.verdict == "known":
                answers.append(self._recorded_before(agent, incarnation, call))
            else:
                answers.append(RefusedCall(type=verdict.verdict, detail=verdict.detail))
        return answers

    def _recorded_before(self, agent: str, incarnation: int, call: RecordStep) -> AnyAnswer:
        """Return the record that counts: of this call, sent before, or of the other attempt of the task."""
        known = step_reads.known_steps(
            self._machine, agent, incarnation, call.fence, (call.name, call.occurrence), ahead=False
        )
        if known is None:
            return RefusedCall(type="stale", detail=_OVER.format(call.fence))
        return StepsKnown(steps=known, used_up=is_used_up(self._machine, agent, incarnation, call.fence))

    async def _find_steps(self, agent: str, incarnation: int, calls: list[FindStep]) -> list[AnyAnswer]:
        """Look steps up. Only an attempt that this replica does not know, or that is not alone, needs the barrier."""
        machine = self._machine
        if any(
            not step_reads.is_live(machine, agent, incarnation, call.fence)
            or step_reads.is_shared(machine, agent, incarnation, call.fence)
            for call in calls
        ):
            await self._barrier()
        answers: list[AnyAnswer] = []
        for call in calls:
            ahead = not step_reads.is_shared(machine, agent, incarnation, call.fence)
            known = step_reads.known_steps(
                machine, agent, incarnation, call.fence, (call.name, call.occurrence), ahead=ahead
            )
            if known is None:
                answers.append(RefusedCall(type="stale", detail=_OVER.format(call.fence)))
            else:
                used_up = is_used_up(machine, agent, incarnation, call.fence)
                answers.append(StepsKnown(steps=known, used_up=used_up))
        return answers
