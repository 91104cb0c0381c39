# ruff: noqa: D103 - the table of mutants says of each what it does
"""Planted faults of budgets and rate limits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from raftflow.agent.calls.attempt import CallingAttempt
from raftflow.agent.calls.spending import AttemptSpending
from raftflow.machine.commands import placements
from raftflow.machine.tables.spending.rates import RateBucket, RateTable
from raftflow.machine.tables.steps import Spending

if TYPE_CHECKING:
    from raftflow.simulation.mutation.patches.common import Patch


def begin_steps_unpaid() -> Patch:
    """Let the agent overlook that a budget is used up."""
    find = CallingAttempt.find_step

    def careless(self: Any, *given: Any) -> None:
        self._used_up = False
        find(self, *given)

    return patch.object(CallingAttempt, "find_step", careless)


def spend_on() -> Patch:
    """Let attempts that have no steps spend as long as they like."""
    spend = AttemptSpending.spend

    def careless(self: Any, request: Any, write: Any, **_: Any) -> None:
        spend(self, request, write, warned=False)

    return patch.object(AttemptSpending, "spend", careless)


def count_failures_under_one_key() -> Patch:
    """Count what failed steps have spent under a key that all attempts of a task share."""
    init = AttemptSpending.__init__

    def shared(self: Any, fence: int, find: Any, record: Any, park: Any) -> None:
        def one_key(call: Any, *rest: Any) -> None:
            if call.name.startswith("raftflow.failed"):
                call.name = "raftflow.failed"
            record(call, *rest)

        init(self, fence, find, one_key, park)

    return patch.object(AttemptSpending, "__init__", shared)


def count_spending_twice() -> Patch:
    add = Spending.add

    def twice(self: Any, task: int, spent: Any) -> None:
        add(self, task, spent)
        add(self, task, spent)

    return patch.object(Spending, "add", twice)


def forget_removed_buckets() -> Patch:
    """Forget how full a limit was when it is removed, so that it is full when it is set again."""

    def careless(self: RateTable, name: str, _: int) -> bool:
        return self.present.pop(name, None) is not None

    return patch.object(RateTable, "remove", careless)


def place_without_taking() -> Patch:
    """Check that a rate limit has enough for a task that is placed, and take nothing."""

    def checked(table: Any, wanted: Any, now_ms: int) -> bool:
        return all((limit := table.get(name)) and limit.units_at(now_ms) >= count for name, count in wanted)

    return patch.object(placements, "take_all", checked)


def refill_by_the_call() -> Patch:
    """Let a bucket be refilled by each look at it, and not by time alone."""
    parts_at = RateBucket.parts_at

    def generous(self: RateBucket, now_ms: int) -> int:
        return min(parts_at(self, now_ms) + self.period_ms, self.burst * self.period_ms)

    return patch.object(RateBucket, "parts_at", generous)
