"""Workflow files in TOML, YAML, JSON and WfFormat: read into the document that the API accepts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from raftflow.domain.values.exact import ValueFault, read_json
from raftflow.formats.detection import UnknownFormatError, detect_format
from raftflow.formats.foreign import other_systems, wfformat
from raftflow.formats.foreign.wfformat import Conversion
from raftflow.formats.readers.toml_reader import TomlError, parse_toml

FILE_BYTES_MAX = 256 * 1024 * 1024

FORMATS = ("toml", "yaml", "json", "wfformat")
_BY_SUFFIX = {".toml": "toml", ".yaml": "yaml", ".yml": "yaml", ".json": "json"}


class FormatError(ValueError):
    """A file that cannot be read as a document. The message begins with the file and, where known, the line."""


def load(path: Path | str, format_name: str | None = None, conversion: Conversion | None = None) -> dict[str, Any]:
    """Read a workflow file and return its document, ready for `normalize` or for the API.

    The format is `format_name`, otherwise the one of the file name's suffix, otherwise it is detected. A WfFormat
    file is detected by its content. `conversion` scales WfFormat files and is refused with any other. Raises
    `FormatError`, `DocumentError` for a WfFormat file with faults and for environment variables that must be quoted,
    and `OSError`.
    """
    path = Path(path)
    return loads(read(path), format_name or format_of(path), source=str(path), conversion=conversion)


def format_of(path: Path) -> str | None:
    """Return the format of a file name's suffix, None if it has no known one."""
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
    """Read a document from bytes in one of `FORMATS`, or in the detected one; see `load`."""
    if format_name is None:
        format_name = detected_format(data, source)
    if format_name not in FORMATS:
        raise FormatError(f"{source}: unknown format {format_name!r}: use one of {', '.join(FORMATS)}")
    try:
        document = _parse(data, "json" if format_name == "wfformat" else format_name, source)
    except FormatError as error:
        raise FormatError(f"{error}{_other_format(data, format_name)}") from None
    if not isinstance(document, dict):
        _other_format(data, format_name)
        raise FormatError(f"{source}: a workflow document must be a table with `name` and `tasks`")
    other_systems.refuse(other_systems.kind_of(document))
    if format_name == "wfformat" or wfformat.looks_like(document):
        return wfformat.convert(document, conversion or Conversion())
    if conversion is not None and conversion != Conversion():
        raise FormatError(f"{source}: only WfFormat files can be scaled")
    return document


def detected_format(data: bytes, source: str = "document") -> str:
    """Detect the format of a content. Raises `FormatError`, and `DocumentError` as `load`."""
    try:
        return detect_format(data)
    except UnknownFormatError as error:
        raise FormatError(f"{source} {error}; give the format with --format: {', '.join(FORMATS)}") from None


def _other_format(data: bytes, format_name: str) -> str:
    """Say that a content looks like another format. Raises `DocumentError` as `load`."""
    try:
        found = detect_format(data)
    except UnknownFormatError:
        return ""
    fits = found == format_name or (found, format_name) in {("json", "wfformat"), ("json", "yaml")}
    return "" if fits else f" (it looks like {found.upper()}: try --format {found})"


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
    from raftflow.formats.readers.yaml_reader import YamlError, parse_yaml  # noqa: PLC0415 - only YAML files pay for the parser

    try:
        return parse_yaml(text)
    except YamlError as error:
        raise FormatError(f"{source}: {error}") from None
