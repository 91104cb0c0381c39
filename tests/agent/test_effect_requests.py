"""What attempts ask their agent about effects: words of the socket to calls, and the occurrences of effects."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import msgspec
import pytest

from raftflow.agent.calls import effects
from raftflow.agent.calls.attempt import CallingAttempt
from raftflow.domain.contract.views import (
    Assignment,
    CloseEffect,
    EffectClosed,
    EffectOpened,
    FindStep,
    KnownStep,
    OpenEffect,
    RefusedCall,
    StepsKnown,
)
from raftflow.domain.limits import EFFECT_RESULT_BYTES_MAX
from raftflow.domain.tasks.effects import effect_function
from raftflow.domain.tasks.program import CommandLine


class Channel:
    """Answers each call with what the test has prepared."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.calls: list[Any] = []

    def send(self, call: Any, told: Any) -> None:
        self.calls.append(call)
        told(self.answers.pop(0))

    def forget(self, fence: int) -> None:
        self.calls.append(fence)

    def now_ms(self) -> int:
        return 0


class Asking:
    """An attempt with a channel. Earlier attempts have recorded so many steps."""

    def __init__(self, *answers: Any, steps: int = 0) -> None:
        self.channel = Channel(*answers)
        assignment = Assignment(
            fence=7,
            workflow_id="wf-1",
            workflow_name="w",
            task_id="t",
            attempt=1,
            resources={},
            program=CommandLine(("true",)),
            steps=steps,
        )
        self.attempt = CallingAttempt(assignment, self.channel)

    def ask(self, call: str, **fields: Any) -> Any:
        lines: list[bytes] = []
        self.attempt.handle(json.dumps({"call": call, **fields}).encode(), lines.append)
        return json.loads(lines[0]) if lines else None

    def begin(self, name: str = "send", function: str = "f") -> Any:
        answer = self.ask("effect_begin", name=name, function=function)
        return answer.get("ok", answer)

    def end(self, outcome: str, name: str = "send", occurrence: int = 1, **fields: Any) -> Any:
        answer = self.ask("effect_end", name=name, occurrence=occurrence, outcome=outcome, **fields)
        return answer.get("ok", answer.get("error"))


def opened(status: Any = "begun") -> EffectOpened:
    return EffectOpened(status=status, number=4, idempotency_key="wf-1/t/send/1")


def recorded(record: bytes, name: str = "send", occurrence: int = 1, function: str = "f") -> KnownStep:
    return KnownStep(
        name=name, occurrence=occurrence, function=effect_function(function), result=msgspec.Raw(record), at_ms=0
    )


CLOSED = EffectClosed()
TOLD = {"state": "begun", "occurrence": 1, "effect": 4, "idempotency_key": "wf-1/t/send/1", "fence": 7}


async def test_an_effect_is_begun_and_ended() -> None:
    asking = Asking(opened(), CLOSED, opened())
    assert asking.begin() == TOLD
    assert asking.end("done", result={"id": 1}) == {"effect": 4}
    assert asking.channel.calls == [
        OpenEffect(fence=7, begin=1, name="send", occurrence=1, function="f"),
        CloseEffect(fence=7, begin=1, name="send", occurrence=1, outcome="done", result=msgspec.Raw(b'{"id": 1}')),
    ]
    assert asking.begin()["occurrence"] == 2, "the next one of the name"


@pytest.mark.parametrize(("outcome", "calls"), [("not_done", 3), ("uncertain", 3), ("unknown", 2)])
async def test_without_success_the_next_beginning_means_the_same_effect(outcome: str, calls: int) -> None:
    """A second effect would have another key, and the service would be called twice."""
    answers = [opened(), opened("open")] if outcome == "unknown" else [opened(), CLOSED, opened("open")]
    asking = Asking(*answers)
    asking.begin()
    told = {"not_done": {"effect": 4}, "uncertain": {"effect": 4, "wait": 0}, "unknown": {}}
    assert asking.end(outcome, detail="why") == told[outcome]
    assert asking.begin() == {**TOLD, "state": "open"}
    assert len(asking.channel.calls) == calls
    assert asking.channel.calls[-1] == OpenEffect(fence=7, begin=2, name="send", occurrence=1, function="f")


async def test_an_effect_that_waits_for_a_person_is_not_held() -> None:
    asking = Asking(opened("uncertain"), opened("uncertain"))
    assert asking.begin() == {**TOLD, "state": "uncertain", "wait": 0}
    assert asking.end("done")["type"] == "invalid"
    assert asking.begin()["occurrence"] == 1


async def test_recorded_effects_are_found() -> None:
    found = StepsKnown(steps=[recorded(b'{"done":[1]}'), recorded(b'{"failed":"no"}', occurrence=2)])
    asking = Asking(found, StepsKnown(steps=[recorded(b'{"done":3}', "other")]), steps=2)
    assert asking.begin() == {"state": "done", "occurrence": 1, "result": [1]}
    assert asking.begin() == {"state": "failed", "occurrence": 2, "error": "no"}
    assert asking.begin("other") == {"state": "done", "occurrence": 1, "result": 3}, "the log has it by now"
    assert [type(call) for call in asking.channel.calls] == [FindStep, OpenEffect]


async def test_refusals_give_the_occurrence_back() -> None:
    asking = Asking(RefusedCall(type="limit", detail="full"), opened(), RefusedCall(type="stale", detail="over"))
    assert asking.begin()["error"] == {"type": "limit", "detail": "full"}
    assert asking.begin()["occurrence"] == 1
    assert asking.end("done")["type"] == "stale"


async def test_another_function_under_the_name_is_refused() -> None:
    asking = Asking(StepsKnown(steps=[recorded(b'{"done":1}', function="g")]), steps=1)
    assert asking.begin()["error"]["type"] == "mismatch"


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"occurrence": 2}, "is not one that this attempt is calling"),
        ({"result": "x" * EFFECT_RESULT_BYTES_MAX}, "the limit is"),
    ],
)
async def test_ends_that_are_refused(fields: Any, why: str) -> None:
    asking = Asking(opened(), CLOSED)
    asking.begin()
    assert why in asking.end("done", **fields)["detail"]
    assert asking.end("done", detail="its result is too large") == {"effect": 4}


async def test_a_beginning_waits_while_another_attempt_holds_the_intent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(effects, "ASK_AGAIN_S", 0.0)
    asking = Asking(opened("busy"), opened("busy"), opened("open"))
    answered = asyncio.Event()
    lines: list[bytes] = []

    def write(line: bytes) -> None:
        lines.append(line)
        answered.set()

    asking.attempt.handle(b'{"call":"effect_begin","name":"send"}', write)
    await asyncio.wait_for(answered.wait(), 5)
    assert json.loads(lines[0])["ok"]["state"] == "open"
    assert [call.begin for call in asking.channel.calls] == [1, 1, 1]


async def test_an_attempt_parks_for_the_wait_of_an_effect() -> None:
    asking = Asking()
    assert asking.ask("park", waits=[5]) == {"id": None, "ok": {}}
    assert json.loads(asking.attempt.parked) == {"waits": [5]}


async def test_an_attempt_that_is_over_asks_no_more() -> None:
    asking = Asking(opened("busy"))
    asking.attempt.handle(b'{"call":"effect_begin","name":"send"}', lambda _: None)
    asking.attempt.end()
    assert [type(call) for call in asking.channel.calls] == [OpenEffect, int]
    assert all(timer.cancelled() for timer in asking.attempt._effects._asking_again.values())
