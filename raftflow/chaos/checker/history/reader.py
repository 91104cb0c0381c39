"""Reads a history: JSON lines, one at a time, in the order of their times.

Several threads write a history, so lines may be a little out of order. The reader holds `REORDER_LINES` lines back to
put them in order. A line that is older than that makes the history unreadable.
"""

from __future__ import annotations

import heapq
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn

if TYPE_CHECKING:
    from collections.abc import Iterator

REORDER_LINES: Final = 4_096
LINE_BYTES_MAX: Final = 512 * 1024 * 1024
VERSION: Final = 1
_COMPLETIONS: Final = frozenset({"ok", "fail", "unknown"})

HistoryLine = dict[str, Any]


class UnreadableHistoryError(Exception):
    """The history cannot be judged: a line is garbled, or says something that the format does not allow."""


class CutHistoryError(UnreadableHistoryError):
    """The history ends too early; what comes before can be judged."""


def fail(why: str) -> NoReturn:
    """Refuse a line."""
    raise UnreadableHistoryError(why)


def text(line: HistoryLine, key: str) -> str:
    """Return a string of a line."""
    value = line.get(key)
    return value if isinstance(value, str) else fail(f"{key!r} must be a string, got {value!r:.80}")


def number(line: HistoryLine, key: str) -> float:
    """Return a finite number of a line."""
    value = line.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        fail(f"{key!r} must be a finite number, got {value!r:.80}")
    return float(value)


def integer(line: HistoryLine, key: str) -> int:
    """Return an integer of a line."""
    value = line.get(key)
    if isinstance(value, bool) or not isinstance(value, int):
        fail(f"{key!r} must be an integer, got {value!r:.80}")
    return value


def optional_integer(line: HistoryLine, key: str) -> int | None:
    """Return an integer of a line, None if it is absent or null."""
    return None if line.get(key) is None else integer(line, key)


def optional_text(line: HistoryLine, key: str) -> str | None:
    """Return a string of a line, None if it is absent or null."""
    return None if line.get(key) is None else text(line, key)


def table(line: HistoryLine, key: str) -> HistoryLine:
    """Return an object of a line; an absent one is empty."""
    value = line.get(key)
    if value is None:
        return {}
    return value if isinstance(value, dict) else fail(f"{key!r} must be an object, got {value!r:.80}")


def items(line: HistoryLine, key: str) -> list[Any]:
    """Return a list of a line; an absent one is empty."""
    value = line.get(key)
    if value is None:
        return []
    return value if isinstance(value, list) else fail(f"{key!r} must be a list, got {value!r:.80}")


def read_history(path: Path) -> Iterator[HistoryLine]:
    """Yield the lines of a history in the order of their times, the header first.

    An operation that begins at the moment at which another one completes comes first: the two count as concurrent.

    Raises:
        UnreadableHistoryError: a line is not valid, or the file cannot be read.
        CutHistoryError: the file ends early. Everything before was yielded.
    """
    lines = _parsed(path)
    header = next(lines, None)
    if header is None:
        fail("the history is empty")
    if header.get("type") != "header" or header.get("version") != VERSION:
        fail(f"line 1: must be a header of version {VERSION}")
    yield header
    cut: CutHistoryError | None = None
    held: list[tuple[float, int, int, HistoryLine]] = []
    newest = -math.inf
    last_type = ""
    try:
        for count, line in enumerate(lines, 2):
            last_type = line["type"]
            heapq.heappush(held, (line["t"], line["type"] in _COMPLETIONS, count, line))
            if len(held) > REORDER_LINES:
                newest = _checked(newest, held[0])
                yield heapq.heappop(held)[3]
    except CutHistoryError as error:
        cut = error
    while held:
        newest = _checked(newest, held[0])
        yield heapq.heappop(held)[3]
    if cut is not None:
        raise cut
    if last_type != "end":
        raise CutHistoryError("the history has no line 'end': it was cut off")


def _checked(newest: float, first: tuple[float, int, int, HistoryLine]) -> float:
    if first[0] < newest:
        fail(f"line {first[2]}: its time {first[0]} is before that of lines far above it")
    return first[0]


def _parsed(path: Path) -> Iterator[HistoryLine]:
    try:
        with path.open("rb") as file:
            for count, raw in enumerate(iter(lambda: file.readline(LINE_BYTES_MAX), b""), 1):
                try:
                    yield _line(raw)
                except (ValueError, RecursionError) as error:
                    if not raw.endswith(b"\n") and len(raw) < LINE_BYTES_MAX:
                        raise CutHistoryError(f"line {count}: the history was cut off in it") from error
                    fail(f"line {count}: is not valid JSON: {error}")
                except UnreadableHistoryError as error:
                    fail(f"line {count}: {error}")
    except OSError as error:
        fail(f"cannot read {path}: {error.strerror or error}")


def _line(raw: bytes) -> HistoryLine:
    line = json.loads(raw, parse_constant=_no_constant)
    if not isinstance(line, dict):
        fail(f"must be a JSON object, got {line!r:.80}")
    text(line, "type")
    line["t"] = number(line, "t")
    return line


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number")
