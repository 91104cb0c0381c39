"""Budgets: what steps spend counts once, tells at the soft limit, and holds the workflow at the hard one."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from raftflow.domain import commands as c
from raftflow.domain import limits
from raftflow.domain.events import BudgetReached, WorkflowNotReady, WorkflowReady
from raftflow.domain.rejections import RejectionCode
from raftflow.domain.tasks import budgets as budgets_module
from raftflow.domain.tasks.budgets import Budget, show_spent, to_millionths, to_number
from raftflow.machine.machine import Machine
from raftflow.machine.read import queries
from raftflow.machine.read.invariants import check
from raftflow.machine.read.spending.budgets import budget_view, is_used_up
from raftflow.machine.rules.step_limits import StepLimits

USD, TOKENS = Budget("usd", 20_000_000, 15_000_000), Budget("tokens", 10_000_000, 8_000_000)
UNIT = 1_000_000


def spend(
    drive: Any, fence: int, name: str = "ask", occurrence: int = 1, *, agent: str = "a1", **amounts: int
) -> Any:
    """Record a step that has spent whole units, and return its verdict."""
    spent = tuple((thing, amount * UNIT) for thing, amount in amounts.items())
    reply = drive.do(
        c.RecordSteps(
            at_ms=drive.now_ms,
            actor=f"agent:{agent}",
            agent=agent,
            incarnation=drive.machine.state.agents[agent].incarnation,
            steps=(c.StepToRecord(fence, name, occurrence, "m:ask", b"1", spent),),
        )
    )
    return reply.verdicts[0]


def raise_budget(drive: Any, workflow_id: str = "wf-1", *, added: bool = False, **amounts: int) -> Any:
    raises = tuple(c.BudgetRaise(name, amount * UNIT, added) for name, amount in amounts.items())
    return drive.do(c.RaiseBudget(at_ms=drive.now_ms, actor="client:test", workflow_id=workflow_id, raises=raises))


def workflow_of(drive: Any, workflow_id: str = "wf-1") -> Any:
    return drive.machine.state.workflows[workflow_id]


def with_budgets(spec: Any, *budgets: Budget) -> Any:
    return msgspec.structs.replace(spec, budgets=budgets or (USD, TOKENS))


def park(drive: Any, fence: int) -> Any:
    return drive.finish(fence, "parked", result=b'{"budget":true}')


@pytest.fixture
def running(drive: Any) -> Any:
    """Tasks t0 to t3 with 20 usd and 10 tokens; t0 and t1 run on a1, t2 waits in its queue."""
    drive.register(cpu=2, prefetch=1)
    drive.submit(with_budgets(drive.bag(4, retries=2)))
    assert drive.place(0, 1, 2) == (1, 2, 3) and drive.states() == "RRQE"
    return drive


def test_what_is_spent_counts_once(running: Any) -> None:
    assert spend(running, 1, usd=3, lira=7) == spend(running, 2, usd=4)
    assert spend(running, 1, usd=9).verdict == "known"
    assert workflow_of(running).steps.spending.total == {"lira": 7 * UNIT, "usd": 7 * UNIT}
    view = budget_view(running.machine, "wf-1")
    assert [(line.name, line.used, line.limit, line.soft) for line in view.budgets] == [
        ("usd", 7, 20, 15),
        ("tokens", 0, 10, 8),
        ("lira", 7, None, None),
    ]
    assert [(task.id, task.spent) for task in view.tasks] == [("t0", {"lira": 7, "usd": 3}), ("t1", {"usd": 4})]
    assert budget_view(running.machine, "none") is None


def test_a_soft_limit_tells_and_a_hard_one_holds(running: Any) -> None:
    assert not spend(running, 1, usd=15).used_up
    assert running.records[-1].detail.endswith("wf-1: soft limit of the budget reached, 15.00 usd of 20.00 usd spent")
    assert BudgetReached("wf-1", "usd", used_up=False) in running.events
    assert workflow_of(running).state.value == "running" and not is_used_up(running.machine, "a1", 1, 1)
    assert spend(running, 2, usd=6).used_up
    assert "wf-1: budget used up: 21.00 usd of 20.00 usd" in running.records[-1].detail
    assert BudgetReached("wf-1", "usd", used_up=True) in running.events
    assert WorkflowNotReady("wf-1") in running.events
    view = queries.workflow_view(running.machine, "wf-1")
    assert (view.state, view.pause_reason) == ("paused", "budget used up: 21.00 usd of 20.00 usd")
    assert [running.task(n).last.order for n in range(3)] == [0, 0, 1], "what is queued is asked back"
    assert spend(running, 1, "more", usd=1).used_up, "what is gone is counted"
    assert is_used_up(running.machine, "a1", 1, 2) and not is_used_up(running.machine, "a1", 2, 2)
    assert running.place(3) == (0,)
    told = queries.explain(running.machine, "wf-1", "t3")
    assert told.waiting == "budget" and told.reason.startswith("budget used up: 22.00 usd of 20.00 usd; ")
    refused = running.control("resume")
    assert refused.code is RejectionCode.CONFLICT and "workflow budget raise wf-1 usd=AMOUNT" in refused.message


def test_a_raised_budget_lets_the_workflow_go_on(running: Any) -> None:
    spend(running, 1, usd=20, tokens=10)
    assert raise_budget(running, usd=30).changed and workflow_of(running).used_up, "the other one is used up still"
    assert running.records[-1].detail == "20.00 usd -> 30.00 usd"
    assert WorkflowReady("wf-1") not in running.events
    assert raise_budget(running, added=True, tokens=1).changed
    assert WorkflowReady("wf-1") in running.events and not workflow_of(running).held
    assert running.task(2).last.order == 0
    assert [(each.hard // UNIT, each.soft) for each in workflow_of(running).budgets] == [
        (30, 22_500_000),
        (11, 8_800_000),
    ]
    assert not raise_budget(running, usd=30).changed
    assert raise_budget(running, usd=29).code is RejectionCode.CONFLICT
    assert raise_budget(running, lira=29).code is RejectionCode.CONFLICT
    assert raise_budget(running, "none", usd=1).code is RejectionCode.NOT_FOUND
    assert raise_budget(running, usd=10**13).code is RejectionCode.INVALID


def test_a_pause_by_a_person_stays(running: Any) -> None:
    running.control("pause")
    spend(running, 1, usd=20)
    assert running.control("resume").code is RejectionCode.CONFLICT
    raise_budget(running, usd=30)
    assert workflow_of(running).held and WorkflowReady("wf-1") not in running.events
    assert queries.workflow_view(running.machine, "wf-1").pause_reason is None
    assert running.control("resume").changed and not workflow_of(running).held


def test_an_attempt_parks_until_the_budget_is_raised(running: Any) -> None:
    spend(running, 1, usd=20)
    assert park(running, 1) == "accepted" and running.states() == "ERRE"
    assert [(each.event, each.after) for each in running.records[-1].transitions][:2] == [
        ("parked", "parked"),
        ("wait_over", "ready"),
    ]
    assert running.place(0) == (0,)
    raise_budget(running, usd=21)
    running.finish(2)
    (fence,) = running.place(0)
    assert park(running, fence) == "accepted", "an agent that heard of the raise too late"
    assert running.task(0).failures == 0
    (fence,) = running.place(0)
    running.finish(fence, "parked", result=b"{")
    assert running.task(0).failures == 1 and "does not say what it waits for" in running.task(0).last.error


def test_a_workflow_that_is_stopped_is_not_held_back(running: Any) -> None:
    spend(running, 1, usd=20)
    running.control("cancel")
    assert running.states() == "RRRC" or running.states() == "RRQC"
    for fence in (1, 2, 3):
        running.finish(fence, "cancelled")
    assert workflow_of(running).state.value == "cancelled" and not workflow_of(running).held
    assert queries.workflow_view(running.machine, "wf-1").pause_reason is None
    assert running.control("retry").changed
    assert workflow_of(running).state.value == "paused", "a retry keeps what was spent"
    assert running.place(0) == (0,)
    raise_budget(running, usd=40)
    assert running.place(0) != (0,)


def test_a_finished_workflow_may_be_given_more(running: Any) -> None:
    running.finish(1, "failed")
    running.control("cancel")
    for fence in (2, 3):
        running.finish(fence, "cancelled")
    assert raise_budget(running, usd=40).changed and running.control("retry").changed


def test_a_large_workflow_is_held_and_goes_on_in_pieces(new_drive: Any) -> None:
    drive = new_drive(limits=StepLimits(2, 2))
    drive.register(cpu=1, prefetch=9)
    drive.submit(with_budgets(drive.bag(8)))
    drive.place(*range(8))
    spend(drive, 1, usd=20)
    drive.work_off()
    assert [drive.task(n).last.order for n in range(8)] == [0] + [1] * 7
    raise_budget(drive, usd=30)
    drive.work_off()
    assert [drive.task(n).last.order for n in range(8)] == [0] * 8
    drive.control("cancel")
    assert drive.jobs() == ["stop"]
    assert raise_budget(drive, usd=50).code is RejectionCode.PENDING
    assert spend(drive, 1, "more", usd=30).used_up
    drive.work_off()
    assert workflow_of(drive).used_up


def test_what_cannot_be_counted_is_refused(running: Any, monkeypatch: Any) -> None:
    def told(*spent: tuple[str, int]) -> str:
        reply = running.do(
            c.RecordSteps(
                at_ms=1,
                actor="x",
                agent="a1",
                incarnation=1,
                steps=(c.StepToRecord(1, "s", 1, "", b"1", spent),),
            )
        )
        return str(reply.verdicts[0].verdict)

    assert (
        told(("a b", 1))
        == told(("usd", -1))
        == told(("usd", 10**18 + 1))
        == told(("usd", 1), ("usd", 2))
        == "invalid"
    )
    assert told(*[(f"n{number}", 1) for number in range(17)]) == "invalid"
    assert told(("usd", 0)) == "recorded" and workflow_of(running).steps.spending is None
    assert spend(running, 1, "t", usd=10**12).verdict == "recorded"
    assert spend(running, 1, "u", usd=1).verdict == "invalid"
    monkeypatch.setattr(limits, "BUDGET_NAMES_SPENT_MAX", 1)
    assert spend(running, 1, "v", tokens=1).verdict == "invalid"


def test_budgets_are_checked(drive: Any) -> None:
    drive.register()
    many = tuple(Budget(f"b{number}", 2, 1) for number in range(17))
    for wrong in (many, (USD, USD), (Budget("a b", 2, 1),), (Budget("x", 1, 2),), (Budget("x", 1, 0),)):
        for submit in (drive.submit, drive.upload):
            assert submit(with_budgets(drive.bag(1), *wrong)).code is RejectionCode.INVALID
    assert drive.upload(with_budgets(drive.bag(1))).workflow_id == "wf-1"
    assert workflow_of(drive).budgets == (USD, TOKENS)


def test_budgets_are_in_snapshots(running: Any) -> None:
    spend(running, 1, usd=20)
    assert running.do(
        c.BeginWorkflow(at_ms=1, actor="x", workflow_id="up", name="up", tasks=1, needs=0, budgets=(USD,))
    ).changed
    other = Machine()
    other.restore(running.machine.snapshot())
    restored = other.state.workflows["wf-1"]
    assert (restored.budgets, restored.used_up, restored.held) == ((USD, TOKENS), True, True)
    assert restored.steps.spending.by_task == {0: {"usd": 20 * UNIT}}
    assert other.state.uploads["up"].workflow.budgets == (USD,)
    assert check(other) == []


def test_invariants(running: Any) -> None:
    spend(running, 1, usd=2)
    workflow_of(running).used_up = True
    assert check(running.machine)[0].endswith(
        "a budget is used up and the workflow does not know it, or the other way round"
    )
    workflow_of(running).used_up = False
    workflow_of(running).steps.spending.total["usd"] = 5
    assert "{'usd': 5} counted as spent, its steps have spent {'usd': 2000000}" in check(running.machine)[0]
    workflow_of(running).steps.spending.total["usd"] = 2 * UNIT


def test_the_tasks_of_one_answer_are_bounded(running: Any, monkeypatch: Any) -> None:
    from raftflow.machine.read.spending import budgets as reads

    monkeypatch.setattr(reads, "BUDGET_TASKS_SHOWN_MAX", 1)
    spend(running, 1, usd=1)
    spend(running, 2, usd=1)
    view = budget_view(running.machine, "wf-1")
    assert [task.id for task in view.tasks] == ["t0"] and view.more_tasks == 1


@pytest.mark.parametrize(
    ("given", "amount"), [(20, 20 * UNIT), (0.1, 100_000), ("20.50", 20_500_000), (1e-6, 1), (0, 0), (10**12, 10**18)]
)
def test_amounts_are_exact(given: Any, amount: int) -> None:
    assert to_millionths(given) == amount and to_millionths(to_number(amount)) == amount


@pytest.mark.parametrize(
    "given",
    [-1, True, None, "x", "1e3x", float("nan"), float("inf"), 0.1 + 0.2, "0.0000001", 10**13, "9" * 50, "-1", []],
)
def test_what_is_no_amount_is_refused(given: Any) -> None:
    with pytest.raises(ValueError, match=r"must be|more than six decimals"):
        to_millionths(given)


def test_amounts_as_text() -> None:
    shown = [show_spent("usd", 20 * UNIT), show_spent("usd", 123_456), show_spent("tokens", 7 * UNIT)]
    assert shown == ["20.00 usd", "0.123456 usd", "7 tokens"]
    assert show_spent("tokens", 500_000) == "0.5 tokens" and budgets_module.default_soft(1) == 1
