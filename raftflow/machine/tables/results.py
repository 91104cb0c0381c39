"""Cached results, bounded in number and bytes, and claims: which of equal tasks runs."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from raftflow.domain.limits import CACHE_BYTES_MAX, CACHE_ENTRIES_MAX

ENTRY_BYTES = 256
"""What an entry is taken to need beside its key and its result."""


class CachedResult(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """A result that may stand for those of equal tasks. Never changed, so that an open snapshot may hold it."""

    key: str
    result: bytes
    """JSON; empty for none."""
    workflow_id: str
    task_id: str
    made_ms: int
    used_ms: int
    hits: int = 0
    """Tasks that it stood for."""

    @property
    def size_bytes(self) -> int:
        """What counts against the bound of the table."""
        return len(self.key) + len(self.result) + ENTRY_BYTES


class ResultTable:
    """Results by key, in the order in which they were used last."""

    def __init__(self) -> None:
        self._entries: dict[str, CachedResult] = {}
        self.size_bytes = 0

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[CachedResult]:
        """Least recently used first."""
        return iter(self._entries.values())

    def get(self, key: str) -> CachedResult | None:
        """Look a result up without using it."""
        return self._entries.get(key)

    def use(self, key: str, now_ms: int) -> CachedResult | None:
        """Take a result for a task, None if the key is unknown."""
        entry = self._entries.pop(key, None)
        if entry is not None:
            entry = msgspec.structs.replace(entry, used_ms=now_ms, hits=entry.hits + 1)
            self._entries[key] = entry
        return entry

    def put(self, entry: CachedResult) -> None:
        """Add a result, over an older one under its key, and forget what has not been used for longest."""
        self.drop(entry.key)
        self._entries[entry.key] = entry
        self.size_bytes += entry.size_bytes
        while len(self._entries) > CACHE_ENTRIES_MAX or self.size_bytes > CACHE_BYTES_MAX:
            self.drop(next(iter(self._entries)))

    def drop(self, key: str) -> bool:
        """Forget a result. False if the key is unknown."""
        entry = self._entries.pop(key, None)
        if entry is not None:
            self.size_bytes -= entry.size_bytes
        return entry is not None


class Claim:
    """Equal tasks, by workflow number and position: one that runs, or may run, and those that wait for it."""

    __slots__ = ("line", "owner")

    def __init__(self, owner: tuple[int, int] | None) -> None:
        self.owner = owner
        """None only while a workflow is being stopped, or while a snapshot is read."""
        self.line: dict[tuple[int, int], None] = {}
