"""The time that goes into commands: never back, never in a jump, after the wall clock at most 10 % off real time."""

from __future__ import annotations

from raftflow.coordinator.clock import SETTLED_S, ClusterClock

HOUR_MS = 3_600_000
START_MS = 1_700_000_000_000


class Machine:
    """A machine's clocks, a state machine's time and a role, all put where a test wants them."""

    def __init__(self, *, wall_ms: int = START_MS, seen_ms: int = 0, leading: bool = True) -> None:
        self.wall_ms = wall_ms
        self.running = 50.0
        self.seen_ms = seen_ms
        self.leading = leading
        self.cluster = ClusterClock(self, lambda: self.seen_ms, lambda: self.leading)

    def now_ms(self) -> int:
        return self.wall_ms

    def running_s(self) -> float:
        return self.running

    def go(self, seconds: float, *, steps: int = 1) -> int:
        """Let time pass on both clocks, asking `steps` times on the way; returns cluster time at the end."""
        for _ in range(steps):
            self.running += seconds / steps
            self.wall_ms += round(seconds * 1000 / steps)
            now_ms = self.cluster.now_ms()
        return now_ms

    def apply(self, at_ms: int) -> int:
        self.seen_ms = max(self.seen_ms, at_ms)
        self.cluster.follow()
        return self.cluster.now_ms()


def test_the_wall_clock_is_believed_when_the_process_starts() -> None:
    machine = Machine(seen_ms=START_MS - 24 * HOUR_MS)
    assert machine.cluster.now_ms() == START_MS
    assert machine.go(7.0) == START_MS + 7_000


def test_a_wall_clock_that_is_set_ahead_is_followed_slowly() -> None:
    machine = Machine()
    machine.wall_ms += HOUR_MS
    assert machine.cluster.now_ms() == START_MS
    assert machine.go(10.0) == START_MS + 11_000
    assert machine.go(600.0, steps=600) == START_MS + 11_000 + 660_000
    end_ms = machine.go(10 * 3600.0, steps=3600)
    assert end_ms == machine.wall_ms


def test_a_leader_that_nobody_asks_saves_up_no_jump() -> None:
    machine = Machine()
    machine.wall_ms += HOUR_MS
    assert machine.go(8 * 3600.0) == START_MS + 8 * HOUR_MS + 1_000


def test_a_wall_clock_that_is_set_back_slows_time_and_never_stops_it() -> None:
    machine = Machine()
    machine.wall_ms -= HOUR_MS
    before_ms = machine.cluster.now_ms()
    assert before_ms == START_MS
    assert machine.go(100.0, steps=10) == START_MS + 90_000
    assert machine.go(10 * 3600.0) == machine.wall_ms


def test_small_differences_end() -> None:
    machine = Machine()
    machine.wall_ms += 50
    assert machine.go(1.0) == START_MS + 1_050
    machine.wall_ms -= 50
    assert machine.go(1.0) == machine.wall_ms


def test_it_is_never_behind_the_state_machine() -> None:
    machine = Machine()
    assert machine.apply(START_MS + HOUR_MS) == START_MS + HOUR_MS
    assert machine.go(10.0) == START_MS + HOUR_MS + 9_000


def test_time_goes_on_over_a_failover_and_not_by_the_new_leaders_wall_clock() -> None:
    machine = Machine(leading=False)
    machine.wall_ms += HOUR_MS
    for second in range(1, 100):
        machine.go(1.0)
        machine.apply(START_MS + 1000 * second)
    machine.leading = True
    assert machine.cluster.now_ms() == START_MS + 99_000
    assert machine.go(1.0) == START_MS + 100_100


def test_a_quiet_cluster_loses_no_time_at_a_failover() -> None:
    machine = Machine(leading=False)
    machine.apply(START_MS)
    machine.running += 3600
    machine.wall_ms += HOUR_MS
    machine.leading = True
    assert machine.cluster.now_ms() == START_MS + HOUR_MS


def test_a_wall_clock_that_was_wrong_before_the_start_is_put_right_by_the_leaders_entries() -> None:
    machine = Machine(wall_ms=START_MS + HOUR_MS, leading=False)
    assert machine.apply(START_MS) == START_MS + HOUR_MS, "it may be an old entry, from before an outage"
    machine.go(SETTLED_S)
    assert machine.apply(START_MS + 60_000) == START_MS + 60_000
    machine.go(1.0)
    machine.leading = True
    assert machine.cluster.now_ms() == START_MS + 61_000


def test_an_old_entry_after_that_changes_nothing() -> None:
    machine = Machine(leading=False)
    machine.go(SETTLED_S)
    machine.apply(START_MS + 60_000)
    machine.go(100.0)
    assert machine.apply(START_MS + 60_001) == START_MS + 160_000


def test_a_leaders_own_entries_set_nothing_back() -> None:
    machine = Machine()
    now_ms = machine.go(SETTLED_S)
    machine.go(1.0)
    assert machine.apply(now_ms) == START_MS + 61_000
