"""All tables of the machine. What snapshots, checks, retention and restoring do with them is made of this list."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from raftflow.machine.schema import (
    agenda,
    agents,
    kinds,
    requests,
    results,
    steps,
    timers,
    uploads,
    workflows,
)
from raftflow.machine.schema.declaration import Counter, Limit, Reason, Restoring, Saved, Table
from raftflow.machine.schema.effects.declaration import EFFECT_NUMBER, EFFECTS
from raftflow.machine.schema.identities import tokens
from raftflow.machine.schema.spending import rates
from raftflow.machine.schema.waits import signals, waits

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from raftflow.machine.tables.state import State
    from raftflow.machine.tables.workflows import Workflow

TABLES: tuple[Table, ...] = (
    requests.REQUESTS,
    kinds.KINDS_LEARNT,
    results.RESULTS,
    agents.AGENTS,
    workflows.WORKFLOWS,
    uploads.UPLOADS,
    agenda.AGENDA,
    uploads.BUNDLES,
    workflows.BY_NUMBER,
    waits.WAITS,
    signals.SIGNALS,
    workflows.FINISHED,
    workflows.LIVE_TASKS,
    workflows.RESULT_BYTES,
    uploads.UPLOAD_TASKS,
    workflows.SHAPES,
    agents.KINDS,
    results.CLAIMS,
    timers.TIMERS,
    timers.AGENT_TIMERS,
    steps.STEPS,
    rates.RATES,
    EFFECTS,
    tokens.TOKENS,
)
"""In the order in which a snapshot holds them. Tasks name agents, so agents come first."""

COUNTERS: tuple[Counter, ...] = (
    workflows.FENCE,
    agents.INCARNATION,
    workflows.WORKFLOW_NUMBER,
    workflows.FINISHED_NUMBER,
    EFFECT_NUMBER,
    waits.WAIT_NUMBER,
    signals.SIGNAL_NUMBER,
)
"""Numbers in the header of a snapshot. The header holds `State.feature_level` too: it is needed before the rest."""


def saved_tables() -> list[tuple[Table, Saved]]:
    """Return the tables that a snapshot holds, in its order."""
    return [(table, table.saved) for table in TABLES if isinstance(table.saved, Saved)]


def derive(restoring: Restoring) -> None:
    """Derive what is not saved. Raises `SnapshotError` if the rows do not fit together."""
    for table in TABLES:
        if not isinstance(table.derive, Reason):
            table.derive(restoring)


def problems(state: State, clock_ms: int) -> Iterator[str]:
    """Yield everything that is wrong, table by table."""
    for table in TABLES:
        if isinstance(table.limit, Limit) and (rows := table.limit.rows(state)) > table.limit.rows_max:
            yield f"{table.name}: {rows}, the limit {table.limit.name} is {table.limit.rows_max}"
        if not isinstance(table.problems, Reason):
            yield from table.problems(state, clock_ms)
    for counter in COUNTERS:
        if not isinstance(counter.problems, Reason):
            yield from counter.problems(state)


def retire(state: State, workflows: Sequence[Workflow]) -> None:
    """Remove finished workflows from all tables."""
    for table in TABLES:
        if not isinstance(table.retire, Reason):
            table.retire(state, workflows)


def parts(state: State) -> Iterable[Any]:
    """Return what is large in a state that was replaced, for `Discarded`."""
    return [part for table in TABLES if not isinstance(table.parts, Reason) for part in table.parts(state)]
