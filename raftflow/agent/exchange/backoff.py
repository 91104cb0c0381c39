"""How long the agent waits after a failure."""

from __future__ import annotations

import random
from collections.abc import Callable

BACKOFF_MIN_S = 0.05
BACKOFF_MAX_S = 0.5
RETRY_AFTER_MAX_S = 5.0
"""Longest wait that a leader may ask for."""


class Backoff:
    """Waits that double from failure to failure, with jitter. They are short, so that a new leader is found soon.

    Args:
        jitter: returns a number between two bounds.
    """

    def __init__(self, jitter: Callable[[float, float], float] = random.uniform) -> None:
        self.failing = False
        """The last exchange with the coordinators failed."""
        self._jitter = jitter
        self._next_s = BACKOFF_MIN_S

    def note_failure(self, retry_after_s: float | None = None) -> float:
        """Note a failure. Returns how long to wait before the next try."""
        self.failing = True
        if retry_after_s is not None:
            return min(retry_after_s, RETRY_AFTER_MAX_S)
        wait_s = self._next_s * self._jitter(0.5, 1.0)
        self._next_s = min(self._next_s * 2, BACKOFF_MAX_S)
        return wait_s

    def note_success(self) -> None:
        """Note an answer."""
        self.failing = False
        self._next_s = BACKOFF_MIN_S
