"""The rows of the table of values: values that come out exactly, and values that are refused."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

from raftflow.domain.limits import INTEGER_DIGITS_MAX

BOM = b"\xef\xbb\xbf"
NAN, INF = math.nan, math.inf
MISSING = object()
"""A format, or Python, has no such value."""


@dataclass(frozen=True)
class Kind:
    """A kind of value."""

    name: str
    value: Any
    json: Any
    toml: Any
    yaml: Any
    refused: tuple[str, ...] = ()
    """Words of which one is told; none if the value is exact."""
    inner: str = ""
    """Path inside of the value."""


def toml_of(value: Any) -> Any:
    """Return a value as TOML, which has no null."""
    if value is None:
        return MISSING
    if isinstance(value, list | dict):
        parts = [toml_of(each) for each in (value.values() if isinstance(value, dict) else value)]
        if MISSING in parts:
            return MISSING
        if isinstance(value, list):
            return f"[{', '.join(parts)}]"
        return f"{{{', '.join(f'{text_of(key)} = {part}' for key, part in zip(value, parts, strict=True))}}}"
    return text_of(value)


def text_of(value: Any) -> str:
    """Return JSON that is TOML and YAML as well; lists and tables are no TOML."""
    text = json.dumps(value, ensure_ascii=False)
    return "".join(f"\\u{ord(char):04x}" if char in "\ufeff\u2028\u0085\u007f" else char for char in text)


def exact(name: str, value: Any, **texts: Any) -> Kind:
    text = text_of(value)
    return Kind(
        name,
        value,
        *(texts.get(form, default) for form, default in {"json": text, "toml": toml_of(value), "yaml": text}.items()),
    )


def refused(
    name: str, value: Any, json_text: Any, toml: Any, yaml: Any, *words: str, inner: str = "", table: bool = False
) -> Kind:
    """Return a kind that no way takes; `table` if the value is that of the key `x` in a list's second place."""
    if table:
        inner = f"[1].x{inner}"
        value = value if value is MISSING else [True, {"x": value}]
        json_text = json_text if json_text is MISSING else f'[true, {{"x": {json_text}}}]'
        toml = toml if toml is MISSING else f"[true, {{ x = {toml} }}]"
        yaml = yaml if yaml is MISSING else f"[true, {{x: {yaml}}}]"
        name += "-inside"
    return Kind(name, value, json_text, toml, yaml, words, inner)


NINES = 10**INTEGER_DIGITS_MAX - 1
EXACT = [
    *(
        exact(f"integer-{name}", value)
        for name, value in {
            "0": 0,
            "minus-1": -1,
            "2**31": 2**31,
            "2**53": 2**53,
            "2**53+1": 2**53 + 1,
            "minus-2**53-1": -(2**53) - 1,
            "2**63-1": 2**63 - 1,
            "2**63": 2**63,
            "minus-2**63": -(2**63),
            "minus-2**63-1": -(2**63) - 1,
            "2**64-1": 2**64 - 1,
            "2**64": 2**64,
            "2**64+1": 2**64 + 1,
            "30-digits": 123456789012345678901234567890,
            "10**400": 10**400,
            "640-digits": NINES,
            "minus-640-digits": -NINES,
            "in-a-table": {"n": [2**70, -(2**70)]},
        }.items()
    ),
    *(
        exact(f"float-{name}", value)
        for name, value in {
            "0": 0.0,
            "minus-0": -0.0,
            "1": 1.0,
            "tenth": 0.1,
            "sum": 0.1 + 0.2,
            "1e16": 1e16,
            "1e22": 1e22,
            "1e23": 1e23,
            "2**64": float(2**64),
            "least": 5e-324,
            "most": 1.7976931348623157e308,
            "beside-a-long-integer": [1e22, 2**64],
        }.items()
    ),
    *(
        exact(f"text-{name}", value)
        for name, value in {
            "empty": "",
            "plain": "a",
            "latin": "\xe9\xfc",
            "chinese": "\u5de5\u4f5c\u6d41",
            "emoji": "\U0001f600",
            "combining": "e\u0301",
            "bom": "\ufeffa",
            "nul": "a\0b",
            "controls": "\x01\x1f\x7f\t\r\n",
            "lines": "a\u2028b\u0085",
            "quotes": "\"'\\/",
            "yes": "yes",
            "no": "No",
            "null": "null",
            "tilde": "~",
            "hexadecimal": "0x10",
            "digits": "1_000",
            "float": "1e3",
            "date": "2024-01-01",
            "nan": "NaN",
            "spaces": "  a  ",
            "colon": "a: b",
            "comment": "a # b",
            "long-number": "1" * 700,
            "placeholder": "${a.result}",
        }.items()
    ),
    *(
        exact(name, value)
        for name, value in {
            "true": True,
            "false": False,
            "null": None,
            "list": [],
            "table": {},
            "lists": [[], [[1, 1.0, "1", True]]],
            "tables": {"a": {"a": {"A": 1}}},
            "odd-keys": {"": 1, "a b": 2, "a.b": 3, "\u5de5": 4, "1": 5, "__proto__": 6},
            "deep": json.loads("[" * 60 + "]" * 60),
        }.items()
    ),
]

LONG_WORDS = (f"{INTEGER_DIGITS_MAX} digits",)
FINITE_WORDS = ("finite", "too large for floating point")
TWICE_WORDS = ("the key is there twice", "a key twice")
SURROGATE_WORDS = ("lone surrogate", "Unicode scalar value", "Unicode character escape code")
DIGITS = {"641": "1" * 641, "4301": "1" * 4_301, "20000": "1" * 20_000}
REFUSED = [
    *(
        refused(
            f"integer-{name}-digits",
            int(digits) if len(digits) < 4_300 else 10 ** (len(digits) - 1),
            digits,
            digits,
            digits,
            *LONG_WORDS,
            table=table,
        )
        for name, digits in DIGITS.items()
        for table in (False, True)
    ),
    refused(
        "integer-minus-641-digits", -(10**640), "-1" + "0" * 640, "-1" + "0" * 640, "-1" + "0" * 640, *LONG_WORDS
    ),
    refused("integer-hexadecimal", MISSING, MISSING, "0x" + "f" * 600, "0x" + "f" * 600, *LONG_WORDS),
    *(
        refused(name, value, *texts, *FINITE_WORDS, table=table)
        for table in (False, True)
        for name, value, texts in (
            ("nan", NAN, ("NaN", "nan", ".nan")),
            ("infinity", INF, ("Infinity", "inf", ".inf")),
            ("minus-infinity", -INF, ("-Infinity", "-inf", "-.INF")),
            ("1e400", MISSING, ("1e400", "1e400", "1e400")),
            ("-1e400", MISSING, ("-1e400", "-1e400", "-1e400")),
        )
    ),
    *(
        refused(name, value, *texts, *SURROGATE_WORDS, table=table)
        for table in (False, True)
        for name, value, texts in (
            ("surrogate", "\ud800", (r'"\ud800"',) * 3),
            ("surrogate-low", "a\udcff", (r'"a\udcff"',) * 3),
        )
    ),
    refused(
        "surrogate-in-a-key", {"\udc00": 1}, r'{"\udc00": 1}', r'{"\udc00" = 1}', r'{"\udc00": 1}', *SURROGATE_WORDS
    ),
    *(
        refused(
            "twice",
            MISSING,
            '{"a": 1, "a": 2}',
            "{a = 1, a = 2}",
            "{a: 1, a: 2}",
            *TWICE_WORDS,
            inner=".a",
            table=table,
        )
        for table in (False, True)
    ),
    refused(
        "twice-escaped",
        MISSING,
        r'{"a": 1, "\u0061": 1}',
        r'{"a" = 1, "\u0061" = 1}',
        r'{"a": 1, "\u0061": 1}',
        *TWICE_WORDS,
        inner=".a",
    ),
    refused("too-deep", json.loads("[" * 70 + "]" * 70), *("[" * 70 + "]" * 70,) * 3, "levels"),
    *(
        refused(f"python-{type(value).__name__}", value, MISSING, MISSING, MISSING, "not a JSON value", table=table)
        for value in ({1}, b"x", 1j, range(2))
        for table in (False, True)
    ),
    refused("python-integer-key", {1: 2}, MISSING, MISSING, MISSING, "is not a string"),
]
