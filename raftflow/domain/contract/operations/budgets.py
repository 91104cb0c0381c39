"""Operations of budgets."""

from __future__ import annotations

from typing import Final

from raftflow.domain.contract import problem_kinds as problems
from raftflow.domain.contract.operation import Access, AnsweredBy, Operation, Verb
from raftflow.domain.contract.views import BudgetRequest, BudgetView

SHOW_BUDGET: Final = Operation(
    name="show_budget",
    method="GET",
    path="/v1/workflows/{id}/budget",
    answered_by=AnsweredBy.LEADER_READ,
    access=Access.READ,
    summary="Show the budgets of a workflow: limits, what is used, and by which task",
    answer=BudgetView,
    verb=Verb(noun="workflow budget", name="show", by_hand=True),
)
RAISE_BUDGET: Final = Operation(
    name="raise_budget",
    method="POST",
    path="/v1/workflows/{id}/budget",
    answered_by=AnsweredBy.LEADER_WRITE,
    access=Access.APPROVE,
    summary="Raise budgets of a workflow: usd=30 sets a limit, usd+=10 adds to it",
    details="A workflow that is paused because a budget is used up goes on. Soft limits are raised in proportion.",
    answer=BudgetView,
    body=BudgetRequest,
    extra_problems=(problems.CONFLICT,),
    verb=Verb(noun="workflow budget", name="raise", by_hand=True),
)
