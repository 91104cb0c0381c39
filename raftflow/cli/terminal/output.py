"""Printing: JSON for programs, aligned columns for people. Results go to standard output, all else to standard error.

Tables fit the terminal, or `COLUMNS` where that is set; into a pipe or a file nothing is cut. Times in tables are
relative and texts are on one line; `-o json` has everything as it is.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from raftflow.cli.terminal.streams import OutputError, can_show, echo, flush, is_terminal, is_utf8, safe, tell

__all__ = ["echo", "note", "plain", "print_items", "print_json", "print_one", "print_table", "show", "with_ages"]

_GAP = "  "
_MIN_WIDTH = 8
"""Characters that a column keeps when the terminal is narrow; where even that does not fit, rows become blocks."""
_TIME = re.compile(r"\b(\d{4}-\d\d-\d\d)T(\d\d:\d\d)(:\d\d)(?:\.\d{1,9})?Z")
_TRACEBACK = "Traceback (most recent call last)"
_BLANKS = re.compile(r"\s+")

_EXACT_MAX = 2**53
"""Below it every whole number is a floating-point number."""


def plain(value: Any) -> Any:
    """Turn contract types into what JSON knows."""
    import msgspec  # noqa: PLC0415 - as below

    return msgspec.to_builtins(value)


def print_json(value: Any, *, indent: bool = True) -> None:
    """Print one JSON value in UTF-8; where the output has another character set, in ASCII with JSON's escapes."""
    text = _json(plain(value), indent=indent)
    if not is_utf8(text):
        text = "".join(char if char.isascii() else _json_escaped(char) for char in text)
    echo(text)


def _json(value: Any, *, indent: bool) -> str:
    import orjson  # noqa: PLC0415 - only the commands that print pay for it

    try:
        return orjson.dumps(value, option=orjson.OPT_INDENT_2 if indent else 0).decode()
    except (TypeError, RecursionError):  # whole numbers beyond 64 bits, lone surrogates
        import json  # noqa: PLC0415 - for the rare case

        separators = None if indent else (",", ":")
        digits = sys.get_int_max_str_digits()
        sys.set_int_max_str_digits(0)  # what has come through the network is bounded already
        try:
            return json.dumps(
                value, indent=2 if indent else None, separators=separators, ensure_ascii=False, default=str
            )
        finally:
            sys.set_int_max_str_digits(digits)


def _json_escaped(char: str) -> str:
    units = char.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[place] << 8 | units[place + 1]:04x}" for place in range(0, len(units), 2))


def print_items(output: str, items: Iterable[Any], columns: Mapping[str, str]) -> None:
    """Print a listing. `columns` are the table's: title to key, which may go deeper (`tasks.total`)."""
    if output == "jsonl":
        for item in items:
            print_json(item, indent=False)
        return
    rows = [plain(item) for item in items]
    if output == "json":
        print_json(rows)
    else:
        print_table(list(columns), [[_look_up(row, key) for key in columns.values()] for row in rows])


def print_one(output: str, item: Any) -> None:
    """Print one thing: JSON, or a line for each of its keys."""
    value = plain(item)
    if output != "table":
        print_json(value, indent=output == "json")
        return
    width = max((len(key) for key in value), default=0)
    for key, each in value.items():
        if each in (None, "", [], {}):
            continue
        text = show(each)
        if isinstance(each, str) and _TIME.fullmatch(each):
            text = with_ages(text)
        echo(f"{key:<{width}}{_GAP}{text}")


def print_table(titles: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print columns; on a terminal, cells are cut to fit, and a line on standard error says so.

    The first column names the row and is never cut.
    """
    cells = [[_cell(value) for value in row] for row in rows]
    widths = [max(_width(row[number]) for row in [list(titles), *cells]) for number in range(len(titles))]
    room = _room()
    if room is None or sum(widths) + len(_GAP) * (len(widths) - 1) <= room:
        _print_lines([list(titles), *cells], widths)
        return
    fitted = _fit(widths, room, [len(title) for title in titles])
    if fitted is None:
        cut = _print_blocks(titles, cells, room)
    else:
        cut = any(_width(text) > width for row in cells for text, width in zip(row, fitted, strict=True))
        shortened = [
            [_cut(text, width) for text, width in zip(row, fitted, strict=True)] for row in [list(titles), *cells]
        ]
        _print_lines(shortened, fitted)
    if cut:
        note("(cut to the width of the terminal; -o json, or a pipe, has it all)")


def _print_lines(lines: list[list[str]], widths: Sequence[int]) -> None:
    for line in lines:
        text = _GAP.join(cell + " " * (width - _width(cell)) for cell, width in zip(line, widths, strict=True))
        echo(text.rstrip())


def _print_blocks(titles: Sequence[str], rows: list[list[str]], room: int) -> bool:
    """Print each row as lines of title and value, for a terminal too narrow for columns. Return if any was cut."""
    cut = False
    for number, row in enumerate(rows):
        if number:
            echo()
        for place, (title, text) in enumerate(zip(titles, row, strict=True)):
            if text == "-" and place:
                continue
            space = max(room - len(title) - 1, 1)
            if place and _width(text) > space:
                text, cut = _cut(text, space), True  # noqa: PLW2901 - as it is printed
            echo(f"{title} {text}" if title else text)
    return cut


def _fit(widths: Sequence[int], room: int, titles: Sequence[int]) -> list[int] | None:
    """Return widths that fit, taken from the widest columns but the first, or None if they cannot."""
    least = [widths[0], *(min(w, max(_MIN_WIDTH, t)) for w, t in zip(widths[1:], titles[1:], strict=True))]
    gaps = len(_GAP) * (len(widths) - 1)
    if sum(least) + gaps > room:
        return None
    # The widest columns are lowered to one common width, which leaves the narrow ones whole.
    low, high = 0, max(widths)
    while low < high:
        middle = (low + high + 1) // 2
        if sum(_capped(widths, least, middle)) + gaps <= room:
            low = middle
        else:
            high = middle - 1
    fitted = _capped(widths, least, low)
    spare = room - gaps - sum(fitted)
    for number in range(1, len(fitted)):
        more = min(spare, widths[number] - fitted[number])
        fitted[number] += more
        spare -= more
    return fitted


def _capped(widths: Sequence[int], least: Sequence[int], cap: int) -> list[int]:
    return [max(floor, min(width, cap)) for width, floor in zip(widths, least, strict=True)]


def _cut(text: str, width: int) -> str:
    """Return a text of at most this width, with dots in place of what is missing."""
    if _width(text) <= width:
        return text
    dots = "…" if can_show("…") else "..."
    space = width - len(dots)
    if text.isascii():
        return text[: max(space, 0)] + dots[:width]
    kept, used = [], 0
    for char in text:
        used += _width(char)
        if used > space:
            break
        kept.append(char)
    return "".join(kept) + dots[:width]


def _width(text: str) -> int:
    """Return the columns that a text takes on a terminal."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len  # noqa: PLC0415 - for the rare case

    return cell_len(text)


def _room() -> int | None:
    """Return the width that a table has: COLUMNS, else the terminal's, None to cut nothing."""
    told = os.environ.get("COLUMNS", "")
    if told.isdecimal() and int(told) > 0:
        return int(told)
    if not is_terminal(sys.stdout):
        return None
    try:
        return os.get_terminal_size(sys.stdout.fileno()).columns or 80
    except (OSError, ValueError):
        return 80


def show(value: Any) -> str:
    """Return a value's text: on one line, without characters that would steer a terminal."""
    return _BLANKS.sub(" ", safe(_text(value))) if isinstance(value, str | dict | list) else _text(value)


def _text(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        return " ".join(f"{key}={_text(each)}" for key, each in value.items())
    if isinstance(value, list):
        return ", ".join(_text(each) for each in value)
    if isinstance(value, float) and value.is_integer() and abs(value) < _EXACT_MAX:
        return str(int(value))
    if isinstance(value, int) and value.bit_length() > 10_000:
        return f"a whole number of {value.bit_length()} bits"
    return str(value)


def _cell(value: Any) -> str:
    """Return a value as a table shows it: times by their distance, tracebacks by their last line."""
    if isinstance(value, str):
        if _TIME.fullmatch(value):
            return _age(value)
        if _TRACEBACK in value:
            lines = [line for line in value.splitlines() if line.strip()]
            return show(lines[-1])
    return show(value)


def with_ages(text: str) -> str:
    """Return a text with how far each time in it is away."""
    return _TIME.sub(lambda found: f"{found[0]} ({_age(found[0])})", text)


def _age(moment: str) -> str:
    """Return a time as `12s ago` or `in 3m`; one more than a month away as its date."""
    import datetime as dt  # noqa: PLC0415 - only tables of times pay for it

    try:
        then_s = dt.datetime.fromisoformat(moment).timestamp()
    except ValueError:
        return moment
    distance_s = time.time() - then_s
    whole_s = round(abs(distance_s))
    if whole_s >= 30 * 86_400:
        return moment[:10]
    if whole_s == 0:
        return "now"
    length = _length(whole_s)
    return f"{length} ago" if distance_s > 0 else f"in {length}"


def _length(seconds: int) -> str:
    minutes, hours, days = seconds // 60, seconds // 3600, seconds // 86_400
    if seconds < 60:
        return f"{seconds}s"
    if minutes < 10:
        return f"{minutes}m{seconds % 60:02d}s"
    if hours < 1:
        return f"{minutes}m"
    if hours < 48:
        return f"{hours}h{minutes % 60:02d}m"
    return f"{days}d"


def note(text: str) -> None:
    """Print a line for a person to standard error, after everything that was printed before."""
    with contextlib.suppress(OutputError):  # it is raised again at the end
        flush()
    tell(text)


def _look_up(row: Any, key: str) -> Any:
    for part in key.split("."):
        row = row.get(part) if isinstance(row, dict) else None
    return row
