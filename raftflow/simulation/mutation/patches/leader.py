# ruff: noqa: D103 - the table in mutants.py says of each what it does
"""Planted faults of the leader: its leases and its clock."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from raftflow.coordinator.clock import ClusterClock
from raftflow.coordinator.leader.leases import Leases
from raftflow.coordinator.leader.liveness import AgentLiveness
from raftflow.coordinator.leader.pauses import PauseDetector

if TYPE_CHECKING:
    from raftflow.simulation.mutation.patches.common import Patch


class WallLeases(Leases):
    """Leases on the wall clock."""

    def __init__(self, lease_ms: int, clock: Any) -> None:
        super().__init__(lease_ms)
        self._clock = clock

    def contact(self, name: str, now_s: float) -> None:
        """Note the time of day."""
        del now_s
        super().contact(name, self._clock.now_ms() / 1000)

    def expired(self, now_s: float) -> list[str]:
        """Compare with the time of day."""
        del now_s
        return super().expired(self._clock.now_ms() / 1000)

    def next_expiry_s(self) -> float | None:
        """Look often."""
        return 0.0 if self._heard_s else None


def leases_on_wall_clock() -> Patch:
    init = AgentLiveness.__init__

    def with_wall_clock(self: AgentLiveness, **named: Any) -> None:
        init(self, **named)
        self.leases = WallLeases(named["lease_ms"], named["removals"]._clock)  # noqa: SLF001

    return patch.object(AgentLiveness, "__init__", with_wall_clock)


def wall_time(self: ClusterClock) -> int:
    """Tell the time of day, or the state machine's if that is later."""
    return max(self._clock.now_ms(), self._seen_ms())


def impatient_leases() -> Patch:
    init = Leases.__init__

    def short(self: Leases, lease_ms: int, poll_wait_ms: int = 0) -> None:
        init(self, lease_ms // 3, poll_wait_ms)

    return patch.object(Leases, "__init__", short)


def stale_leases() -> Patch:
    start = AgentLiveness.start

    def without_grace(self: AgentLiveness) -> None:
        start(self)
        for name in self.leases._heard_s:  # noqa: SLF001
            self.leases._heard_s[name] -= 3600.0  # noqa: SLF001
        if self._lease_timer is not None:
            self._lease_timer.cancel()
        self._arm_leases()

    return patch.object(AgentLiveness, "start", without_grace)


def unnoticed_pauses() -> Patch:
    return patch.object(PauseDetector, "was_paused", lambda _self, _now_s: False)
