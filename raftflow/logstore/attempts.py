"""What of an attempt's output is in a store: its key, its description, and how a piece is read."""

from __future__ import annotations

from typing import Literal, NamedTuple
from urllib.parse import quote

import msgspec

from raftflow.domain import limits
from raftflow.domain.values.exact import UNREADABLE
from raftflow.logstore.stores import LogStore, LogStoreError

VERSION = 1
META = "meta.json"
_META_BYTES_MAX = 4 << 20


class StoredStream(msgspec.Struct, kw_only=True):
    """One stream in a store."""

    size: int
    """Bytes that were written, kept or not."""
    parts: list[tuple[int, int]]
    """Offset and length of what was kept, in order: the object has one after the other."""
    times: list[tuple[int, int]] = []
    """Offset and milliseconds since 1970, now and then: when a byte came."""
    changed_ms: int = 0
    """When the last byte came."""


class StoredAttempt(msgspec.Struct, kw_only=True):
    """What `meta.json` holds."""

    version: int = VERSION
    workflow_id: str
    task_id: str
    attempt: int
    fence: int
    agent: str
    ended_at_ms: int
    streams: dict[str, StoredStream]


class Place(NamedTuple):
    """Which attempt."""

    workflow_id: str
    task_id: str
    attempt: int
    fence: int

    def key(self, name: str) -> str:
        """Return the key of one of its objects."""
        parts = (self.workflow_id, self.task_id, f"{self.attempt}-{self.fence}", name)
        if any(part in ("", ".", "..") or len(part) > limits.NAME_CHARS_MAX for part in parts):
            raise LogStoreError(
                f"attempt {self.fence} has no place in a log store: it has an unusual name", is_damage=True
            )
        return "/".join(quote(part, safe="@+:") for part in parts)


class StoredPiece(NamedTuple):
    """A piece of a stream."""

    data: bytes
    offset: int
    """Byte at which it begins; what lies between the wanted one and it was not kept."""
    size: int
    truncated: bool


def encode_meta(meta: StoredAttempt) -> bytes:
    """Return the content of `meta.json`."""
    return msgspec.json.encode(meta)


def read_meta(store: LogStore, place: Place) -> StoredAttempt | None:
    """Return what a store has of an attempt, None for nothing. Raises `LogStoreError`."""
    data = store.get(place.key(META), 0, _META_BYTES_MAX)
    if data is None:
        return None
    try:
        meta = msgspec.json.decode(data, type=StoredAttempt)
    except UNREADABLE as error:
        raise LogStoreError(f"{place.key(META)} in the log store is damaged: {error}", is_damage=True) from error
    if meta.version != VERSION:
        raise LogStoreError(
            f"{place.key(META)} in the log store is of version {meta.version}, not {VERSION}", is_damage=True
        )
    return meta


def read_piece(  # noqa: PLR0917 - where, and what of it
    store: LogStore, place: Place, meta: StoredAttempt, stream: Literal["stdout", "stderr"], offset: int, count: int
) -> StoredPiece:
    """Read a piece of an attempt's output. Raises `LogStoreError`."""
    found = meta.streams.get(stream)
    if found is None:
        return StoredPiece(b"", offset, 0, truncated=False)
    truncated = sum(length for _, length in found.parts) < found.size
    base = 0
    for start, length in found.parts:
        if offset < start + length:
            at = max(offset, start)
            wanted = min(count, start + length - at)
            data = store.get(place.key(stream), base + at - start, wanted) if wanted > 0 else b""
            if data is None or len(data) < wanted:
                raise LogStoreError(
                    f"{place.key(stream)} in the log store is shorter than it should be", is_damage=True
                )
            return StoredPiece(data, at, found.size, truncated)
        base += length
    return StoredPiece(b"", max(found.size, offset), found.size, truncated)


def start_since(meta: StoredAttempt, stream: str, since_ms: int) -> StoredPiece:
    """Return an empty piece that begins with what came at a time or later."""
    found = meta.streams.get(stream)
    if found is None:
        return StoredPiece(b"", 0, 0, truncated=False)
    start = found.size
    if since_ms <= found.changed_ms:
        start = max((offset for offset, at_ms in found.times if at_ms <= since_ms), default=0)
    return StoredPiece(b"", start, found.size, truncated=False)
