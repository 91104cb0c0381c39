"""Election timeouts that follow what the machine and the network can do, within bounds.

A replica measures *delays*: how long after the last message of its leader the next one came, how late its own timers
fire, and, while it leads, for how long no majority answered before it did again. A delay of a third of the least
election timeout or less changes nothing. A longer one makes the timeouts longer, so that the least one is three times
the longest delay of the last ten to twenty seconds. When the delays are over, they become as short as configured.

    E4  timeouts are never shorter than configured, and at most `STRETCH_MAX` times as long
    E5  a leader that hears no majority for `fallback_max_s` steps down, whatever the delays were

A delay longer than the longest of the least timeouts is an outage and no sign of a slow machine: it changes nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from raftflow.replication.raft.rules import NO_RULES, Rule

if TYPE_CHECKING:
    from collections.abc import Callable

    from raftflow.replication.raft.library_types import RaftTiming

STRETCH_MAX: Final = 4.0
"""How many times as long as configured timeouts become at most."""
DELAYS: Final = 3.0
"""The least election timeout is so many times the longest delay."""
WINDOW_S: Final = 10.0
"""A delay counts for the rest of this window and for the next one."""


class ElectionTimeouts:
    """The election timeouts of one replica at present.

    Args:
        timing: the configured ones.
        clock: the library's clock.
        disabled_rules: for tests: E4 has an effect here.
    """

    def __init__(
        self, timing: RaftTiming, clock: Callable[[], float], disabled_rules: frozenset[Rule] = NO_RULES
    ) -> None:
        self._timing = timing
        self._clock = clock
        self._least_delay_s = timing.election_min_s / DELAYS
        self._most_delay_s = timing.election_min_s * STRETCH_MAX
        if Rule.ADAPT_TIMEOUTS in disabled_rules:
            self._most_delay_s = 0.0
        self._window_ends_at = clock() + WINDOW_S
        self._longest_s = 0.0
        self._longest_before_s = 0.0
        self._without_quorum_s = 0.0
        self.stretch = 1.0
        """How many times as long as configured the timeouts are."""
        self.on_change: Callable[[], None] = lambda: None
        """Called when `stretch` has changed."""

    @property
    def election_min_s(self) -> float:
        """The least election timeout."""
        return self._timing.election_min_s * self.stretch

    @property
    def election_max_s(self) -> float:
        """The longest election timeout."""
        return self._timing.election_max_s * self.stretch

    @property
    def silence_s(self) -> float:
        """A replica that has heard no leader for so long would vote for another one."""
        return self._timing.silence_s * self.stretch

    @property
    def fallback_s(self) -> float:
        """A leader that hears no majority for so long steps down."""
        configured_s = self._timing.fallback_s
        return max(configured_s, min(configured_s * self.stretch, self._timing.fallback_max_s))

    def note_delay(self, delay_s: float) -> None:
        """Note that something came so late. Cheap for what is on time."""
        if self._least_delay_s < delay_s <= self._most_delay_s and delay_s > self._longest_s:
            self.refresh()
            self._longest_s = delay_s
            self._adapt()

    def note_timer(self, late_s: float) -> None:
        """Note that a timer fired so late. The messages of a leader come that much later than its heartbeats."""
        self.note_delay(late_s + self._timing.heartbeat_s)

    def note_quorum(self, silent_s: float) -> None:
        """Note, at each heartbeat of a leader, for how long it has heard no majority. It counts when it is over."""
        if silent_s < self._without_quorum_s:
            self.note_delay(self._without_quorum_s)
        self._without_quorum_s = silent_s

    def end_leadership(self) -> None:
        """Forget what this replica measured as a leader and is not over."""
        self._without_quorum_s = 0.0

    def refresh(self) -> None:
        """Forget delays that are over for a while."""
        now_s = self._clock()
        if now_s < self._window_ends_at:
            return
        is_next = now_s < self._window_ends_at + WINDOW_S
        self._longest_before_s = self._longest_s if is_next else 0.0
        self._longest_s = 0.0
        self._window_ends_at = now_s + WINDOW_S
        self._adapt()

    def _adapt(self) -> None:
        wanted_s = DELAYS * max(self._longest_s, self._longest_before_s)
        stretch = min(max(1.0, wanted_s / self._timing.election_min_s), STRETCH_MAX)
        if stretch != self.stretch:
            self.stretch = stretch
            self.on_change()
