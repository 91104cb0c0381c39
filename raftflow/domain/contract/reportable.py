"""What an agent may report: one set of rules, for the leader's door and for the agent when an attempt ends.

The types of the contract bound numbers, texts and counts. What they cannot say stands here: what a task's result may
be: a value (`values/exact.py`) as JSON in UTF-8.

An agent that says more than that is refused, and would only be refused again. So `judge_end` makes a failed attempt
of a success whose result breaks a rule, before anybody is told of it.

This module is imported by every python worker: it imports little.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import msgspec

from raftflow.domain import limits
from raftflow.domain.values import exact
from raftflow.domain.values.exact import ValueFault

if TYPE_CHECKING:
    from collections.abc import Iterable

    from raftflow.domain.contract.views import ReportedEnd

_NUMBER_MAX = limits.USAGE_NUMBER_MAX
_LONG_NUMBER = re.compile(rb"[0-9]{%d}" % (limits.INTEGER_DIGITS_MAX + 1))
_NULL = b"null"
_RAW_NULL = msgspec.Raw(_NULL)


def result_fault(result: bytes, *, bytes_max: int | None = limits.RESULT_BYTES_MAX) -> str | None:
    """Say why these bytes cannot be a task's result: what, where, and what to do. None if they can.

    Empty bytes stand for no result. With `bytes_max` None the size is not looked at.
    """
    if not result or result == _NULL:
        return None
    if bytes_max is not None and len(result) > bytes_max:
        return (
            f"the result has {len(result)} bytes, the limit is {bytes_max}: "
            "write it to a file and return the file's name"
        )
    try:
        value = exact.decode_json(result)
    except RecursionError:
        return describe_fault(ValueFault("", exact.TOO_DEEP))
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        return _explain(result, error)
    fault = None
    if exact.is_too_deep(result, value) or (len(result) > limits.INTEGER_DIGITS_MAX and _LONG_NUMBER.search(result)):
        fault = exact.find_fault(value)
    fault = fault or exact.twice_fault(result, value)
    return None if fault is None else describe_fault(fault)


def first_fault(results: Iterable[msgspec.Raw]) -> tuple[int, str] | None:
    """Return the place of the first result that the leader's door refuses, and why; None if it takes all of them.

    The size of a result is not the door's: the coordinator makes a failed attempt of a success that is too large.
    """
    for place, result in enumerate(results):
        fault = result_fault(bytes(result), bytes_max=None)
        if fault is not None:
            return place, fault
    return None


def judge_end(end: ReportedEnd, *, result_bytes_max: int = limits.RESULT_BYTES_MAX) -> None:
    """Change what the leader's door would refuse.

    A success whose result breaks a rule becomes a failure that says so. Texts are cut and made encodable, numbers
    brought into their range.
    """
    if end.outcome == "succeeded":
        fault = result_fault(bytes(end.result), bytes_max=result_bytes_max)
        if fault is not None:
            end.outcome, end.error, end.result = "failed", fault, _RAW_NULL
    elif end.outcome != "parked":
        end.result = _RAW_NULL
    if end.error:
        end.error = reportable_text(end.error)
    # Nearly always within their range, and this runs once an attempt.
    if not 0 <= end.duration_ms <= _NUMBER_MAX:
        end.duration_ms = reportable_number(end.duration_ms)
    if not 0 <= end.cpu_ms <= _NUMBER_MAX:
        end.cpu_ms = reportable_number(end.cpu_ms)
    if not 0 <= end.peak_mib <= _NUMBER_MAX:
        end.peak_mib = reportable_number(end.peak_mib)


def reportable_text(text: str, chars_max: int = limits.ERROR_CHARS_MAX) -> str:
    """Return a text that every encoder takes, cut to a length. Lone surrogates are escaped."""
    if len(text) > chars_max:
        text = text[: chars_max - 3] + "..."
    if not text.isascii():
        safe = text.encode(errors="backslashreplace").decode()
        text = safe if len(safe) <= chars_max else safe[: chars_max - 3] + "..."
    return text


def reportable_number(number: int) -> int:
    """Return a number of a report within its range."""
    return min(max(number, 0), limits.USAGE_NUMBER_MAX)


def describe_fault(fault: ValueFault) -> str:
    """Say what is wrong with a result as a value: what, where, and what to do."""
    where = f"result{'' if fault.path[:1] in ('', '[') else '.'}{fault.path}"
    told = _ADVICE.get(fault.message, f"the result is wrong: {{where}} {fault.message}")
    return told.replace("{where}", where)


_TOO_LARGE = "is too large"
_ADVICE = {
    exact.TOO_DEEP: f"the result {exact.TOO_DEEP}, at {{where}}: return a flatter value, or its JSON as text",
    exact.TWICE: "the result has a key twice, at {where}: write it once",
    exact.LONG_INTEGER: (
        f"the result has a whole number of more than {limits.INTEGER_DIGITS_MAX} digits at {{where}}: "
        "return it as text"
    ),
    exact.LONE_SURROGATE: (
        "the result has a lone surrogate, which is not a character, in the text at {where}: return valid Unicode"
    ),
    exact.NOT_FINITE: (
        "the result has a number that is not finite (NaN or infinity) at {where}, which JSON has not: "
        "return null or text"
    ),
    _TOO_LARGE: "the result has a number that is too large for floating point at {where}: return it as text",
}
"""What is told of the faults that values have."""


def _explain(result: bytes, error: Exception) -> str:
    """Say what is wrong with bytes that the decoder has refused."""
    if result.startswith(b"\xef\xbb\xbf"):
        return "the result begins with a byte order mark, which JSON has not: write UTF-8 without it"
    try:
        fault = exact.find_fault(exact.read_json(result))
    except ValueFault as found:
        fault = found
    if fault is not None and (fault.path or fault.message in _ADVICE):
        if fault.message == exact.NOT_FINITE and isinstance(error, msgspec.ValidationError):
            fault = ValueFault(fault.path, _TOO_LARGE)
        return describe_fault(fault)
    if isinstance(error, UnicodeDecodeError):
        return "the result is not valid JSON, because it is not UTF-8: encode text as UTF-8 and other bytes as base64"
    return f"the result is not valid JSON: {str(error)[:200]}"
