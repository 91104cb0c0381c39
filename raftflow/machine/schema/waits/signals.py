"""Signals that no wait has taken yet, and the keys of those that were counted."""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING

import msgspec

from raftflow.domain import limits
from raftflow.machine.schema.declaration import (
    BATCH,
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
from raftflow.machine.tables.waits.signals import SignalKey, SignalRow

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from raftflow.machine.schema.declaration import Frame
    from raftflow.machine.tables.copy_on_write import CopyOnWrite
    from raftflow.machine.tables.state import State
    from raftflow.machine.tables.waits.signals import WorkflowSignals
    from raftflow.machine.tables.workflows import Workflow

_SIGNALS, _KEYS = b"M", b"Y"

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(list[SignalRow])
_key_decoder = msgspec.msgpack.Decoder(list[SignalKey])


def _rows(signals: WorkflowSignals) -> list[SignalRow]:
    """Return the signals of a workflow, oldest first."""
    return sorted(chain.from_iterable(signals.kept.values()), key=lambda row: row.number)


def _freeze(state: State, _: CopyOnWrite) -> Frozen:
    # Rows and keys never change: so the references are enough.
    workflows = [signals for _, signals in sorted(state.signals.workflows.items())]
    rows = [row for signals in workflows for row in _rows(signals)]
    keys = [key for signals in workflows for key in signals.keys.values()]

    def frames() -> Iterator[Frame]:
        for batch in batches(rows, lambda row: row.size_bytes):
            yield _SIGNALS, _encoder.encode(batch)
        for first in range(0, len(keys), BATCH):
            yield _KEYS, _encoder.encode(keys[first : first + BATCH])

    return Frozen(len(rows) + len(keys), frames())


class SignalReader:
    """Reads signals and keys."""

    def __init__(self, restoring: Restoring) -> None:
        self._state = restoring.state

    def take(self, kind: bytes, payload: bytes) -> None:
        """Read some signals or some keys."""
        table = self._state.signals
        if kind == _SIGNALS:
            for row in _decoder.decode(payload):
                table.add(row)
            return
        for key in _key_decoder.decode(payload):
            table.remember(key, limits.SIGNAL_KEYS_PER_WORKFLOW_MAX)

    def finish(self) -> None:
        """Nothing can be incomplete but the number of rows, which is compared with the header."""


def _derive(restoring: Restoring) -> None:
    """Give the workflows their signals."""
    state = restoring.state
    for number, signals in state.signals.workflows.items():
        workflow = state.by_number.get(number)
        if workflow is None:
            raise SnapshotError(f"signals of workflow {number}, which is not there")
        workflow.signals = signals


def _problems(state: State, clock_ms: int) -> Iterator[str]:
    table = state.signals
    held = {workflow.number: workflow for workflow in state.workflows.values() if workflow.signals is not None}
    if {number: id(workflow.signals) for number, workflow in held.items()} != {
        number: id(signals) for number, signals in table.workflows.items()
    }:
        yield "the table of signals does not match the workflows that have signals"
    for workflow in held.values():
        for problem in _workflow_problems(state, workflow, clock_ms):
            yield f"workflow {workflow.id}: {problem}"
    every = table.workflows.values()
    counted = (table.count, table.size_bytes, table.keys)
    found = (
        sum(signals.count for signals in every),
        sum(signals.size_bytes for signals in every),
        sum(len(signals.keys) for signals in every),
    )
    if counted != found:
        yield f"signals counted as {counted}, there are {found}"
    if table.count > limits.SIGNALS_MAX or table.size_bytes > limits.SIGNALS_BYTES_MAX:
        yield f"{table.count} signals of {table.size_bytes} bytes are kept"


def _workflow_problems(state: State, workflow: Workflow, clock_ms: int) -> Iterator[str]:
    signals = workflow.signals
    assert signals is not None  # noqa: S101 - the caller looked
    rows = _rows(signals)
    numbers = [row.number for row in rows]
    if len(set(numbers)) != len(numbers) or any(not 0 < number <= state.signal_number for number in numbers):
        yield f"its signals are numbered {numbers}, the last number given is {state.signal_number}"
    for name, kept in signals.kept.items():
        if not kept or any(row.name != name or row.workflow != workflow.number for row in kept):
            yield f"the signals under the name {name} are of another name or workflow, or none"
        if [row.number for row in kept] != sorted(row.number for row in kept) or kept[-1].at_ms > clock_ms:
            yield f"the signals {name} are out of order, or from the future"
    counted, found = (signals.count, signals.size_bytes), (len(rows), sum(row.size_bytes for row in rows))
    if counted != found:
        yield f"its signals counted as {counted}, there are {found}"
    if len(rows) > limits.SIGNALS_PER_WORKFLOW_MAX or signals.size_bytes > limits.SIGNALS_BYTES_PER_WORKFLOW_MAX:
        yield f"{len(rows)} signals of {signals.size_bytes} bytes are kept for it"
    if len(signals.keys) > limits.SIGNAL_KEYS_PER_WORKFLOW_MAX:
        yield f"remembers {len(signals.keys)} keys of signals"
    if any(key.key != name or key.workflow != workflow.number for name, key in signals.keys.items()):
        yield "the lookup of the keys of its signals does not match them"


def _retire(state: State, workflows: Sequence[Workflow]) -> None:
    for workflow in workflows:
        state.signals.forget(workflow.number)


def _number_problems(state: State) -> Iterator[str]:
    last = max([row.number for signals in state.signals.workflows.values() for row in _rows(signals)], default=0)
    if last > state.signal_number:
        yield f"a signal has the number {last}, the last number given is {state.signal_number}"


SIGNALS = Table(
    name="signals",
    about="signals that no wait has taken yet, and the keys of those that were counted, by workflow",
    saved=Saved(field=24, kinds=(_SIGNALS, _KEYS), freeze=_freeze, reader=SignalReader),
    derive=_derive,
    problems=_problems,
    limit=Limit(name="SIGNAL_KEYS_MAX", rows=lambda state: state.signals.keys),
    retire=_retire,
    parts=Reason("the workflows hold the signals"),
)
SIGNAL_NUMBER = Counter(name="signal_number", field=26, problems=_number_problems)
