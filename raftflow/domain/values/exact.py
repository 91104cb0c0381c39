"""What a value is: one set of rules for documents, arguments, results and the bodies of requests.

A value is what JSON can say and every part of the cluster reads alike:

- a whole number of at most `INTEGER_DIGITS_MAX` digits, which stays exact;
- another number that is finite, as a double;
- a text of Unicode characters: a lone surrogate is none;
- true, false and null;
- a list or a table of values, at most `JSON_DEPTH_MAX` levels deep. A key of a table is a text and is there once.

Anything else is refused with its path, and never changed into something that is a value.

`read_json` reads what strangers wrote. `decode_json` is several times as fast, for what was checked before.
`write_json` writes a Python object, `find_fault` says what is wrong with one and where.

This module is imported by every python worker: it imports little.
"""

from __future__ import annotations

import dataclasses
import enum
import json
import math
import re
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Any, Final

import msgspec
import orjson

from raftflow.domain.limits import INTEGER_DIGITS_MAX, JSON_DEPTH_MAX

LONG_INTEGER: Final = f"a whole number has at most {INTEGER_DIGITS_MAX} digits: write a longer one as text"
NOT_FINITE: Final = "must be a finite number, not NaN or infinity"
LONE_SURROGATE: Final = "is not valid Unicode (a lone surrogate)"
TOO_DEEP: Final = f"is nested more than {JSON_DEPTH_MAX} levels deep"
TWICE: Final = "the key is there twice"

_INTEGER_MAX = 10**INTEGER_DIGITS_MAX - 1
_LONG_DIGITS = re.compile(rf"([0-9](?:_?[0-9]){{{INTEGER_DIGITS_MAX}}})(?:_?[0-9])+")
_WHOLES = frozenset((dict, list))
_ENDS_OF_KEYS = (b'":', b" :", b"\t:", b"\r:", b"\n:")
_PATH_CHARS_MAX = 120
_HEAD_BYTES = 256
"""Where blanks show that JSON was written by another program than ours."""
_KEY_CHARS_MAX = 40

Judge = Callable[[Any], str | None]
"""Says what is wrong with a part of a value, its own parts aside; None if nothing is."""

UNREADABLE: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What the decoders of msgspec raise for bytes that are not what they read: each of them, for hostile bytes."""

decode_json = msgspec.json.Decoder().decode
"""Read JSON that was checked before, exactly."""
_write_plain = msgspec.json.Encoder().encode


class ValueFault(ValueError):  # noqa: N818 - a fault, as everywhere here
    """Something is not a value. `path` says where, empty for the whole of it."""

    def __init__(self, path: str, message: str) -> None:
        """Keep both; the text of the error has them."""
        self.path = path
        self.message = message
        super().__init__(f"{path}: {message}" if path else message)


# --- reading and writing


def read_json(data: bytes) -> Any:
    """Read JSON from somebody who is not trusted. A byte order mark before it is passed over.

    Raises `ValueFault` for what is not JSON, is nested too deeply, or has a key twice, NaN, infinity, or a whole
    number with more digits than Python converts. What it returns may still have faults that `find_fault` finds: whole
    numbers that are too long, numbers too large for a double, lone surrogates.
    """
    value = None if b'": ' in data[:_HEAD_BYTES] else _as_sent(data)
    return _read_with_care(data) if value is None else value


def _as_sent(data: bytes) -> Any:
    """Return the value of JSON that reads back byte for byte, as all that our clients send does; None for other JSON.

    Such JSON has no key twice and no number that was changed, and this takes a fifth of the time.
    """
    try:
        value = decode_json(data)
        return value if _write_plain(value) == data and not is_too_deep(data, value) else None
    except (msgspec.MsgspecError, RecursionError, ValueError, OverflowError):
        return None


def _read_with_care(data: bytes) -> Any:
    text = _decoded(data)
    twice: list[_Twice] = []
    odd: list[str] = []

    def table(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        whole = dict(pairs)
        if len(whole) == len(pairs):
            return whole
        marked = _Twice(pairs)
        twice.append(marked)
        return marked

    def constant(name: str) -> float:
        odd.append(name)
        return float(name)

    try:
        value = json.loads(text, object_pairs_hook=table, parse_constant=constant)
    except json.JSONDecodeError as error:
        raise ValueFault("", f"line {error.lineno}, column {error.colno}: {error.msg}") from None
    except RecursionError:
        raise ValueFault("", f"the JSON {TOO_DEEP}") from None
    except ValueError:
        raise long_integer(text, json.loads) from None
    if is_too_deep(data, value):
        raise _first(value, _judge_nothing).fault()
    if twice:  # what lies in the first of two equal keys is gone, but then the table of the two is found
        table_of_two = _first(value, _judge_twice)
        raise ValueFault(as_path((*table_of_two.steps, table_of_two.part.key)), TWICE)
    if odd:
        raise _first(value, judge_finite).fault()
    return value


def long_integer(text: str, read: Callable[[str], Any]) -> ValueFault:
    """Return what is wrong with a text that `read` cannot read, for a number has more digits than Python converts."""
    try:
        value = read(_LONG_DIGITS.sub(r"\1", text))  # one digit more than allowed is left
    except (ValueError, RecursionError):  # something else is wrong, too
        return ValueFault("", LONG_INTEGER)
    found = search(value, judge_integer)
    return ValueFault("", LONG_INTEGER) if found is None else found.fault()


def write_json(value: Any) -> bytes:
    """Return a Python object as JSON. Raises `ValueFault` if it is not a value, or holds something that is not.

    Some types are written as the values that they represent: tuples, dataclasses, members of enumerations, dates and
    times, UUIDs.
    """
    try:
        data = orjson.dumps(value)
    except (TypeError, RecursionError) as error:
        fault = find_fault(value)
        if fault is not None:
            raise fault from None
        try:
            return orjson.dumps(_with_long_integers(value))
        except TypeError:
            raise ValueFault("", f"cannot be written as JSON: {error}") from None
    if b"null" in data:  # this is what the encoder writes for a number that is not finite
        found = search(value, judge_finite)
        if found is not None:
            raise found.fault()
    return data


def _with_long_integers(value: Any) -> Any:
    """Return a value with the text of every whole number that the encoder does not take in its place."""
    if isinstance(value, int) and not -(2**63) <= value < 2**64:
        return orjson.Fragment(int.__repr__(value))
    if isinstance(value, dict):
        return {key: _with_long_integers(part) for key, part in dict.items(value)}
    if isinstance(value, list | tuple):
        return [_with_long_integers(part) for _, part in parts_of(value)]
    if isinstance(value, enum.Enum):
        return _with_long_integers(value.value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {name: _with_long_integers(part) for name, part in parts_of(value)}
    return value


def _decoded(data: bytes) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        try:
            return data.decode("utf-8-sig", "surrogatepass")  # whose place can be told later
        except UnicodeDecodeError:
            line = data.count(b"\n", 0, error.start) + 1
            raise ValueFault("", f"line {line}: not UTF-8") from None


def twice_fault(data: bytes, value: Any) -> ValueFault | None:
    """Return the fault of a key that JSON has twice, None if it has none. `value` is what was read from it."""
    # A key ends with a quote and a colon, perhaps with white space between. Nearly always there are as many places
    # like that as keys; in the rest a text looks like it.
    most = sum(map(data.count, _ENDS_OF_KEYS)) if b":" in data else 0
    if most <= 1 or most == _count_keys(value):
        return None
    try:
        read_json(data)
    except ValueFault as fault:
        return fault
    return None


def _count_keys(value: Any) -> int:
    if type(value) is dict:
        return len(value) + sum(_count_keys(part) for part in value.values() if type(part) in _WHOLES)
    return sum(_count_keys(part) for part in value if type(part) in _WHOLES) if type(value) is list else 0


def is_too_deep(text: bytes, value: Any) -> bool:
    """Tell whether JSON, which reads as `value`, is nested deeper than allowed."""
    # Most texts have too few brackets for that, and a value has fewer parts than its text has characters.
    if text.count(b"[") + text.count(b"{") <= JSON_DEPTH_MAX:
        return False
    level = [value]
    for _ in range(JSON_DEPTH_MAX + 1):
        level = [whole for whole in level if isinstance(whole, dict | list)]
        if not level:
            return False
        level = [part for whole in level for part in (whole.values() if isinstance(whole, dict) else whole)]
    return True


class _Twice(dict[str, Any]):
    """A table that had a key twice when it was read."""

    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        super().__init__(pairs)
        names = [key for key, _ in pairs]
        self.key = next(key for place, key in enumerate(names) if key in names[:place])


# --- judging


def find_fault(value: Any) -> ValueFault | None:
    """Return what is wrong with a Python object as a value, and where; the first fault. None if nothing is."""
    found = search(value, judge)
    return None if found is None else found.fault()


def judge(part: Any) -> str | None:
    """Say what is wrong with a part of a value, its own parts aside; None if nothing is."""
    if isinstance(part, str):
        return judge_text(part)
    if isinstance(part, int):
        return judge_integer(part)
    if isinstance(part, float):
        return judge_finite(part)
    if part is None or isinstance(part, dict | list | tuple | enum.Enum) or dataclasses.is_dataclass(part):
        return None
    try:
        orjson.dumps(part)
    except TypeError:
        name = type.__dict__["__name__"].__get__(type(part))  # whatever its class says
        return f"is not a JSON value (its type is {name})"
    return None


def judge_text(part: Any) -> str | None:
    """Say what is wrong with a string; None if nothing is, or if it is not a string."""
    if not isinstance(part, str) or part.isascii():
        return None
    try:
        part.encode()
    except UnicodeEncodeError:
        return LONE_SURROGATE
    return None


def judge_integer(part: Any) -> str | None:
    """Say what is wrong with a whole number; None also for all that is none."""
    return LONG_INTEGER if isinstance(part, int) and not -_INTEGER_MAX <= part <= _INTEGER_MAX else None


def judge_finite(part: Any) -> str | None:
    """Say what is wrong with a floating-point number; None also for all that is none."""
    return NOT_FINITE if isinstance(part, float) and not math.isfinite(part) else None


def _judge_nothing(_part: Any) -> str | None:
    return None


def _judge_twice(part: Any) -> str | None:
    return TWICE if type(part) is _Twice else None


# --- where in a value


@dataclasses.dataclass(frozen=True, slots=True)
class InvalidPart:
    """A part of a value that is wrong."""

    steps: tuple[int | str, ...]
    """To it, from the whole on."""
    part: Any
    wrong: str

    def fault(self) -> ValueFault:
        """Return it as an error."""
        return ValueFault(as_path(self.steps), self.wrong)


def _first(value: Any, judge_part: Judge) -> InvalidPart:
    """Search what is known to be there."""
    found = search(value, judge_part)
    assert found is not None  # noqa: S101 - see above
    return found


def search(value: Any, judge_part: Judge) -> InvalidPart | None:
    """Return the first part of a value that is judged wrong; None without one.

    Keys are judged as well: those of other types than text are wrong. So is what is nested too deeply.
    """
    wrong = judge_part(value)
    if wrong is not None:
        return InvalidPart((), value, wrong)
    steps: list[int | str] = []
    levels: list[tuple[bool, Iterator[tuple[Any, Any]]]] = [(isinstance(value, dict), iter(parts_of(value)))]
    while levels:
        table, parts = levels[-1]
        for key, part in parts:
            if table:
                wrong = judge_part(key) if isinstance(key, str) else "is not a string"
                if wrong is not None:
                    return InvalidPart((*steps, _Key(shown_key(key))), key, wrong)
            wrong = judge_part(part)
            if wrong is None and len(levels) >= JSON_DEPTH_MAX and isinstance(part, dict | list | tuple):
                wrong = TOO_DEEP
            if wrong is not None:
                return InvalidPart((*steps, key), part, wrong)
            inner = parts_of(part)
            if inner:
                steps.append(key)
                levels.append((isinstance(part, dict), iter(inner)))
                break
        else:
            levels.pop()
            if steps:
                steps.pop()
    return None


def as_path(steps: Iterable[int | str], root: str = "") -> str:
    """Return steps as users know them, `tasks[0].args`; too long a path is cut."""
    texts = []
    for step in steps:
        if isinstance(step, int):
            texts.append(f"[{step}]")
        elif isinstance(step, _Key):
            texts.append(f".{step} (the key)")
        else:
            texts.append(f".{shown_key(step)}")
    text = f"{root}{''.join(texts)}".removeprefix(".")
    return text if len(text) <= _PATH_CHARS_MAX else f"{text[:_PATH_CHARS_MAX]}..."


def shown_key(key: Any) -> str:
    """Return a key for a path: short, and quoted if it is not a plain name."""
    text = str(key)[:_KEY_CHARS_MAX]
    return text if text.isidentifier() and text.isascii() else ascii(text)


def parts_of(value: Any) -> Collection[tuple[Any, Any]]:
    """Return what a value consists of, as the encoder sees it: whatever a class of its own makes of these methods."""
    if isinstance(value, dict):
        return dict.items(value)
    if isinstance(value, list):
        return tuple(enumerate(list.__iter__(value)))
    if isinstance(value, tuple):
        return tuple(enumerate(tuple.__iter__(value)))
    if isinstance(value, enum.Enum):
        return (("value", value.value),)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        slim = "__slots__" in type(value).__dict__
        names = [field.name for field in dataclasses.fields(value)] if slim else list(vars(value))
        return tuple((name, getattr(value, name, None)) for name in names if not name.startswith("_"))
    return ()


class _Key(str):
    """A step to a key itself, as it is shown, instead of to what it leads to."""

    __slots__ = ()
