"""Signals: what was sent to a workflow before a wait for it began, and the keys of what was counted."""

from __future__ import annotations

from collections import deque

import msgspec

SIGNAL_OVERHEAD_BYTES = 256
"""What a signal is taken to need beside its texts."""


class SignalRow(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """A signal that no wait has taken yet."""

    number: int
    """Grows over all signals that are kept."""
    workflow: int
    """Number of the workflow."""
    name: str
    payload: bytes
    """JSON."""
    at_ms: int

    @property
    def size_bytes(self) -> int:
        """What counts against the bounds in bytes."""
        return len(self.name) + len(self.payload) + SIGNAL_OVERHEAD_BYTES


class SignalKey(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """The key of a signal that was counted."""

    workflow: int
    key: str
    fingerprint: bytes
    """Hash of its name and payload."""


class WorkflowSignals(msgspec.Struct, gc=False, eq=False):
    """The signals of one workflow."""

    kept: dict[str, deque[SignalRow]] = msgspec.field(default_factory=dict)
    """By name, oldest first; no name without a signal."""
    count: int = 0
    size_bytes: int = 0
    keys: dict[str, SignalKey] = msgspec.field(default_factory=dict)
    """Oldest first."""

    def first(self, name: str) -> SignalRow | None:
        """Return the oldest signal of a name, None without one."""
        found = self.kept.get(name)
        return None if found is None else found[0]


class SignalTable:
    """The signals of all workflows. A workflow holds its own (`Workflow.signals`)."""

    def __init__(self) -> None:
        self.workflows: dict[int, WorkflowSignals] = {}
        """By number, in the order of their first signals."""
        self.count = 0
        self.size_bytes = 0
        self.keys = 0

    def __len__(self) -> int:
        """Count the signals that are kept, and the keys."""
        return self.count + self.keys

    def of(self, workflow: int) -> WorkflowSignals:
        """Return the signals of a workflow, which may be none yet."""
        return self.workflows.setdefault(workflow, WorkflowSignals())

    def add(self, row: SignalRow) -> WorkflowSignals:
        """Keep a signal with a new number, and return all of its workflow."""
        signals = self.of(row.workflow)
        signals.kept.setdefault(row.name, deque()).append(row)
        self._count(signals, row, 1)
        return signals

    def take(self, row: SignalRow) -> None:
        """Take the oldest signal of a name out."""
        signals = self.workflows[row.workflow]
        found = signals.kept[row.name]
        found.popleft()
        if not found:
            del signals.kept[row.name]
        self._count(signals, row, -1)

    def remember(self, key: SignalKey, keys_max: int) -> WorkflowSignals:
        """Remember a key that is not known, and forget the oldest of the workflow if there are too many."""
        signals = self.of(key.workflow)
        if len(signals.keys) >= keys_max:
            del signals.keys[next(iter(signals.keys))]
            self.keys -= 1
        signals.keys[key.key] = key
        self.keys += 1
        return signals

    def _count(self, signals: WorkflowSignals, row: SignalRow, sign: int) -> None:
        signals.count += sign
        signals.size_bytes += sign * row.size_bytes
        self.count += sign
        self.size_bytes += sign * row.size_bytes

    def forget(self, workflow: int) -> None:
        """Forget the signals of a workflow."""
        signals = self.workflows.pop(workflow, None)
        if signals is not None:
            self.count -= signals.count
            self.size_bytes -= signals.size_bytes
            self.keys -= len(signals.keys)
