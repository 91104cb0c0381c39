"""The harness that kills processes while tasks wait, ask, act and spend: it runs, and finds what is wrong."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from msgspec.structs import replace

from raftflow.domain.contract.views import ApprovalView, BudgetLine, BudgetView
from tests.cluster import kill_scripts


@pytest.fixture(scope="module")
def harness() -> ModuleType:
    return kill_scripts.load("wait_kills")


def test_processes_are_killed_while_tasks_wait_ask_act_and_spend() -> None:
    told = kill_scripts.run("wait_kills", "--small", "--kills", "2", "--seed", "3")
    assert sum(told["kills"].values()) == 2
    done = told["done"]
    assert done["signals"] >= 9 and done["effects"] >= 12 and done["steps that spent"] >= 8
    assert done["spent outside of steps"] >= 8
    assert done["approvals: decided"] and done["approvals: timeout"]


@pytest.mark.parametrize(
    ("got", "wrong"),
    [
        ([["0", "nothing", "1", "end"], ["2", "end"]], ""),
        ([["0", "end"], ["2", "end"]], "not received once: {1: 0}"),
        ([["0", "1", "end"], ["1", "2", "end"]], "not received once: {1: 2}"),
        ([["1", "0", "end"], ["2", "end"]], "another order"),
        ([["0", "1", "2", "7", "end"]], "not received once: {}"),
    ],
)
def test_signals(harness: ModuleType, got: list[list[str]], wrong: str) -> None:
    faults = list(harness.signal_faults(3, got, "go"))
    assert len(faults) == bool(wrong) and wrong in "".join(faults)


WHEN, LATER = "2026-11-30T12:00:01.000Z", "2026-11-30T12:00:02.000Z"
DECIDED = ApprovalView(
    id="7",
    workflow="wf",
    task="ask",
    title="go on?",
    details=None,
    choices=["approve", "deny"],
    state="decided",
    asked_at=WHEN,
    expires_at=LATER,
    on_timeout="deny",
    choice="approve",
    comment="by-0",
    payload=None,
    by="client:api",
    ended_at=WHEN,
)
TIMED_OUT = replace(DECIDED, state="timeout", choice=None, comment="", by=None, ended_at=LATER)
TOLD = f"approval 7 was decided before: 'approve', by client:api at {WHEN}: look at it"
LATE = f"approval 7 timed out at {LATER}: nobody had decided"


@pytest.mark.parametrize(
    ("approval", "answers", "told", "wrong"),
    [
        (DECIDED, ("", TOLD), "approve/by-0", ""),
        (TIMED_OUT, (LATE, LATE), "deny/", ""),
        (DECIDED, ("", TOLD), "deny/by-1", "the task was told deny/by-1"),
        (DECIDED, ("", ""), "approve/by-0", "by-1 was told that it counts"),
        (DECIDED, (TOLD, TOLD), "approve/by-0", "the decision of by-0 counts, and it was refused"),
        (DECIDED, ("", "something is wrong"), "approve/by-0", "by-1 was not told how it ended"),
        (DECIDED, ("", TOLD.replace("approve", "deny")), "approve/by-0", "by-1 was not told how it ended"),
        (TIMED_OUT, ("", LATE), "deny/", "by-0 was told that it counts"),
        (replace(TIMED_OUT, ended_at=WHEN), (LATE.replace(LATER, WHEN), TOLD), "deny/", "timed out at"),
        (replace(DECIDED, state="withdrawn"), (LATE, LATE), "approve/by-0", "is withdrawn"),
    ],
)
def test_approvals(
    harness: ModuleType, approval: ApprovalView, answers: tuple[str, str], told: str, wrong: str
) -> None:
    decisions = [
        harness.Decision("approve", "by-0", answers[0], unsure=False),
        harness.Decision("deny", "by-1", answers[1], unsure=False),
    ]
    faults = list(harness.approval_faults(approval, decisions, told))
    assert bool(faults) == bool(wrong) and wrong in "".join(faults)


@pytest.mark.parametrize(
    ("told", "receipts", "ways", "wrong"),
    [
        ("k/1", ["k/1"], [], ""),
        ("k/1", ["k/1"], ["retry", "done"], ""),
        ("failed", [], ["retry", "fail"], ""),
        ("k/1", ["k/1", "k/2"], [], "was done 2 times"),
        ("k/1", [], ["done"], "the service has []"),
        ("failed", ["k/1"], ["fail"], "failed, and the service has"),
        ("failed", [], [], "failed, and the service has"),
    ],
)
def test_effects(harness: ModuleType, told: str, receipts: list[str], ways: list[str], wrong: str) -> None:
    faults = list(harness.effect_faults("wf/act/0", told, receipts, {"k"}, ways))
    assert len(faults) == bool(wrong) and wrong in "".join(faults)
    assert "has several keys" in next(harness.effect_faults("wf/act/0", told, receipts, {"k", "m"}, ways))


def test_budgets(harness: ModuleType) -> None:
    def view(calls: int, limit: int, state: Any = "paused", usd: float = 0.000003) -> BudgetView:
        lines = [BudgetLine(name="calls", used=calls, limit=limit), BudgetLine(name="usd", used=usd, limit=9)]
        return BudgetView(id="wf", state=state, budgets=lines)

    told = ["1/1", "1/2", "1/0"]
    assert list(harness.money_faults(view(3, 45), told, 25)) == []
    assert "counted are" in next(harness.money_faults(view(2, 45), told, 25)), "a count is lost"
    assert "counted are" in next(harness.money_faults(view(3, 45, usd=0.000004), told, 25))
    assert "raised by 25, and is 70" in next(harness.money_faults(view(3, 70), told, 25)), "raised twice"
    assert list(harness.budget_faults(view(21, 20), 1)) == []
    assert "22 of 20" in next(harness.budget_faults(view(22, 20), 1)), "one of two slots has spent two"
    assert "it is running" in next(harness.budget_faults(view(20, 20, "running"), 1))


def test_rates(harness: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "taken"
    path.write_text("a 2 100.5\nb 3 100.0\na 2 100.6\nc 2 100.4\na 2 99.0\n")
    assert list(harness.rate_faults(path, 98.5)) == [], "what an attempt before has taken counts once"
    path.write_text("".join(f"{number} 1 100.0\n" for number in range(8)))
    (fault,) = harness.rate_faults(path, 100.0)
    assert fault == "taken: 8 units were taken 0.000 s after the beginning"


def test_the_service_refuses_attempts_that_are_over_and_counts_without_keys(harness: ModuleType) -> None:
    service = harness.Service(seed=7)
    with service.listening() as url:

        def ask(path: str, **fields: Any) -> Any:
            for _ in range(50):  # at times it is busy, or does not know
                try:
                    with urllib.request.urlopen(url + path, json.dumps(fields).encode(), timeout=10) as answer:
                        told = json.loads(answer.read())
                except urllib.error.HTTPError as error:
                    told = error.code
                if told not in (503, "unknown"):
                    break
            return told

        assert ask("/find", key="k", fence=5) is None
        assert ask("/call", effect="e", mode="verify", key="k", fence=4, pid=1) == 410
        assert [ask("/call", effect="e", mode="verify", key="k", fence=5, pid=1) for _ in range(2)] == ["k/1", "k/2"]
        assert [ask("/call", effect="f", mode="key", key="m", fence=5, pid=1) for _ in range(2)] == ["m/1", "m/1"]
        assert ask("/find", key="m", fence=6) == "m/1"
    assert service.receipts == {"e": ["k/1", "k/2"], "f": ["m/1"]} and service.refused == 1
