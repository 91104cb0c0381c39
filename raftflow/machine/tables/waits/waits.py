"""Waits: what tasks wait for, apart from other tasks. Signals, decisions, budgets, effects that a person resolves.

A wait is open until its answer is recorded, as a durable step of its task. Then it goes, except an approval: that one
stays with its end, so that people see who decided. Rows never change: an end puts another one in the place. So an
open snapshot takes the rows as they are.
"""

from __future__ import annotations

from heapq import heappop
from typing import Literal

import msgspec

from raftflow.domain.tasks.waits import WaitKind

WAIT_OVERHEAD_BYTES = 512
"""What a wait is taken to need beside its texts."""
RECORD_OVERHEAD_BYTES = 384
"""What the record of a time-out is taken to need beside the name of the wait and the value that counts then."""

KEPT_KINDS: frozenset[WaitKind] = frozenset({"approval"})
"""Waits that stay when they have ended, and that people find by their numbers."""


class WaitEnd(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """How an approval ended."""

    outcome: Literal["decided", "timeout", "withdrawn"]
    """`withdrawn`: its task ended without it."""
    at_ms: int
    by: str = ""
    """Who decided."""
    record: bytes = b""
    """JSON; empty if it was withdrawn."""


class WaitRow(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """One wait."""

    number: int
    """Grows over all waits."""
    workflow: int
    """Number of the workflow."""
    task: int
    """Position of the task."""
    kind: WaitKind
    name: str
    occurrence: int
    fence: int
    """Of the attempt that began it, 0 if the document did."""
    begun_ms: int
    deadline_ms: int = 0
    """When it times out, 0 for never."""
    on_timeout: bytes = b""
    """JSON that counts then; empty for none."""
    request: bytes = b""
    """JSON: what an approval asks, or the schema of the payload of a signal; empty for none."""
    end: WaitEnd | None = None
    """None while it is open."""

    @property
    def size_bytes(self) -> int:
        """What counts against the bounds in bytes."""
        size = len(self.name) + len(self.on_timeout) + len(self.request) + WAIT_OVERHEAD_BYTES
        return size if self.end is None else size + len(self.end.record)

    @property
    def reserved_bytes(self) -> int:
        """What its record takes at least, and is kept free for it while it is open. A wait of a document has none."""
        if self.end is not None or not self.fence:
            return 0
        return len(self.name) + len(self.on_timeout) + RECORD_OVERHEAD_BYTES


class WorkflowWaits(msgspec.Struct, gc=False, eq=False):
    """The waits of one workflow."""

    rows: dict[int, WaitRow] = msgspec.field(default_factory=dict)
    """By number, in the order in which they began."""
    listening: dict[str, list[int]] = msgspec.field(default_factory=dict)
    """Numbers of waits for signals by name, oldest first. Some of them may have ended."""
    open: int = 0
    size_bytes: int = 0
    reserved_bytes: int = 0

    def first(self, name: str) -> WaitRow | None:
        """Return the open wait for a signal that began first, None without one."""
        numbers = self.listening.get(name)
        while numbers:
            row = self.rows.get(numbers[0])
            if row is not None:
                return row
            heappop(numbers)
        if numbers is not None:
            del self.listening[name]
        return None


class WaitTable:
    """The waits of all workflows. A workflow holds its own (`Workflow.waits`)."""

    def __init__(self) -> None:
        self.workflows: dict[int, WorkflowWaits] = {}
        """By number, in the order of their first waits."""
        self.asked: dict[int, int] = {}
        """Approvals that are kept: the number of the workflow of each, oldest first."""
        self.undecided: dict[int, int] = {}
        """Those of them that are open, oldest first."""
        self.count = 0
        self.open = 0
        self.size_bytes = 0
        self.reserved_bytes = 0

    def __len__(self) -> int:
        """Count the waits that are kept."""
        return self.count

    def add(self, row: WaitRow) -> WorkflowWaits:
        """Add a wait with a new number, and return all of its workflow."""
        waits = self.workflows.get(row.workflow)
        if waits is None:
            waits = self.workflows[row.workflow] = WorkflowWaits()
        waits.rows[row.number] = row
        self.count += 1
        self._count(waits, row, 1)
        if row.kind in KEPT_KINDS:
            self.asked[row.number] = row.workflow
            if row.end is None:
                self.undecided[row.number] = row.workflow
        elif row.kind == "signal":
            waits.listening.setdefault(row.name, []).append(row.number)
        return waits

    def end(self, row: WaitRow, end: WaitEnd) -> None:
        """End an open wait. It stays if people find it by its number."""
        waits = self.workflows[row.workflow]
        self._count(waits, row, -1)
        if row.kind in KEPT_KINDS:
            del self.undecided[row.number]
            ended = waits.rows[row.number] = msgspec.structs.replace(row, end=end)
            self._count(waits, ended, 1)
            return
        del waits.rows[row.number]
        self.count -= 1
        if row.kind == "signal":
            waits.first(row.name)  # forgets what has ended

    def _count(self, waits: WorkflowWaits, row: WaitRow, sign: int) -> None:
        is_open = sign if row.end is None else 0
        size, reserved = sign * row.size_bytes, sign * row.reserved_bytes
        waits.open += is_open
        waits.size_bytes += size
        waits.reserved_bytes += reserved
        self.open += is_open
        self.size_bytes += size
        self.reserved_bytes += reserved

    def forget(self, workflow: int) -> None:
        """Forget the waits of a workflow that has ended."""
        waits = self.workflows.pop(workflow, None)
        if waits is None:
            return
        self.count -= len(waits.rows)
        self.size_bytes -= waits.size_bytes
        for number in waits.rows:
            self.asked.pop(number, None)
            self.undecided.pop(number, None)
