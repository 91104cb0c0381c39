"""Rates: so many units in so much time, as users write them (`100/min`) and in integers."""

from __future__ import annotations

import re
from typing import Final

from raftflow.domain import limits

UNIT_MS: Final = {"s": 1_000, "min": 60_000, "h": 3_600_000, "d": 86_400_000}
"""The units of time of a rate, in ms."""
RATE_PATTERN: Final = rf"^(?:[1-9][0-9]{{0,8}}|1000000000)/(?:{'|'.join(UNIT_MS)})$"
"""What a rate looks like, in the words of a JSON Schema."""
_RATE = re.compile(rf"(?:0|[1-9][0-9]{{0,9}})/(?:{'|'.join(UNIT_MS)})", re.ASCII)
"""What is read as a rate, so that an amount out of range has an error of its own."""

Rates = tuple[tuple[str, int], ...]
"""What a task takes of rate limits: name and amount of each, in order of the names."""


def parse_rate(text: str) -> tuple[int, int]:
    """Return amount and period in ms of a rate such as `100/min`. Raises `ValueError`."""
    if not _RATE.fullmatch(text):
        raise ValueError(
            f"{text[:40]!r} is not a rate: write a number and a unit of time, such as 100/min, 5/s or 10/h"
        )
    amount, _, unit = text.partition("/")
    if not 1 <= int(amount) <= limits.RATE_AMOUNT_MAX:
        raise ValueError(f"a rate is from 1 to {limits.RATE_AMOUNT_MAX} in its unit of time, not {amount}")
    return int(amount), UNIT_MS[unit]


def show_rate(amount: int, period_ms: int) -> str:
    """Return a rate as users write it."""
    unit = next(unit for unit, unit_ms in UNIT_MS.items() if unit_ms == period_ms)
    return f"{amount}/{unit}"
