"""JSON of any shape from somebody who is not trusted: bounded in depth, and read."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from raftflow.domain.limits import JSON_DEPTH_MAX as DEPTH_MAX
from raftflow.domain.reportable import is_too_deep

_TOO_DEEP = f"the JSON is nested more than {DEPTH_MAX} levels deep"
_TOKENS = re.compile(rb'"(?:[^"\\]|\\.)*"|[\[{]|[\]}]', re.DOTALL)


class JsonError(ValueError):
    """Bytes that are no JSON, or nested too deeply. Says what is wrong."""


def _is_flat(data: bytes) -> bool:
    """Tell whether there are too few brackets for being nested too deeply."""
    return data.count(b"[") + data.count(b"{") <= DEPTH_MAX


def check_depth(data: bytes) -> None:
    """Refuse JSON that is nested too deeply to be walked safely. Takes time proportional to its size."""
    if _is_flat(data):
        return
    depth = 0
    for match in _TOKENS.finditer(data):
        first = data[match.start()]
        if first in b"[{":
            depth += 1
            if depth > DEPTH_MAX:
                raise JsonError(_TOO_DEEP)
        elif first in b"]}":
            depth -= 1


def decode_json(data: bytes) -> Any:
    """Read JSON of any shape. Raises `JsonError`."""
    try:
        value = msgspec.json.decode(data)
    except RecursionError:  # the decoder goes down as far as the interpreter lets it
        raise JsonError(_TOO_DEEP) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise JsonError(f"the body is not JSON: {str(error)[:500]}") from None
    if is_too_deep(data, value):
        raise JsonError(_TOO_DEEP)
    return value
