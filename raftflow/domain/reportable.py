"""What an agent may report: one set of rules, for the leader's door and for the agent when an attempt ends.

The types of the contract bound numbers, texts and counts. What they cannot say stands here: what a task's result may
be. It is JSON as every part of the cluster reads it alike: UTF-8, at most `JSON_DEPTH_MAX` levels deep, whole numbers
within 64 bits, other numbers within a double, text without lone surrogates.

An agent that says more than that is refused, and would only be refused again. So `judge_end` makes a failed attempt
of a success whose result breaks a rule, before anybody is told of it.

This module is imported by every python worker: it imports little.
"""

from __future__ import annotations

import dataclasses
import enum
import math
import re
from typing import TYPE_CHECKING, Any

import msgspec

from raftflow.domain import limits

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from raftflow.domain.contract import ReportedEnd

_INTEGER_LEAST, _INTEGER_MOST = -(2**63), 2**64 - 1
"""What signed or unsigned 64 bits hold: libraries turn larger ones into floating point without a word."""
_NUMBER_MAX = limits.USAGE_NUMBER_MAX
_LONG_NUMBER = re.compile(rb"[0-9]{19}")
_PATH_CHARS_MAX = 120
_KEY_CHARS_MAX = 40
_NULL = b"null"
_RAW_NULL = msgspec.Raw(_NULL)

_decode = msgspec.json.Decoder().decode


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
        value = _decode(result)
    except RecursionError:
        return _too_deep("")
    except msgspec.ValidationError:  # of no type: so it can only be a number
        return _number_out_of_range(result)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        return _not_json(result, error)
    if is_too_deep(result, value):
        return _too_deep(_path(value, _never, depth_max=limits.JSON_DEPTH_MAX - 1) or "")
    if _LONG_NUMBER.search(result) and (where := _path(value, _is_long)):
        return f"the result has a whole number beyond 64 bits at {where}: return it as text, or as a float"
    return None


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
    else:
        end.result = _RAW_NULL
    if end.error:
        end.error = told_text(end.error)
    # Nearly always within their range, and this runs once an attempt.
    if not 0 <= end.duration_ms <= _NUMBER_MAX:
        end.duration_ms = told_number(end.duration_ms)
    if not 0 <= end.cpu_ms <= _NUMBER_MAX:
        end.cpu_ms = told_number(end.cpu_ms)
    if not 0 <= end.peak_mib <= _NUMBER_MAX:
        end.peak_mib = told_number(end.peak_mib)


def told_text(text: str, chars_max: int = limits.ERROR_CHARS_MAX) -> str:
    """Return a text that every encoder takes, cut to a length. Lone surrogates are escaped."""
    if len(text) > chars_max:
        text = text[: chars_max - 3] + "..."
    if not text.isascii():
        safe = text.encode(errors="backslashreplace").decode()
        text = safe if len(safe) <= chars_max else safe[: chars_max - 3] + "..."
    return text


def told_number(number: int) -> int:
    """Return a number of a report within its range."""
    return min(max(number, 0), limits.USAGE_NUMBER_MAX)


def not_finite_fault(value: Any) -> str | None:
    """Say where a result that is a Python value has a number that JSON has not, None if it has none.

    The encoder writes `null` in its place without a word. Of instances of dataclasses the fields count, of an
    enumeration's members their values, as for the encoder.
    """
    where = _path(value, _is_not_finite)
    return None if where is None else _not_finite(where)


def is_too_deep(text: bytes, value: Any) -> bool:
    """Tell whether JSON, which reads as `value`, is nested deeper than allowed."""
    # Most texts have too few brackets for that, and a value has fewer parts than its text has characters.
    if text.count(b"[") + text.count(b"{") <= limits.JSON_DEPTH_MAX:
        return False
    level = [value]
    for _ in range(limits.JSON_DEPTH_MAX + 1):
        level = [whole for whole in level if type(whole) is dict or type(whole) is list]
        if not level:
            return False
        level = [part for whole in level for part in (whole.values() if type(whole) is dict else whole)]
    return True


def _too_deep(where: str) -> str:
    place = f", at {where}" if where else ""
    return (
        f"the result is nested more than {limits.JSON_DEPTH_MAX} levels deep{place}: "
        "return a flatter value, or its JSON as text"
    )


def _not_finite(where: str) -> str:
    return (
        f"the result has a number that is not finite (NaN or infinity) at {where}, which JSON has not: "
        "return null or text"
    )


def _number_out_of_range(text: bytes) -> str:
    where = _path(_read_leniently(text), _is_out_of_range)
    place = f" at {where}" if where else ""
    return f"the result has a number that is too large for floating point{place}: return it as text"


def _not_json(text: bytes, error: Exception) -> str:
    if text.startswith(b"\xef\xbb\xbf"):
        return "the result begins with a byte order mark, which JSON has not: write UTF-8 without it"
    value = _read_leniently(text)
    where = _path(value, _is_not_finite)
    if where is not None:
        return _not_finite(where)
    where = _path(value, _is_lone_surrogate)
    if where is not None:
        return f"the result has a lone surrogate, which is no character, in the text at {where}: return valid Unicode"
    if isinstance(error, UnicodeDecodeError):
        return "the result is no JSON, for it is not UTF-8: encode its text as UTF-8, and other bytes as base64"
    return f"the result is no JSON: {str(error)[:200]}"


def _read_leniently(text: bytes) -> Any:
    """Read JSON as Python's own reader does: NaN, numbers that are too large and lone surrogates pass.

    Returns None if it fails.
    """
    import json  # noqa: PLC0415 - only to explain what is wrong

    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


# --- where in a value


def _path(value: Any, wrong: Callable[[Any], bool], *, depth_max: int = 1 << 30) -> str | None:
    """Return the path of the first part of a value that is wrong, from `result` on; None if there is none."""
    steps = _steps(value, wrong, depth_max)
    if steps is None:
        return None
    text = "".join(["result", *reversed(steps)])
    return text if len(text) <= _PATH_CHARS_MAX else f"{text[:_PATH_CHARS_MAX]}..."


def _steps(value: Any, wrong: Callable[[Any], bool], depth_max: int) -> list[str] | None:
    """Return the steps of a path, last first."""
    if wrong(value) or depth_max < 0:
        return []
    for key, part in _parts(value):
        if type(key) is str and wrong(key):
            return [f".{_shown(key)} (the key)"]
        steps = _steps(part, wrong, depth_max - 1)
        if steps is not None:
            steps.append(f"[{key}]" if type(key) is int else f".{_shown(key)}")
            return steps
    return None


def _shown(key: Any) -> str:
    text = str(key)[:_KEY_CHARS_MAX]
    return text if text.isidentifier() and text.isascii() else ascii(text)


def _parts(value: Any) -> Iterable[tuple[Any, Any]]:
    """Return what a value consists of, as the encoder sees it: whatever a class of its own makes of these methods."""
    if isinstance(value, dict):
        return dict.items(value)
    if isinstance(value, list):
        return enumerate(list.__iter__(value))
    if isinstance(value, tuple):
        return enumerate(tuple.__iter__(value))
    if isinstance(value, enum.Enum):
        return (("value", value.value),)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _fields(value)
    return ()


def _fields(value: Any) -> Iterator[tuple[str, Any]]:
    for field in dataclasses.fields(value):
        yield field.name, getattr(value, field.name, None)


def _never(_value: Any) -> bool:
    return False


def _is_long(value: Any) -> bool:
    return type(value) is int and not _INTEGER_LEAST <= value <= _INTEGER_MOST


def _is_not_finite(value: Any) -> bool:
    return isinstance(value, float) and not math.isfinite(value)


def _is_out_of_range(value: Any) -> bool:
    return _is_not_finite(value) or _is_long(value)


def _is_lone_surrogate(value: Any) -> bool:
    if type(value) is not str or value.isascii():
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return True
    return False
