"""Durations as users write them: `"40s"`, `"5m"`, `"1h30m"`, `"250ms"`, or a number of seconds."""

from __future__ import annotations

import math
import re

from raftflow.domain.limits import DURATION_MS_MAX

UNIT_MS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_PART = r"([0-9]{1,15}(?:\.[0-9]{1,9})?)(ms|s|m|h|d)"
_ONE = re.compile(_PART)
_ALL = re.compile(rf"(?:{_PART}\s*)+")
CHARS_MAX = 64


def parse_duration_ms(value: object) -> int:
    """Return a duration in whole milliseconds, rounded up so that a short one never becomes zero.

    Raises `ValueError` with the reason.
    """
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError('must be a duration such as "40s" or "1h30m", or a number of seconds')
    if isinstance(value, str):
        text = value.strip()
        if len(text) > CHARS_MAX or not _ALL.fullmatch(text):
            raise ValueError(
                f'{value[:40]!r} is not a duration: write "40s", "5m", "1h30m", "250ms", or a number of seconds'
            )
        amount = sum(float(number) * UNIT_MS[unit] for number, unit in _ONE.findall(text))
    elif isinstance(value, int):
        # Bounded before any conversion: a huge integer does not fit a float.
        amount = max(-1, min(value, DURATION_MS_MAX)) * 1_000.0
    else:
        amount = value * 1_000
    if math.isnan(amount):
        raise ValueError("must be a number")
    if amount < 0:
        raise ValueError("must not be negative")
    if amount > DURATION_MS_MAX:
        raise ValueError(f"is longer than {DURATION_MS_MAX // UNIT_MS['d']} days")
    return math.ceil(round(amount, 6))
