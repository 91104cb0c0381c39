"""Snapshots that clients take from a running cluster."""

from __future__ import annotations

import msgspec


class SnapshotView(msgspec.Struct, kw_only=True):
    """A snapshot on the disk of one replica, open to be read for a while."""

    id: str
    replica: str
    """The replica that has it, and its URL: only that one gives it out."""
    url: str
    cluster: str
    index: int
    """It contains everything up to this entry of the log."""
    term: int
    chain: str
    """Hex audit chain after that entry: the anchor from which the audit goes on."""
    feature_level: int
    taken_at_ms: int
    members: list[str]
    """Names of the voters."""
    size: int
    """Bytes of the file."""
    digest: str
    """Hex BLAKE2b-256 of its content, as the file itself has it at its end."""
