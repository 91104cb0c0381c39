"""The model of effects sees each mistake that it is there for."""

from __future__ import annotations

from typing import Any

import pytest

from raftflow.domain.commands import BeginEffect, EndEffect, ResolveEffect
from raftflow.domain.contract.tasks import EffectView
from raftflow.domain.rejections import Rejection, RejectionCode
from raftflow.domain.replies import Done, EffectBegun, EffectEnded
from raftflow.machine.machine import Machine
from raftflow.simulation.checkers import effect_checks
from raftflow.simulation.checkers.attempt_checks import AttemptModel
from raftflow.simulation.checkers.effect_checks import EffectChecks
from raftflow.simulation.world.agents.outside_service import OutsideService
from raftflow.simulation.world.observer import EffectCall

TASK, KEY = ("wf", "t"), ("pay", 1)


class Seen:
    """The checks, with an attempt that lives, a service, and what was found."""

    def __init__(self) -> None:
        self.found: list[str] = []
        self.attempts = AttemptModel()
        self.attempts.live[1] = (TASK, "a1")
        self.checks = EffectChecks(lambda kind, _: self.found.append(kind), self.attempts)
        self.service = OutsideService(self.checks)  # type: ignore[arg-type]

    def begin(self, status: Any = "begun", fence: int = 1, begin: int = 1, agent: str = "a1") -> None:
        command = BeginEffect(
            at_ms=1,
            actor="a",
            agent=agent,
            incarnation=1,
            fence=fence,
            begin=begin,
            name="pay",
            occurrence=1,
            function="f",
        )
        self.checks.follow(command, EffectBegun(status, 1))

    def end(self, outcome: Any = "done", fence: int = 1, begin: int = 1, result: bytes = b"") -> None:
        command = EndEffect(
            at_ms=1,
            actor="a",
            agent="a1",
            incarnation=1,
            fence=fence,
            begin=begin,
            name="pay",
            occurrence=1,
            outcome=outcome,
            result=result,
        )
        self.checks.follow(command, EffectEnded())

    def resolve(self, resolution: Any, result: bytes = b"") -> None:
        command = ResolveEffect(at_ms=1, actor="p", number=1, resolution=resolution, result=result)
        self.checks.follow(command, Done())

    def call(self, fence: int = 1, key: str = "k", *, recognises: bool = False) -> str:
        return self.service.call(EffectCall(TASK, fence, *KEY, key), recognises=recognises)


@pytest.fixture
def seen() -> Seen:
    return Seen()


def test_a_whole_story_is_right(seen: Seen) -> None:
    seen.begin()
    result = seen.call()
    seen.attempts.live = {2: (TASK, "a1")}
    seen.begin("open", fence=2)
    seen.end("uncertain", fence=2)
    seen.resolve("retry")
    seen.begin(fence=2, begin=2)
    assert seen.call(fence=2, recognises=True) == result == seen.service.find("k")
    seen.end(fence=2, begin=2, result=b'"%s"' % result.encode())
    seen.checks.effect_told(TASK, KEY, result)
    seen.checks.follow(ResolveEffect(at_ms=1, actor="p", number=1, resolution="fail"), rejection())
    seen.checks.check_end("n1", Machine())
    assert (seen.found, seen.checks.called, seen.checks.reported) == ([], 2, 1)


def rejection() -> Rejection:
    return Rejection(RejectionCode.CONFLICT, "no")


def test_a_call_needs_an_intent_and_happens_once(seen: Seen) -> None:
    seen.call()
    assert seen.found == ["call without intent"]
    seen.begin()
    seen.call()
    assert seen.found[1:] == ["doubled effect"]
    seen.call(key="other")
    assert seen.found[2:] == ["other key"]


def test_only_the_holder_tells_the_outcome(seen: Seen) -> None:
    seen.begin(fence=9)
    seen.begin(agent="a2")
    seen.end(fence=9)
    assert seen.found == ["effect of a dead attempt"] * 3
    seen.begin()
    seen.end("not_done", begin=2)
    assert seen.found[3:] == ["effect of a dead attempt"], "a late copy of an end"
    seen.begin()
    seen.attempts.live[2] = (TASK, "a1")
    seen.begin("open", fence=2)
    assert seen.found[4:] == ["effect of a dead attempt"], "the first one lives"


def test_an_effect_has_one_outcome(seen: Seen) -> None:
    seen.begin()
    seen.end("uncertain")
    seen.resolve("fail")
    seen.resolve("done", b"1")
    assert seen.found == ["effect recorded twice"] * 2


def test_a_program_is_told_what_is_recorded(seen: Seen) -> None:
    seen.checks.effect_told(TASK, KEY, None)
    seen.begin()
    seen.end(result=b'"x"')
    seen.checks.effect_told(TASK, KEY, "y")
    assert seen.found == ["wrong effect"] * 2


def test_nothing_is_lost_or_left_open(seen: Seen, monkeypatch: pytest.MonkeyPatch) -> None:
    seen.begin()
    seen.end(result=b'"x"')
    seen.checks.effect_told(TASK, KEY, "x")
    seen.attempts.states[TASK] = "succeeded"
    left = EffectView(
        id=1,
        workflow="wf",
        task="t",
        name="pay",
        occurrence=1,
        function="f",
        state="open",
        idempotency_key="k",
        fence=1,
        begun_at="",
        changed_at="",
    )
    monkeypatch.setattr(effect_checks, "recorded_keys", lambda *_: [])
    monkeypatch.setattr(effect_checks, "list_effects", lambda *_, **__: [left])
    seen.checks.check_end("n1", Machine())
    assert seen.found == ["effect lost", "not reported"]
