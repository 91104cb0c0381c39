"""The part of a document that is being read, and what the readers of its keys share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from raftflow.domain.tasks.resources import DEFAULT_DEMAND
from raftflow.formats.faults import DocumentFaults
from raftflow.formats.readers.values import text_bytes

NO_NUL_PATTERN = "^[^\\u0000]*$"
"""JSON Schema pattern of a string that the operating system accepts."""


class DocumentPart:
    """The part of a document that is being read (a task, or the defaults), and what was read before.

    Equal strings and tables are read once and shared, because documents of 100,000 tasks repeat the same values.
    """

    def __init__(self, faults: DocumentFaults) -> None:
        """Begin with the defaults."""
        self.faults = faults
        self.where = "defaults"
        self.plain_resources = dict(DEFAULT_DEMAND)
        self.resources_seen: dict[tuple[Any, ...], dict[str, int]] = {}
        self.durations_seen: dict[str, int] = {}
        self.callables_seen: set[str] = set()

    def fault(self, field: str, message: str, limit: int | None = None) -> None:
        """Note a fault of this part."""
        self.faults.add(f"{self.where}.{field}", message, limit)


Reader = Callable[[DocumentPart, object, dict[str, Any]], None]
"""Reads the value of one key: puts the result into `fields`, or notes a fault of the part."""


def read_strings(part: DocumentPart, field: str, value: object) -> tuple[str, ...] | None:
    """Return a list of strings as a tuple, or None after noting its fault."""
    if not isinstance(value, list):
        hint = f': write {field} = ["..."]' if isinstance(value, str) else ""
        part.fault(field, f"must be a list of strings{hint}")
        return None
    for place, item in enumerate(value):
        if type(item) is not str:
            part.fault(f"{field}[{place}]", "must be a string: quote it")
            return None
    return tuple(value)


def clean_bytes(part: DocumentPart, field: str, texts: tuple[str, ...]) -> int | None:
    """Return the size of strings that the operating system accepts, or None after noting a fault."""
    size = 0
    for place, text in enumerate(texts):
        count = text_bytes(text)
        if (count < 0 or "\0" in text) and not is_clean(part, f"{field}[{place}]", text):
            return None
        size += count
    return size


def is_clean(part: DocumentPart, field: str, text: str) -> bool:
    """Tell whether the operating system accepts a string; note a fault if it does not."""
    if "\0" in text:
        part.fault(field, "must not contain a NUL character")
    elif text_bytes(text) < 0:
        part.fault(field, "is not valid Unicode (a lone surrogate)")
    else:
        return True
    return False
