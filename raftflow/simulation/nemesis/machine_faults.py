"""Faults of the machines of agents: for a while nothing can be run there, or everything fails at once."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from random import Random

    from raftflow.simulation.world.agents.agent import SimAgent
    from raftflow.simulation.world.loop import VirtualLoop
    from raftflow.simulation.world.trace import Trace

SICK_SHARE: Final = {"all": 0.5, "leases": 0.7}
"""Share of the runs of some families in which machines of agents fail."""
EVERY_S: Final = 1.5
KINDS: Final = ("unable", "black hole")
SECONDS: Final = {"unable": (0.2, 3.0), "black hole": (1.0, 8.0)}


class MachineFaults:
    """Makes machines of agents fail from time to time, with a random source of its own."""

    def __init__(self, loop: VirtualLoop, rng: Random, trace: Trace, agents: list[SimAgent]) -> None:
        self._loop = loop
        self._rng = rng
        self._trace = trace
        self._agents = agents

    async def run(self) -> None:
        """Inject faults until cancelled."""
        while True:
            await asyncio.sleep(self._rng.expovariate(1 / EVERY_S))
            agent, kind = self._rng.choice(self._agents), self._rng.choice(KINDS)
            seconds = self._rng.uniform(*SECONDS[kind])
            self._trace.fault(f"machine {kind}", agent.name, f"for {seconds:.1f} s")
            agent.health.fall_ill(kind, seconds)
