"""Machines of agents that are in a bad state for a while: nothing can be run there, or everything fails at once."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from random import Random

    from raftflow.simulation.world.agents import SimAgent
    from raftflow.simulation.world.loop import VirtualLoop
    from raftflow.simulation.world.trace import Trace

SICK_SHARE: Final = {"all": 0.5, "leases": 0.7}
"""Share of the runs of some families in which machines fall ill."""
EVERY_S: Final = 1.5
KINDS: Final = ("unable", "black hole")
SECONDS: Final = {"unable": (0.2, 3.0), "black hole": (1.0, 8.0)}


class MachineHealth:
    """State of one machine, through all lives of its agent."""

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop
        self._unable_until_s = self._hole_until_s = 0.0

    def fall_ill(self, kind: str, seconds: float) -> None:
        """Become `unable` to run anything, or a `black hole` where all that runs fails at once, for a while."""
        until_s = self._loop.time() + seconds
        if kind == "unable":
            self._unable_until_s = until_s
        else:
            self._hole_until_s = until_s

    def recover(self) -> None:
        """Be in order from now on."""
        self._unable_until_s = self._hole_until_s = 0.0

    @property
    def unable(self) -> bool:
        """Nothing can be run."""
        return self._loop.time() < self._unable_until_s

    @property
    def black_hole(self) -> bool:
        """All that runs fails at once."""
        return self._loop.time() < self._hole_until_s


class HealthProbe:
    """Implements the agent's `Probe` on a simulated machine."""

    def __init__(self, health: MachineHealth) -> None:
        self._health = health

    def lack(self) -> str:
        """Return that it is unable, if it is."""
        return "the simulated disk is full" if self._health.unable else ""

    async def run(self) -> str:
        """Take a moment to look."""
        await asyncio.sleep(0.01)
        return self.lack()


class MachineFaults:
    """Makes machines of agents fall ill now and then. Its dice are its own: other faults stay as they are."""

    def __init__(self, loop: VirtualLoop, rng: Random, trace: Trace, agents: list[SimAgent]) -> None:
        self._loop = loop
        self._rng = rng
        self._trace = trace
        self._agents = agents

    async def run(self) -> None:
        """Go on until cancelled."""
        while True:
            await asyncio.sleep(self._rng.expovariate(1 / EVERY_S))
            agent, kind = self._rng.choice(self._agents), self._rng.choice(KINDS)
            seconds = self._rng.uniform(*SECONDS[kind])
            self._trace.fault(f"machine {kind}", agent.name, f"for {seconds:.1f} s")
            agent.health.fall_ill(kind, seconds)
