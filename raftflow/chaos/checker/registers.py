"""Registers: each key is linearizable by itself."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from raftflow.chaos.checker.history.reader import fail, text
from raftflow.chaos.checker.history.records import canonical
from raftflow.chaos.checker.search.linearizability import TimedCall
from raftflow.chaos.checker.search.models import RegisterModel

if TYPE_CHECKING:
    from raftflow.chaos.checker.history.operations import HistoryOperation
    from raftflow.chaos.checker.search.searches import Searches

REGISTER_VERBS = frozenset({"write", "get", "cas"})


class RegisterChecks:
    """Collects the calls of each key, and judges them at the end."""

    def __init__(self) -> None:
        self._calls: dict[str, list[TimedCall]] = {}

    def complete(self, operation: HistoryOperation, outcome: str, at: float, value: dict[str, Any]) -> None:
        """An operation on a register ended; without an answer it may take effect at any time."""
        if outcome == "fail" or (outcome == "unknown" and operation.verb == "get"):
            return
        asked = operation.value
        returned = at if outcome == "ok" else math.inf
        calls = self._calls.setdefault(text(asked, "key"), [])
        if operation.verb == "write":
            calls.append(TimedCall(operation.invoked, returned, "write", _stored(asked, "value")))
        elif operation.verb == "cas":
            pair = (_stored(asked, "from"), _stored(asked, "to"))
            calls.append(TimedCall(operation.invoked, returned, "cas", pair))
        else:
            calls.append(TimedCall(operation.invoked, returned, "get", None, _stored(value, "value")))

    def finish(self, searches: Searches) -> None:
        """Judge every key."""
        model = RegisterModel()
        for key, calls in self._calls.items():
            searches.judge(f"key {key!r}", calls, model)


def _stored(value: dict[str, Any], key: str) -> str | None:
    """Return a value of a register; null is that nothing was written."""
    if key not in value:
        fail(f"the value has no {key!r}")
    return None if value[key] is None else canonical(value[key])
