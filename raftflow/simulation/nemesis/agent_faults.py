"""Faults of agents: killed, paused or stopped processes, and links that are cut, some for longer than a lease.

An operator forgets some of the agents that were lost. They come back under the same name.
"""

from __future__ import annotations

import asyncio
import contextvars
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from raftflow.simulation.load.operator import Operator
    from raftflow.simulation.nemesis.actions import FaultActions

CHECKS_MAX: Final = 50
CHECK_S: Final = 0.02
ISOLATED_S: Final = (1.6, 3.0)
"""How long an agent is isolated so that it loses its lease; a lease is 1.5 s."""
FORGET_SHARE: Final = 0.5
"""Share of the isolated agents that an operator forgets once they are lost."""


class AgentFaults:
    """Disturbs agents."""

    def __init__(self, actions: FaultActions, operator: Operator) -> None:
        self._actions = actions
        self._operator = operator
        self._loop = actions.loop
        self._rng = actions.rng
        self._trace = actions.trace
        self._network = actions.network
        self._agents = actions.agents
        self.isolated: set[str] = set()
        """Agents that are isolated for longer than their lease."""

    def disturb(self, _name: str) -> None:
        """Kill, pause, stop or isolate one agent."""
        agent = self._rng.choice(self._agents)
        chance = self._rng.random()
        if chance < 0.25:
            agent.kill()
            if self._rng.random() < 0.5:
                self._loop.call_later(0.05, agent.start, context=contextvars.Context())
        elif chance < 0.5:
            process = agent.process
            if process is not None and not process.frozen:
                seconds = self._rng.choice((0.2, 0.8, 2.0, 4.0))
                self._trace.fault("agent paused", agent.name, f"for {seconds} s")
                self._loop.freeze(process)
                self._loop.call_later(seconds, self._loop.thaw, process, context=contextvars.Context())
        elif chance < 0.65:
            agent.leave()
        elif chance < 0.8:
            self.lose_at_work(agent.name)
        else:
            self._trace.fault("agent isolated", agent.name)
            for replica in self._actions.cluster.names:
                self._network.cut(agent.name, replica)

    def isolate_all(self, _name: str) -> None:
        """Isolate all agents past their leases, two or three times, and let them reconnect in between."""
        self._actions.run_scenario(self._isolate_all_past_leases())

    async def _isolate_all_past_leases(self) -> None:
        if self.isolated:
            return
        agents = [agent.name for agent in self._agents]
        for _ in range(self._rng.choice((2, 3))):
            self._trace.fault("all agents isolated", ",".join(agents))
            await self._isolate_past_leases(agents)
            await asyncio.sleep(self._rng.uniform(0.3, 1.0))

    def lose_at_work(self, _name: str) -> None:
        """Isolate a busy agent until it is lost, and let it reconnect with what it had finished before."""
        self._actions.run_scenario(self._isolate_at_work())

    async def _isolate_at_work(self) -> None:
        for _ in range(CHECKS_MAX):
            busy = [agent.name for agent in self._agents if agent.busy and agent.name not in self.isolated]
            if busy:
                break
            await asyncio.sleep(CHECK_S)
        else:
            return
        agent = self._rng.choice(busy)
        self._trace.fault("agent lost at work", agent)
        await self._isolate_past_leases([agent])

    async def _isolate_past_leases(self, agents: list[str]) -> None:
        """Isolate agents for longer than their lease. An operator forgets one that was lost, in some cases."""
        replicas = list(self._actions.cluster.names)
        self.isolated.update(agents)
        try:
            for agent in agents:
                for replica in replicas:
                    self._network.cut(agent, replica)
            await asyncio.sleep(self._rng.uniform(*ISOLATED_S))
            if self._rng.random() < FORGET_SHARE:
                await self._forget_lost(self._rng.choice(agents))
        finally:
            self.isolated.difference_update(agents)
        for agent in agents:
            for replica in replicas:
                self._network.heal(agent, replica)

    async def _forget_lost(self, agent: str) -> None:
        """Forget an agent as soon as the leader has given it up."""
        for _ in range(CHECKS_MAX):
            if self._operator.is_absent(agent):
                if await self._operator.forget_agent(agent):
                    self._trace.fault("lost agent forgotten", agent)
                return
            await asyncio.sleep(CHECK_S)
