"""JSON of any shape from somebody who is not trusted: bounded in depth, and read."""

from __future__ import annotations

import re
from typing import Any

import msgspec

DEPTH_MAX = 64
"""Brackets within brackets."""

_TOKENS = re.compile(rb'"(?:[^"\\]|\\.)*"|[\[{]|[\]}]', re.DOTALL)


class JsonError(ValueError):
    """Bytes that are no JSON, or nested too deeply. Says what is wrong."""


def check_depth(data: bytes) -> None:
    """Refuse JSON that is nested too deeply to be walked safely. Takes time proportional to its size."""
    if data.count(b"[") + data.count(b"{") <= DEPTH_MAX:
        return
    depth = 0
    for match in _TOKENS.finditer(data):
        first = data[match.start()]
        if first in b"[{":
            depth += 1
            if depth > DEPTH_MAX:
                raise JsonError(f"the JSON is nested more than {DEPTH_MAX} levels deep")
        elif first in b"]}":
            depth -= 1


def decode_json(data: bytes) -> Any:
    """Read JSON of any shape. Raises `JsonError`."""
    check_depth(data)
    try:
        return msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise JsonError(f"the body is not JSON: {str(error)[:500]}") from None
