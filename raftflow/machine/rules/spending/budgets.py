"""Budgets: what steps spend is counted with their records, and a budget that is used up holds its workflow.

What was spent follows from the records of steps (`tables/steps.py`): a record counts once, whatever is sent how
often, and survives everything that records survive. Only the limits are fields of the workflow. A workflow with a
budget that is used up starts nothing, as a paused one. What runs goes on, and its next step does not begin: the agent
is told with every answer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from raftflow.domain import limits
from raftflow.domain.events import BudgetReached, WorkflowNotReady, WorkflowReady
from raftflow.domain.tasks.budgets import show_spent, used_up_text
from raftflow.domain.tasks.states import TaskState
from raftflow.machine.rules.stopping import requeue
from raftflow.machine.tables.tasks import ORDER_NONE, ORDER_RELEASE

if TYPE_CHECKING:
    from raftflow.domain.tasks.budgets import Amounts
    from raftflow.machine.rules.context import ApplyContext
    from raftflow.machine.tables.workflows import Workflow


def sum_problem(workflow: Workflow, spent: Amounts) -> str | None:
    """Say why so much more cannot be counted, None if it can."""
    for name, amount in spent:
        if workflow.spent_of(name) + amount > limits.BUDGET_MILLIONTHS_MAX:
            return f"more {name} is spent than can be counted"
    spending = None if workflow.steps is None else workflow.steps.spending
    if spending is not None and len(spending.total | dict(spent)) > limits.BUDGET_NAMES_SPENT_MAX:
        return f"a workflow counts at most {limits.BUDGET_NAMES_SPENT_MAX} different things"
    return None


def note_spending(step: ApplyContext, workflow: Workflow, spent: Amounts) -> None:
    """Note limits that were reached, and hold the workflow if one is used up. The record was added before."""
    for budget in workflow.budgets:
        amount = dict(spent).get(budget.name, 0)
        used = workflow.spent_of(budget.name)
        if used - amount < budget.hard <= used:
            step.notes.append(f"{workflow.id}: {used_up_text(budget, used)}")
            step.events.append(BudgetReached(workflow.id, budget.name, used_up=True))
        elif used - amount < budget.soft <= used:
            shown = f"{show_spent(budget.name, used)} of {show_spent(budget.name, budget.hard)}"
            step.notes.append(f"{workflow.id}: soft limit of the budget reached, {shown} spent")
            step.events.append(BudgetReached(workflow.id, budget.name, used_up=False))
    if workflow.budgets and not workflow.used_up and workflow.find_used_up() is not None:
        _hold(step, workflow)


def _hold(step: ApplyContext, workflow: Workflow) -> None:
    step.touch_workflow(workflow)
    if workflow.counts[TaskState.READY] and not workflow.held:
        step.events.append(WorkflowNotReady(workflow.id))
    workflow.used_up = True
    workflow.hold()
    if not workflow.blocked:
        requeue(step, workflow, ORDER_RELEASE)


def review(step: ApplyContext, workflow: Workflow) -> None:
    """Let a workflow go on if no budget of it is used up any more. The caller has touched it and changed a limit."""
    if not workflow.used_up or workflow.find_used_up() is not None:
        return
    workflow.used_up = False
    workflow.hold()
    if not workflow.held and not workflow.finished_ms:
        if workflow.counts[TaskState.READY]:
            step.events.append(WorkflowReady(workflow.id))
        requeue(step, workflow, ORDER_NONE)
