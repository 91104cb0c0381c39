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
from raftflow.agent.calls.children import ChildRequests, with_open_waits
from raftflow.agent.calls.effects import EffectRequests
from raftflow.agent.calls.rates import RateRequests
from raftflow.agent.calls.requests import (
    AskApproval,
    AskSignal,
    BeginStep,
    EffectBegin,
    EffectEnd,
    FailStep,
    FinishStep,
    Now,
    Park,
    RandomNumber,
    RequestFault,
    Sleep,
    SpendAmounts,
    TakeUnits,
    accept,
    accept_plain,
    read_request,
    refuse,
)
from raftflow.agent.calls.spending import BUDGET_PARKED, USED_UP, AttemptSpending, amounts_fault, as_millionths
from raftflow.agent.calls.steps import AttemptSteps
from raftflow.agent.calls.waits import WaitRequests
from raftflow.domain.contract.reportable import result_fault
from raftflow.domain.contract.views import FindStep, KnownStep, RecordStep, RefusedCall, StepRecorded, StepsKnown
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
        self._rates = RateRequests(self.fence, channel, self.find_step, self._steps.fail)
        self._handlers[TakeUnits] = self._rates.take
        self._effects = EffectRequests(self.fence, channel, self._steps, self.find_step)
        self._waits = WaitRequests(self.fence, channel, self.find_step, self._steps.fail)
        self._handlers |= self._children.handlers | self._effects.handlers | self._waits.handlers
        self._spending = AttemptSpending(self.fence, self.find_step, self._record_spending, self._park_for_budget)
        self._handlers[SpendAmounts] = self._spend
        self._used_up = False
        """A budget of the workflow was used up when the leader answered last."""
        self._budget_parked = False

    def end(self) -> None:
        """Note that the attempt is over."""
        self.over = True
        for timer in self._sleeping.values():
            timer.cancel()
        self._rates.end()
        self._effects.end()
        self._channel.forget(self.fence)

    @property
    def parked(self) -> bytes:
        """What the attempt waits for, as JSON, if it has asked to park; empty if not."""
        if self._children.parked:
            return with_open_waits(self._children.parked, self._waits.open)
        return BUDGET_PARKED if self._budget_parked else b""

    def handle(self, line: bytes, write: Write) -> None:
        """Answer one line of the attempt, now or later."""
        try:
            request = read_request(line)
        except RequestFault as fault:
            write(refuse(fault.request_id, "invalid", fault.detail))
            return
        if self._children.parked or self._budget_parked:
            if self._children.parked and not isinstance(request, Park):
                write(refuse(request.id, "parked", "the attempt has parked: it ends now, and asks nothing any more"))
                return
            if self._budget_parked and not isinstance(request, _ENDS):
                write(refuse(request.id, "parked", USED_UP))
                return
        self._handlers[type(request)](request, write)

    # --- steps

    def find_step(self, request: _StepRequest, function: str, write: Write, found: _Found) -> None:
        """Begin a step and look for its record. `found` is called with its occurrence, and the record or None.

        A step without a record does not begin while a budget is used up: the attempt parks. What is spent counts
        even so.
        """
        steps, name = self._steps, request.name
        occurrence = steps.begin(name)
        if occurrence is None:
            write(refuse(request.id, "limit", _TOO_MANY))
            return
        known = steps.take((name, occurrence))

        def match(known: KnownStep | None) -> None:
            if known is not None and known.function != function:
                write(refuse(request.id, "mismatch", _mismatch(known, function)))
            elif known is None and self._used_up and not isinstance(request, SpendAmounts):
                steps.fail((name, occurrence))
                self._park_for_budget()
                write(refuse(request.id, "parked", USED_UP))
            else:
                found(occurrence, known)

        if known is None and (steps.must_ask or self._used_up):

            def told(answer: AnyAnswer) -> None:
                if isinstance(answer, RefusedCall):
                    steps.fail((name, occurrence))
                    write(refuse(request.id, answer.type, answer.detail))
                    return
                assert isinstance(answer, StepsKnown)  # noqa: S101 - the contract
                steps.learn(answer.steps)
                self._used_up = answer.used_up
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

        self.find_step(request, request.function, write, found)

    def _record(
        self, call: RecordStep, request_id: int | str | None, write: Write, done: _Done, *, give_back: bool
    ) -> None:
        """Record a step. `done` is called with the record of another attempt if that one counts, else with None.

        With `give_back` the next step of the name gets the occurrence if the record is refused: the program does not
        know it.
        """

        def told(answer: AnyAnswer) -> None:
            self._recorded(call, answer, request_id, write, done, give_back=give_back)

        self._channel.send(call, told)

    def _recorded(
        self,
        call: RecordStep,
        answer: AnyAnswer,
        request_id: int | str | None,
        write: Write,
        done: _Done,
        *,
        give_back: bool,
    ) -> None:
        """The leader has answered a record: see `_record`."""
        if isinstance(answer, RefusedCall):
            if give_back:
                self._steps.fail((call.name, call.occurrence))
            write(refuse(request_id, answer.type, answer.detail))
        elif isinstance(answer, StepsKnown):
            self._used_up = answer.used_up
            done(answer.steps[0] if answer.steps else None)
        else:
            self._used_up = isinstance(answer, StepRecorded) and answer.used_up
            done(None)

    def _told_of_record(self, known: KnownStep | None) -> dict[str, Any]:
        """Return what a program is told when its step is recorded."""
        told: dict[str, Any] = {} if known is None else {"result": known.result}
        if self._used_up:
            told["used_up"] = True
        return told

    def _record_spending(
        self, call: RecordStep, request_id: int | str | None, write: Write, done: Callable[[dict[str, Any]], None]
    ) -> None:
        self._record(call, request_id, write, lambda _: done(self._told_of_record(None)), give_back=True)

    def _park_for_budget(self) -> None:
        self._budget_parked = True

    def _spend(self, request: SpendAmounts, write: Write) -> None:
        fault = amounts_fault(request.amounts)
        if fault is None:
            self._spending.spend(request, write, warned=self._used_up)
        else:
            write(refuse(request.id, "invalid", fault))

    def _finish_step(self, request: FinishStep, write: Write) -> None:
        name, occurrence, spent = request.name, request.occurrence, request.spent
        fault = result_fault(bytes(request.result)) or (amounts_fault(spent) if spent else None)
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
            spent=as_millionths(spent) if spent else {},
        )

        def told(answer: AnyAnswer) -> None:
            if type(answer) is StepRecorded and not answer.used_up:  # nearly always
                self._used_up = False
                write(accept_plain(request.id))
            else:
                done = partial(self._finished, request, write)
                self._recorded(call, answer, request.id, write, done, give_back=request.occurrence is None)

        self._channel.send(call, told)

    def _finished(self, request: FinishStep, write: Write, known: KnownStep | None) -> None:
        """Tell the program that its step is recorded, or the record of another attempt that counts."""

        def tell(_: dict[str, Any]) -> None:
            write(accept(request.id, self._told_of_record(known)))

        if request.spent and known is not None and known.fence != self.fence:
            self._spending.count_apart(request.spent, request.id, write, tell)
        else:
            tell({})

    def _fail_step(self, request: FailStep, write: Write) -> None:
        fault = amounts_fault(request.spent)
        if fault is None and request.occurrence is None and not request.spent:
            fault = _not_begun((request.name, None))
        if (
            fault is None
            and request.occurrence is not None
            and not self._steps.fail((request.name, request.occurrence))
        ):
            fault = _not_begun((request.name, request.occurrence))
        if fault is not None:
            write(refuse(request.id, "invalid", fault))
        elif request.spent:
            self._spending.count_apart(request.spent, request.id, write, lambda told: write(accept(request.id, told)))
        else:
            write(accept(request.id, {}))

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

            self._record(call, request.id, write, recorded, give_back=True)

        self.find_step(request, function, write, found)

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


_StepRequest = (
    BeginStep | Sleep | Now | RandomNumber | TakeUnits | EffectBegin | SpendAmounts | AskSignal | AskApproval
)
_ENDS = FinishStep | FailStep | SpendAmounts | EffectEnd
"""Requests that are answered while the attempt ends because a budget is used up: what was begun is not lost."""
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
