"""Budgets of workflows: what its tasks may spend, in millionths of a unit, so that sums are exact.

A workflow may spend several things: tokens, money. Each has a name. A budget has a hard limit, at which the workflow
pauses, and a soft one, which only tells.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from typing import Final

import msgspec

from raftflow.domain import limits
from raftflow.domain.values.ids import name_problem

SCALE: Final = 1_000_000
"""Parts of a unit."""
SOFT_PERCENT: Final = 80
"""The soft limit of a budget that names none, in percent of the hard one."""
AMOUNT_CHARS_MAX: Final = 40
AMOUNT_PATTERN: Final = r"^[0-9]{1,12}(\.[0-9]{1,6})?$"
"""An amount that is written as text, in the words of a JSON Schema."""
_CURRENCIES: Final = frozenset({"aud", "cad", "chf", "eur", "gbp", "usd"})
"""Of these at least two decimals are shown."""

Amounts = tuple[tuple[str, int], ...]
"""What was spent, by name, in millionths."""


class Budget(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, gc=False):
    """What a workflow may spend of one thing, in millionths."""

    name: str
    hard: int
    """When so much is spent the workflow pauses."""
    soft: int
    """When so much is spent this is told."""


def default_soft(hard: int) -> int:
    """Return the soft limit for a budget that names none."""
    return max(hard * SOFT_PERCENT // 100, 1)


def to_millionths(value: object) -> int:
    """Return an amount in millionths: a number, or text such as "20.5". Raises `ValueError`."""
    if isinstance(value, bool) or not isinstance(value, int | float | str) or len(str(value)) > AMOUNT_CHARS_MAX:
        raise ValueError('must be a number, such as 20 or "20.5"')
    try:
        exact = Decimal(str(value)) * SCALE
        amount = int(exact)
    except (InvalidOperation, ValueError, OverflowError):
        raise ValueError('must be a number, such as 20 or "20.5"') from None
    if amount != exact:
        raise ValueError("has more than six decimals: round it, with `round(x, 6)` in Python")
    if not 0 <= amount <= limits.BUDGET_MILLIONTHS_MAX:
        raise ValueError(f"must be 0 to {limits.BUDGET_MILLIONTHS_MAX // SCALE}")
    return amount


def to_number(amount: int) -> int | float:
    """Return an amount as a number: a whole one exactly, another one as exactly as JSON readers take it."""
    whole, rest = divmod(amount, SCALE)
    return amount / SCALE if rest else whole


def show_spent(name: str, amount: int) -> str:
    """Return an amount as text, as `20.00 usd` or `1500 tokens`."""
    whole, rest = divmod(amount, SCALE)
    decimals = f"{rest:06}".rstrip("0")
    if name.lower() in _CURRENCIES:
        decimals = decimals.ljust(2, "0")
    return f"{whole}.{decimals} {name}" if decimals else f"{whole} {name}"


def used_up_text(budget: Budget, used: int) -> str:
    """Say that a budget is used up."""
    return f"budget used up: {show_spent(budget.name, used)} of {show_spent(budget.name, budget.hard)}"


def budget_problems(budgets: tuple[Budget, ...]) -> list[str]:
    """Say what is wrong with the budgets of a workflow."""
    if len(budgets) > limits.BUDGETS_PER_WORKFLOW_MAX:
        return [f"{len(budgets)} budgets, the limit is {limits.BUDGETS_PER_WORKFLOW_MAX}"]
    problems = []
    names = [budget.name for budget in budgets]
    for budget in budgets:
        wrong = name_problem(budget.name, chars_max=limits.BUDGET_NAME_CHARS_MAX)
        if wrong is not None:
            problems.append(f"{budget.name[:80]!r} {wrong}")
        elif names.count(budget.name) > 1:
            problems.append(f"{budget.name!r} is there twice")
        if not 1 <= budget.soft <= budget.hard <= limits.BUDGET_MILLIONTHS_MAX:
            problems.append(f"{budget.name[:80]!r} must be more than 0, and its soft limit not above the hard one")
    return problems


def spent_problem(spent: Amounts) -> str | None:
    """Say why this cannot be what a step has spent, or None if it can."""
    if len(spent) > limits.BUDGETS_PER_WORKFLOW_MAX:
        return f"a step spends at most {limits.BUDGETS_PER_WORKFLOW_MAX} different things"
    if len(dict(spent)) < len(spent):
        return "a step names each thing that it spends once"
    for name, amount in spent:
        wrong = name_problem(name, chars_max=limits.BUDGET_NAME_CHARS_MAX)
        if wrong is not None:
            return f"what is spent, {name[:80]!r}, {wrong}"
        if not 0 <= amount <= limits.BUDGET_MILLIONTHS_MAX:
            return f"{amount} millionths of {name!r} cannot be spent"
    return None


def sorted_amounts(spent: Mapping[str, int]) -> Amounts:
    """Return amounts in order of the names, without those that are nothing."""
    return tuple([(name, spent[name]) for name in sorted(spent) if spent[name]])
