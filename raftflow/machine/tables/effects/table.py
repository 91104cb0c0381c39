"""The table of effects."""

from __future__ import annotations

from raftflow.domain.tasks.effects import RECORDED
from raftflow.machine.tables.effects.rows import Effect, WorkflowEffects


class EffectTable:
    """The effects of all workflows. A workflow holds its own (`Workflow.effects`)."""

    def __init__(self) -> None:
        self.workflows: dict[int, WorkflowEffects] = {}
        """By number of the workflow, in the order of their first effects."""
        self.count = 0
        self.unrecorded: dict[int, int] = {}
        """Numbers of those without a record, and of their workflows."""

    def __len__(self) -> int:
        """Count the effects."""
        return self.count

    def add(self, row: Effect) -> WorkflowEffects:
        """Add an effect, and return all of its workflow."""
        effects = self.workflows.get(row.workflow)
        if effects is None:
            effects = self.workflows[row.workflow] = WorkflowEffects()
        effects.rows[row.number] = row
        effects.numbers[row.key] = row.number
        effects.by_task.setdefault(row.task, []).append(row.number)
        self.count += 1
        if row.state not in RECORDED:
            effects.count(row, 1)
            self.unrecorded[row.number] = row.workflow
        return effects

    def replace(self, row: Effect) -> None:
        """Put a row into the place of the one that has its number and no record."""
        effects = self.workflows[row.workflow]
        effects.rows[row.number] = row
        if row.state in RECORDED:
            effects.count(row, -1)
            del self.unrecorded[row.number]

    def find(self, number: int) -> Effect | None:
        """Return the effect with this number, None without one. Slow for one that has a record."""
        workflow = self.unrecorded.get(number)
        if workflow is not None:
            return self.workflows[workflow].rows[number]
        return next((effects.rows[number] for effects in self.workflows.values() if number in effects.rows), None)

    def forget(self, workflow: int) -> None:
        """Forget the effects of a workflow."""
        effects = self.workflows.pop(workflow, None)
        if effects is not None:
            self.count -= len(effects.rows)
            if effects.unrecorded_count:
                for number in effects.rows:
                    self.unrecorded.pop(number, None)
