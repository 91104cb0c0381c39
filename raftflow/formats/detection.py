"""Detect the format of a text by its first meaningful line, for input without a file name that says it."""

from __future__ import annotations

import re

from raftflow.formats.foreign.other_systems import kind_of_text, refuse

_SILENT = re.compile(r"\s*(?:[#;].*)?$")
_TOML = re.compile(
    r"""\[\[?\s*[A-Za-z0-9_"'][\w."' -]*\]\]?\s*(?:#.*)?$|(?!nextflow\.)(?:[\w.-]|"[^"]*"|'[^']*')+\s*="""
)
_YAML = re.compile(r"""---|%YAML|- |-$|(?:"[^"]*"\s*|'[^']*'\s*|[\w$][^=:{}\[\]]*):(?:\s|$)""")
_JSON = re.compile(r'(?:\s|#.*\n)*(?:\[|\{\s*["}])')
"""YAML may begin with a brace as well, but the keys of JSON are quoted."""
_SHOWN = 40


class UnknownFormatError(ValueError):
    """The text begins like none of the known formats. The message shows the beginning."""


def detect_format(data: bytes) -> str:
    """Return `json`, `toml` or `yaml`.

    Raises `UnknownFormatError`, and `DocumentError` for a text of another system that is known.
    """
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise UnknownFormatError("is UTF-16; save it as UTF-8")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        if data.startswith((b"\x7fELF", b"#!")):
            refuse(kind_of_text(data[:4].decode("latin-1")))
        raise UnknownFormatError("is not text in UTF-8") from None
    if "\0" in text[:1024]:
        raise UnknownFormatError("is binary data, not text")
    if text.startswith("#!"):
        refuse(kind_of_text(text))
    for line in text.splitlines():
        if _SILENT.match(line):
            continue
        first = line.strip()
        if _TOML.match(first):
            return "toml"
        if first[0] in "{[":
            return "json" if _JSON.match(text) else "yaml"
        if _YAML.match(first):
            return "yaml"
        refuse(kind_of_text(text))
        shown = first[:_SHOWN] + ("..." if len(first) > _SHOWN else "")
        raise UnknownFormatError(f"is not JSON, TOML or YAML: it begins with {shown!r}")
    raise UnknownFormatError("is empty")
