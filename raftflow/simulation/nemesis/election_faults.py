"""Faults that must not cost a term: a cut between two replicas, a link that flaps, a machine with too little time."""

from __future__ import annotations

import asyncio
import contextvars
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from raftflow.simulation.nemesis.actions import FaultActions

LOOK_S: Final = 0.02
LOOKS_MAX: Final = 15
STEP_MEAN_S: Final = 0.0002
"""Mean time of one callback on a busy machine."""
STALL_S: Final = (0.02, 0.2)
STALL_SHARE: Final = 0.002
"""Share of the callbacks of a busy machine that stall for a time slice of other programs."""


class ElectionFaults:
    """Disturbs one replica while the others could go on."""

    def __init__(self, actions: FaultActions) -> None:
        self._actions = actions

    def half_cut(self, _name: str) -> None:
        """Cut a follower off from the leader, and from no other replica, while the log does not grow.

        No client and no agent reaches the leader meanwhile, so the follower has the whole log: it could win.
        """
        self._actions.run_scenario(self._cut_half())

    async def _cut_half(self) -> None:
        actions, cluster = self._actions, self._actions.cluster
        leader = cluster.leader()
        if leader is None:
            return
        follower = actions.any_other(leader)
        callers = [*actions.clients, *[agent.name for agent in actions.agents]]
        actions.isolate(leader, callers)
        for _ in range(LOOKS_MAX):
            await asyncio.sleep(LOOK_S)
            views = cluster.views()
            if leader in views and follower in views and views[leader].last_index == views[follower].last_index:
                break
        actions.trace.fault("half cut", follower, f"from {leader}")
        actions.isolate(leader, [follower])
        actions.network.lose(leader, follower, "cut")
        await asyncio.sleep(actions.rng.uniform(0.7, 1.2))
        actions.reconnect(leader, [follower, *callers])

    def flapping_link(self, name: str) -> None:
        """Cut and heal the link between two replicas again and again."""
        self._actions.run_scenario(self._flap(name))

    async def _flap(self, name: str) -> None:
        actions, rng = self._actions, self._actions.rng
        other = actions.any_other(name)
        actions.trace.fault("flapping link", name, f"to {other}")
        for _ in range(rng.randrange(3, 9)):
            actions.isolate(name, [other])
            actions.network.lose(name, other, "flaps")
            await asyncio.sleep(rng.uniform(0.05, 0.8))
            actions.reconnect(name, [other])
            await asyncio.sleep(rng.uniform(0.05, 0.5))

    def busy_machine(self, name: str) -> None:
        """Let other programs take most of a machine's time for a while: every callback takes time there."""
        actions, rng = self._actions, self._actions.rng
        process = actions.cluster.hosts[name].process
        if process is None or process.step_s is not None:
            return
        actions.trace.fault("busy machine", name)
        mean_s = STEP_MEAN_S * rng.choice((1, 3, 10))

        def step_s() -> float:
            return rng.uniform(*STALL_S) if rng.random() < STALL_SHARE else rng.expovariate(1 / mean_s)

        def end() -> None:
            process.step_s = None

        process.step_s = step_s
        actions.loop.call_later(rng.uniform(0.5, 3.0), end, context=contextvars.Context())
