"""Times by integer arithmetic agree with the calendar of the standard library."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import given, settings
from hypothesis import strategies as st

from raftflow.domain.values.times import iso_utc, iso_utc_or_none

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@settings(derandomize=True, deadline=None)
@given(st.integers(-60_000_000_000_000, 250_000_000_000_000))
def test_any_time_is_written_as_the_calendar_has_it(ms):
    expected = (EPOCH + timedelta(milliseconds=ms)).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    assert iso_utc(ms) == expected


def test_leap_days_and_month_ends():
    for text in ("2024-02-29T23:59:59.999", "2100-03-01T00:00:00.000", "2000-12-31T12:00:00.001"):
        moment = datetime.fromisoformat(text).replace(tzinfo=UTC)
        assert iso_utc((moment - EPOCH) // timedelta(milliseconds=1)) == text + "Z"


def test_zero_stands_for_not_yet():
    assert iso_utc_or_none(0) is None
    assert iso_utc_or_none(1) == "1970-01-01T00:00:00.001Z"
