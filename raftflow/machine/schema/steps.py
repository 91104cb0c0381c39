"""Records of durable steps."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

import msgspec

from raftflow.domain import limits
from raftflow.machine.schema.declaration import Frozen, Limit, Reason, Restoring, Saved, SnapshotError, Table, batches
from raftflow.machine.tables.steps import Spending, StepRow

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from raftflow.machine.schema.declaration import Frame
    from raftflow.machine.tables.copy_on_write import CopyOnWrite
    from raftflow.machine.tables.state import State
    from raftflow.machine.tables.workflows import Workflow

_STEPS = b"D"

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(list[StepRow])


def _freeze(state: State, _: CopyOnWrite) -> Frozen:
    # Records are only ever added, and a workflow that is retired keeps its list until the snapshot is closed.
    taken = [(steps.rows, len(steps.rows)) for steps in state.steps.workflows.values()]

    def frames() -> Iterator[Frame]:
        rows = (row for rows, count in taken for row in islice(rows, count))
        for batch in batches(rows, lambda row: row.size_bytes):
            yield _STEPS, _encoder.encode(batch)

    return Frozen(len(state.steps), frames())


class StepReader:
    """Reads records."""

    def __init__(self, restoring: Restoring) -> None:
        self._state = restoring.state

    def take(self, _: bytes, payload: bytes) -> None:
        """Read some records."""
        steps = self._state.steps
        for row in _decoder.decode(payload):
            known = steps.workflows.get(row.workflow)
            if known is not None and known.find(row.task, row.name, row.occurrence) is not None:
                raise SnapshotError(f"workflow {row.workflow}: the step {row.name} is recorded twice")
            steps.add(row)

    def finish(self) -> None:
        """Nothing can be incomplete but the number of rows, which is compared with the header."""


def _derive(restoring: Restoring) -> None:
    """Give the workflows their records."""
    state = restoring.state
    for number, steps in state.steps.workflows.items():
        workflow = state.by_number.get(number)
        if workflow is None or any(not 0 <= task < len(workflow.tasks) for task in steps.by_task):
            raise SnapshotError(f"workflow {number} has records of steps, and not the tasks")
        workflow.steps = steps
        if workflow.find_used_up() is not None:
            workflow.used_up = True
            workflow.hold()


def _problems(state: State, clock_ms: int) -> Iterator[str]:
    table = state.steps
    held = {workflow.number: workflow for workflow in state.workflows.values() if workflow.steps is not None}
    if {number: id(workflow.steps) for number, workflow in held.items()} != {
        number: id(steps) for number, steps in table.workflows.items()
    }:
        yield "the table of steps does not match the workflows that have steps"
    for number, workflow in held.items():
        for problem in _workflow_problems(state, workflow, number, clock_ms):
            yield f"workflow {workflow.id}: {problem}"
    count = sum(len(steps.rows) for steps in table.workflows.values())
    size_bytes = sum(steps.size_bytes for steps in table.workflows.values())
    if (table.count, table.size_bytes) != (count, size_bytes):
        yield f"{table.count} steps of {table.size_bytes} bytes counted, there are {count} of {size_bytes}"
    if size_bytes > limits.STEPS_BYTES_MAX:
        yield f"the steps have {size_bytes} bytes, the limit is {limits.STEPS_BYTES_MAX}"


def _workflow_problems(state: State, workflow: Workflow, number: int, clock_ms: int) -> Iterator[str]:
    steps = workflow.steps
    assert steps is not None  # noqa: S101 - the caller looked
    by_task: dict[int, list[StepRow]] = {}
    for row in steps.rows:
        by_task.setdefault(row.task, []).append(row)
        if row.workflow != number or not 0 <= row.task < len(workflow.tasks):
            yield f"the step {row.name} is of another task"
        if row.at_ms > clock_ms or row.fence > state.fence:
            yield f"the step {row.name} was recorded at {row.at_ms} by attempt {row.fence}, which is in the future"
    found = {task: [steps.rows[place] for place in places] for task, places in steps.by_task.items()}
    places = {
        (task, row.name, row.occurrence): place for task, rows in found.items() for place, row in enumerate(rows)
    }
    if found != by_task or places != steps.places:
        yield "the lookup of its steps does not match them"
    if len(places) != len(steps.rows):
        yield "a step is recorded twice"
    if max(map(len, by_task.values()), default=0) > limits.STEPS_PER_TASK_MAX:
        yield f"one of its tasks has more than {limits.STEPS_PER_TASK_MAX} steps"
    spending = Spending()
    for row in steps.rows:
        if row.spent:
            spending.add(row.task, row.spent)
    counted = steps.spending or Spending()
    if (counted.total, counted.by_task) != (spending.total, spending.by_task):
        yield f"{counted.total} counted as spent, its steps have spent {spending.total}"
    if steps.size_bytes != (size_bytes := sum(row.size_bytes for row in steps.rows)):
        yield f"{steps.size_bytes} bytes of steps counted, there are {size_bytes}"
    if steps.size_bytes > limits.STEPS_BYTES_PER_WORKFLOW_MAX:
        yield f"its steps have {steps.size_bytes} bytes, the limit is {limits.STEPS_BYTES_PER_WORKFLOW_MAX}"


def _retire(state: State, workflows: Sequence[Workflow]) -> None:
    for workflow in workflows:
        state.steps.forget(workflow.number)


STEPS = Table(
    name="steps",
    about="records of durable steps by workflow, in the order in which they came",
    saved=Saved(field=18, kinds=(_STEPS,), freeze=_freeze, reader=StepReader),
    derive=_derive,
    problems=_problems,
    limit=Limit(name="STEPS_MAX", rows=lambda state: len(state.steps)),
    retire=_retire,
    parts=Reason("the workflows hold the records"),
)
