"""Answers the requests of one attempt: from what the agent knows, or by asking the leader."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec

from raftflow.agent.calls.channel import Channel, Write
from raftflow.agent.calls.children import ChildRequests
from raftflow.agent.calls.requests import (
    BeginStep,
    FailStep,
    FinishStep,
    Now,
    RandomNumber,
    RequestFault,
    Sleep,
    accept,
    read_request,
    refuse,
)
from raftflow.agent.calls.steps import AttemptSteps
from raftflow.domain.contract.reportable import result_fault
from raftflow.domain.contract.views import FindStep, KnownStep, RecordStep, RefusedCall, StepsKnown
from raftflow.domain.limits import STEPS_PER_TASK_MAX

if TYPE_CHECKING:
    from raftflow.domain.contract.views import AnyAnswer, Assignment


class CallingAttempt:
    """One attempt that runs, and what it has asked. `end` ends it: nothing is recorded or answered from then on."""

    def __init__(self, assignment: Assignment, channel: Channel) -> None:
        self.fence = assignment.fence
        self.over = False
        self._channel = channel
        self._loop = asyncio.get_running_loop()
        self._steps = AttemptSteps(assignment.steps)
        self._sleeping: dict[tuple[str, int], asyncio.TimerHandle] = {}
        self._handlers: dict[type[Any], Callable[[Any, Write], None]] = {
            BeginStep: self._begin_step,
            FinishStep: self._finish_step,
            FailStep: self._fail_step,
            Sleep: self._sleep,
            Now: self._now,
            RandomNumber: self._random,
        }
        self._children = ChildRequests(self.fence, channel)
        self._handlers |= self._children.handlers

    def end(self) -> None:
        """Note that the attempt is over."""
        self.over = True
        for timer in self._sleeping.values():
            timer.cancel()
        self._channel.forget(self.fence)

    @property
    def parked(self) -> bytes:
        """What the attempt waits for, as JSON, if it has asked to park; empty if not."""
        return self._children.parked

    def handle(self, line: bytes, write: Write) -> None:
        """Answer one line of the attempt, now or later."""
        try:
            request = read_request(line)
        except RequestFault as fault:
            write(refuse(fault.request_id, "invalid", fault.detail))
            return
        if self.parked:
            write(refuse(request.id, "parked", "the attempt has parked: it ends now, and asks nothing any more"))
        else:
            self._handlers[type(request)](request, write)

    # --- steps

    def _find(
        self, request: BeginStep | Sleep | Now | RandomNumber, function: str, write: Write, found: _Found
    ) -> None:
        """Begin a step and look for its record. `found` is called with its occurrence, and the record or None."""
        steps, name = self._steps, request.name
        occurrence = steps.begin(name)
        if occurrence is None:
            write(refuse(request.id, "limit", _TOO_MANY))
            return
        known = steps.take((name, occurrence))

        def match(known: KnownStep | None) -> None:
            if known is not None and known.function != function:
                write(refuse(request.id, "mismatch", _mismatch(known, function)))
            else:
                found(occurrence, known)

        if known is None and steps.must_ask:

            def told(answer: AnyAnswer) -> None:
                if isinstance(answer, RefusedCall):
                    steps.fail((name, occurrence))
                    write(refuse(request.id, answer.type, answer.detail))
                    return
                assert isinstance(answer, StepsKnown)  # noqa: S101 - the contract
                steps.learn(answer.steps)
                match(answer.steps[0] if answer.steps else None)

            self._channel.send(FindStep(fence=self.fence, name=name, occurrence=occurrence), told)
        else:
            match(known)

    def _begin_step(self, request: BeginStep, write: Write) -> None:
        def found(occurrence: int, known: KnownStep | None) -> None:
            if known is None:
                begun: dict[str, Any] = {"known": False, "occurrence": occurrence}
                if request.unasked:
                    begun["unasked"] = self._steps.unasked
                write(accept(request.id, begun))
            else:
                write(accept(request.id, {"known": True, "occurrence": occurrence, "result": known.result}))

        self._find(request, request.function, write, found)

    def _record(self, call: RecordStep, request_id: int | str | None, write: Write, done: _Done) -> None:
        """Record a step. `done` is called with the record of another attempt if that one counts, else with None."""

        def told(answer: AnyAnswer) -> None:
            if isinstance(answer, RefusedCall):
                write(refuse(request_id, answer.type, answer.detail))
            else:
                done(answer.steps[0] if isinstance(answer, StepsKnown) and answer.steps else None)

        self._channel.send(call, told)

    def _finish_step(self, request: FinishStep, write: Write) -> None:
        name, occurrence = request.name, request.occurrence
        fault = result_fault(bytes(request.result))
        if fault is None and occurrence is None and self._steps.unasked:
            occurrence = self._steps.begin(name)
        elif fault is None and (occurrence is None or not self._steps.is_begun((name, occurrence))):
            fault = _not_begun((name, occurrence))
        if fault is not None:
            write(refuse(request.id, "invalid", fault))
            return
        if occurrence is None:
            write(refuse(request.id, "limit", _TOO_MANY))
            return
        call = RecordStep(
            fence=self.fence,
            name=name,
            occurrence=occurrence,
            function=request.function,
            result=request.result,
        )

        def done(known: KnownStep | None) -> None:
            write(accept(request.id, {} if known is None else {"result": known.result}))

        self._record(call, request.id, write, done)

    def _fail_step(self, request: FailStep, write: Write) -> None:
        key = (request.name, request.occurrence)
        if self._steps.fail(key):
            write(accept(request.id, {}))
        else:
            write(refuse(request.id, "invalid", _not_begun(key)))

    # --- steps that the agent runs itself

    def _run_here(
        self, request: Sleep | Now | RandomNumber, result: Callable[[], float], write: Write, done: _Told
    ) -> None:
        """Find or record a step whose result the agent makes. `done` is called with the record."""
        function = f"raftflow:{request.__struct_config__.tag}"

        def found(occurrence: int, known: KnownStep | None) -> None:
            if known is not None:
                done(known)
                return
            encoded = msgspec.Raw(msgspec.json.encode(result()))
            call = RecordStep(
                fence=self.fence, name=request.name, occurrence=occurrence, function=function, result=encoded
            )

            def recorded(other: KnownStep | None) -> None:
                now_ms = self._channel.now_ms()
                own = KnownStep(name=call.name, occurrence=occurrence, result=encoded, at_ms=now_ms)
                done(own if other is None else other)

            self._record(call, request.id, write, recorded)

        self._find(request, function, write, found)

    def _now(self, request: Now, write: Write) -> None:
        self._run_here(request, time.time, write, partial(_tell_result, request, write))

    def _random(self, request: RandomNumber, write: Write) -> None:
        self._run_here(request, random.random, write, partial(_tell_result, request, write))

    def _sleep(self, request: Sleep, write: Write) -> None:
        """Sleep until the recorded time. What counts is how long the attempt that recorded it wanted to sleep."""

        def done(known: KnownStep) -> None:
            wake_ms = known.at_ms + 1000 * msgspec.json.decode(known.result, type=float)
            after_s = max(wake_ms - self._channel.now_ms(), 0) / 1000
            self._sleeping[request.name, known.occurrence] = self._loop.call_later(after_s, wake, known)

        def wake(known: KnownStep) -> None:
            del self._sleeping[request.name, known.occurrence]
            write(accept(request.id, {}))

        self._run_here(request, lambda: request.seconds, write, done)


_StepRequest = BeginStep | Sleep | Now | RandomNumber
_Found = Callable[[int, KnownStep | None], None]
_Done = Callable[[KnownStep | None], None]
_Told = Callable[[KnownStep], None]


def _tell_result(request: Now | RandomNumber, write: Write, known: KnownStep) -> None:
    write(accept(request.id, {"result": known.result}))


_TOO_MANY = (
    f"the attempt has begun {STEPS_PER_TASK_MAX} steps, which is the limit: do more in one step, or divide the work "
    "among several tasks"
)


def _mismatch(known: KnownStep, function: str) -> str:
    before, now = known.function or "no named function", function or "no named function"
    return (
        f"step {known.name!r}, occurrence {known.occurrence}, was recorded by {before}, and is now run by {now}: "
        "give the new step another name, or call the function that was recorded"
    )


def _not_begun(key: tuple[str, int | None]) -> str:
    name, occurrence = key
    if occurrence is None:
        return f"step {name!r} may have a record: begin it with the call `step`, and record it under its occurrence"
    return f"occurrence {occurrence} of step {name!r} was not begun by this attempt: begin it with the call `step`"
