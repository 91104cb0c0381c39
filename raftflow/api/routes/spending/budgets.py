"""Routes of budgets."""

from __future__ import annotations

from typing import TYPE_CHECKING

from raftflow.api.dispatch.requests import Request, Response, Route, require_accepted, require_found
from raftflow.api.http import problems
from raftflow.api.http.bodies import decode
from raftflow.api.http.problems import ProblemError
from raftflow.domain.commands import BudgetRaise, RaiseBudget
from raftflow.domain.contract import operations
from raftflow.domain.contract.views import BudgetRequest
from raftflow.domain.tasks.budgets import to_millionths
from raftflow.machine.read.spending import budgets

if TYPE_CHECKING:
    from collections.abc import Mapping


def _view(call: Request) -> Response:
    workflow_id = call.path("id")
    view = budgets.budget_view(call.replica.machine, workflow_id)
    return Response(require_found(view, f"workflow {workflow_id!r}"))


async def show_budget(call: Request) -> Response:
    """Show the budgets of a workflow."""
    return _view(call)


async def raise_budget(call: Request) -> Response:
    """Raise budgets of a workflow."""
    wanted = decode(call.body, BudgetRequest)
    if not (wanted.limits or wanted.add):
        raise ProblemError(problems.INVALID_DOCUMENT, "name a budget in `limits` or in `add`")
    command = RaiseBudget(
        at_ms=call.replica.clock.now_ms(),
        actor=call.actor,
        request_id=call.idempotency_key,
        workflow_id=call.path("id"),
        raises=(*_raises("limits", wanted.limits, added=False), *_raises("add", wanted.add, added=True)),
    )
    require_accepted(await call.replica.control(command, call.client))
    return _view(call)


def _raises(field: str, amounts: Mapping[str, int | float | str], *, added: bool) -> list[BudgetRaise]:
    raises = []
    for name, amount in amounts.items():
        try:
            raises.append(BudgetRaise(name, to_millionths(amount), added))
        except ValueError as error:
            raise ProblemError(problems.INVALID_DOCUMENT, f"{field}.{name[:80]}: {error}") from None
    return raises


ROUTES: tuple[Route, ...] = (
    Route(operations.budgets.SHOW_BUDGET, show_budget),
    Route(operations.budgets.RAISE_BUDGET, raise_budget),
)
