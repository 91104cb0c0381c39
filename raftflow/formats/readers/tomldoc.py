"""TOML for documents: the standard library's parser, with paths of what it refuses, and how numbers were written."""

from __future__ import annotations

import re
import tomllib
from typing import Any

from raftflow.domain.values.exact import TWICE, as_path, long_integer, search
from raftflow.formats.written import Written, settle

_ODD = r"(?:\+[0-9][0-9_]*|-?[0-9]+(?:_[0-9]+)+|-0|0x[0-9A-Fa-f_]+|0o[0-7_]+|0b[01_]+)(?![\w.:+-])"
_ODD_VALUE = re.compile(rf"=[ \t]*{_ODD}")
_TOKEN = re.compile(
    r'"""(?:\\.|[^\\])*?"""+'
    r"|'''.*?'''+"
    r'|"(?:\\.|[^"\\\n])*"'
    r"|'[^'\n]*'"
    r"|#[^\n]*"
    rf"|(?P<before>=[ \t]*)(?P<number>{_ODD})",
    re.DOTALL,
)
"""Texts and comments, so that what they hold is passed over, and values that are whole numbers written otherwise."""
_LINE = re.compile(r"at line ([0-9]+)")
_TWICE = re.compile(r"Cannot (?:overwrite|declare|redefine|mutate)|Duplicate")
_PATH_CHARS_MAX = 1 << 18
"""Of longer documents the path of a key that is there twice is not looked for: the line is told."""
_STATEMENT_LINES_MAX = 20
_KEY = re.compile(r"\s*([^=\[\]#\n]{1,200}?)\s*=")
_INLINE = re.compile(r"inline table key '([^']*)'")


class TomlError(ValueError):
    """No document that this reader takes. Says where."""


def parse_toml(text: str) -> dict[str, Any]:
    """Return the table of a TOML text. Raises `TomlError`, and `DocumentError` as `settle` does."""
    try:
        table = _parse(text)
    except tomllib.TOMLDecodeError:
        pass
    except RecursionError:
        raise TomlError("nested too deeply") from None
    except ValueError:  # more digits than Python converts
        raise TomlError(str(long_integer(text, tomllib.loads))) from None
    else:
        settled: dict[str, Any] = settle(table)
        return settled
    try:
        return tomllib.loads(text)  # for its own line and column
    except tomllib.TOMLDecodeError as error:
        path = _path_of_twice(text, str(error)) if _TWICE.search(str(error)) else None
        raise TomlError(f"{path}: {TWICE}: {error}" if path else str(error)) from None


def _parse(text: str) -> dict[str, Any]:
    """Parse, with floating-point numbers in place of whole ones that are written otherwise: it shows their texts."""
    if not _ODD_VALUE.search(text):
        return tomllib.loads(text)
    mark = "0e0"
    while mark in text:
        mark += "0"
    numbers: list[str] = []

    def put(found: re.Match[str]) -> str:
        number = found["number"]
        if number is None:
            return found[0]
        numbers.append(number)
        return f"{found['before']}{mark}{len(numbers)}"

    def read(number: str) -> float | Written:
        if not number.startswith(mark):
            return float(number)
        written = numbers[int(number[len(mark) :]) - 1]
        return Written(int(written, 0 if written[:2] in ("0x", "0o", "0b") else 10), written)

    return tomllib.loads(_TOKEN.sub(put, text), parse_float=read)


def _names(key: str) -> list[str]:
    """Return the names of a dotted key, or of a quoted one."""
    return [key.strip("\"'")] if key[:1] in "\"'" else [name.strip() for name in key.split(".")]


def _path_of_twice(text: str, message: str) -> str | None:
    """Return the path of the key that is there twice: what stands before its statement says in which table it is."""
    if len(text) > _PATH_CHARS_MAX:
        return None
    lines = text.splitlines(keepends=True)
    found = _LINE.search(message)
    end = min(int(found[1]), len(lines)) if found else len(lines)
    here = "here"
    while here in text:
        here += "-"
    for begin in range(end - 1, max(-1, end - 1 - _STATEMENT_LINES_MAX), -1):
        try:
            before = tomllib.loads(f"{''.join(lines[:begin])}\n{here} = 0\n")
        except ValueError:
            continue  # the statement, or another one before it, is not complete
        table = search(before, lambda part: here if part == here else None)
        statement = "".join(lines[begin:end])
        if table is None or statement.lstrip().startswith("["):
            return statement.strip().strip("[]").strip() or None
        key = _KEY.match(statement)
        inner = _INLINE.search(message)
        names = [*table.steps[:-1], *(_names(key[1]) if key else []), *([inner[1]] if inner else [])]
        return as_path(names)
    return None
