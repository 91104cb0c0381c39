"""Cached results as the API shows them."""

from __future__ import annotations

import msgspec


class CachedResultView(msgspec.Struct, kw_only=True):
    """A result that may stand for those of equal tasks."""

    key: str
    size: int
    """Bytes of the result."""
    workflow_id: str
    """Of the task that made it, and that task's id."""
    task_id: str
    made_at: str
    used_at: str
    hits: int
    """Tasks that it stood for."""


class CachePage(msgspec.Struct, kw_only=True):
    """Cached results in order of the keys. `next` is the cursor of the next page, None at the end."""

    entries: list[CachedResultView]
    total: int
    """Of all cached results, listed or not; `bytes` too, with what surrounds them."""
    bytes: int
    next: str | None = None


class CacheCleared(msgspec.Struct, kw_only=True):
    """How many cached results were forgotten."""

    cleared: int
