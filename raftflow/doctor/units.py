"""Measures as text."""

from __future__ import annotations

from raftflow.domain.values.times import iso_utc


def duration(seconds: float) -> str:
    """Write a duration."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7_200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 172_800 else f"{seconds / 86_400:.1f} days"


def size(count: int) -> str:
    """Write a number of bytes."""
    number, unit = float(count), "B"
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if number < 1024 or unit == "TiB":
            break
        number /= 1024
    return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"


def moment(ms: int) -> str:
    """Write a time, to the second."""
    return iso_utc(ms - ms % 1000).replace(".000Z", "Z")
