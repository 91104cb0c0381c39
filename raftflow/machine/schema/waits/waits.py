"""Waits."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from raftflow.domain import limits
from raftflow.domain.tasks.states import FINAL
from raftflow.machine.schema.declaration import (
    Counter,
    Frozen,
    Limit,
    Reason,
    Restoring,
    Saved,
    SnapshotError,
    Table,
    batches,
)
from raftflow.machine.tables.waits.waits import KEPT_KINDS, WaitRow

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from raftflow.machine.schema.declaration import Frame
    from raftflow.machine.tables.copy_on_write import CopyOnWrite
    from raftflow.machine.tables.state import State
    from raftflow.machine.tables.waits.waits import WorkflowWaits
    from raftflow.machine.tables.workflows import Workflow

_WAITS = b"V"

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(list[WaitRow])


def _freeze(state: State, _: CopyOnWrite) -> Frozen:
    # Rows never change, and an end puts another row into the place: so the references are enough.
    taken = [row for _, waits in sorted(state.waits.workflows.items()) for row in waits.rows.values()]

    def frames() -> Iterator[Frame]:
        for batch in batches(taken, lambda row: row.size_bytes):
            yield _WAITS, _encoder.encode(batch)

    return Frozen(len(taken), frames())


class WaitReader:
    """Reads waits."""

    def __init__(self, restoring: Restoring) -> None:
        self._state = restoring.state

    def take(self, _: bytes, payload: bytes) -> None:
        """Read some waits."""
        table = self._state.waits
        for row in _decoder.decode(payload):
            known = table.workflows.get(row.workflow)
            if known is not None and row.number in known.rows:
                raise SnapshotError(f"workflow {row.workflow}: the wait {row.number} is there twice")
            table.add(row)

    def finish(self) -> None:
        """Nothing can be incomplete but the number of rows, which is compared with the header."""


def _derive(restoring: Restoring) -> None:
    """Give the workflows their waits."""
    state = restoring.state
    for number, waits in state.waits.workflows.items():
        workflow = state.by_number.get(number)
        if workflow is None or any(not 0 <= row.task < len(workflow.tasks) for row in waits.rows.values()):
            raise SnapshotError(f"workflow {number} has waits, and not the tasks")
        workflow.waits = waits
    state.waits.asked = dict(sorted(state.waits.asked.items()))
    state.waits.undecided = dict(sorted(state.waits.undecided.items()))


def _problems(state: State, clock_ms: int) -> Iterator[str]:
    table = state.waits
    held = {workflow.number: workflow for workflow in state.workflows.values() if workflow.waits is not None}
    if {number: id(workflow.waits) for number, workflow in held.items()} != {
        number: id(waits) for number, waits in table.workflows.items()
    }:
        yield "the table of waits does not match the workflows that have waits"
    for workflow in state.workflows.values():
        rows = {} if workflow.waits is None else workflow.waits.rows
        for problem in _task_problems(workflow, rows):
            yield f"workflow {workflow.id}: {problem}"
        if workflow.waits is not None:
            for problem in _workflow_problems(state, workflow, workflow.waits, clock_ms):
                yield f"workflow {workflow.id}: {problem}"
    every = table.workflows.values()
    counted = (table.count, table.open, table.size_bytes, table.reserved_bytes)
    found = (
        sum(len(waits.rows) for waits in every),
        sum(waits.open for waits in every),
        sum(waits.size_bytes for waits in every),
        sum(waits.reserved_bytes for waits in every),
    )
    if counted != found:
        yield f"waits counted as {counted}, there are {found}"
    asked = sorted((row.number, row) for waits in every for row in waits.rows.values() if row.kind in KEPT_KINDS)
    if list(table.asked.items()) != [(number, row.workflow) for number, row in asked]:
        yield "the list of approvals does not match them"
    if list(table.undecided.items()) != [(number, row.workflow) for number, row in asked if row.end is None]:
        yield "the list of open approvals does not match them"
    if table.size_bytes > limits.WAITS_BYTES_MAX:
        yield f"the waits have {table.size_bytes} bytes, the limit is {limits.WAITS_BYTES_MAX}"


def _task_problems(workflow: Workflow, rows: dict[int, WaitRow]) -> Iterator[str]:
    """Yield where tasks and their open waits do not match."""
    wanted: dict[int, list[int]] = {}
    for row in rows.values():
        if row.end is None:
            wanted.setdefault(row.task, []).append(row.number)
    for task in workflow.tasks:
        numbers = [] if task.parking is None else list(task.parking.open)
        if numbers != wanted.get(task.position, []):
            yield f"task {task.id}: has the open waits {numbers}, there are {wanted.get(task.position, [])}"
        if numbers and task.state in FINAL:
            yield f"task {task.id}: is {task.state.name} and has open waits"
        if len(numbers) > limits.WAITS_PER_TASK_MAX:
            yield f"task {task.id}: has {len(numbers)} open waits"


def _workflow_problems(state: State, workflow: Workflow, waits: WorkflowWaits, clock_ms: int) -> Iterator[str]:
    keys: set[tuple[int, str, int]] = set()
    for number, row in waits.rows.items():
        if row.number != number or row.workflow != workflow.number or not 0 < number <= state.wait_number:
            yield f"wait {number} is the wait {row.number} of workflow {row.workflow}"
        if row.begun_ms > clock_ms or row.fence > state.fence:
            yield f"wait {number} began at {row.begun_ms} by attempt {row.fence}, which is in the future"
        if row.end is not None:
            if row.kind not in KEPT_KINDS:
                yield f"wait {number} has ended and is kept"
            continue
        key = (row.task, row.name, row.occurrence)
        recorded = workflow.steps is not None and workflow.steps.find(*key) is not None
        if (recorded and row.fence) or key in keys:
            yield f"wait {number} is open, and its key has a record or another wait"
        keys.add(key)
    rows = waits.rows.values()
    counted = (waits.open, waits.size_bytes, waits.reserved_bytes)
    found = (
        sum(row.end is None for row in rows),
        sum(row.size_bytes for row in rows),
        sum(row.reserved_bytes for row in rows),
    )
    if counted != found:
        yield f"its waits counted as {counted}, there are {found}"
    # A heap: the first is the oldest, the rest are in no order.
    listening = {
        name: sorted([each for each in numbers if each in waits.rows]) for name, numbers in waits.listening.items()
    }
    names: dict[str, list[int]] = {}
    for row in rows:
        if row.kind == "signal":
            names.setdefault(row.name, []).append(row.number)
    if {name: numbers for name, numbers in listening.items() if numbers} != names:
        yield "the lookup of its waits for signals does not match them"
    if workflow.signals is not None and any(name in workflow.signals.kept for name in names):
        yield "a signal is kept although a wait for it is open"


def _retire(state: State, workflows: Sequence[Workflow]) -> None:
    for workflow in workflows:
        state.waits.forget(workflow.number)


def _number_problems(state: State) -> Iterator[str]:
    last = max([number for waits in state.waits.workflows.values() for number in waits.rows], default=0)
    if last > state.wait_number:
        yield f"a wait has the number {last}, the last number given is {state.wait_number}"


WAITS = Table(
    name="waits",
    about="open waits, and approvals that have ended, by workflow and number",
    saved=Saved(field=23, kinds=(_WAITS,), freeze=_freeze, reader=WaitReader),
    derive=_derive,
    problems=_problems,
    limit=Limit(name="WAITS_MAX", rows=lambda state: len(state.waits)),
    retire=_retire,
    parts=Reason("the workflows hold the waits"),
)
WAIT_NUMBER = Counter(name="wait_number", field=25, problems=_number_problems)
