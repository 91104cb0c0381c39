"""Tokens: who may ask, and for what. Only digests of them are kept."""

from __future__ import annotations

import itertools
from typing import Final

import msgspec

_VERSIONS: Final = itertools.count(1)


class AccessToken(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """A token."""

    name: str
    role: str
    digest: bytes
    """SHA-256 of the token."""
    made_ms: int
    """When it was made, or rotated last."""
    lifetime_ms: int
    """0 for ever."""
    agents: str
    """Which agents its holder may be; empty for all."""
    labels: dict[str, str]
    """If there are any, its holder may claim these labels of an agent and no others."""
    old_digest: bytes = b""
    """Of the secret before the last rotation."""
    old_until_ms: int = 0
    """Until then the old secret is valid too."""

    @property
    def expires_ms(self) -> int | None:
        """From then on the token is not valid; None for never."""
        return self.made_ms + self.lifetime_ms if self.lifetime_ms else None

    def is_valid(self, digest: bytes, now_ms: int) -> bool:
        """Tell whether a secret with this digest is valid at a time."""
        if digest == self.digest:
            return not self.lifetime_ms or now_ms < self.made_ms + self.lifetime_ms
        return digest == self.old_digest and now_ms < self.old_until_ms


class TokenTable:
    """Tokens by name, in the order in which they were made, and by digest."""

    __slots__ = ("_by_digest", "_rows", "version")

    def __init__(self) -> None:
        self._rows: dict[str, AccessToken] = {}
        self._by_digest: dict[bytes, AccessToken] = {}
        self.version = next(_VERSIONS)
        """Another number after every change, and in every other table of this process. It is not replicated: it
        tells those who look that something changed."""

    def __len__(self) -> int:
        return len(self._rows)

    def rows(self) -> list[AccessToken]:
        """Return all, in the order in which they were made."""
        return list(self._rows.values())

    def find(self, name: str) -> AccessToken | None:
        """Return the token of this name."""
        return self._rows.get(name)

    def with_digest(self, digest: bytes) -> AccessToken | None:
        """Return the token that has, or had before its last rotation, a secret with this digest. It may be over."""
        return self._by_digest.get(digest)

    def put(self, row: AccessToken) -> None:
        """Add a token, or replace the one of its name."""
        known = self._rows.get(row.name)
        if known is not None:
            self._forget_digests(known)
        self._rows[row.name] = row
        for digest in (row.digest, row.old_digest):
            if digest:
                self._by_digest[digest] = row
        self.version = next(_VERSIONS)

    def remove(self, name: str) -> AccessToken | None:
        """Remove a token, and return it."""
        row = self._rows.pop(name, None)
        if row is not None:
            self._forget_digests(row)
            self.version = next(_VERSIONS)
        return row

    def _forget_digests(self, row: AccessToken) -> None:
        self._by_digest.pop(row.digest, None)
        self._by_digest.pop(row.old_digest, None)
