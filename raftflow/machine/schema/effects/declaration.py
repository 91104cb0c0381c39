"""Effects: calls of the world outside that must not happen twice."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

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
from raftflow.machine.schema.effects.checks import effect_problems
from raftflow.machine.tables.effects.rows import Effect

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from raftflow.machine.schema.declaration import Frame
    from raftflow.machine.tables.copy_on_write import CopyOnWrite
    from raftflow.machine.tables.state import State
    from raftflow.machine.tables.workflows import Workflow

_EFFECTS = b"F"
_ROW_BYTES = 200

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(list[Effect])


def _freeze(state: State, _: CopyOnWrite) -> Frozen:
    # Rows never change: a change puts another row into the place of one.
    taken = [row for effects in state.effects.workflows.values() for row in effects.rows.values()]

    def frames() -> Iterator[Frame]:
        for batch in batches(taken, lambda row: _ROW_BYTES + len(row.detail)):
            yield _EFFECTS, _encoder.encode(batch)

    return Frozen(len(taken), frames())


class EffectReader:
    """Reads effects."""

    def __init__(self, restoring: Restoring) -> None:
        self._state = restoring.state

    def take(self, _: bytes, payload: bytes) -> None:
        """Read some effects."""
        effects = self._state.effects
        for row in _decoder.decode(payload):
            known = effects.workflows.get(row.workflow)
            if known is not None and (row.key in known.numbers or row.number in known.rows):
                raise SnapshotError(f"workflow {row.workflow}: the effect {row.name} is there twice")
            effects.add(row)

    def finish(self) -> None:
        """Nothing can be incomplete but the number of rows, which is compared with the header."""


def _derive(restoring: Restoring) -> None:
    """Give the workflows their effects."""
    state = restoring.state
    for number, effects in state.effects.workflows.items():
        workflow = state.by_number.get(number)
        if workflow is None or any(not 0 <= task < len(workflow.tasks) for task in effects.by_task):
            raise SnapshotError(f"workflow {number} has effects, and not the tasks")
        workflow.effects = effects
    state.effects.unrecorded = dict(sorted(state.effects.unrecorded.items()))


def _retire(state: State, workflows: Sequence[Workflow]) -> None:
    for workflow in workflows:
        state.effects.forget(workflow.number)


EFFECTS = Table(
    name="effects",
    about="effects by workflow, in the order in which they were begun",
    saved=Saved(field=22, kinds=(_EFFECTS,), freeze=_freeze, reader=EffectReader),
    derive=_derive,
    problems=effect_problems,
    limit=Limit(name="EFFECTS_MAX", rows=lambda state: len(state.effects)),
    retire=_retire,
    parts=Reason("the workflows hold the effects"),
)

EFFECT_NUMBER = Counter(
    name="effect_number", field=21, problems=Reason("the effects check that theirs are not beyond it")
)
