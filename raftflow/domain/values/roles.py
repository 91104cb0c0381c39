"""Roles of identities, and which agents an identity may be."""

from __future__ import annotations

import re
from typing import Final, Literal

from raftflow.domain.limits import NAME_CHARS_MAX

Role = Literal["read", "submit", "approve", "operate", "admin", "agent"]
ROLES: Final[tuple[Role, ...]] = ("read", "submit", "approve", "operate", "admin", "agent")

AGENT_NAMES_PATTERN: Final = r"^[A-Za-z0-9_][A-Za-z0-9_.:@+-]*\*?$"
"""The name of an agent, or how the names of several begin, with a `*` at the end; in the words of a JSON Schema."""
_AGENT_NAMES = re.compile(AGENT_NAMES_PATTERN)


def agent_names_problem(pattern: str) -> str | None:
    """Return why a text does not tell which agents an identity may be, or None if it does."""
    if len(pattern) > NAME_CHARS_MAX:
        return f"is {len(pattern)} characters long, the limit is {NAME_CHARS_MAX}"
    if not _AGENT_NAMES.fullmatch(pattern):
        return "must be the name of an agent, or how names begin with a * at its end, such as gpu-*"
    return None


def fits_agent(pattern: str, name: str) -> bool:
    """Tell whether an identity with this pattern may be the agent `name`. An empty pattern allows every name."""
    if not pattern:
        return True
    return name.startswith(pattern[:-1]) if pattern.endswith("*") else name == pattern
