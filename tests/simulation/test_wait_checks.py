"""The model of waits sees each mistake that it is there for."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from raftflow.domain.commands import (
    AttemptEnd,
    BeginWait,
    DecideApproval,
    FireTimers,
    ReportAttempts,
    SendSignal,
)
from raftflow.domain.rejections import Rejection, RejectionCode
from raftflow.domain.replies import Done, EndVerdict, Fired, Reported, SignalTaken, WaitBegun
from raftflow.domain.tasks.program import TaskWait
from raftflow.domain.tasks.states import AttemptOutcome
from raftflow.simulation.checkers.attempt_checks import AttemptModel
from raftflow.simulation.checkers.waits.wait_checks import WaitChecks

TASK = ("wf", "t")
GONE = Rejection(RejectionCode.CONFLICT, "it ended")
GO = {"outcome": "signal", "payload": "x"}
LATE = {"outcome": "timeout", "payload": "late"}


_BEGUN = ("wait_begun", "parked")
SUCCEEDED, FAILED = ("succeeded", "succeeded"), ("failed_final", "failed")


class Seen:
    """The checks, with a task whose attempt 1 lives, and what was found."""

    def __init__(self) -> None:
        self.found: list[str] = []
        self.now_ms = 1_000
        self.notes: list[str] = []
        self.attempts = AttemptModel()
        self.attempts.live[1] = (TASK, "a1")
        self.attempts.states[TASK] = "running"
        self.checks = WaitChecks(lambda kind, _: self.found.append(kind), self.attempts)

    def follow(self, command: Any, reply: Any, *moves: tuple[str, str]) -> None:
        """Follow a command and what the task does in it: events and states."""
        transitions = []
        for event, after in moves:
            self.attempts.states[TASK] = after
            transitions.append(SimpleNamespace(workflow_id="wf", task_id="t", event=event, after=after))
        outcome = reply.code.value if isinstance(reply, Rejection) else "ok"
        record: Any = SimpleNamespace(
            at_ms=self.now_ms, outcome=outcome, transitions=transitions, detail="; ".join(self.notes)
        )
        self.notes = []
        self.checks.follow(command, reply, record)

    def begin(self, reply: int | dict[str, Any], occurrence: int = 1, fence: int = 1, **more: Any) -> None:
        """Begin a wait. The reply is its number, or its record."""
        given: dict[str, Any] = {"kind": "signal", "name": "go", "timeout_ms": 100, "on_timeout": b'"late"'}
        command = BeginWait(
            at_ms=1, actor="a", agent="a1", incarnation=1, fence=fence, occurrence=occurrence, **(given | more)
        )
        told = WaitBegun(reply) if isinstance(reply, int) else WaitBegun(0, msgspec.json.encode(reply))
        self.follow(command, told)

    def ask(self, number: int) -> None:
        self.begin(number, kind="approval", name="ask", timeout_ms=0)

    def send(
        self, state: Any, payload: bytes = b'"x"', key: str = "", task: str = "", *moves: tuple[str, str]
    ) -> None:
        command = SendSignal(at_ms=1, actor="c", workflow_id="wf", name="go", payload=payload, key=key)
        self.follow(command, SignalTaken(state, task or ("t" if state == "delivered" else "")), *moves)

    def decide(
        self,
        number: int,
        reply: Any = Done(),  # noqa: B008 - never changes
        choice: str = "approve",
        *moves: tuple[str, str],
    ) -> None:
        self.follow(DecideApproval(at_ms=1, actor="p", number=number, choice=choice), reply, *moves)

    def fire(self, after_ms: int, *moves: tuple[str, str]) -> None:
        self.now_ms += after_ms
        self.follow(FireTimers(at_ms=1, actor="l"), Fired(1), *moves)

    def park(self, *numbers: int) -> None:
        told = msgspec.json.encode({"waits": numbers})
        end = AttemptEnd(1, *TASK, AttemptOutcome.PARKED, result=told)
        command = ReportAttempts(at_ms=1, actor="a", agent="a1", incarnation=1, ends=(end,))
        self.follow(command, Reported((EndVerdict(1, "accepted"),)), ("parked", "parked"))

    def tell(self, record: Any, occurrence: int = 1, name: str = "go") -> None:
        self.checks.wait_told(TASK, (name, occurrence), record)

    def wait_by_document(self, number: int, *then: tuple[str, str], **more: Any) -> None:
        """Let the task be one of a document whose needs are met now."""
        self.attempts.waits[TASK] = TaskWait(**({"event": "signal", "name": "go"} | more))
        if number:
            self.notes = [
                f"wf/s: waits for signal 'go', wait {number + 7}",
                f"wf/t: waits for signal 'go', wait {number}",
            ]
        self.follow(
            ReportAttempts(at_ms=1, actor="a", agent="a1", incarnation=1, ends=()), Reported(()), *(_BEGUN, *then)
        )

    def end(self, record: Any = None, kept: tuple[str, ...] = (), result: bytes = b"") -> None:
        """Look at a state that has this answer, and these signals in the mailbox."""
        row = None if record is None else SimpleNamespace(result=msgspec.json.encode(record))
        rows = [SimpleNamespace(payload=msgspec.json.encode(payload)) for payload in kept]
        workflow = SimpleNamespace(
            by_id={"t": SimpleNamespace(position=0, result=result)},
            steps=SimpleNamespace(find=lambda *_: row),
            signals=SimpleNamespace(kept={"go": rows}),
        )
        state = SimpleNamespace(workflows={"wf": workflow})
        machine: Any = SimpleNamespace(state=state, tables=state)
        self.checks.check_end("n1", machine)


@pytest.fixture
def seen() -> Seen:
    return Seen()


def test_a_whole_story_is_right(seen: Seen) -> None:
    seen.begin(1)
    seen.begin(1)
    assert seen.checks.wanted == [("wf", "go")]
    seen.park(1)
    seen.follow(
        SendSignal(at_ms=1, actor="c", workflow_id="wf", name="go", payload=b'"x"', key="k"),
        SignalTaken("delivered", "t"),
        ("wait_over", "ready"),
    )
    seen.send("repeated", key="k")
    seen.begin(GO)
    seen.tell(GO)
    seen.send("kept", b'"y"')
    seen.begin({"outcome": "signal", "payload": "y"}, 2)
    seen.begin(2, 3)
    seen.fire(99)
    seen.fire(1)
    seen.begin(LATE, 3)
    seen.ask(3)
    seen.decide(3)
    seen.decide(3, GONE, "deny")
    decided = {"outcome": "decided", "choice": "approve", "comment": "", "payload": None, "by": "p", "at_ms": 1_100}
    seen.tell(decided, name="ask")
    checks = seen.checks
    counted = (checks.received, checks.repeated, checks.timed_out, checks.decided, checks.refused)
    assert (seen.found, counted) == ([], (3, 1, 1, 1, 1))


def test_only_live_attempts_wait(seen: Seen) -> None:
    seen.begin(1, fence=2)
    assert seen.found == ["wait of a dead attempt"]


def test_a_wait_has_one_number_and_one_answer(seen: Seen) -> None:
    seen.begin(1)
    seen.begin(2)
    seen.begin(1, 2)
    assert seen.found == ["second answer"] * 2
    seen.send("delivered")
    seen.begin(LATE)
    assert seen.found[2:] == ["second answer"]


def test_a_time_out_has_its_time(seen: Seen) -> None:
    seen.begin(1)
    seen.fire(99)
    seen.begin(LATE)
    assert seen.found == ["wrong answer"]


def test_a_wait_that_is_due_when_its_task_ends_may_have_timed_out_or_not(seen: Seen) -> None:
    seen.begin(1)
    seen.fire(100, ("cancelled", "cancelled"))
    seen.begin(LATE)
    seen.tell(LATE)
    assert seen.found == []


def test_no_signal_is_lost(seen: Seen) -> None:
    seen.send("repeated", key="k")
    seen.send("kept")
    seen.begin(1)
    assert seen.found == ["signal lost"] * 2
    seen.send("kept", b'"y"')
    seen.send("delivered", b'"z"', task="other")
    assert seen.found[2:] == ["signal lost"] * 2


def test_no_signal_counts_twice(seen: Seen) -> None:
    seen.send("kept", key="k")
    seen.send("kept", key="k")
    assert seen.found == ["signal doubled"]
    seen.begin(GO)
    seen.begin(GO, 2)
    assert seen.found[1:] == ["signal doubled"], "two waits receive it"
    seen.begin(GO, 3)
    assert seen.found[2:] == ["wrong answer", "signal doubled"], "none was kept"


def test_one_decision_counts(seen: Seen) -> None:
    seen.ask(1)
    seen.decide(1, GONE)
    assert seen.found == ["decision refused"]
    seen.decide(1)
    seen.decide(1)
    assert seen.found[1:] == ["second decision"]


def test_parked_tasks_go_on_when_a_wait_has_ended_and_not_before(seen: Seen) -> None:
    seen.begin(1)
    seen.begin(2, 2)
    seen.park(1, 2)
    seen.send("delivered")
    assert seen.found == ["sleeps on"]
    seen.attempts.states[TASK] = "running"
    seen.begin(3, 3)
    seen.park(3)
    seen.follow(FireTimers(at_ms=1, actor="l"), Fired(0), ("wait_over", "ready"))
    assert seen.found[1:] == ["woken for nothing"]


def test_waits_of_a_task_that_ended_are_over(seen: Seen) -> None:
    seen.begin(1)
    seen.follow(FireTimers(at_ms=1, actor="l"), Fired(0), ("failed_final", "failed"))
    seen.send("kept")
    assert (seen.found, seen.checks.wanted) == ([], [])


def test_a_program_is_told_what_the_log_says(seen: Seen) -> None:
    seen.tell(GO)
    seen.begin(1)
    seen.send("delivered")
    seen.tell({"outcome": "signal", "payload": "y"})
    assert seen.found == ["wrong answer"] * 2


def test_the_state_at_the_end_has_answers_and_mailboxes(seen: Seen) -> None:
    seen.begin(1)
    seen.send("delivered")
    seen.send("kept", b'"y"')
    seen.end(GO, ("y",))
    assert seen.found == []
    seen.end(None, ())
    seen.end(LATE, ("y", "y"))
    assert seen.found == ["answer lost", "signal lost", "answer lost", "signal doubled"]


def test_the_answer_of_a_wait_of_a_document_is_the_result(seen: Seen) -> None:
    seen.wait_by_document(1)
    assert seen.checks.wanted == [("wf", "go")]
    seen.send("delivered", b'"x"', "", "", SUCCEEDED)
    seen.end(result=b'"x"')
    seen.wait_by_document(2, timeout_ms=100)
    seen.fire(100, FAILED)
    asks: dict[str, Any] = {"event": "approval", "name": "ask"}
    seen.wait_by_document(3, **asks)
    seen.decide(3, Done(), "deny", SUCCEEDED)
    assert seen.attempts.results[TASK] == b'{"choice":"deny","comment":"","payload":null,"by":"p"}'
    seen.wait_by_document(4, timeout_ms=100, on_timeout=b'"deny"', **asks)
    seen.fire(100, SUCCEEDED)
    assert seen.attempts.results[TASK] == b'{"choice":"deny","comment":"","payload":null,"by":""}'
    seen.send("kept", b'"y"')
    seen.wait_by_document(0, SUCCEEDED)
    seen.end(result=b'"y"')
    assert (seen.found, seen.checks.answered_documents) == ([], 5)
    seen.end(result=b'"x"')
    assert seen.found == ["answer lost"]


def test_a_wait_of_a_document_that_is_cancelled_has_no_answer(seen: Seen) -> None:
    seen.wait_by_document(1, timeout_ms=100)
    seen.fire(100, ("cancelled", "cancelled"))
    seen.wait_by_document(2)
    seen.fire(1, ("cancelled", "cancelled"))
    seen.send("kept")
    assert seen.found == []


def test_a_task_of_a_document_ends_with_its_answer_and_not_otherwise(seen: Seen) -> None:
    seen.wait_by_document(1)
    seen.send("delivered")
    assert seen.found == ["wrong result"], "it goes on to wait"
    seen.wait_by_document(2)
    seen.fire(1, SUCCEEDED)
    assert seen.found[1:] == ["wrong result"], "it ends by itself"
    seen.wait_by_document(0, SUCCEEDED)
    assert seen.found[2:] == ["wrong result"], "there was no signal"
    seen.send("kept", b'"y"')
    seen.wait_by_document(3)
    assert seen.found[3:] == ["wrong result"], "there was one"
