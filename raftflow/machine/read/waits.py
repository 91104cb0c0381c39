"""Waits and signals, as the leader and people see them."""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING, Final, NamedTuple

import msgspec

from raftflow.domain.contract.waits.approvals import ApprovalPage, ApprovalState, ApprovalView
from raftflow.domain.tasks.waits import ApprovalDecision, read_approval
from raftflow.domain.values.times import iso_utc, iso_utc_or_none

if TYPE_CHECKING:
    from raftflow.machine.machine import Machine
    from raftflow.machine.tables.waits.waits import WaitRow
    from raftflow.machine.tables.workflows import Workflow


PAGE_BYTES: Final = 1024 * 1024
"""Bytes of the approvals of a page; one is there in any case."""
SEEN_MAX: Final = 20_000
"""Approvals that are looked at for one page."""


class Schema(NamedTuple):
    """The wait that takes the next signal of a name, if it has a schema."""

    wait: int
    schema: bytes


class KeptSignal(NamedTuple):
    """The signal that the next wait of a name takes."""

    number: int
    payload: bytes


def schema_for(machine: Machine, workflow_id: str, name: str) -> Schema | None:
    """Return the schema of the wait that takes the next signal of a name, None without one."""
    workflow = machine.state.workflows.get(workflow_id)
    row = None if workflow is None or workflow.waits is None else workflow.waits.first(name)
    return Schema(row.number, row.request) if row is not None and row.request else None


def knows_signal(machine: Machine, workflow_id: str, key: str) -> bool:
    """Tell whether a signal was counted under this key before."""
    workflow = machine.state.workflows.get(workflow_id)
    return workflow is not None and workflow.signals is not None and key in workflow.signals.keys


def kept_signal(machine: Machine, agent: str, fence: int, name: str) -> KeptSignal | None:
    """Return the signal in the mailbox that a wait of an attempt would take, None without one."""
    known = machine.state.agents.get(agent)
    found = None if known is None else known.live.get(fence)
    signals = None if found is None else found[0].signals
    row = None if signals is None else signals.first(name)
    return None if row is None else KeptSignal(row.number, row.payload)


def recorded_answer(machine: Machine, workflow_id: str, task_id: str, name: str, occurrence: int) -> bytes | None:
    """Return the record of an answer, as JSON, None without one. For checks."""
    workflow = machine.state.workflows[workflow_id]
    task = workflow.by_id[task_id].position
    row = None if workflow.steps is None else workflow.steps.find(task, name, occurrence)
    return None if row is None else row.result


def kept_payloads(machine: Machine, workflow_id: str, name: str) -> list[bytes]:
    """Return the signals of a name that wait in a mailbox, oldest first. For checks."""
    signals = machine.state.workflows[workflow_id].signals
    return [] if signals is None else [row.payload for row in signals.kept.get(name, ())]


def approval_page(machine: Machine, state: ApprovalState | None, limit: int, cursor: str | None) -> ApprovalPage:
    """Return approvals, oldest first: those in a state, or all. `cursor` is the `next` of the page before.

    A page ends early when it has `PAGE_BYTES`, or when `SEEN_MAX` approvals were looked at.
    """
    table = machine.state.waits
    numbers = list(table.undecided if state == "open" else table.asked)
    first = bisect_left(numbers, int(cursor) + 1) if cursor else 0
    found: list[ApprovalView] = []
    size, last = 0, ""
    for seen, number in enumerate(numbers[first:]):
        if len(found) == limit or size >= PAGE_BYTES or seen == SEEN_MAX:
            return ApprovalPage(approvals=found, next=last)
        workflow = machine.state.by_number[table.asked[number]]
        assert workflow.waits is not None  # noqa: S101 - it has this one
        row = workflow.waits.rows[number]
        if state is None or state == _state(row):
            found.append(_view(workflow, row))
            size += row.size_bytes
        last = str(number)
    return ApprovalPage(approvals=found, next=None)


def _state(row: WaitRow) -> ApprovalState:
    return "open" if row.end is None else row.end.outcome


def approval_view(machine: Machine, number: int) -> ApprovalView | None:
    """Return an approval, None if it is not known."""
    found = machine.state.waits.asked.get(number)
    workflow = None if found is None else machine.state.by_number[found]
    return None if workflow is None or workflow.waits is None else _view(workflow, workflow.waits.rows[number])


def _view(workflow: Workflow, row: WaitRow) -> ApprovalView:
    asked = read_approval(row.request)
    end = row.end
    decision = (
        msgspec.json.decode(end.record, type=ApprovalDecision)
        if end is not None and end.outcome == "decided"
        else None
    )
    return ApprovalView(
        id=str(row.number),
        workflow=workflow.id,
        task=workflow.tasks[row.task].id,
        title=asked.title,
        details=msgspec.json.decode(asked.details),
        choices=list(asked.choices),
        state=_state(row),
        asked_at=iso_utc(row.begun_ms),
        expires_at=iso_utc_or_none(row.deadline_ms),
        on_timeout=msgspec.json.decode(row.on_timeout) if row.on_timeout else None,
        choice=None if decision is None else decision.choice,
        comment="" if decision is None else decision.comment,
        payload=None if decision is None else msgspec.json.decode(decision.payload),
        by=None if decision is None else decision.by,
        ended_at=None if end is None else iso_utc(end.at_ms),
    )
