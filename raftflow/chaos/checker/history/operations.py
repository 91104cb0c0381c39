"""Pairs invocations with completions, and hands both to the checks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from raftflow.chaos.checker.history.reader import fail, table, text

if TYPE_CHECKING:
    from collections.abc import Collection

    from raftflow.chaos.checker.history.reader import HistoryLine

COMPLETIONS = frozenset({"ok", "fail", "unknown"})


class HistoryOperation:
    """One operation of a client."""

    __slots__ = ("floor", "invoked", "op", "value", "verb")

    def __init__(self, op: str, verb: str, invoked: float, value: dict[str, Any]) -> None:
        self.op = op
        self.verb = verb
        self.invoked = invoked
        self.value = value
        self.floor: Any = None
        """What the answer must show at least: what others had been told before it began."""


class OperationChecks(Protocol):
    """Checks of some verbs. `complete` sees `unknown` for operations that never completed, too."""

    def complete(self, operation: HistoryOperation, outcome: str, at: float, value: dict[str, Any]) -> None:
        """An operation ended."""
        ...


class Operations:
    """The operations that are open, and their numbers."""

    def __init__(self) -> None:
        self._open: dict[str, HistoryOperation] = {}
        self.count = 0
        self.unknown = 0
        self.failed = 0

    def invoke(self, line: HistoryLine) -> HistoryOperation:
        """An operation begins."""
        op = text(line, "op")
        if op in self._open:
            fail(f"operation {op!r} is invoked twice")
        operation = HistoryOperation(op, text(line, "f"), line["t"], table(line, "value"))
        self._open[op] = operation
        self.count += 1
        return operation

    def complete(self, line: HistoryLine) -> HistoryOperation:
        """An operation ends."""
        operation = self._open.pop(text(line, "op"), None)
        if operation is None:
            fail(f"operation {line['op']!r} completes but was not invoked, or has completed before")
        self.unknown += line["type"] == "unknown"
        self.failed += line["type"] == "fail"
        return operation

    def abandoned(self) -> Collection[HistoryOperation]:
        """Return the operations that never completed. They count as unknown."""
        left = list(self._open.values())
        self._open.clear()
        self.unknown += len(left)
        return left
