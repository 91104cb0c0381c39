"""Workflow files: TOML, YAML, JSON and WfFormat, read into the document that the API takes."""

from __future__ import annotations

import datetime as dt
import tomllib
from pathlib import Path
from typing import Any

from raftflow.domain.values import ValueFault, read_json
from raftflow.formats import wfformat
from raftflow.formats.wfformat import Conversion

FILE_BYTES_MAX = 256 * 1024 * 1024

FORMATS = ("toml", "yaml", "json", "wfformat")
_BY_SUFFIX = {".toml": "toml", ".yaml": "yaml", ".yml": "yaml", ".json": "json"}


class FormatError(ValueError):
    """A file that cannot be read as a document. The message begins with the file and, where known, the line."""


def load(path: Path | str, format_name: str | None = None, conversion: Conversion | None = None) -> dict[str, Any]:
    """Read a workflow file and return its document, ready for `normalize` or for the API.

    The format is `format_name`, else the one that the name's ending says; a WfFormat file is found by its content.
    `conversion` scales WfFormat files and is refused with any other. Raises `FormatError`, for a WfFormat file with
    faults `DocumentError`, and `OSError` if the file cannot be read.
    """
    path = Path(path)
    chosen = format_name or _BY_SUFFIX.get(path.suffix.lower())
    if chosen is None:
        raise FormatError(f"{path}: what is in it? Say --format {'|'.join(FORMATS)}")
    with path.open("rb") as file:
        data = file.read(FILE_BYTES_MAX + 1)
    if len(data) > FILE_BYTES_MAX:
        raise FormatError(f"{path}: larger than {FILE_BYTES_MAX // 1024**2} MiB")
    return loads(data, chosen, source=str(path), conversion=conversion)


def loads(
    data: bytes, format_name: str, *, source: str = "document", conversion: Conversion | None = None
) -> dict[str, Any]:
    """Read a document from bytes in one of `FORMATS`; see `load`."""
    if format_name not in FORMATS:
        raise FormatError(f"{source}: no format is called {format_name!r}: {', '.join(FORMATS)}")
    document = _parse(data, "json" if format_name == "wfformat" else format_name, source)
    if not isinstance(document, dict):
        raise FormatError(f"{source}: a workflow document is a table with `name` and `tasks`")
    if format_name == "wfformat" or wfformat.looks_like(document):
        return wfformat.convert(document, conversion or Conversion())
    if conversion is not None and conversion != Conversion():
        raise FormatError(f"{source}: only WfFormat files can be scaled; tasks of this one take what they take")
    return document


def _parse(data: bytes, format_name: str, source: str) -> Any:
    if format_name == "json":
        try:
            return read_json(data)
        except ValueFault as fault:
            raise FormatError(f"{source}: {fault}") from None
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise FormatError(f"{source}: line {line}: not UTF-8") from None
    if format_name == "toml":
        try:
            return _without_dates(tomllib.loads(text))
        except ValueError as error:  # besides TOMLDecodeError, numbers of more digits than Python converts
            raise FormatError(f"{source}: {error}") from None
        except RecursionError:
            raise FormatError(f"{source}: nested too deeply") from None
    from raftflow.formats.yamldoc import YamlError, parse_yaml  # noqa: PLC0415 - only YAML files pay for the parser

    try:
        return parse_yaml(text)
    except YamlError as error:
        raise FormatError(f"{source}: {error}") from None


def _without_dates(value: Any) -> Any:
    """Replace dates and times, which only TOML has, by their ISO 8601 texts. The depth is the parser's."""
    if isinstance(value, dict):
        return {key: _without_dates(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_without_dates(each) for each in value]
    if isinstance(value, dt.date | dt.time):
        return value.isoformat()
    return value
