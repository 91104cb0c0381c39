"""Tokens as others see them: those who check them, and administrators."""

from __future__ import annotations

from typing import TYPE_CHECKING

from raftflow.domain.contract.cluster import EndingToken
from raftflow.domain.contract.views import TokenView
from raftflow.domain.values.times import iso_utc

if TYPE_CHECKING:
    from raftflow.machine.machine import Machine
    from raftflow.machine.tables.identities.tokens import AccessToken

__all__ = ["ending_tokens", "find_token", "find_valid", "next_end_ms", "token_views", "version"]


def version(machine: Machine) -> int:
    """Return a number that is another one whenever a token was made, rotated or revoked, and says nothing else."""
    return machine.state.tokens.version


def find_token(machine: Machine, name: str) -> AccessToken | None:
    """Return the token of this name."""
    return machine.state.tokens.find(name)


def find_valid(machine: Machine, digest: bytes, now_ms: int) -> AccessToken | None:
    """Return the token of which a secret with this digest is valid at a time; None for no token."""
    row = machine.state.tokens.with_digest(digest)
    return row if row is not None and row.is_valid(digest, now_ms) else None


def next_end_ms(machine: Machine, now_ms: int) -> int | None:
    """Return when the next secret stops being valid by itself, None if none does."""
    ends = [end for row in machine.state.tokens.rows() for end in (row.expires_ms, row.old_until_ms) if end]
    return min((end for end in ends if end > now_ms), default=None)


def ending_tokens(machine: Machine, count: int) -> list[EndingToken]:
    """Return the tokens with a lifetime that end first, or have ended."""
    found = [
        EndingToken(name=row.name, expires_ms=row.expires_ms, lifetime_ms=row.lifetime_ms)
        for row in machine.state.tokens.rows()
        if row.expires_ms is not None
    ]
    return sorted(found, key=lambda token: token.expires_ms)[:count]


def token_views(machine: Machine, now_ms: int) -> list[TokenView]:
    """Return all tokens in order of their names."""
    rows = sorted(machine.state.tokens.rows(), key=lambda row: row.name)
    return [
        TokenView(
            name=row.name,
            role=row.role,
            state="valid" if row.is_valid(row.digest, now_ms) else "expired",
            made_at=iso_utc(row.made_ms),
            expires_at=None if row.expires_ms is None else iso_utc(row.expires_ms),
            old_secret_until=iso_utc(row.old_until_ms) if row.old_until_ms > now_ms else None,
            agents=row.agents,
            labels=row.labels,
        )
        for row in rows
    ]
