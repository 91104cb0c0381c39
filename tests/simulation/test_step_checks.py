"""The model of durable steps sees each mistake that it is there for."""

from __future__ import annotations

from typing import Any

import pytest

from raftflow.domain.commands import RecordSteps, StepToRecord
from raftflow.domain.rejections import Rejection, RejectionCode
from raftflow.domain.replies import StepsRecorded, StepVerdict
from raftflow.machine.machine import Machine
from raftflow.simulation.checkers import step_checks
from raftflow.simulation.checkers.attempt_checks import AttemptModel
from raftflow.simulation.checkers.step_checks import StepChecks

TASK, KEY = ("wf", "t"), ("a", 1)


class Seen:
    """The checks, with an attempt that lives, and what they found."""

    def __init__(self) -> None:
        self.found: list[str] = []
        self.attempts = AttemptModel()
        self.attempts.live[1] = (TASK, "a1")
        self.checks = StepChecks(lambda kind, _: self.found.append(kind), self.attempts)

    def record(self, *verdicts: Any, fence: int = 1, agent: str = "a1") -> None:
        steps = tuple(StepToRecord(fence, "a", 1, "f", b'"1 a 1"') for _ in verdicts)
        command = RecordSteps(at_ms=1, actor="agent:a1", agent=agent, incarnation=1, steps=steps)
        self.checks.follow(command, StepsRecorded(tuple(StepVerdict(verdict) for verdict in verdicts)))


@pytest.fixture
def seen() -> Seen:
    return Seen()


def test_a_whole_story_is_right(seen: Seen) -> None:
    seen.checks.step_ran(TASK, 1, KEY, seen.checks.step_asked(TASK))
    seen.record("recorded", "known", "stale")
    seen.checks.step_told(TASK, 1, KEY, "1 a 1")
    seen.checks.step_told(TASK, 2, KEY, "1 a 1")
    seen.checks.follow(
        RecordSteps(at_ms=1, actor="agent:a1", agent="a1", incarnation=1, steps=()),
        Rejection(RejectionCode.STALE_INCARNATION, "over"),
    )
    seen.checks.check_end("n1", Machine())
    assert (seen.found, seen.checks.ran, seen.checks.found) == ([], 1, 1)


def test_only_live_attempts_record_and_once(seen: Seen) -> None:
    seen.record("recorded", fence=9)
    seen.record("recorded", agent="a2")
    assert seen.found == ["step of a dead attempt"] * 2
    seen.record("recorded", "recorded")
    assert seen.found[2:] == ["step twice"]


def test_a_step_that_is_recorded_does_not_run_again(seen: Seen) -> None:
    early = seen.checks.step_asked(TASK)
    seen.record("recorded")
    seen.checks.step_told(TASK, 1, KEY, "1 a 1")
    seen.checks.step_ran(TASK, 2, KEY, early)
    assert seen.found == [], "it had asked before"
    seen.checks.step_ran(TASK, 2, KEY, seen.checks.step_asked(TASK))
    assert seen.found == ["step ran again"]


def test_a_program_is_told_what_is_recorded(seen: Seen) -> None:
    seen.checks.step_told(TASK, 1, KEY, "1 a 1")
    seen.record("recorded")
    seen.checks.step_told(TASK, 1, KEY, "2 a 1")
    assert seen.found == ["wrong step"] * 2


def test_a_record_that_is_gone_is_lost(seen: Seen, monkeypatch: pytest.MonkeyPatch) -> None:
    seen.record("recorded")
    seen.checks.step_told(TASK, 1, KEY, "1 a 1")
    for keys, found in (([KEY], 0), (None, 0), ([], 1)):
        monkeypatch.setattr(step_checks, "recorded_keys", lambda *_, keys=keys: keys)
        seen.checks.check_end("n1", Machine())
        assert seen.found == ["step lost"] * found
