"""What an attempt asks about effects: begin one, end one.

Each beginning gets a number in its attempt. With it the log tells a request that the agent sends again from another
beginning of the same effect. All beginnings of an effect without an outcome have the same occurrence: a program that
calls again after an error means the same effect.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from raftflow.agent.calls.requests import EffectBegin, EffectEnd, accept, refuse
from raftflow.domain.contract.reportable import result_fault
from raftflow.domain.contract.views import (
    CloseEffect,
    EffectClosed,
    EffectOpened,
    KnownStep,
    OpenEffect,
    RefusedCall,
    StepsKnown,
)
from raftflow.domain.limits import EFFECT_RESULT_BYTES_MAX
from raftflow.domain.tasks.effects import effect_function, read_record

if TYPE_CHECKING:
    from collections.abc import Callable

    from raftflow.agent.calls.channel import Channel, Write
    from raftflow.agent.calls.steps import AttemptSteps, Key
    from raftflow.domain.contract.views import AnyAnswer

    Find = Callable[[EffectBegin, str, Write, Callable[[int, KnownStep | None], None]], None]
    """Begins a step and looks for its record: `CallingAttempt.find_step`."""

ASK_AGAIN_S: Final = 1.0
"""How long a beginning waits before it asks again, while another attempt of the task holds the intent."""


class _BegunEffect(NamedTuple):
    """An effect whose intent the attempt holds."""

    begin: int
    number: int


class EffectRequests:
    """Answers requests of one attempt about effects."""

    def __init__(self, fence: int, channel: Channel, steps: AttemptSteps, find: Find) -> None:
        self._fence = fence
        self._channel = channel
        self._steps = steps
        self._find = find
        self._loop = asyncio.get_running_loop()
        self._begins = 0
        self._held: dict[Key, _BegunEffect] = {}
        self._asking_again: dict[Key, asyncio.TimerHandle] = {}
        self.handlers: dict[type[Any], Callable[[Any, Write], None]] = {
            EffectBegin: self._begin,
            EffectEnd: self._end,
        }

    def end(self) -> None:
        """Note that the attempt is over."""
        for timer in self._asking_again.values():
            timer.cancel()

    # --- begin

    def _begin(self, request: EffectBegin, write: Write) -> None:
        def found(occurrence: int, known: KnownStep | None) -> None:
            if known is not None:
                write(accept(request.id, _told(known)))
                return
            self._begins += 1
            self._open(request, write, occurrence, self._begins)

        self._find(request, effect_function(request.function), write, found)

    def _open(self, request: EffectBegin, write: Write, occurrence: int, begin: int) -> None:
        key = (request.name, occurrence)
        call = OpenEffect(
            fence=self._fence, begin=begin, name=request.name, occurrence=occurrence, function=request.function
        )

        def told(answer: AnyAnswer) -> None:
            if isinstance(answer, StepsKnown):
                write(accept(request.id, _told(answer.steps[0])))
            elif isinstance(answer, EffectOpened):
                if answer.status == "busy":
                    self._asking_again[key] = self._loop.call_later(ASK_AGAIN_S, self._open_again, key, send)
                else:
                    self._opened(request, write, key, _BegunEffect(begin, answer.number), answer)
            else:
                assert isinstance(answer, RefusedCall)  # noqa: S101 - the contract
                self._steps.fail(key)
                write(refuse(request.id, answer.type, answer.detail))

        def send() -> None:
            self._channel.send(call, told)

        send()

    def _open_again(self, key: Key, send: Callable[[], None]) -> None:
        del self._asking_again[key]
        send()

    def _opened(
        self, request: EffectBegin, write: Write, key: Key, begun: _BegunEffect, answer: EffectOpened
    ) -> None:
        if answer.status == "uncertain":
            self._steps.fail(key)
        else:
            self._held[key] = begun
        told = {
            "state": answer.status,
            "occurrence": key[1],
            "effect": begun.number,
            "idempotency_key": answer.idempotency_key,
            "fence": self._fence,
        }
        if answer.status == "uncertain":
            told["wait"] = answer.wait
        write(accept(request.id, told))

    # --- end

    def _end(self, request: EffectEnd, write: Write) -> None:
        key = (request.name, request.occurrence)
        begun = self._held.get(key)
        fault = _fault_of(request) if begun is not None else _NOT_BEGUN.format(*key)
        if begun is None or fault is not None:
            write(refuse(request.id, "invalid", fault or ""))
            return
        if request.outcome == "unknown":
            self._give_back(key)
            write(accept(request.id, {}))
            return
        call = CloseEffect(
            fence=self._fence,
            begin=begun.begin,
            name=request.name,
            occurrence=request.occurrence,
            outcome=request.outcome,
            result=request.result,
            detail=request.detail,
        )

        def told(answer: AnyAnswer) -> None:
            if isinstance(answer, RefusedCall):
                write(refuse(request.id, answer.type, answer.detail))
                return
            if request.outcome == "done":
                self._held.pop(key, None)
            else:
                self._give_back(key)
            ended = {"effect": begun.number}
            if isinstance(answer, EffectClosed) and request.outcome == "uncertain":
                ended["wait"] = answer.wait
            write(accept(request.id, ended))

        self._channel.send(call, told)

    def _give_back(self, key: Key) -> None:
        """Let the next beginning of the name have this occurrence."""
        if self._held.pop(key, None) is not None:
            self._steps.fail(key)


_NOT_BEGUN = "effect {!r}, occurrence {}, is not one that this attempt is calling: begin it with `effect_begin`"


def _fault_of(request: EffectEnd) -> str | None:
    """Say what is wrong with the result of an effect."""
    if request.outcome != "done" or request.detail:
        return None
    size = len(bytes(request.result))
    if size > EFFECT_RESULT_BYTES_MAX:
        return (
            f"the result of the effect has {size} bytes, the limit is {EFFECT_RESULT_BYTES_MAX}: write the data to a "
            "place that later attempts read, and return its name"
        )
    return result_fault(bytes(request.result))


def _told(known: KnownStep) -> dict[str, Any]:
    """Return what the program is told of an effect that has a record."""
    record = read_record(bytes(known.result))
    if isinstance(record.failed, str):
        return {"state": "failed", "occurrence": known.occurrence, "error": record.failed}
    return {"state": "done", "occurrence": known.occurrence, "result": record.done}
