"""Workflow files: TOML, YAML, JSON and WfFormat, read into the document that the API takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from raftflow.domain.values.exact import ValueFault, read_json
from raftflow.formats.foreign import other_systems, wfformat
from raftflow.formats.foreign.wfformat import Conversion
from raftflow.formats.readers.tomldoc import TomlError, parse_toml
from raftflow.formats.recognise import UnknownFormatError, recognise

FILE_BYTES_MAX = 256 * 1024 * 1024

FORMATS = ("toml", "yaml", "json", "wfformat")
_BY_SUFFIX = {".toml": "toml", ".yaml": "yaml", ".yml": "yaml", ".json": "json"}


class FormatError(ValueError):
    """A file that cannot be read as a document. The message begins with the file and, where known, the line."""


def load(path: Path | str, format_name: str | None = None, conversion: Conversion | None = None) -> dict[str, Any]:
    """Read a workflow file and return its document, ready for `normalize` or for the API.

    The format is `format_name`, else the one that the name's ending says, else what the content looks like; a
    WfFormat file is found by its content.
    `conversion` scales WfFormat files and is refused with any other. Raises `FormatError`, `DocumentError` for a
    WfFormat file with faults and for environment variables that must be quoted, and `OSError`.
    """
    path = Path(path)
    return loads(read(path), format_name or format_of(path), source=str(path), conversion=conversion)


def format_of(path: Path) -> str | None:
    """Return the format that a file's name says, None if it says none."""
    return _BY_SUFFIX.get(path.suffix.lower())


def read(path: Path) -> bytes:
    """Return a file's content. Raises `FormatError` if it is too large, `OSError` if it cannot be read."""
    with path.open("rb") as file:
        data = file.read(FILE_BYTES_MAX + 1)
    if len(data) > FILE_BYTES_MAX:
        raise FormatError(f"{path}: larger than {FILE_BYTES_MAX // 1024**2} MiB")
    return data


def loads(
    data: bytes, format_name: str | None, *, source: str = "document", conversion: Conversion | None = None
) -> dict[str, Any]:
    """Read a document from bytes in one of `FORMATS`, or in the one that they look like; see `load`."""
    if format_name is None:
        format_name = recognised(data, source)
    if format_name not in FORMATS:
        raise FormatError(f"{source}: no format is called {format_name!r}: {', '.join(FORMATS)}")
    try:
        document = _parse(data, "json" if format_name == "wfformat" else format_name, source)
    except FormatError as error:
        raise FormatError(f"{error}{_other_format(data, format_name)}") from None
    if not isinstance(document, dict):
        _other_format(data, format_name)
        raise FormatError(f"{source}: a workflow document is a table with `name` and `tasks`")
    other_systems.refuse(other_systems.kind_of(document))
    if format_name == "wfformat" or wfformat.looks_like(document):
        return wfformat.convert(document, conversion or Conversion())
    if conversion is not None and conversion != Conversion():
        raise FormatError(f"{source}: only WfFormat files can be scaled; tasks of this one take what they take")
    return document


def recognised(data: bytes, source: str = "document") -> str:
    """Return the format that a content looks like. Raises `FormatError`, and `DocumentError` as `load`."""
    try:
        return recognise(data)
    except UnknownFormatError as error:
        raise FormatError(f"{source} {error}; --format says what it is: {', '.join(FORMATS)}") from None


def _other_format(data: bytes, format_name: str) -> str:
    """Say if a content looks like another format than it was read as. Raises `DocumentError` as `load`."""
    try:
        found = recognise(data)
    except UnknownFormatError:
        return ""
    fits = found == format_name or (found, format_name) in {("json", "wfformat"), ("json", "yaml")}
    return "" if fits else f" (it looks like {found.upper()}: --format {found} reads it so)"


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
            return parse_toml(text)
        except TomlError as error:
            raise FormatError(f"{source}: {error}") from None
    from raftflow.formats.readers.yamldoc import YamlError, parse_yaml  # noqa: PLC0415 - only YAML files pay for the parser

    try:
        return parse_yaml(text)
    except YamlError as error:
        raise FormatError(f"{source}: {error}") from None
