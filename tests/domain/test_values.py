"""What a value is: what is read and written exactly, and where what is none is found."""

import dataclasses
import enum
import json
import math
import uuid
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raftflow.domain.limits import INTEGER_DIGITS_MAX, JSON_DEPTH_MAX
from raftflow.domain.values import exact
from raftflow.domain.values.exact import ValueFault, decode_json, find_fault, read_json, write_json

NAN, INF = math.nan, math.inf
MAX = 10**INTEGER_DIGITS_MAX - 1

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-MAX, MAX) | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(VALUES)
def test_whatever_is_a_value_is_written_and_read_exactly(value: Any) -> None:
    data = write_json(value)
    for read in (read_json, decode_json, json.loads):
        back = read(data)
        assert repr(back) == repr(value), "True is no 1, 1 is no 1.0, -0.0 is no 0.0"
    assert find_fault(value) is None


@given(st.integers(-(2**64), 2**65))
def test_a_whole_number_is_written_in_the_same_way_whether_or_not_it_has_64_bits(number: int) -> None:
    assert write_json([number]) == b"[%d]" % number


READ = [
    (b'{"a": 1, "a": 2}', "a", exact.TWICE),
    (b'{"t": [{"x": {"k": 1, "k": {"z": 1, "z": 2}}}]}', "t[0].x.k", exact.TWICE),
    (b'{"a": {"z": 1, "z": 2}, "a": 3}', "a", exact.TWICE),
    (b'{"a": NaN, "a": 3}', "a", exact.TWICE),
    (rb'{"a": {"\u006b": 1, "k": 2}}', "a.k", exact.TWICE),
    (b"[1, NaN]", "[1]", exact.NOT_FINITE),
    (b'{"a b": -Infinity}', "'a b'", exact.NOT_FINITE),
    (b'{"x": [1' + b"0" * 5_000 + b"]}", "x[0]", exact.LONG_INTEGER),
    (b'{"x": 1' + b"0" * 5_000 + b', "x": 1}', "", exact.LONG_INTEGER),
    (b'{"x": 1' + b"0" * 5_000 + b"} x", "", exact.LONG_INTEGER),
    (b'{"x": 1' + b"0" * 5_000 + b', "y": ' + b"[" * 5_000, "", exact.LONG_INTEGER),
    (b"[" * (JSON_DEPTH_MAX + 1) + b"]" * (JSON_DEPTH_MAX + 1), "[0]" * 40 + "...", exact.TOO_DEEP),
    (b"[" * 20_000, "", f"the JSON {exact.TOO_DEEP}"),
    (b"[1,\n]", "", "line 2, column 1: Expecting value"),
    (b"1\n\xff", "", "line 2: not UTF-8"),
    (b"01", "", "line 1, column 2: Extra data"),
    (b'"\x00"', "", "line 1, column 2: Invalid control character at"),
]


@pytest.mark.parametrize(("text", "path", "message"), READ, ids=range(len(READ)))
def test_what_is_no_value_is_refused_with_its_path(text: bytes, path: str, message: str) -> None:
    with pytest.raises(ValueFault) as fault:
        read_json(text)
    assert (fault.value.path, fault.value.message) == (path, message)


def test_a_byte_order_mark_is_passed_over_at_the_beginning_alone() -> None:
    assert read_json(b'\xef\xbb\xbf{"a": "\xef\xbb\xbf"}') == {"a": "\ufeff"}


@pytest.mark.parametrize(
    ("text", "path", "message"),
    [
        (b'{"a": 1%s}' % (b"0" * INTEGER_DIGITS_MAX), "a", exact.LONG_INTEGER),
        (b"[-1e400]", "[0]", exact.NOT_FINITE),
        (rb'{"a": ["\ud800"]}', "a[0]", exact.LONE_SURROGATE),
        (b'["\xed\xa0\x80"]', "[0]", exact.LONE_SURROGATE),
        (rb'{"\udc00": 1}', "'\\udc00' (the key)", exact.LONE_SURROGATE),
    ],
)
def test_what_was_read_may_have_faults_that_are_found_later(text: bytes, path: str, message: str) -> None:
    fault = find_fault(read_json(text))
    assert fault is not None
    assert (fault.path, fault.message) == (path, message)


def test_colons_tell_of_keys_given_twice_and_those_in_texts_do_not_mislead() -> None:
    for text in (
        b"1",
        b'{"a": 1}',
        b'[{"a": {"b": 1}}, {"a": 2}]',
        b'{"a:": ":::"}',
        b'["::", {"x": 1}]',
        b'[" :", {"x" : ":"}]',
        b'":"',
    ):
        assert exact.twice_fault(text, json.loads(text)) is None
    for text, path in (
        (b'{"a" : 1, "a"\n: 2}', "a"),
        (b'{"a":1,"a"\t:2}', "a"),
        (b'[":", {"b": {"x": 1, "x": ":"}}]', "[1].b.x"),
    ):
        fault = exact.twice_fault(text, orjson.loads(text))
        assert fault is not None
        assert (fault.path, fault.message) == (path, exact.TWICE)


class Wrong(enum.Enum):
    NUMBER = NAN


class Level(enum.Enum):
    HUGE = 10**30


@dataclasses.dataclass
class Box:
    inner: Any
    _own: Any = None


@dataclasses.dataclass(slots=True)
class Slim:
    inner: Any


class Sly(dict[str, Any]):
    """Hides what it holds from everybody but the encoder."""

    def items(self) -> Any:
        return ()

    def exact(self) -> Any:
        raise RuntimeError


@pytest.mark.parametrize(
    ("value", "path"),
    [
        (NAN, ""),
        ([1, (2, -INF)], "[1][1]"),
        ({"a": {"b c": NAN}}, "a.'b c'"),
        (Box([NAN]), "inner[0]"),
        (Slim(NAN), "inner"),
        (Wrong.NUMBER, "value"),
        (Sly(a=NAN), "a"),
        ({"k" * 500: NAN}, "k" * 40),
        ({"a" * 39: {"b" * 39: {"c" * 39: {"d": NAN}}}}, f"{'a' * 39}.{'b' * 39}.{'c' * 39}...."),
        ({"x": [10**30, NAN]}, "x[1]"),
    ],
)
def test_numbers_that_are_not_finite_are_found_wherever_the_encoder_would_lose_them(value: Any, path: str) -> None:
    with pytest.raises(ValueFault) as fault:
        write_json(value)
    assert (fault.value.path, fault.value.message) == (path, exact.NOT_FINITE)


class Word(str):
    """No key for the encoder."""

    __slots__ = ()


def circle() -> list[Any]:
    """Return a list that holds itself, twice."""
    whole: list[Any] = []
    whole += [whole, whole]
    return whole


@pytest.mark.parametrize(
    ("value", "path", "message"),
    [
        (10**6_000, "", exact.LONG_INTEGER),
        ([-(10**INTEGER_DIGITS_MAX)], "[0]", exact.LONG_INTEGER),
        ({"s": "\ud800"}, "s", exact.LONE_SURROGATE),
        ({"s": {1, 2}}, "s", "is not a JSON value (its type is set)"),
        (b"x", "", "is not a JSON value (its type is bytes)"),
        ({"x": {1: 2}}, "x.'1' (the key)", "is not a string"),
        ({Word("a"): [1]}, "", "cannot be written as JSON: Dict key must be str"),
        (circle(), "[0]" * 40 + "...", exact.TOO_DEEP),
    ],
    ids=range(8),
)
def test_what_cannot_be_written_is_refused_with_its_path(value: Any, path: str, message: str) -> None:
    with pytest.raises(ValueFault) as fault:
        write_json(value)
    assert (fault.value.path, fault.value.message) == (path, message)


def test_what_stands_for_a_value_is_written_with_whole_numbers_exact() -> None:
    name = uuid.UUID(int=1)
    value = {"box": Box((10**30, True), 5), "slim": [Slim(2**64)], "level": Level.HUGE, "name": name, "none": None}
    assert json.loads(write_json(value)) == {
        "box": {"inner": [10**30, True]},
        "slim": [{"inner": 2**64}],
        "level": 10**30,
        "name": str(name),
        "none": None,
    }
    for plain in (None, [None, "null"], {"box": Box(None)}):
        assert write_json(plain) == orjson.dumps(plain)
