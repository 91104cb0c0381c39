"""Answers running attempts that wait for a signal or for a person."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import msgspec

from raftflow.coordinator.calls.refusals import refusal_of
from raftflow.coordinator.calls.schemas import SCHEMA_TRIES
from raftflow.domain.commands import BeginWait
from raftflow.domain.contract.views import RefusedCall, WaitAnswered
from raftflow.domain.rejections import Rejection, RejectionCode
from raftflow.domain.replies import WaitBegun
from raftflow.formats.readers.durations import parse_duration_ms
from raftflow.machine.read import waits

if TYPE_CHECKING:
    from raftflow.coordinator.calls.schema_checks import SchemaChecks
    from raftflow.coordinator.clock import WallClock
    from raftflow.coordinator.commit.submitter import Submitter
    from raftflow.domain.contract.views import AnyAnswer, StartWait
    from raftflow.machine.machine import Machine


class WaitCalls:
    """Answers calls that begin waits. Only the leader uses it."""

    def __init__(self, *, machine: Machine, submitter: Submitter, clock: WallClock, schemas: SchemaChecks) -> None:
        self._schemas = schemas
        self._machine = machine
        self._submitter = submitter
        self._clock = clock

    async def begin(self, agent: str, incarnation: int, calls: list[StartWait]) -> list[AnyAnswer]:
        """Begin the wait of each call, or find it or its record."""
        return await asyncio.gather(*[self._begin(agent, incarnation, call) for call in calls])

    async def _begin(self, agent: str, incarnation: int, call: StartWait) -> AnyAnswer:
        request = _bytes(call.request)
        try:
            timeout_ms = 0 if call.timeout is None else max(parse_duration_ms(call.timeout), 1)
        except ValueError as error:
            return RefusedCall(type="invalid", detail=f"timeout: {error}")
        has_schema = call.kind == "signal" and bool(request)
        if has_schema and (problem := await self._schemas.problem(request)) is not None:
            return RefusedCall(type="invalid", detail=problem)
        for _ in range(SCHEMA_TRIES):
            kept = waits.kept_signal(self._machine, agent, call.fence, call.name) if has_schema else None
            fault = None if kept is None else await self._schemas.fault(request, kept.payload)
            reply = await self._submitter.propose(
                BeginWait(
                    at_ms=self._clock.now_ms(),
                    actor=f"agent:{agent}",
                    agent=agent,
                    incarnation=incarnation,
                    fence=call.fence,
                    kind=call.kind,
                    name=call.name,
                    occurrence=call.occurrence,
                    timeout_ms=timeout_ms,
                    on_timeout=_bytes(call.on_timeout),
                    request=request,
                    checked=0 if kept is None else kept.number,
                    fault=fault or "",
                )
            )
            if not (isinstance(reply, Rejection) and reply.code is RejectionCode.PENDING):
                break
        if isinstance(reply, Rejection):
            return refusal_of(reply)
        assert isinstance(reply, WaitBegun)  # noqa: S101 - the machine's contract
        if reply.number:
            return WaitAnswered(wait=reply.number)
        return WaitAnswered(record=msgspec.Raw(reply.record))


def _bytes(value: msgspec.Raw | msgspec.UnsetType) -> bytes:
    """Return JSON as bytes, empty for a field that is not there."""
    return b"" if isinstance(value, msgspec.UnsetType) else bytes(value)
