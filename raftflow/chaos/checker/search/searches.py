"""Runs searches for linearizability within one budget for the whole history."""

from __future__ import annotations

from typing import TYPE_CHECKING

from raftflow.chaos.checker.search.linearizability import Outcome, SequentialModel, TimedCall, search

if TYPE_CHECKING:
    from collections.abc import Sequence

    from raftflow.chaos.checker.findings import Findings

_NEAR_MAX = 4


class Searches:
    """Judges objects one after the other. What the budget does not reach is undecided."""

    def __init__(self, findings: Findings, budget: int, budget_per_object: int) -> None:
        self._findings = findings
        self._left = budget
        self._budget_per_object = budget_per_object
        self.objects = 0
        self.explored = 0

    def judge(self, subject: str, calls: Sequence[TimedCall], model: SequentialModel) -> None:
        """Look for an order of the calls of one object."""
        self.objects += 1
        found = search(calls, model, min(self._left, self._budget_per_object))
        self._left -= found.explored
        self.explored += found.explored
        if found.outcome is Outcome.UNDECIDED:
            self._findings.leave_undecided(
                f"{subject}: the search for an order of {len(calls)} calls was given up after {found.explored} steps"
            )
        elif found.call is not None:
            at = found.call.returned
            self._findings.add("not-linearizable", f"{subject}: {_explained(calls, found.call)}", at)


def _explained(calls: Sequence[TimedCall], failed: TimedCall) -> str:
    """Say which call cannot be explained, and what was called shortly before it."""
    before = [call for call in calls if call.invoked < failed.returned and call != failed]
    before.sort(key=lambda call: call.invoked)
    near = "; ".join(_shown(call) for call in before[-_NEAR_MAX:])
    return f"no order of the calls explains {_shown(failed)}; before it: {near or 'nothing'}"


def _shown(call: TimedCall) -> str:
    parts = [call.name]
    if call.argument is not None:
        parts.append(str(call.argument))
    if call.name in {"get", "read"}:
        parts.append(f"-> {call.answer}")
    return f"{' '.join(parts)} [{call.invoked:.3f}, {call.returned:.3f}]"
