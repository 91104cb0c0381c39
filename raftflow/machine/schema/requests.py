"""Remembered replies."""

from __future__ import annotations

from typing import TYPE_CHECKING

from raftflow.machine.schema.declaration import Limit, Reason, Table, saved_rows
from raftflow.machine.tables.requests import Remembered

if TYPE_CHECKING:
    from collections.abc import Iterator

    from raftflow.machine.tables.state import State


def _problems(state: State, _: int) -> Iterator[str]:
    order = [entry.request_id for entry in state.requests]
    if order != list(state.requests.replies):
        yield f"{len(state.requests.replies)} replies are remembered, in another order than they came"


REQUESTS = Table(
    name="requests",
    about="remembered replies, oldest first",
    saved=saved_rows(
        field=11,
        kind=b"R",
        row=Remembered,
        rows=lambda state: state.requests,
        add=lambda state, entry: state.requests.remember(entry),
    ),
    derive=Reason("nothing of it follows from other tables"),
    problems=_problems,
    limit=Limit(name="REQUEST_IDS_MAX", rows=lambda state: len(state.requests)),
    retire=Reason("a request stays answered when its workflow is gone"),
    parts=lambda state: (state.requests.replies,),
)
