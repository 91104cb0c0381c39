"""Commands of budgets and rate limits. `commands.py` has the others, and offers these too."""

from __future__ import annotations

import msgspec

from raftflow.domain.command import Command


class SetRateLimit(Command, frozen=True, tag="rates.set"):
    """Set a rate limit, or change it. Replies `Done`.

    The bucket of a new limit is full. That of a known one stays as full as it is, as far as the new burst allows.
    """

    name: str
    amount: int
    """Units that come in a period."""
    period_ms: int
    """One of the units of time, in ms (`domain.values.rates.UNIT_MS`)."""
    burst: int
    """Units that the bucket holds at most."""


class RemoveRateLimit(Command, frozen=True, tag="rates.remove"):
    """Remove a rate limit. Replies `Done`. What takes from it waits, or is refused, until it is set again."""

    name: str


class RateToTake(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Units of a rate limit that an attempt takes, as a durable step of its task."""

    fence: int
    limit: str
    """Name of the rate limit."""
    count: int
    name: str
    """Of the step."""
    occurrence: int


class TakeRates(Command, frozen=True, tag="rates.take"):
    """Take units of rate limits for live attempts of one agent. Replies `RatesTaken`, a verdict for each.

    What is taken is recorded as a step. So a command that comes twice, and a later attempt, take nothing again.
    Refused as a whole (stale incarnation) as `ReportAttempts`.
    """

    agent: str
    incarnation: int
    takes: tuple[RateToTake, ...]


class BudgetRaise(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The new hard limit of one budget of a workflow."""

    name: str
    amount: int
    """In millionths."""
    added: bool = False
    """The amount comes to what the limit is. Else it replaces it."""


class RaiseBudget(Command, frozen=True, tag="budgets.raise"):
    """Raise budgets of a workflow, all or none. Replies `Done`. Soft limits are raised in proportion.

    A workflow that waited for that goes on. A budget is never lowered.
    """

    workflow_id: str
    raises: tuple[BudgetRaise, ...]
