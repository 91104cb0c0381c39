"""What an agent may report: results, texts and numbers at their bounds, and what is said of those beyond."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raftflow.domain import limits
from raftflow.domain.contract.reportable import (
    first_fault,
    judge_end,
    reportable_number,
    reportable_text,
    result_fault,
)
from raftflow.domain.contract.views import ReportedEnd
from raftflow.domain.values.exact import read_json


def nested(levels: int, inner: bytes = b"") -> bytes:
    return b"[" * levels + inner + b"]" * levels


GOOD = [
    b"",
    b"null",
    b"-0",
    b"1e308",
    b"5e-324",
    b"1e-400",
    b"-9223372036854775808",
    b"18446744073709551615",
    b"[18446744073709551616, -9223372036854775809]",
    b"1" + b"0" * 400,
    b"-" + b"9" * limits.INTEGER_DIGITS_MAX,
    b'"18446744073709551616"',
    b'{"n": "1111111111111111111111111", "m": 3.14159265358979323846264338}',
    b'{"a": {"a": ":"}, "b": [{"a": 1}, {"a": 2}]}',
    rb'"\u0000 \ud83d\ude00 \"[[["',
    b'" ' + b"\xf0\x9f\x98\x80" + b'"',
    nested(64),
    b"[" + b"[]," * 5_000 + b"[]]",
    json.dumps({f"k{number}": "[{" for number in range(2_000)}).encode(),
    b'"' + b"x" * (limits.RESULT_BYTES_MAX - 2) + b'"',
]


@pytest.mark.parametrize("result", GOOD, ids=range(len(GOOD)))
def test_results_that_are_taken_read_alike_everywhere(result: bytes) -> None:
    assert result_fault(result) is None
    if result:
        assert msgspec.json.decode(result) == read_json(result) == json.loads(result)


BAD = [
    (nested(65), "more than 64 levels deep, at result[0][0]"),
    (b'{"deep": [1, ' + nested(63) + b"]}", "at result.deep[1][0]"),
    (b'{"a":' * 65 + b"1" + b"}" * 65, "at result.a.a"),
    (nested(10_000), "more than 64 levels deep, at result: return a flatter value"),
    (b"[" * 60_000, "more than 64 levels deep"),
    (b'{"x": [1, NaN]}', "not finite (NaN or infinity) at result.x[1]"),
    (b"-Infinity", "not finite (NaN or infinity) at result,"),
    (b'{"x y": [1e400]}', "too large for floating point at result.'x y'[0]"),
    (b"1e400", "too large for floating point at result:"),
    (b"[" + b"1" * 641 + b"]", "more than 640 digits at result[0]: return it as text"),
    (b'{"x": -' + b"1" * 5_000 + b"}", "more than 640 digits at result.x"),
    (b'{"a": 1, "a": 2}', "a key twice, at result.a: write it once"),
    (rb'[{"b": {"x y": ":", "x y": 2}}]', "a key twice, at result[0].b.'x y'"),
    (rb'{"a": ["\ud800"]}', "lone surrogate, which is not a character, in the text at result.a[0]"),
    (rb'{"a": ["\udc00b", 1]}', "at result.a[0]"),
    (rb'{"\ud800": 1}', "at result.'\\ud800' (the key)"),
    (b'"\xff"', "not UTF-8"),
    (b'"\xed\xa0\x80"', "lone surrogate"),
    (b'["\xc3\xa9", "\\ud800"]', "at result[1]"),
    (b"\xef\xbb\xbf{}", "byte order mark"),
    ("{}".encode("utf-16"), "not valid JSON"),
    (b"[1,]", "not valid JSON"),
    (b"{} {}", "not valid JSON"),
    (b"{'a': 1}", "not valid JSON"),
    (b"01", "not valid JSON"),
    (b'"\x00"', "not valid JSON"),
    (b"\x00", "not valid JSON"),
    (b'"' + b"x" * (limits.RESULT_BYTES_MAX - 1) + b'"', "65537 bytes, the limit is 65536"),
]


@pytest.mark.parametrize(("result", "words"), BAD, ids=range(len(BAD)))
def test_results_that_are_refused_say_what_where_and_what_to_do(result: bytes, words: str) -> None:
    fault = result_fault(result)
    assert fault is not None
    assert words in fault
    assert len(fault) < 400
    assert fault == reportable_text(fault), "an agent can tell it"


@given(st.binary(max_size=200) | st.text(alphabet='[]{}",:0123456789.eE-\\udNa ', max_size=60).map(str.encode))
def test_a_result_that_is_taken_can_be_read_by_everybody(result: bytes) -> None:
    if result and result_fault(result) is None:
        assert msgspec.json.decode(result) == read_json(result) == json.loads(result)
        assert msgspec.json.decode(msgspec.json.encode({"r": msgspec.Raw(result)}))["r"] == read_json(result)


def end_of(**fields: Any) -> ReportedEnd:
    return ReportedEnd(**{"fence": 1, "workflow_id": "w", "task_id": "t", "outcome": "succeeded", **fields})


def test_a_success_that_would_be_refused_becomes_a_failure_with_the_reason() -> None:
    end = end_of(result=msgspec.Raw(nested(65)), exit_code=0)
    judge_end(end)
    assert (end.outcome, end.exit_code, bytes(end.result)) == ("failed", 0, b"null")
    assert "levels deep" in end.error
    small = end_of(result=msgspec.Raw(b'"' + b"x" * 100 + b'"'))
    judge_end(small, result_bytes_max=100)
    assert (small.outcome, small.error[:37]) == ("failed", "the result has 102 bytes, the limit i")


def test_what_may_be_told_stays_as_it_is() -> None:
    end = end_of(result=msgspec.Raw(b'{"a": 1}'), duration_ms=3, cpu_ms=2, peak_mib=1, exit_code=-9)
    before = msgspec.json.encode(end)
    judge_end(end)
    assert msgspec.json.encode(end) == before


def test_a_parked_attempt_says_what_it_waits_for() -> None:
    end = end_of(outcome="parked", result=msgspec.Raw(b'{"children":[[1,2]]}'))
    judge_end(end)
    assert bytes(end.result) == b'{"children":[[1,2]]}'


def test_a_failure_carries_no_result_and_texts_and_numbers_within_their_bounds() -> None:
    end = end_of(
        outcome="failed",
        result=msgspec.Raw(b"]"),
        error="\ud800" + "é" * 5_000,
        duration_ms=-1,
        cpu_ms=2**70,
        peak_mib=-(2**70),
    )
    judge_end(end)
    told = msgspec.json.decode(msgspec.json.encode(end), type=ReportedEnd)
    assert (told.duration_ms, told.cpu_ms, told.peak_mib) == (0, limits.USAGE_NUMBER_MAX, 0)
    assert told.error.startswith("\\ud800éé")
    assert told.error.endswith("...")
    assert len(told.error) == limits.ERROR_CHARS_MAX
    assert bytes(told.result) == b"null"


@given(st.text(alphabet=st.characters(categories=("L", "Cs", "Cc")), max_size=40), st.integers(10, 30))
def test_any_text_can_be_told(text: str, chars_max: int) -> None:
    told = reportable_text(text, chars_max)
    assert len(told) <= chars_max
    told.encode()


def test_numbers_are_brought_into_their_range() -> None:
    assert [reportable_number(number) for number in (-1, 0, 5, 2**53, 2**53 + 1)] == [0, 0, 5, 2**53, 2**53]


def test_the_door_finds_the_first_result_that_it_refuses_and_leaves_sizes_to_the_coordinator() -> None:
    large = b'"' + b"x" * limits.RESULT_BYTES_MAX + b'"'
    results = [msgspec.Raw(result) for result in (b"1", b"null", large, nested(65), b"1e999")]
    found = first_fault(results)
    assert found is not None
    assert found[0] == 3
    assert first_fault(results[:3]) is None
