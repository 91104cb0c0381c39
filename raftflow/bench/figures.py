"""From single runs to figures: medians, spread, ratios."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import median
from typing import Any

_DIGITS = 4
_RATE = "per_s"
"""Part of the name of every figure of which more is better. The others are times."""


def rounded(value: float) -> float:
    """Round to what a benchmark can know."""
    return float(f"{value:.{_DIGITS}g}") if abs(value) < 10**_DIGITS else round(value)


def summary(runs: Sequence[Mapping[str, Any]], figures: Iterable[str]) -> dict[str, Any]:
    """Return the median of each figure over the runs, and its least and greatest value."""
    values = {figure: [run[figure] for run in runs] for figure in figures}
    return {
        "median": {figure: rounded(median(each)) for figure, each in values.items()},
        "spread": {figure: [rounded(min(each)), rounded(max(each))] for figure, each in values.items()},
    }


def times_better(figure: str, ours: float, theirs: float) -> float:
    """Return how many times better ours is: of rates the greater is better, of times the smaller."""
    if _RATE not in figure:
        ours, theirs = theirs, ours
    return rounded(ours / theirs)
