"""The model of children sees each mistake that it is there for."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from raftflow.domain.commands import AttemptEnd, ChildTask, ReportAttempts, SpawnTasks
from raftflow.domain.replies import EndVerdict, Reported, TasksSpawned
from raftflow.domain.tasks.states import AttemptOutcome
from raftflow.simulation.checkers.attempt_checks import AttemptModel
from raftflow.simulation.checkers.child_checks import ChildChecks

PARENT, A, B = ("wf", "t"), ("wf", "t:a"), ("wf", "t:b")


class Family:
    """A parent whose attempt 1 lives, and what the checks found."""

    def __init__(self) -> None:
        self.found: list[str] = []
        self.attempts = AttemptModel()
        self.attempts.live[1] = (PARENT, "a1")
        self.attempts.states[PARENT] = "running"
        self.checks = ChildChecks(lambda kind, _: self.found.append(kind), self.attempts)

    def follow(self, command: Any, reply: Any, *moves: tuple[tuple[str, str], str, str]) -> None:
        transitions = []
        for task, event, after in moves:
            self.attempts.states[task] = after
            transitions.append(SimpleNamespace(workflow_id=task[0], task_id=task[1], event=event, after=after))
        record: Any = SimpleNamespace(transitions=transitions)
        self.checks.follow(command, reply, record)

    def spawn(self, *positions: int, fence: int = 1) -> None:
        children = tuple(ChildTask(key, 0) for key, _ in zip("ab", positions, strict=False))
        command = SpawnTasks(
            at_ms=1, actor="agent:a1", agent="a1", incarnation=1, fence=fence, profiles=(), children=children
        )
        self.follow(command, TasksSpawned(positions, len(positions)))

    def park(self, mode: str = "all", *moves: Any) -> None:
        end = AttemptEnd(
            1, *PARENT, AttemptOutcome.PARKED, result=b'{"mode":"%s","children":[[1,2]]}' % mode.encode()
        )
        command = ReportAttempts(at_ms=1, actor="agent:a1", agent="a1", incarnation=1, ends=(end,))
        self.follow(command, Reported((EndVerdict(1, "accepted"),)), (PARENT, "parked", "parked"), *moves)


@pytest.fixture
def family() -> Family:
    return Family()


def test_a_whole_story_is_right(family: Family) -> None:
    family.spawn(1, 2)
    family.spawn(1, 2)
    family.checks.child_told(PARENT, "a", 1)
    family.park()
    family.follow(None, None, (A, "succeeded", "succeeded"))
    family.follow(None, None, (B, "failed_final", "failed"), (PARENT, "wait_over", "ready"))
    family.attempts.results[A] = b"7"
    family.checks.child_end_told(PARENT, "t:a", "succeeded", b"7")
    family.checks.child_end_told(PARENT, "t:b", "failed", b"null")
    assert (family.found, family.checks.spawned, family.checks.woken) == ([], 4, 1)


def test_only_live_attempts_spawn_and_a_key_once(family: Family) -> None:
    family.spawn(1, fence=9)
    family.spawn(1)
    family.spawn(3)
    assert family.found == ["spawn of a dead attempt", "child twice"]


@pytest.mark.parametrize(("mode", "ends", "over"), [("all", 1, False), ("any", 1, True), ("succeeded", 1, False)])
def test_a_task_goes_on_in_the_moment_when_it_should(family: Family, mode: str, ends: int, *, over: bool) -> None:
    family.spawn(1, 2)
    family.park(mode)
    moves = [(task, "succeeded", "succeeded") for task in (A, B)[:ends]]
    family.follow(None, None, *moves, (PARENT, "wait_over", "ready"))
    assert family.found == ([] if over else ["woken early"])


@pytest.mark.parametrize(("mode", "state"), [("any", "succeeded"), ("succeeded", "failed")])
def test_a_task_is_woken(family: Family, mode: str, state: str) -> None:
    family.spawn(1, 2)
    family.park(mode)
    family.follow(None, None, (A, "over", state))
    assert family.found == ["not woken"]
    family.attempts.stopped["wf"] = None
    family.follow(None, None, (B, "over", state))
    assert family.found == ["not woken"]


def test_programs_are_told_what_there_is(family: Family) -> None:
    family.spawn(1)
    family.checks.child_told(PARENT, "a", 2)
    family.attempts.states[A] = "succeeded"
    family.attempts.results[A] = b"1"
    family.checks.child_end_told(PARENT, "t:a", "succeeded", b"2")
    machine: Any = SimpleNamespace(tables=SimpleNamespace(workflows={"wf": SimpleNamespace(by_id={"t": 0})}))
    family.checks.check_end("n1", machine)
    assert family.found == ["wrong child", "wrong child", "child lost"]
