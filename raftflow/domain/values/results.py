"""Results of tasks, and names of what tasks record."""

from __future__ import annotations

import re
from typing import Final

from raftflow.domain import limits
from raftflow.domain.values.json_text import is_json

STEP_NAME_PATTERN: Final = r"^[^\x00-\x1f\x7f]+$"
"""What the name of a step, signal or child looks like, in the words of a JSON Schema: no control characters."""
_STEP_NAME = re.compile(STEP_NAME_PATTERN)


def result_problem(result: bytes) -> str | None:
    """Say why these bytes cannot be a task's result, or None if they can. Empty bytes stand for no result."""
    if not result:
        return None
    if len(result) > limits.RESULT_BYTES_MAX:
        return (
            f"the result is {len(result)} bytes long, the limit is {limits.RESULT_BYTES_MAX}; "
            "write larger ones to a file and return its path"
        )
    return None if is_json(result) else "the result is not JSON"


def step_name_problem(name: str) -> str | None:
    """Say why this cannot name a step, or None if it can."""
    if not name:
        return "must not be empty"
    if len(name) > limits.NAME_CHARS_MAX:
        return f"is {len(name)} characters long, the limit is {limits.NAME_CHARS_MAX}"
    if not name.isprintable() and not _STEP_NAME.fullmatch(name):
        return "must not have control characters"
    return None
