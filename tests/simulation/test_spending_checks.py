"""The model of budgets and rate limits sees each fault that it is there for."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from raftflow.domain import commands as c
from raftflow.domain.replies import (
    Done,
    Placed,
    RatesTaken,
    RateVerdict,
    StepsRecorded,
    StepVerdict,
    WorkflowAccepted,
)
from raftflow.domain.tasks.budgets import Budget
from raftflow.domain.tasks.program import CommandLine
from raftflow.domain.tasks.workflow import TaskSpec, WorkflowSpec
from raftflow.simulation.checkers.spending import spending_checks
from raftflow.simulation.checkers.spending.spending_checks import SpendingChecks

TASK = ("wf", "t")
UNIT = 1_000_000


class Model:
    """The checks, with a workflow of one task that may spend 2 usd, whose attempt has the fence 1."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        attempts: Any = SimpleNamespace(live={1: (TASK, "a1")})
        self.checks = SpendingChecks(lambda kind, _: self.seen.append(kind), attempts)
        task = TaskSpec(id="t", program=CommandLine(("x",)), rates={"llm": 2})
        spec = WorkflowSpec(name="w", tasks=(task,), budgets=(Budget("usd", 2 * UNIT, UNIT),))
        self.follow(c.SubmitWorkflow(at_ms=0, actor="", workflow_id="wf", spec=spec), WorkflowAccepted("wf"))
        self.limit()

    def follow(self, command: Any, reply: Any) -> None:
        self.checks.follow(command, reply)

    def limit(self, burst: int = 3) -> None:
        self.follow(c.SetRateLimit(at_ms=0, actor="", name="llm", amount=1, period_ms=1_000, burst=burst), Done())

    def record(self, usd: int, name: str = "paid") -> None:
        step = c.StepToRecord(1, name, 1, "", b"1", (("usd", usd * UNIT),))
        self.follow(
            c.RecordSteps(at_ms=0, actor="", agent="a1", incarnation=1, steps=(step,)),
            StepsRecorded((StepVerdict("recorded"),)),
        )

    def place(self) -> None:
        placements = (c.Placement("wf", 0, "a1", 1),)
        self.follow(c.CommitPlacements(at_ms=0, actor="", placements=placements), Placed((5,)))

    def take(self, count: int, at_ms: int) -> None:
        takes = (c.RateToTake(1, "llm", count, "r", 1),)
        self.follow(
            c.TakeRates(at_ms=at_ms, actor="", agent="a1", incarnation=1, takes=takes),
            RatesTaken((RateVerdict("taken"),)),
        )


@pytest.fixture
def model() -> Model:
    return Model()


def test_what_is_right_is_no_violation(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    model.place()
    model.take(1, 0)
    model.take(2, 2_000)
    model.checks.money_spent(TASK, 2 * UNIT)
    model.record(2)
    model.checks.spending_told(TASK, 2 * UNIT)
    model.checks.paid_step_ran(TASK, 1)
    raises = (c.BudgetRaise("usd", UNIT, added=True),)
    model.follow(c.RaiseBudget(at_ms=0, actor="", workflow_id="wf", raises=raises), Done())
    model.checks.paid_step_ran(TASK, 1)
    view = SimpleNamespace(budgets=[SimpleNamespace(name="usd", used=2)])
    monkeypatch.setattr(spending_checks, "budget_view", lambda *_: view)
    model.checks.check_end("n1", SimpleNamespace())  # type: ignore[arg-type]
    assert model.seen == [] and model.checks.used_up == 1


def test_each_fault_is_seen(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    model.take(3, 0)
    model.take(1, 999)
    model.checks.spending_told(TASK, UNIT)
    model.record(2)
    model.place()
    model.checks.paid_step_ran(TASK, 1)
    model.checks.paid_step_ran(TASK, 1)
    monkeypatch.setattr(spending_checks, "budget_view", lambda *_: SimpleNamespace(budgets=[]))
    model.checks.check_end("n1", SimpleNamespace())  # type: ignore[arg-type]
    assert model.seen == [
        "rate passed",
        "spending lost",
        "spending doubled",
        "placed unpaid",
        "rate passed",
        "overspent",
        "spending lost",
    ]


def test_an_attempt_that_only_spends_does_so_twice_after_a_budget_is_used_up(model: Model) -> None:
    for _ in range(4):
        model.record(1, "raftflow.spend")
    assert model.seen == [], "the second one uses it up"
    model.record(1, "raftflow.spend")
    assert model.seen == ["overspent"]


def test_a_limit_that_was_removed_gives_nothing(model: Model) -> None:
    model.follow(c.RemoveRateLimit(at_ms=0, actor="", name="llm"), Done())
    model.take(1, 0)
    assert model.seen == ["rate passed"]


def test_a_limit_that_is_removed_and_set_again_is_not_full(model: Model) -> None:
    set_again = c.SetRateLimit(at_ms=0, actor="", name="llm", amount=1, period_ms=1_000, burst=3)
    model.take(3, 0)
    model.follow(c.RemoveRateLimit(at_ms=0, actor="", name="llm"), Done())
    model.follow(set_again, Done())
    assert model.seen == []
    model.take(1, 0)
    assert model.seen == ["rate passed"]
