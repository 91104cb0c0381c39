"""What was learnt of kinds of tasks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from raftflow.machine.schema.declaration import Limit, Reason, Table, saved_rows
from raftflow.machine.tables.kinds import Learnt

if TYPE_CHECKING:
    from collections.abc import Iterator

    from raftflow.machine.tables.state import State


def _add(state: State, learnt: Learnt) -> None:
    state.kinds_learnt[learnt.kind] = learnt


def _problems(state: State, clock_ms: int) -> Iterator[str]:
    for kind, learnt in state.kinds_learnt.items():
        amounts = (learnt.count - 1, learnt.mean_us, learnt.deviation_us, learnt.cpu_ms, learnt.peak_mib)
        if learnt.kind != kind or min(amounts) < 0 or learnt.last_ms > clock_ms:
            yield f"what was learnt of the kind {kind!r} makes no sense"


KINDS_LEARNT = Table(
    name="kinds_learnt",
    about="run times and memory by kind of task, in the order in which the kinds were met",
    saved=saved_rows(field=14, kind=b"K", row=Learnt, rows=lambda state: state.kinds_learnt.values(), add=_add),
    derive=Reason("nothing of it follows from other tables"),
    problems=_problems,
    limit=Limit(name="KINDS_MAX", rows=lambda state: len(state.kinds_learnt)),
    retire=Reason("what was learnt outlives the workflow"),
    parts=lambda state: (state.kinds_learnt,),
)
