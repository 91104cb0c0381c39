"""Rate limits as others see them: the leader, the API, and explanations."""

from __future__ import annotations

from typing import TYPE_CHECKING

from raftflow.domain.contract.views import RateLimitView
from raftflow.domain.values.rates import show_rate
from raftflow.machine.commands.spending.rates import count_problem

if TYPE_CHECKING:
    from collections.abc import Mapping

    from raftflow.domain.values.rates import Rates
    from raftflow.machine.machine import Machine
    from raftflow.machine.tables.spending.rates import RateBucket

__all__ = ["count_problem", "is_set", "limit_view", "limit_views", "rates_reason", "units_at", "wait_of"]


def is_set(machine: Machine, name: str) -> bool:
    """Tell whether there is a rate limit of this name."""
    return name in machine.state.rates.present


def units_at(machine: Machine, name: str, now_ms: int) -> int:
    """Return how many whole units a rate limit has at a time, 0 if it is not set."""
    limit = machine.state.rates.get(name)
    return 0 if limit is None else limit.units_at(now_ms)


def wait_of(machine: Machine, name: str, count: int, now_ms: int, ahead: int = 0) -> int | None:
    """Return after how many ms a rate limit has so many units, when others take `ahead` before.

    None if it never has as many, as it is.
    """
    limit = machine.state.rates.get(name)
    if limit is None or count_problem(limit, name, count) is not None:
        return None
    return limit.wait_ms(count + ahead, now_ms)


def rates_reason(machine: Machine, rates: Rates, now_ms: int, ahead: Mapping[str, int]) -> str:
    """Say what a task waits for that takes of rate limits, empty if they have enough."""
    table = machine.state.rates
    for name, count in rates:
        limit = table.get(name)
        problem = count_problem(limit, name, count)
        if limit is None or problem is not None:
            return f"waits for rate {name!r}: {problem}"
        wait_ms = limit.wait_ms(count + ahead.get(name, 0), now_ms)
        if wait_ms:
            return f"waits for rate {name!r}: about {-(-wait_ms // 1000)} s"
    return ""


def limit_view(machine: Machine, name: str, now_ms: int) -> RateLimitView | None:
    """Return one rate limit, None if it is not set."""
    limit = machine.state.rates.get(name)
    return None if limit is None else _view(limit, now_ms)


def limit_views(machine: Machine, now_ms: int) -> list[RateLimitView]:
    """Return all rate limits, in order of the names."""
    return [_view(limit, now_ms) for _, limit in sorted(machine.state.rates.present.items())]


def _view(limit: RateBucket, now_ms: int) -> RateLimitView:
    return RateLimitView(
        name=limit.name,
        rate=show_rate(limit.amount, limit.period_ms),
        burst=limit.burst,
        available=limit.units_at(now_ms),
        full_in_s=limit.wait_ms(limit.burst, now_ms) / 1000,
    )
