"""Budgets as people see them: limits, what is spent, and by which task."""

from __future__ import annotations

from typing import TYPE_CHECKING

from raftflow.domain.contract.views import BudgetLine, BudgetView, TaskSpending
from raftflow.domain.limits import BUDGET_TASKS_SHOWN_MAX
from raftflow.domain.tasks.budgets import to_number, used_up_text

if TYPE_CHECKING:
    from collections.abc import Mapping

    from raftflow.machine.machine import Machine
    from raftflow.machine.tables.workflows import Workflow


def pause_reason(workflow: Workflow) -> str | None:
    """Say why a workflow is paused that nobody has paused, None if it is not."""
    budget = workflow.find_used_up() if workflow.used_up and not workflow.finished_ms else None
    return None if budget is None else used_up_text(budget, workflow.spent_of(budget.name))


def is_used_up(machine: Machine, agent: str, incarnation: int, fence: int) -> bool:
    """Tell whether a budget of the workflow of a live attempt is used up."""
    known = machine.state.agents.get(agent)
    found = None if known is None or known.incarnation != incarnation else known.live.get(fence)
    return found is not None and found[0].used_up


def budget_view(machine: Machine, workflow_id: str) -> BudgetView | None:
    """Return the budgets of a workflow and what it has spent, None for an unknown one."""
    workflow = machine.state.workflows.get(workflow_id)
    if workflow is None:
        return None
    spending = None if workflow.steps is None else workflow.steps.spending
    total: Mapping[str, int] = {} if spending is None else spending.total
    lines = [
        BudgetLine(
            name=budget.name,
            used=to_number(total.get(budget.name, 0)),
            limit=to_number(budget.hard),
            soft=to_number(budget.soft),
        )
        for budget in workflow.budgets
    ]
    known = {budget.name for budget in workflow.budgets}
    lines += [BudgetLine(name=name, used=to_number(total[name])) for name in sorted(total) if name not in known]
    by_task = {} if spending is None else spending.by_task
    shown = sorted(by_task)[:BUDGET_TASKS_SHOWN_MAX]
    tasks = [
        TaskSpending(
            id=workflow.tasks[position].id,
            spent={name: to_number(amount) for name, amount in sorted(by_task[position].items())},
        )
        for position in shown
    ]
    return BudgetView(
        id=workflow.id,
        state=workflow.state.value,
        pause_reason=pause_reason(workflow),
        budgets=lines,
        tasks=tasks,
        more_tasks=len(by_task) - len(shown),
    )
