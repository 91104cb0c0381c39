"""Commands of tokens. `commands.py` has the others, and offers these too."""

from __future__ import annotations

import msgspec

from raftflow.domain.command import Command


class CreateToken(Command, frozen=True, tag="tokens.create"):
    """Add a token. Replies `Done`. Refused if the name or the digest is taken."""

    name: str
    role: str
    """One of `domain.values.roles.ROLES`."""
    digest: bytes
    """SHA-256 of the token. The token itself is nowhere in the log."""
    lifetime_ms: int = 0
    """After this time it is not valid any more; 0 for never."""
    agents: str = ""
    """Which agents its holder may be: a name, or how names begin with a `*`. Empty for all."""
    labels: dict[str, str] = msgspec.field(default_factory=dict)
    """If there are any, its holder may claim these labels of an agent and no others."""


class RotateToken(Command, frozen=True, tag="tokens.rotate"):
    """Give a token another secret. Replies `Done`. Its lifetime begins again."""

    name: str
    digest: bytes
    overlap_ms: int
    """The old secret stays valid for this time, but no longer than it was."""


class RevokeToken(Command, frozen=True, tag="tokens.revoke"):
    """Remove a token: nobody is let in with it any more. Replies `Done`."""

    name: str
