"""Effects, as attempts and people see them."""

from __future__ import annotations

import re
from itertools import islice
from typing import TYPE_CHECKING, Final

from raftflow.domain import limits
from raftflow.domain.contract.tasks import EffectPage, EffectView
from raftflow.domain.tasks.effects import RECORDED, EffectState, called_function, idempotency_key
from raftflow.domain.values.times import iso_utc
from raftflow.machine.commands.effects.changes import is_held

if TYPE_CHECKING:
    from collections.abc import Iterator

    from raftflow.machine.machine import Machine
    from raftflow.machine.tables.effects.rows import Effect
    from raftflow.machine.tables.waits.waits import WaitRow
    from raftflow.machine.tables.workflows import Workflow

_NUMBERS: Final = 10**9
"""A cursor is the number of a workflow, times this, and the number of an effect."""
_SETTLED = RECORDED | {EffectState.NOT_DONE, EffectState.RETRY}


def key_of(  # noqa: PLR0917 - what names an effect of a live attempt
    machine: Machine, agent: str, incarnation: int, fence: int, name: str, occurrence: int
) -> str | None:
    """Return the idempotency key of an effect; None if this replica does not know the attempt as live."""
    known = machine.state.agents.get(agent)
    found = None if known is None or known.incarnation != incarnation else known.live.get(fence)
    if found is None:
        return None
    workflow, task = found
    return idempotency_key(workflow.id, task.id, name, occurrence)


def list_effects(
    machine: Machine,
    *,
    unresolved: bool = False,
    workflow_id: str = "",
    after: tuple[int, int] = (0, 0),
    limit: int | None = None,
) -> list[EffectView]:
    """Return effects by workflow, oldest first.

    Args:
        machine: what holds them.
        unresolved: only those that need a decision, or whose attempt has not told an outcome.
        workflow_id: only those of this workflow.
        after: only those behind this place: number of the workflow, number of the effect.
        limit: how many at most.
    """
    return list(islice(_listed(machine, workflow_id, after, unresolved=unresolved), limit))


def effect_page(
    machine: Machine, limit: int, cursor: str | None, *, unresolved: bool, workflow_id: str = ""
) -> EffectPage:
    """Return a page of the list. `cursor` is the `next` of the page before; raises `ValueError` if it is not one."""
    after = (0, 0)
    if cursor is not None:
        if not re.fullmatch(limits.CURSOR_PATTERN, cursor):
            raise ValueError(f"{cursor[:40]!r} is not a cursor: use the `next` of a page, or none")
        after = divmod(int(cursor), _NUMBERS)
    limit = max(1, min(limit, limits.PAGE_ENTRIES_MAX))
    found = list_effects(machine, unresolved=unresolved, workflow_id=workflow_id, after=after, limit=limit + 1)
    if len(found) <= limit:
        return EffectPage(effects=found)
    last = machine.state.workflows[found[limit - 1].workflow].number
    return EffectPage(effects=found[:limit], next=str(last * _NUMBERS + found[limit - 1].id))


def find_effect(machine: Machine, number: int) -> EffectView | None:
    """Return one effect, None without one."""
    row = machine.state.effects.find(number)
    return None if row is None else _view(machine, row)


def effect_text(workflow: Workflow, wait: WaitRow) -> str:
    """Say which effect a parked task waits for, and what to do."""
    row = None if workflow.effects is None else workflow.effects.find(wait.task, wait.name, wait.occurrence)
    assert row is not None  # noqa: S101 - the wait is for it
    return (
        f"effect {row.name!r} is uncertain since {iso_utc(row.changed_ms)}: "
        f"resolve it with `raftflow effect resolve {row.number}`"
    )


def _listed(machine: Machine, workflow_id: str, after: tuple[int, int], *, unresolved: bool) -> Iterator[EffectView]:
    state = machine.state
    if workflow_id:
        found = state.workflows.get(workflow_id)
        numbers = [] if found is None or found.effects is None else [found.number]
    else:
        numbers = sorted(number for number in state.effects.workflows if number >= after[0])
    for number in numbers:
        effects = state.effects.workflows[number]
        if unresolved and not effects.unrecorded_count:
            continue
        for row in effects.rows.values():
            if (number, row.number) > after and not (unresolved and row.state in _SETTLED):
                yield _view(machine, row)


def _view(machine: Machine, row: Effect) -> EffectView:
    workflow = machine.state.by_number[row.workflow]
    task = workflow.tasks[row.task]
    is_open = row.state is EffectState.BEGUN and not is_held(task, row)
    return EffectView(
        id=row.number,
        workflow=workflow.id,
        task=task.id,
        name=row.name,
        occurrence=row.occurrence,
        function=called_function(row.function),
        state="open" if is_open else row.state.value,
        idempotency_key=idempotency_key(workflow.id, task.id, row.name, row.occurrence),
        fence=row.fence,
        begun_at=iso_utc(row.begun_ms),
        changed_at=iso_utc(row.changed_ms),
        detail=row.detail,
        resolved_by=row.actor,
    )
