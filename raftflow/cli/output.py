"""Printing: JSON for programs, plain aligned columns for people. Results go to standard output, all else to error."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import click


def plain(value: Any) -> Any:
    """Turn contract types into what JSON knows."""
    import msgspec  # noqa: PLC0415 - as below

    return msgspec.to_builtins(value)


def print_json(value: Any, *, indent: bool = True) -> None:
    """Print one JSON value."""
    import orjson  # noqa: PLC0415 - only the commands that print pay for it

    click.echo(orjson.dumps(plain(value), option=orjson.OPT_INDENT_2 if indent else 0).decode())


def print_items(output: str, items: Iterable[Any], columns: Mapping[str, str]) -> None:
    """Print a listing. `columns` are the table's: title to key, which may go deeper (`tasks.total`)."""
    rows = [plain(item) for item in items]
    if output == "json":
        print_json(rows)
    elif output == "jsonl":
        for row in rows:
            print_json(row, indent=False)
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
        click.echo(f"{key:<{width}}  {show(each)}")


def print_table(titles: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print columns, each as wide as its widest cell: nothing is cut, so that `grep` finds everything."""
    cells = [[show(cell) for cell in row] for row in rows]
    widths = [max(len(row[number]) for row in [list(titles), *cells]) for number in range(len(titles))]
    for row in [list(titles), *cells]:
        line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        click.echo(line.rstrip())


def show(value: Any) -> str:
    """Return a cell's text: on one line, without characters that would steer a terminal."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        text = " ".join(f"{key}={show(each)}" for key, each in value.items())
    elif isinstance(value, list):
        text = ", ".join(show(each) for each in value)
    elif isinstance(value, float) and value.is_integer():
        text = str(int(value))
    else:
        text = str(value)
    return "".join(char if char.isprintable() else "?" for char in text.replace("\n", " "))


def note(text: str) -> None:
    """Print a line for a person to standard error."""
    click.echo(text, err=True)


def _look_up(row: Any, key: str) -> Any:
    for part in key.split("."):
        row = row.get(part) if isinstance(row, dict) else None
    return row
