"""JSON of any shape from somebody who is not trusted: bounded in depth, and read."""

from __future__ import annotations

from typing import Any

import msgspec

from raftflow.domain.limits import JSON_DEPTH_MAX as DEPTH_MAX
from raftflow.domain.reportable import is_too_deep

_TOO_DEEP = f"the JSON is nested more than {DEPTH_MAX} levels deep"


class JsonError(ValueError):
    """Bytes that are no JSON, or nested too deeply. Says what is wrong."""


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
