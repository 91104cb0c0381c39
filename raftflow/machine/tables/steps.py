"""Records of durable steps: what a task's attempts have done, for those that follow.

A record is only ever added, and goes with its workflow. So an open snapshot takes lists and their lengths, and a
workflow with many records is freed piece by piece.
"""

from __future__ import annotations

from array import array
from itertools import islice
from typing import TYPE_CHECKING

import msgspec

from raftflow.domain.tasks.budgets import Amounts

if TYPE_CHECKING:
    from collections.abc import Iterator

STEP_OVERHEAD_BYTES = 256
"""What a record is taken to need beside its texts and its result."""

SPENT_BYTES = 64
"""What each thing that a step has spent is taken to need."""


class StepRow(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """The record of one step of a task. It never changes."""

    workflow: int
    """Number of the workflow."""
    task: int
    """Position of the task."""
    name: str
    occurrence: int
    """How many steps of that name the attempt had begun, this one included."""
    function: str
    """What the step ran; empty if it was not told."""
    result: bytes
    """JSON."""
    fence: int
    """Of the attempt that recorded it."""
    at_ms: int
    spent: Amounts = ()
    """What the step has spent, in millionths."""

    @property
    def size_bytes(self) -> int:
        """What counts against the bounds in bytes."""
        size = len(self.name) + len(self.function) + len(self.result) + STEP_OVERHEAD_BYTES
        return size + SPENT_BYTES * len(self.spent) if self.spent else size


class Spending(msgspec.Struct, gc=False, eq=False):
    """What the steps of one workflow have spent, in millionths by name: the sums over its records."""

    total: dict[str, int] = msgspec.field(default_factory=dict)
    by_task: dict[int, dict[str, int]] = msgspec.field(default_factory=dict)

    def add(self, task: int, spent: Amounts) -> None:
        """Count what one step has spent."""
        own = self.by_task.setdefault(task, {})
        for name, amount in spent:
            self.total[name] = self.total.get(name, 0) + amount
            own[name] = own.get(name, 0) + amount


class WorkflowSteps(msgspec.Struct, gc=False, eq=False):
    """The records of one workflow."""

    rows: list[StepRow] = msgspec.field(default_factory=list)
    """In the order in which they came."""
    places: dict[tuple[int, str, int], int] = msgspec.field(default_factory=dict)
    """By task, name and occurrence: the place among the records of the task."""
    by_task: dict[int, array[int]] = msgspec.field(default_factory=dict)
    """For each task that has records: where in `rows` they are."""
    size_bytes: int = 0
    spending: Spending | None = None
    """None while nothing was spent."""

    def count(self, task: int) -> int:
        """Return how many records a task has."""
        found = self.by_task.get(task)
        return 0 if found is None else len(found)

    def find(self, task: int, name: str, occurrence: int) -> StepRow | None:
        """Return the record of a step, None without one."""
        place = self.places.get((task, name, occurrence))
        return None if place is None else self.rows[self.by_task[task][place]]

    def following(self, row: StepRow) -> Iterator[StepRow]:
        """Yield the records of the same task that came after `row`, in order."""
        place = self.places[row.task, row.name, row.occurrence]
        return (self.rows[number] for number in islice(self.by_task[row.task], place + 1, None))

    def add(self, row: StepRow, size_bytes: int) -> None:
        """Add a record of this size. There must be none of its task under its name and occurrence."""
        numbers = self.by_task.get(row.task)
        if numbers is None:
            numbers = self.by_task[row.task] = array("I")
        self.places[row.task, row.name, row.occurrence] = len(numbers)
        numbers.append(len(self.rows))
        self.rows.append(row)
        if row.spent:
            if self.spending is None:
                self.spending = Spending()
            self.spending.add(row.task, row.spent)
        self.size_bytes += size_bytes


class StepTable:
    """The records of all workflows. A workflow holds its own (`Workflow.steps`)."""

    def __init__(self) -> None:
        self.workflows: dict[int, WorkflowSteps] = {}
        """By number, in the order of their first records."""
        self.count = 0
        self.size_bytes = 0

    def __len__(self) -> int:
        """Count the records."""
        return self.count

    def add(self, row: StepRow) -> WorkflowSteps:
        """Add a record, and return all of its workflow."""
        steps = self.workflows.get(row.workflow)
        if steps is None:
            steps = self.workflows[row.workflow] = WorkflowSteps()
        size_bytes = row.size_bytes
        steps.add(row, size_bytes)
        self.count += 1
        self.size_bytes += size_bytes
        return steps

    def forget(self, workflow: int) -> None:
        """Forget the records of a workflow."""
        steps = self.workflows.pop(workflow, None)
        if steps is not None:
            self.count -= len(steps.rows)
            self.size_bytes -= steps.size_bytes
