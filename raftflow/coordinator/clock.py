"""The wall clock and the source of new ids, both injected, so that a simulation can own them.

Durations are never measured with the wall clock: they use the running event loop's own clock.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable
from typing import Protocol

from raftflow.domain.ids import WORKFLOW_ID_PREFIX

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
"""Crockford's base 32, in lower case: sorts as the number does and has no letters that look alike."""
_TIME_BITS = 48
_RANDOM_BITS = 80
_CHARS = 26


class WallClock(Protocol):
    """Tells the time of day."""

    def now_ms(self) -> int:
        """Return milliseconds since the epoch. May step backwards; the state machine keeps the largest time seen."""
        ...


class SystemClock:
    """The machine's own clock."""

    def now_ms(self) -> int:
        """Return milliseconds since the epoch."""
        return time.time_ns() // 1_000_000


class ClusterClock:
    """The time that a replica stamps on commands: its wall clock, but never behind the state machine's.

    The state machine's clock is the largest time it has seen, so a wall clock that once ran ahead would stop it, and
    every back-off and deadline with it, until the others have caught up. While the wall clock is behind, time goes on
    from the state machine's at the pace of the event loop.

    Args:
        wall: this machine's clock.
        seen_ms: returns the largest time that the state machine has seen.
    """

    def __init__(self, wall: WallClock, seen_ms: Callable[[], int]) -> None:
        self._wall = wall
        self._seen_ms = seen_ms
        self._anchor: tuple[int, float] | None = None
        """A time that the state machine had seen, and when that was, on the loop's clock."""

    def now_ms(self) -> int:
        """Return milliseconds since the epoch, at least the state machine's."""
        now_s = asyncio.get_running_loop().time()
        seen_ms = self._seen_ms()
        going_ms = -1 if self._anchor is None else self._anchor[0] + int((now_s - self._anchor[1]) * 1000)
        if seen_ms > going_ms:
            self._anchor = (seen_ms, now_s)
        return max(self._wall.now_ms(), seen_ms, going_ms)


class IdSource:
    """Makes ids that nobody made before: 48 bits of time, then 80 random bits, as 26 letters that sort by time."""

    def __init__(self, clock: WallClock, randbits: Callable[[int], int] = secrets.randbits) -> None:
        self._clock = clock
        self._randbits = randbits

    def workflow_id(self) -> str:
        """Return a new id of a workflow, such as `wf-01jd3q...`."""
        return WORKFLOW_ID_PREFIX + self._token()

    def request_id(self) -> str:
        """Return a new id of a request, for logs and the `X-Request-Id` header."""
        return self._token()

    def _token(self) -> str:
        time_part = self._clock.now_ms() & ((1 << _TIME_BITS) - 1)
        number = (time_part << _RANDOM_BITS) | self._randbits(_RANDOM_BITS)
        return "".join(_ALPHABET[(number >> (5 * place)) & 31] for place in range(_CHARS - 1, -1, -1))
