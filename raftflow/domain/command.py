"""What every command carries."""

from __future__ import annotations

import msgspec


class Command(msgspec.Struct, frozen=True, kw_only=True, array_like=True, forbid_unknown_fields=True):
    """What every command carries."""

    at_ms: int
    actor: str
    """Who asked: `client:<name>`, `agent:<name>`, or `leader:<replica>`."""
    request_id: str = ""
    """Idempotency key; a command with one that was seen before gets the first reply and changes nothing.
    Empty where the command is idempotent by its own content (reports, placements, timers)."""
