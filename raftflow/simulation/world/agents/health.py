"""The health of an agent's machine: for a while nothing can be run there, or everything fails at once."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from raftflow.simulation.world.loop import VirtualLoop


class MachineHealth:
    """The health of one machine. It outlives the processes of its agent."""

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop
        self._unable_until_s = self._hole_until_s = 0.0

    def fall_ill(self, kind: str, seconds: float) -> None:
        """Be `unable` to run programs, or a `black hole` where every program fails at once, for a while."""
        until_s = self._loop.time() + seconds
        if kind == "unable":
            self._unable_until_s = until_s
        else:
            self._hole_until_s = until_s

    def recover(self) -> None:
        """Be healthy from now on."""
        self._unable_until_s = self._hole_until_s = 0.0

    @property
    def unable(self) -> bool:
        """No program can be run."""
        return self._loop.time() < self._unable_until_s

    @property
    def black_hole(self) -> bool:
        """Every program fails at once."""
        return self._loop.time() < self._hole_until_s


class HealthProbe:
    """Implements the agent's `Probe` on a simulated machine."""

    def __init__(self, health: MachineHealth) -> None:
        self._health = health

    def find_shortage(self) -> str:
        """Return why no program can be run, or an empty string."""
        return "the simulated disk is full" if self._health.unable else ""

    async def run(self) -> str:
        """Probe the machine."""
        await asyncio.sleep(0.01)
        return self.find_shortage()
