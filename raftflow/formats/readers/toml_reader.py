"""TOML for documents: the standard library's parser, with the paths of faults and the texts of numbers."""

from __future__ import annotations

import re
import tomllib
from typing import Any

from raftflow.domain.values.exact import TWICE, as_path, long_integer, search
from raftflow.formats.literals import IntegerLiteral, plain_values

_UNUSUAL = r"(?:\+[0-9][0-9_]*|-?[0-9]+(?:_[0-9]+)+|-0|0x[0-9A-Fa-f_]+|0o[0-7_]+|0b[01_]+)(?![\w.:+-])"
_UNUSUAL_VALUE = re.compile(rf"=[ \t]*{_UNUSUAL}")
_TOKEN = re.compile(
    r'"""(?:\\.|[^\\])*?"""+'
    r"|'''.*?'''+"
    r'|"(?:\\.|[^"\\\n])*"'
    r"|'[^'\n]*'"
    r"|#[^\n]*"
    rf"|(?P<before>=[ \t]*)(?P<number>{_UNUSUAL})",
    re.DOTALL,
)
"""Strings and comments, which are skipped, and whole numbers whose text differs from their decimal digits."""
_LINE = re.compile(r"at line ([0-9]+)")
_DUPLICATE = re.compile(r"Cannot (?:overwrite|declare|redefine|mutate)|Duplicate")
_PATH_CHARS_MAX = 1 << 18
"""For longer documents a duplicate key is reported with its line only, without its path."""
_STATEMENT_LINES_MAX = 20
_KEY = re.compile(r"\s*([^=\[\]#\n]{1,200}?)\s*=")
_INLINE = re.compile(r"inline table key '([^']*)'")


class TomlError(ValueError):
    """The text is not a valid document. The message says where."""


def parse_toml(text: str) -> dict[str, Any]:
    """Return the table of a TOML text. Raises `TomlError`, and `DocumentError` as `plain_values` does."""
    try:
        table = _parse(text)
    except tomllib.TOMLDecodeError:
        pass
    except RecursionError:
        raise TomlError("nested too deeply") from None
    except ValueError:  # more digits than Python converts
        raise TomlError(str(long_integer(text, tomllib.loads))) from None
    else:
        try:
            settled: dict[str, Any] = plain_values(table)
        except RecursionError:
            raise TomlError("nested too deeply") from None
        return settled
    try:
        return tomllib.loads(text)  # for its own line and column
    except tomllib.TOMLDecodeError as error:
        path = _path_of_duplicate(text, str(error)) if _DUPLICATE.search(str(error)) else None
        raise TomlError(f"{path}: {TWICE}: {error}" if path else str(error)) from None


def _parse(text: str) -> dict[str, Any]:
    """Parse, with floating-point numbers instead of unusual whole ones: `parse_float` gets the text of those only."""
    if not _UNUSUAL_VALUE.search(text):
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

    def read(number: str) -> float | IntegerLiteral:
        if not number.startswith(mark):
            return float(number)
        written = numbers[int(number[len(mark) :]) - 1]
        return IntegerLiteral(int(written, 0 if written[:2] in ("0x", "0o", "0b") else 10), written)

    return tomllib.loads(_TOKEN.sub(put, text), parse_float=read)


def _names(key: str) -> list[str]:
    """Return the names of a dotted key, or of a quoted one."""
    return [key.strip("\"'")] if key[:1] in "\"'" else [name.strip() for name in key.split(".")]


def _path_of_duplicate(text: str, message: str) -> str | None:
    """Return the path of a duplicate key. The text before its statement says in which table it is."""
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
