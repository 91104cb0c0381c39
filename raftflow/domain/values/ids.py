"""Names and ids: what they may look like, and nothing about where they come from.

Ids are made outside the state machine (by the coordinator or a client) and arrive inside commands.
"""

from __future__ import annotations

import re

from raftflow.domain.limits import NAME_CHARS_MAX

NAME_PATTERN = r"^[A-Za-z0-9_][A-Za-z0-9_.:@+-]*$"
"""What a name looks like, in the words of a JSON Schema."""
_NAME = re.compile(NAME_PATTERN)

WORKFLOW_ID_PREFIX = "wf-"


def name_problem(name: str, *, chars_max: int = NAME_CHARS_MAX) -> str | None:
    """Return why `name` cannot name a workflow, task, agent or resource, or None if it can."""
    if not name:
        return "must not be empty"
    if len(name) > chars_max:
        return f"is {len(name)} characters long, the limit is {chars_max}"
    if not _NAME.fullmatch(name):
        return "may hold letters, digits and _ . : @ + - only, and starts with a letter, a digit or _"
    return None
