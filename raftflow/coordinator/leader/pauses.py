"""Whether this process was paused while it led, so that another replica may lead by now.

A process that is stopped, or that gets no CPU time, does not notice its own pause. When it goes on, it may find polls
that arrived meanwhile. An answer renews the lease of an agent, counted from when the agent sent the poll. That can be
long after a new leader gave the agent its last lease. The agent would run its attempts for longer than the new leader
waits for them. So a leader that was paused answers no poll before a majority has confirmed it.

The leader notices by a timer, the beat. `PAUSE_MAX_S` without a beat counts as a pause, which ends only with a
confirmation that was asked for after it.
"""

from __future__ import annotations

import asyncio
from typing import Final

BEAT_S: Final = 0.05
"""Time between two beats."""
PAUSE_MAX_S: Final = 0.15
"""A time without a beat that changes nothing. The margin of leases covers it (`leases.py`)."""


class PauseDetector:
    """Tells whether this process has run without a long pause since a majority confirmed that it leads."""

    def __init__(self) -> None:
        self._running_since_s = float("-inf")
        """The last beat that followed the one before in time, or the last confirmation, on the loop's clock."""
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Start: this replica leads. It is not confirmed: perhaps it was paused between its election and now."""
        self._running_since_s = float("-inf")
        self._beat()

    def stop(self) -> None:
        """Stop: this replica no longer leads."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def was_paused(self, now_s: float) -> bool:
        """Return True if a majority must confirm this leader before it answers a poll."""
        return now_s - self._running_since_s > PAUSE_MAX_S

    def note_confirmed(self, asked_s: float) -> None:
        """Note that a majority confirmed this leader when it asked at `asked_s` or later."""
        self._running_since_s = max(self._running_since_s, asked_s)

    def _beat(self) -> None:
        loop = asyncio.get_running_loop()
        now_s = loop.time()
        if not self.was_paused(now_s):
            self._running_since_s = now_s
        self._timer = loop.call_later(BEAT_S, self._beat)
