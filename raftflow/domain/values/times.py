"""Times as users see them, by integer arithmetic: the replicated core has no clock and needs none for this."""

from __future__ import annotations

_DAY_S = 86_400


def iso_utc(ms: int) -> str:
    """Write milliseconds since 1970 as ISO 8601 in UTC, e.g. `2026-01-31T12:00:00.250Z`.

    The date comes from `civil_from_days` (Howard Hinnant, "chrono-compatible low-level date algorithms").
    """
    seconds, milliseconds = divmod(ms, 1000)
    days, second = divmod(seconds, _DAY_S)
    # Days counted from 0000-03-01, so that the leap day is the last of its year.
    era, day_of_era = divmod(days + 719_468, 146_097)
    year_of_era = (day_of_era - day_of_era // 1_460 + day_of_era // 36_524 - day_of_era // 146_096) // 365
    day_of_year = day_of_era - (365 * year_of_era + year_of_era // 4 - year_of_era // 100)
    shifted_month = (5 * day_of_year + 2) // 153
    day = day_of_year - (153 * shifted_month + 2) // 5 + 1
    month = shifted_month + 3 if shifted_month < 10 else shifted_month - 9
    year = year_of_era + era * 400 + (month <= 2)
    minutes, second = divmod(second, 60)
    hour, minute = divmod(minutes, 60)
    return f"{year:04d}-{month:02d}-{day:02d}T{hour:02d}:{minute:02d}:{second:02d}.{milliseconds:03d}Z"


def iso_utc_or_none(ms: int) -> str | None:
    """Write a time, or None for 0, which stands for "not yet" in the task table."""
    return iso_utc(ms) if ms else None
