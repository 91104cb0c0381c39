"""Budgets: people raise them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from raftflow.domain.rejections import Rejection, RejectionCode
from raftflow.domain.replies import Done
from raftflow.domain.tasks.budgets import budget_problems, show_spent
from raftflow.machine.rules.agenda import refuse_pending
from raftflow.machine.rules.spending.budgets import review

if TYPE_CHECKING:
    from raftflow.domain.commands import RaiseBudget
    from raftflow.machine.rules.context import ApplyContext


def raise_budget(step: ApplyContext, command: RaiseBudget) -> Done | Rejection:
    """Raise budgets of a workflow, all that are named or none."""
    workflow = step.state.workflows.get(command.workflow_id)
    if workflow is None:
        return Rejection(RejectionCode.NOT_FOUND, f"there is no workflow {command.workflow_id[:80]!r}")
    budgets = {budget.name: budget for budget in workflow.budgets}
    for each in command.raises:
        known = budgets.get(each.name)
        if known is None:
            return Rejection(
                RejectionCode.CONFLICT,
                f"workflow {workflow.id} has no budget for {each.name[:80]!r}: that is counted, and not limited",
            )
        hard = known.hard + each.amount if each.added else each.amount
        if hard < known.hard:
            return Rejection(
                RejectionCode.CONFLICT,
                f"a budget is only raised: it is {show_spent(known.name, known.hard)} now",
            )
        soft = known.soft * hard // known.hard
        budgets[each.name] = msgspec.structs.replace(known, hard=hard, soft=soft)
    raised = tuple(budgets.values())
    problems = budget_problems(raised)
    if problems:
        return Rejection(RejectionCode.INVALID, problems[0])
    if raised == workflow.budgets:
        return Done(changed=False)
    if workflow.blocked:
        return refuse_pending(workflow)
    step.touch_workflow(workflow)
    for before, after in zip(workflow.budgets, raised, strict=True):
        if before != after:
            step.notes.append(f"{show_spent(before.name, before.hard)} -> {show_spent(after.name, after.hard)}")
    workflow.budgets = raised
    review(step, workflow)
    return Done()
