"""How many bytes of request bodies may be in memory at one time."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from raftflow.api.http import problems
from raftflow.api.http.problems import ProblemError

if TYPE_CHECKING:
    from collections.abc import Iterator

BODIES_BYTES_MAX = 256 * 1024 * 1024
"""Bytes of large bodies that may be in memory at one time."""
SMALL_BODY_BYTES = 64 * 1024
"""A body of up to this size does not count."""


class BodyBudget:
    """The memory of one replica for large bodies."""

    def __init__(self) -> None:
        self._used_bytes = 0

    @contextmanager
    def reserve(self, size: int) -> Iterator[None]:
        """Hold `size` bytes. Raises `ProblemError` if too much is in use; one body alone always fits."""
        if size <= SMALL_BODY_BYTES:
            yield
            return
        if self._used_bytes and self._used_bytes + size > BODIES_BYTES_MAX:
            raise ProblemError(problems.QUEUE_FULL, "too many large requests are being worked on; try again later")
        self._used_bytes += size
        try:
            yield
        finally:
            self._used_bytes -= size
