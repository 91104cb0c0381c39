"""Budgets of workflows, as the API shows them."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from raftflow.domain import limits
from raftflow.domain.tasks.budgets import AMOUNT_PATTERN

Amount = (
    Annotated[int, msgspec.Meta(ge=0, le=10**12)]
    | Annotated[float, msgspec.Meta(ge=0, le=10**12)]
    | Annotated[str, msgspec.Meta(pattern=AMOUNT_PATTERN, max_length=20)]
)
"""A number with at most six decimals, or the same as text, which is exact in every program."""
_Name = Annotated[str, msgspec.Meta(max_length=limits.BUDGET_NAME_CHARS_MAX)]
Amounts = Annotated[dict[_Name, Amount], msgspec.Meta(max_length=limits.BUDGETS_PER_WORKFLOW_MAX)]


class BudgetRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """`POST /v1/workflows/{id}/budget`."""

    limits: Amounts = {}
    """New hard limits by name, not below the present ones."""
    add: Amounts = {}
    """How much more than now may be spent, by name."""


class BudgetLine(msgspec.Struct, kw_only=True):
    """What was spent of one thing, and how much may be."""

    name: str
    used: int | float
    limit: int | float | None = None
    """When so much is spent the workflow pauses; null if that is not limited."""
    soft: int | float | None = None
    """When so much was spent it is told, in the audit and in the log of the leader."""


class TaskSpending(msgspec.Struct, kw_only=True):
    """What the attempts of one task have spent, by name."""

    id: str
    spent: dict[str, int | float]


class BudgetView(msgspec.Struct, kw_only=True):
    """The budgets of a workflow, and what its tasks have spent."""

    id: str
    state: Literal["pending", "running", "paused", "succeeded", "failed", "cancelled"]
    pause_reason: str | None = None
    """Why it is paused, if a budget is used up."""
    budgets: list[BudgetLine] = []
    """Those with a limit first."""
    tasks: list[TaskSpending] = []
    """In document order, the first 1,000."""
    more_tasks: int = 0
    """How many more tasks have spent something."""
