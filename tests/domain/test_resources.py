"""Amounts of resources: what users write, and the integers that the ledger holds."""

from __future__ import annotations

import pytest

from raftflow.domain.tasks.feasibility import Shape, fits_in, shape_of, suits
from raftflow.domain.tasks.resources import fits, parse_amount, show_amount, show_resources

PARSED = [
    ("cpu", 1, 1000),
    ("cpu", 0.5, 500),
    ("cpu", "1.5", 1500),
    ("cpu", 0.0001, 1),
    ("gpu", 2, 2000),
    ("gpu", " 1E1 ", 10_000),
    ("gpu", "1e-999999", 1),
    ("gpu", ".5", 500),
    ("memory", 512, 512),
    ("memory", 1e-219, 1),
    ("memory", 1e15, 10**15),
    ("memory", "512MiB", 512),
    ("memory", "8GiB", 8192),
    ("memory", "1 gb", 954),
    ("memory", "100B", 1),
    ("memory", "2k", 1),
    ("memory", "1T", 953_675),
    ("memory", "1Pi", 1024**3),
]


@pytest.mark.parametrize(("name", "value", "units"), PARSED)
def test_an_amount_is_rounded_up_to_whole_units(name, value, units):
    assert parse_amount(name, value) == units


REFUSED = [
    ("cpu", True, "must be a number"),
    ("memory", None, "or a size such as"),
    ("memory", "lots", "is not a size"),
    ("cpu", "two", "is not a number"),
    ("cpu", -1, "zero or more"),
    ("cpu", float("inf"), "finite"),
    ("cpu", 1e30, "larger than any machine"),
    ("cpu", "1e999999", "larger than any machine"),
    ("cpu", "1e30", "larger than any machine"),
    ("cpu", 10**5_000, "larger than any machine"),
    ("memory", -(10**5_000), "zero or more"),
    ("cpu", "9" * 5_000, "not a number"),
    ("cpu", "1_000", "not a number"),
    ("cpu", "\N{ARABIC-INDIC DIGIT THREE}", "not a number"),
    ("cpu", "nan", "not a number"),
    ("cpu", "-1", "zero or more"),
    ("cpu", "1e999999999999999999999", "not a number|larger"),
    ("memory", "1e999999", "not a size"),
    ("memory", "5" * 70, "not a number"),
]


@pytest.mark.parametrize(("name", "value", "message"), REFUSED, ids=range(len(REFUSED)))
def test_what_is_no_amount_is_refused(name, value, message):
    with pytest.raises(ValueError, match=message):
        parse_amount(name, value)


def test_amounts_are_shown_in_the_units_of_users():
    assert show_amount("memory", 512) == 512
    assert show_resources({"gpu": 2000, "cpu": 1500}) == {"cpu": 1.5, "gpu": 2}


def test_fitting():
    assert fits({"cpu": 2}, {"cpu": 2})
    assert not fits({"gpu": 1}, {"cpu": 2})


def test_equal_preferences_are_equal_shapes():
    shape = shape_of({"memory": 5, "cpu": 1, "gpu": 0}, {"z": "1", "a": "2"})
    assert shape == Shape((("cpu", 1), ("memory", 5)), (("a", "2"), ("z", "1")))
    assert hash(shape) == hash(shape_of({"cpu": 1, "memory": 5}, {"a": "2", "z": "1"}))


def test_one_reading_of_fits():
    shape = shape_of({"cpu": 2}, {"zone": "a"})
    assert fits_in(shape, {"cpu": 2})
    assert not fits_in(shape, {"cpu": 1})
    assert not fits_in(shape, {})
    assert suits(shape, {"cpu": 2}, {"zone": "a", "disk": "ssd"})
    assert not suits(shape, {"cpu": 2}, {"zone": "b"})
    assert not suits(shape, {"cpu": 1}, {"zone": "a"})
    assert fits_in(shape_of({}, {}), {})
