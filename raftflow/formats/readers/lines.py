"""The line of each value of a document, for messages about documents that were already read.

The parsers of documents keep no lines, because they are built for speed. When there are faults, the text is read once
more, with just enough grammar to know the path of every value. A path that is not found has the line of the nearest
table or list around it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

CHARS_MAX = 64 * 1024 * 1024
"""Longer texts are not searched."""

_KEY_CHARS = 80
"""Paths in faults show so much of a key (`readers/values.py`)."""
_LAST_STEP = re.compile(r"(?:\.[^.\[\]]*|\[\d+\])$")
_JSON = re.compile(r'"(?:[^"\\]|\\.)*"|[{}\[\],:]|[^\s{}\[\],:"]+|\n', re.DOTALL)
_TOML = re.compile(
    r'#[^\n]*|"""(?:[^\\]|\\.)*?"{3,5}|\'\'\'.*?\'{3,5}|"(?:[^"\\\n]|\\.)*"|\'[^\'\n]*\'|[{}\[\],=]|\n'
    r"|[^\s{}\[\],=\"'#]+",
    re.DOTALL,
)


class _Token(NamedTuple):
    text: str
    line: int


class _OpenContainer:
    """A table or list that is not complete yet."""

    __slots__ = ("index", "is_list", "key", "key_line", "key_open", "path")

    def __init__(self, path: str, is_list: bool) -> None:  # noqa: FBT001 - a kind
        self.path = path
        self.is_list = is_list
        self.index = 0
        self.key = ""
        self.key_line = 0
        self.key_open = not is_list

    def child(self) -> str:
        """Return the path of the value that is being read."""
        return f"{self.path}[{self.index}]" if self.is_list else _under(self.path, self.key[:_KEY_CHARS])


def find_lines(text: str, format_name: str, paths: Iterable[str]) -> dict[str, int]:
    """Return the line, counted from 1, of each path of a fault. Paths that are not found are left out."""
    paths = list(paths)
    if len(text) > CHARS_MAX:
        return {}
    ways = {path: list(_ancestors(path)) for path in paths}
    ancestors = {step for way in ways.values() for step in way}
    left = set(paths) - {""}
    found: dict[str, int] = {}
    for path, line in _places(text, format_name):
        if path in ancestors and path not in found:
            found[path] = line
            left.discard(path)
            if not left:
                break
    near = {path: next((found[step] for step in way if step in found), None) for path, way in ways.items()}
    return {path: line for path, line in near.items() if line is not None}


def _places(text: str, format_name: str) -> Iterator[tuple[str, int]]:
    if format_name == "toml":
        return _in_toml(text)
    return _in_yaml(text) if format_name == "yaml" else _in_json(text)


def _ancestors(path: str) -> Iterator[str]:
    while path:
        yield path
        shorter = _LAST_STEP.sub("", path)
        path = "" if shorter == path else shorter


def _under(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


def _tokens(pattern: re.Pattern[str], text: str) -> Iterator[_Token]:
    line = 1
    for found in pattern.finditer(text):
        token = found[0]
        yield _Token(token, line)
        line += token.count("\n")


def _in_json(text: str) -> Iterator[tuple[str, int]]:
    walk = _PathTracker(":")
    for token in _tokens(_JSON, text):
        if token.text != "\n":
            yield from walk.step(token)


class _PathTracker:
    """Follows the tables and lists of JSON and of TOML values, and yields the path of each value."""

    def __init__(self, separator: str, path: str = "") -> None:
        self.separator = separator
        self.stack: list[_OpenContainer] = []
        self.path = path

    def step(self, token: _Token) -> Iterator[tuple[str, int]]:
        text = token.text
        top = self.stack[-1] if self.stack else None
        if text in ("{", "["):
            path = self.path if top is None else top.child()
            yield path, top.key_line if top is not None and not top.is_list else token.line
            self.stack.append(_OpenContainer(path, text == "["))
        elif text in ("}", "]"):
            if self.stack:
                self.stack.pop()
        elif top is None:
            yield self.path, token.line
        elif text == ",":
            top.index += 1
            top.key, top.key_open = "", not top.is_list
        elif text == self.separator and not top.is_list:
            top.key_open = False
        elif top.key_open:
            top.key_line = token.line if not top.key else top.key_line
            top.key += _unquoted(text)
        else:
            yield top.child(), top.key_line if not top.is_list else token.line


def _unquoted(token: str) -> str:
    if token.startswith('"'):
        try:
            return str(json.loads(token, strict=False))
        except ValueError:
            return token.strip('"')
    return token.strip("'")


def _in_toml(text: str) -> Iterator[tuple[str, int]]:
    table = ""
    counts: dict[str, int] = {}
    statement: list[_Token] = []
    depth = 0
    for token in _tokens(_TOML, text + "\n"):
        if token.text.startswith("#"):
            continue
        if token.text != "\n":
            statement.append(token)
            depth += (token.text in ("[", "{")) - (token.text in ("]", "}"))
            continue
        if depth > 0 or not statement:
            continue
        depth = 0
        if statement[0].text == "[":
            table = _header(statement, counts)
            yield table, statement[0].line
        else:
            yield from _assignment(statement, table)
        statement = []


def _header(statement: list[_Token], counts: dict[str, int]) -> str:
    """Return the path of the table that a header opens."""
    is_list = len(statement) > 1 and statement[1].text == "["
    steps: list[str] = []
    for token in statement:
        if token.text in ("[", "]"):
            continue
        quoted = token.text[0] in "\"'"
        steps += [_unquoted(token.text)] if quoted else [step for step in token.text.split(".") if step]
    path = ""
    for number, step in enumerate(steps):
        path = _under(path, step[:_KEY_CHARS])
        if number == len(steps) - 1 and is_list:
            counts[path] = counts.get(path, -1) + 1
        if path in counts:
            path = f"{path}[{counts[path]}]"
    return path


def _assignment(statement: list[_Token], table: str) -> Iterator[tuple[str, int]]:
    names = [token.text for token in statement]
    if "=" not in names:
        return
    split = names.index("=")
    key = "".join(_unquoted(token.text) for token in statement[:split])
    path = _under(table, key[:_KEY_CHARS])
    yield path, statement[0].line
    walk = _PathTracker("=", path)
    for token in statement[split + 1 :]:
        yield from walk.step(token)


def _in_yaml(text: str) -> Iterator[tuple[str, int]]:
    import yaml  # noqa: PLC0415 - only YAML documents with faults pay for the parser

    stack: list[_OpenContainer] = []
    try:
        for event in yaml.parse(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
            line = 1 if event.start_mark is None else event.start_mark.line + 1
            top = stack[-1] if stack else None
            if isinstance(event, yaml.ScalarEvent) and top is not None and top.key_open:
                top.key, top.key_line, top.key_open = event.value, line, False
                continue
            opens = isinstance(event, yaml.MappingStartEvent | yaml.SequenceStartEvent)
            if opens or isinstance(event, yaml.ScalarEvent | yaml.AliasEvent):
                path = "" if top is None else top.child()
                yield path, top.key_line if top is not None and not top.is_list else line
                if opens:
                    stack.append(_OpenContainer(path, isinstance(event, yaml.SequenceStartEvent)))
                    continue
            elif isinstance(event, yaml.MappingEndEvent | yaml.SequenceEndEvent):
                stack.pop()
            else:
                continue
            if stack:  # a value is complete
                stack[-1].index += 1
                stack[-1].key_open = not stack[-1].is_list
    except yaml.YAMLError:
        return
