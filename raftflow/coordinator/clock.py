"""The wall clock and the source of new ids, both injected, so that a simulation can own them.

Durations are never measured with the wall clock: they use a clock that only runs.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from typing import Final, Protocol

from raftflow.domain.values.ids import WORKFLOW_ID_PREFIX

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
"""Crockford's base 32, in lower case: sorts as the number does and has no letters that look alike."""
_TIME_BITS = 48
_RANDOM_BITS = 80
_PAIRS = [first + second for first in _ALPHABET for second in _ALPHABET]
"""Two letters for ten bits."""
_PLACES = range(_TIME_BITS + _RANDOM_BITS - 8, -1, -10)
"""Where the ten bits of each of the thirteen pairs begin."""


class WallClock(Protocol):
    """Tells the time of day."""

    def now_ms(self) -> int:
        """Return milliseconds since the epoch. May step backwards; the state machine keeps the largest time seen."""
        ...


class MachineClock(WallClock, Protocol):
    """A machine's two clocks: one that may be set, and one that only runs."""

    def running_s(self) -> float:
        """Return seconds since some moment in the past. Never jumps; goes on while the machine sleeps."""
        ...


class SystemClock:
    """The clocks of this machine."""

    def now_ms(self) -> int:
        """Return milliseconds since the epoch."""
        return time.time_ns() // 1_000_000

    def running_s(self) -> float:
        """Return CLOCK_BOOTTIME."""
        return time.clock_gettime(time.CLOCK_BOOTTIME)


SLEW_SHARE: Final = 0.1
"""Cluster time may run faster or slower than real time by this share."""
SLEW_STEP_MS_MAX: Final = 10_000.0
"""At most this time between two calls counts for running faster, so that an idle leader does not jump."""
SETTLED_S: Final = 60.0
"""After this time a replica has caught up, and the entries that it applies are new."""


class ClusterClock:
    """The time that a replica stamps on commands: it never jumps, and follows the wall clock slowly.

    Deadlines, back-offs and cron are in *cluster time*, the largest time that the state machine has seen. If it went
    ahead by an hour, all running attempts would miss their deadlines at once; if it stopped, no back-off would end.
    So:

    - When the process starts the wall clock is believed: a cluster that was off for a day should know it, and no
      other source could tell a day that has passed from a clock that is a day ahead.
    - From then on time goes on by the machine's running clock, which nobody can set and which counts sleep. What the
      wall clock says otherwise, because it was set, is followed at most 10 % faster or slower than real time.
      Faster only while this replica leads, so that a follower does not drift away from the cluster unseen.
    - It is never behind the state machine. A follower is so carried along by the leader: the running clock goes on
      from the newest entry, and at a failover the new leader continues the old one's time and not its own wall
      clock's. If that is an hour ahead since before the process started, the first entry that a leader logs after
      a minute (when this replica has caught up) corrects it; only who takes over before that makes the cluster jump.

    So a wall clock that is set an hour ahead under a leader and put right after ten minutes leaves cluster time one
    minute ahead, for ten minutes more. An error of an hour that lasts is followed in ten hours. Times that users see
    (`submitted_at`, `finished_at`, the audit's) are cluster time and may differ from the day's by as much; logs have
    the machine's. A hypervisor that stops a whole machine looks like a clock that was set; to have the wall clock
    believed at once, restart the replicas.

    Args:
        clock: this machine's clocks.
        seen_ms: returns the largest time that the state machine has seen.
        leading: tells whether this replica leads.
    """

    def __init__(self, clock: MachineClock, seen_ms: Callable[[], int], leading: Callable[[], bool]) -> None:
        self._clock = clock
        self._seen_ms = seen_ms
        self._leading = leading
        self._started_s = self._at_s = clock.running_s()
        self._time_ms = float(clock.now_ms())
        """Cluster time at `_at_s` on the running clock."""
        self._known_ms = 0
        self._confirmed = False
        """A new entry was seen: the wall clock at the start does not count any more."""

    def now_ms(self) -> int:
        """Return milliseconds since the epoch, at least the state machine's. Never less than before while leading."""
        now_s = self._clock.running_s()
        elapsed_ms = (now_s - self._at_s) * 1000
        ahead_ms = self._clock.now_ms() - self._time_ms - elapsed_ms
        if ahead_ms < 0:
            elapsed_ms += max(ahead_ms, -SLEW_SHARE * elapsed_ms)
        elif self._leading():
            elapsed_ms += min(ahead_ms, SLEW_SHARE * min(elapsed_ms, SLEW_STEP_MS_MAX))
        self._time_ms = max(self._time_ms + elapsed_ms, float(self._seen_ms()))
        self._at_s = now_s
        return int(self._time_ms)

    def follow(self) -> None:
        """Take note of an applied entry. Call it after each, so that a follower knows when it was."""
        seen_ms = self._seen_ms()
        now_s = self._clock.running_s()
        rises, self._known_ms = seen_ms > self._known_ms, seen_ms
        if rises and not self._confirmed and not self._leading() and now_s - self._started_s >= SETTLED_S:
            self._confirmed = True
            self._time_ms, self._at_s = float(seen_ms), now_s
        self.now_ms()


class IdSource:
    """Makes unique ids: 48 bits of time, then 80 random bits, as 26 letters that sort by time."""

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
        return "".join([_PAIRS[(number >> place) & 1023] for place in _PLACES])
