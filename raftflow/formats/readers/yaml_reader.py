"""YAML for documents: the values of JSON with less punctuation, in bounded time and memory.

It uses the events of PyYAML's parser instead of its loader, because the loader lacks some checks. Here duplicate keys
are refused. The depth is bounded (the C loader recurses until the process dies). Aliases count with everything that
they stand for. Plain scalars follow the core schema of YAML 1.2 (`yes`, `on`, `1:30` and dates stay strings). Merge
keys (`<<`) work. Every error has its line.
"""

from __future__ import annotations

import math
import re
from typing import Any

import yaml
from yaml import events

from raftflow.domain.values.exact import LONG_INTEGER, TWICE, as_path
from raftflow.formats.literals import IntegerLiteral, plain_values

DEPTH_MAX = 100
NODES_MAX = 5_000_000
"""Values in a document; those behind an alias count each time."""

_CORE_PREFIX = "tag:yaml.org,2002:"
_NULL = frozenset({"", "~", "null", "Null", "NULL"})
_TRUE = frozenset({"true", "True", "TRUE"})
_FALSE = frozenset({"false", "False", "FALSE"})
_INT = re.compile(r"[-+]?[0-9]+")
_OTHER_INT = re.compile(r"0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_INFINITE = re.compile(r"([-+]?)\.(?:inf|Inf|INF)")
_NAN = frozenset({".nan", ".NaN", ".NAN"})


class YamlError(ValueError):
    """The text is not a valid document. `line` counts from 1."""

    def __init__(self, line: int, message: str) -> None:
        """Keep the line; the text begins with it."""
        self.line = line
        super().__init__(f"line {line}: {message}")


class _LongIntegerError(Exception):
    """A whole number has more digits than Python converts."""


class _OpenNode:
    """A list or table that is not complete yet."""

    __slots__ = ("anchor", "items", "key", "line", "merges", "nodes_before", "table")

    def __init__(self, table: bool, anchor: str | None, line: int, nodes_before: int) -> None:  # noqa: FBT001 - a node kind
        self.items: Any = {} if table else []
        self.table = table
        self.anchor = anchor
        self.line = line
        self.key: str | None = None
        self.merges: list[dict[str, Any]] = []
        self.nodes_before = nodes_before


def parse_yaml(text: str) -> Any:
    """Return the value of a YAML text of one document. Raises `YamlError`, and `DocumentError` as `plain_values`."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        builder = _NodeBuilder()
        value = builder.build(yaml.parse(text, Loader=loader))
        return plain_values(value) if builder.unusual else value
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = mark.line + 1 if mark is not None else 1
        raise YamlError(line, getattr(error, "problem", None) or str(error).splitlines()[0]) from None


class _NodeBuilder:
    """Turns the parser's events into values, with an explicit stack."""

    def __init__(self) -> None:
        self.stack: list[_OpenNode] = []
        self.anchors: dict[str, tuple[Any, int]] = {}
        self.nodes = 0
        self.root: Any = None
        self.documents = 0
        self.unusual = False
        """Whether there are values of type `IntegerLiteral`."""

    def build(self, stream: Any) -> Any:
        for event in stream:
            kind = type(event)
            if kind is events.ScalarEvent:
                self.scalar(event)
            elif kind is events.MappingStartEvent or kind is events.SequenceStartEvent:
                self.open(event, table=kind is events.MappingStartEvent)
            elif kind is events.MappingEndEvent or kind is events.SequenceEndEvent:
                self.close()
            elif kind is events.AliasEvent:
                self.alias(event)
            elif kind is events.DocumentStartEvent:
                self.documents += 1
                if self.documents > 1:
                    raise YamlError(_line(event), "a second document begins here; a file must have one")
        return self.root

    def scalar(self, event: Any) -> None:
        expects_key = bool(self.stack) and self.stack[-1].table and self.stack[-1].key is None
        # Every key is a string, as in JSON.
        try:
            value = event.value if expects_key else _scalar_value(event)
        except _LongIntegerError:
            raise YamlError(_line(event), f"{self.path()}: {LONG_INTEGER}") from None
        self.unusual = self.unusual or type(value) is IntegerLiteral
        self.count(1, event)
        if event.anchor is not None:
            self.anchors[event.anchor] = (value, 1)
        self.put(value, event, plain_key=event.implicit[0])

    def open(self, event: Any, *, table: bool) -> None:
        if event.tag is not None and event.tag != _CORE_PREFIX + ("map" if table else "seq"):
            raise YamlError(_line(event), f"the tag {event.tag[:80]!r} is not supported")
        if self.stack and self.stack[-1].table and self.stack[-1].key is None:
            raise YamlError(_line(event), "a key must be a string")
        if len(self.stack) >= DEPTH_MAX:
            raise YamlError(_line(event), f"nested deeper than {DEPTH_MAX} levels")
        self.stack.append(_OpenNode(table, event.anchor, _line(event), self.nodes))
        self.count(1, event)

    def close(self) -> None:
        done = self.stack.pop()
        value = done.items
        for merged in done.merges:
            # The keys of the table itself win, then those of the first merged table.
            for key, each in merged.items():
                value.setdefault(key, each)
        if done.anchor is not None:
            self.anchors[done.anchor] = (value, self.nodes - done.nodes_before)
        self.put(value, None)

    def alias(self, event: Any) -> None:
        if event.anchor not in self.anchors:
            raise YamlError(_line(event), f"the alias *{event.anchor[:80]} has no complete anchor before it")
        value, nodes = self.anchors[event.anchor]
        self.count(nodes, event)
        if self.stack and self.stack[-1].table and self.stack[-1].key is None and not isinstance(value, str):
            raise YamlError(_line(event), "a key must be a string")
        self.put(value, event)

    def path(self, *steps: str) -> str:
        """Return the path of the value that comes next, or of a key of it."""
        open_steps = (len(top.items) if not top.table else top.key for top in self.stack)
        return as_path((*(step for step in open_steps if step is not None), *steps))

    def count(self, nodes: int, event: Any) -> None:
        self.nodes += nodes
        if self.nodes > NODES_MAX:
            raise YamlError(_line(event), f"more than {NODES_MAX} values, aliases counted with what they stand for")

    def put(self, value: Any, event: Any, *, plain_key: bool = False) -> None:
        """Store a complete value: as the root, in a list, as a key, or as the value of that key."""
        if not self.stack:
            self.root = value
            return
        top = self.stack[-1]
        if not top.table:
            top.items.append(value)
        elif top.key is None:
            if value == "<<" and plain_key:
                top.key = _MERGE
            elif value in top.items:
                raise YamlError(_line(event), f"{self.path(value)}: {TWICE}")
            else:
                top.key = value
        elif top.key is _MERGE:
            self.merge(top, value)
            top.key = None
        else:
            top.items[top.key] = value
            top.key = None

    def merge(self, top: _OpenNode, value: Any) -> None:
        tables = value if isinstance(value, list) else [value]
        for table in tables:
            if not isinstance(table, dict):
                raise YamlError(top.line, "`<<` merges a table or a list of tables")
            self.nodes += len(table)
            top.merges.append(table)


_MERGE = "\0merge"
"""The key of a merge. It is unique, because YAML text cannot contain a NUL."""


def _line(event: Any) -> int:
    return int(event.start_mark.line) + 1


def _scalar_value(event: Any) -> Any:
    """Return the value of a scalar: by its tag, a string if it is quoted, otherwise by the core schema."""
    text: str = event.value
    tag: str | None = event.tag
    if tag is None:
        return _plain_value(text) if event.implicit[0] else text
    if tag in ("!", _CORE_PREFIX + "str"):
        return text
    value = _plain_value(text)
    expected = {"int": int, "bool": bool, "null": type(None)}.get(tag.removeprefix(_CORE_PREFIX))
    if tag == _CORE_PREFIX + "float" and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if expected is None:
        raise YamlError(_line(event), f"the tag {tag[:80]!r} is not supported")
    if not isinstance(value, expected) or (expected is int and isinstance(value, bool)):
        raise YamlError(_line(event), f"{text[:80]!r} does not fit its tag")
    return value


def _plain_value(text: str) -> Any:
    if text in _NULL:
        return None
    if text in _TRUE:
        return True
    if text in _FALSE:
        return False
    if _INT.fullmatch(text):
        try:
            number = int(text)
        except ValueError:  # more digits than Python converts
            raise _LongIntegerError from None
        return number if str(number) == text else IntegerLiteral(number, text)
    if _OTHER_INT.fullmatch(text):
        return IntegerLiteral(int(text[2:], 8 if text[1] == "o" else 16), text)
    if _FLOAT.fullmatch(text):
        return float(text)
    infinite = _INFINITE.fullmatch(text)
    if infinite:
        return -math.inf if infinite[1] == "-" else math.inf
    return math.nan if text in _NAN else text
