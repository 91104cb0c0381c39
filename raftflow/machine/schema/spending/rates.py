"""Rate limits."""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING

from raftflow.machine.schema.declaration import Limit, Reason, SnapshotError, Table, saved_rows
from raftflow.machine.tables.spending.rates import RateBucket

if TYPE_CHECKING:
    from collections.abc import Iterator

    from raftflow.machine.tables.state import State


def _add(state: State, limit: RateBucket) -> None:
    table = state.rates
    if limit.name in table.present or limit.name in table.removed:
        raise SnapshotError(f"the rate limit {limit.name} is there twice")
    (table.removed if limit.removed else table.present)[limit.name] = limit


def _rows(state: State) -> Iterator[RateBucket]:
    return chain(state.rates.present.values(), state.rates.removed.values())


def _problems(state: State, clock_ms: int) -> Iterator[str]:
    table = state.rates
    for name in table.present.keys() & table.removed.keys():
        yield f"the rate limit {name} is set, and among those that were removed"
    for name, limit in chain(table.present.items(), table.removed.items()):
        if limit.removed != (name in table.removed):
            yield f"the rate limit {name} is set or removed, and its bucket says the opposite"
        if limit.name != name:
            yield f"the rate limit {limit.name} is kept as {name}"
        if not 0 <= limit.parts <= limit.burst * limit.period_ms:
            yield f"rate limit {name}: {limit.parts} parts are not between nothing and its burst, {limit.burst}"
        if limit.at_ms > clock_ms:
            yield f"rate limit {name}: its bucket was changed at {limit.at_ms}, which is in the future"


RATES = Table(
    name="rates",
    about="rate limits by name, in the order in which they were set; buckets of removed ones until they are full",
    saved=saved_rows(field=20, kind=b"L", row=RateBucket, rows=_rows, add=_add),
    derive=Reason("nothing of it follows from other tables"),
    problems=_problems,
    limit=Limit(name="RATE_LIMITS_MAX", rows=lambda state: len(state.rates)),
    retire=Reason("a rate limit belongs to no workflow"),
    parts=Reason("there are few, and they are small"),
)
