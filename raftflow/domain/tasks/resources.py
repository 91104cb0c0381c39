"""Resources as integers: milli-CPU, MiB of memory, milli-units of anything else.

A `Resources` maps a resource name to an amount in its integer unit. The ledger adds and subtracts these and
nothing else, so every replica gets the same sums.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import ROUND_CEILING, Decimal, InvalidOperation, Overflow

from raftflow.domain.limits import AMOUNT_CHARS_MAX, RESOURCE_UNITS_MAX

Resources = dict[str, int]

CPU = "cpu"
MEMORY = "memory"
DEFAULT_DEMAND: Mapping[str, int] = {CPU: 1000}

NUMBER_PATTERN = r"^\s*[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?\s*$"
"""What an amount looks like as a text, in the words of a JSON Schema."""
_NUMBER = re.compile(NUMBER_PATTERN, re.ASCII)
AMOUNT_PATTERN = r"^\s*(?:[0-9]+\.?[0-9]*|\.[0-9]+)\s*$"
"""The same in a document; of memory:"""
SIZE_PATTERN = r"^\s*[0-9]+(?:\.[0-9]+)?\s*(?:[KkMmGgTtPp][Ii]?[Bb]?|[Bb])?\s*$"

_MEMORY = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([KMGTP]i?B?|B)?\s*", re.IGNORECASE)
_MEMORY_BYTES = {
    "": 1024**2,
    "b": 1,
    "k": 1000,
    "m": 1000**2,
    "g": 1000**3,
    "t": 1000**4,
    "p": 1000**5,
    "ki": 1024,
    "mi": 1024**2,
    "gi": 1024**3,
    "ti": 1024**4,
    "pi": 1024**5,
}


def parse_amount(name: str, value: object) -> int:
    """Turn what a user wrote for resource `name` into its integer unit, rounding up.

    `cpu` and custom resources are numbers in whole units (`0.5`, `2`, `"1.5"`); `memory` is a number of MiB or a
    text with a unit (`"512MiB"`, `"8GB"`). Raises `ValueError` saying what is wrong with the value.
    """
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError(f"must be a number{' or a size such as 512MiB' if name == MEMORY else ''}")
    if isinstance(value, int) and abs(value) > RESOURCE_UNITS_MAX:  # perhaps too long to be shown
        raise ValueError("must be zero or more" if value < 0 else "is larger than any machine")
    text = str(value)
    if isinstance(value, str) and (len(text) > AMOUNT_CHARS_MAX or (name != MEMORY and not _NUMBER.fullmatch(text))):
        raise ValueError(f"{text[:80]!r} is not a number")
    if name == MEMORY and isinstance(value, str):
        match = _MEMORY.fullmatch(text)
        if match is None:
            raise ValueError(f"{text[:80]!r} is not a size: write a number of MiB, or a unit as in 512MiB, 8GiB")
        unit = (match[2] or "").lower()
        scale = _MEMORY_BYTES[unit if unit == "b" else unit.removesuffix("b")]
        amount = Decimal(match[1]) * scale / _MEMORY_BYTES["mi"]
    else:
        try:
            amount = Decimal(text) * (1 if name == MEMORY else 1000)
        except InvalidOperation:
            raise ValueError(f"{text[:80]!r} is not a number") from None
        except Overflow:
            raise ValueError(f"{text[:80]!r} is larger than any machine") from None
    if not amount.is_finite() or amount < 0:
        raise ValueError(f"{text[:80]!r} must be a finite number, zero or more")
    if amount > RESOURCE_UNITS_MAX:
        raise ValueError(f"{text[:80]!r} is larger than any machine")
    return int(amount.to_integral_value(rounding=ROUND_CEILING))


def show_amount(name: str, amount: int) -> float | int:
    """Turn an integer amount into what users see: whole CPUs and units (may be fractional), MiB of memory."""
    if name == MEMORY:
        return amount
    return amount // 1000 if amount % 1000 == 0 else amount / 1000


def show_resources(resources: Mapping[str, int]) -> dict[str, float | int]:
    """Turn integer amounts into what users see, in the order of the names."""
    return {name: show_amount(name, resources[name]) for name in sorted(resources)}


def fits(demand: Mapping[str, int], free: Mapping[str, int]) -> bool:
    """Tell whether every demanded amount is free. A resource that is not named in `free` has none."""
    return all(amount <= free.get(name, 0) for name, amount in demand.items())
