"""What the benchmarks' tasks do: next to nothing."""

from __future__ import annotations


def noop(value: int = 0, *_: object) -> int:
    """Return the first argument."""
    return value
