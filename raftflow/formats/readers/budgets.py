"""The key `budgets` of a workflow: what its tasks may spend.

budgets = { tokens = 1_000_000, usd = 20.0 }
budgets = { usd = { hard = 20.0, soft = 15.0 } }
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from raftflow.domain import limits
from raftflow.domain.tasks.budgets import Budget, default_soft, to_millionths
from raftflow.domain.values.ids import name_problem
from raftflow.formats.faults import shown

if TYPE_CHECKING:
    from raftflow.formats.faults import DocumentFaults


def read_budgets(value: object, faults: DocumentFaults) -> tuple[Budget, ...]:
    """Read the budgets of a workflow, and note their faults."""
    if not isinstance(value, dict):
        faults.add("budgets", "must be a table such as { tokens = 1_000_000, usd = 20.0 }")
        return ()
    most = limits.BUDGETS_PER_WORKFLOW_MAX
    if len(value) > most:
        faults.add("budgets", f"{len(value)} budgets, the limit is {most}", most)
        return ()
    budgets = []
    for name, wanted in value.items():
        wrong = (
            name_problem(name, chars_max=limits.BUDGET_NAME_CHARS_MAX) if isinstance(name, str) else "is not a string"
        )
        if wrong is not None:
            faults.add("budgets", f"{shown(name)} {wrong}")
            continue
        budget = _read_budget(name, wanted, faults)
        if budget is not None:
            budgets.append(budget)
    return tuple(budgets)


def _read_budget(name: str, wanted: object, faults: DocumentFaults) -> Budget | None:
    path = f"budgets.{name}"
    if not isinstance(wanted, dict):
        hard = _amount(path, wanted, faults)
        return None if hard is None else Budget(name, hard, default_soft(hard))
    for key in wanted:
        if key not in ("hard", "soft"):
            faults.unknown_key(f"{path}.", key, ("hard", "soft"))
    if "hard" not in wanted:
        faults.add(f"{path}.hard", "is required")
        return None
    hard = _amount(f"{path}.hard", wanted["hard"], faults)
    soft = _amount(f"{path}.soft", wanted["soft"], faults) if "soft" in wanted else None
    if hard is None or (soft is None and "soft" in wanted):
        return None
    if soft is not None and soft > hard:
        faults.add(f"{path}.soft", "must not be above the hard limit")
        return None
    return Budget(name, hard, default_soft(hard) if soft is None else soft)


def _amount(path: str, value: object, faults: DocumentFaults) -> int | None:
    try:
        amount = to_millionths(value)
    except ValueError as error:
        faults.add(path, str(error))
        return None
    if not amount:
        faults.add(path, "must be more than 0")
        return None
    return amount
