"""The time that goes into commands."""

from __future__ import annotations

import asyncio

from raftflow.coordinator.clock import ClusterClock


class Wall:
    """A wall clock that stands where it is put."""

    def __init__(self, ms: int) -> None:
        self.ms = ms

    def now_ms(self) -> int:
        return self.ms


async def test_the_wall_clock_is_followed_while_it_is_ahead() -> None:
    wall = Wall(5_000)
    clock = ClusterClock(wall, lambda: 4_000)
    assert clock.now_ms() == 5_000
    wall.ms = 9_000
    assert clock.now_ms() == 9_000


async def test_time_goes_on_from_the_state_machines_while_the_wall_clock_is_behind() -> None:
    seen = [10_000]
    clock = ClusterClock(Wall(5_000), lambda: seen[0])
    assert clock.now_ms() == 10_000
    await asyncio.sleep(0.03)
    later = clock.now_ms()
    assert later >= 10_029
    seen[0] = later
    assert clock.now_ms() >= later
    seen[0] = 20_000
    assert clock.now_ms() == 20_000
