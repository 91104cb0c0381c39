"""The actions that faults are made of: restart, kill, isolate, transfer leadership, snapshot."""

from __future__ import annotations

import asyncio
import contextvars
from typing import TYPE_CHECKING, Any, Final

from raftflow.simulation.world.disk import Loss

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence
    from random import Random

    from raftflow.simulation.load.bursts import Bursts
    from raftflow.simulation.world.agents.agent import SimAgent
    from raftflow.simulation.world.cluster import Cluster
    from raftflow.simulation.world.delays import Delays
    from raftflow.simulation.world.loop import VirtualLoop
    from raftflow.simulation.world.network import Network
    from raftflow.simulation.world.trace import Trace

LOSSES: Final = (Loss.ALL, Loss.ALL, Loss.SOME, Loss.TORN, Loss.NONE)


class FaultActions:
    """The world as the faults see it. A fault that takes time is a scenario; scenarios end with the faults."""

    def __init__(
        self,
        *,
        loop: VirtualLoop,
        rng: Random,
        trace: Trace,
        cluster: Cluster,
        network: Network,
        agents: list[SimAgent],
        bursts: Bursts,
        delays: Delays,
        clients: Sequence[str],
        calls_are_reliable: bool,
        on_slow_failover: Callable[[str], None],
    ) -> None:
        self.loop = loop
        self.rng = rng
        self.trace = trace
        self.cluster = cluster
        self.network = network
        self.agents = agents
        self.bursts = bursts
        self.delays = delays
        self.clients = clients
        """Their names."""
        self.calls_are_reliable = calls_are_reliable
        """No answer is lost, and an answer is late only because of a fault."""
        self.on_slow_failover = on_slow_failover
        """Told about an agent that found the new leader too late."""
        self._scenarios: list[asyncio.Task[None]] = []
        self._timers: list[asyncio.TimerHandle] = []

    def run_scenario(self, scenario: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Start a fault that takes time."""
        task = self.loop.create_task(scenario)
        task.add_done_callback(self._scenario_ended)
        self._scenarios.append(task)
        return task

    def _scenario_ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self.loop.call_exception_handler({"message": "a scenario failed", "exception": error})

    def schedule(self, after_s: float, act: Callable[..., object], *arguments: object) -> None:
        """Call `act` after `after_s`, unless the faults have ended."""
        self._timers.append(self.loop.call_later(after_s, act, *arguments, context=contextvars.Context()))

    def cancel_all(self) -> None:
        """Cancel all scenarios and scheduled actions."""
        pending: list[asyncio.Task[None] | asyncio.TimerHandle] = [*self._scenarios, *self._timers]
        for each in pending:
            each.cancel()

    # Actions.

    def faults_begun(self) -> int:
        """Return how many faults have begun."""
        return sum(self.trace.faults.values())

    def is_only_one_isolated(self, name: str) -> bool:
        """Return True if all partitions concern this replica."""
        return all(name in direction for direction in self.network.blocked)

    def restart(self, name: str) -> None:
        """Restart a replica with what its disk kept."""
        self.cluster.disks.repair(name)
        self.cluster.restart(name, self.rng.choice(LOSSES))

    def kill(self, name: str) -> None:
        """Kill a process. What it wrote survives, because the page cache outlives the process."""
        host = self.cluster.hosts[name]
        if host.process is not None:
            self.cluster.crash(name, kind="kill")
            host.disk.restart(Loss.NONE, self.rng)

    def isolate(self, name: str, others: list[str]) -> None:
        """Partition a replica from others, in both directions."""
        for other in others:
            self.network.cut(name, other)
            self.network.cut(other, name)

    def reconnect(self, name: str, others: list[str]) -> None:
        """Heal the partition between a replica and others."""
        for other in others:
            self.network.heal(name, other)
            self.network.heal(other, name)

    def others(self, name: str) -> list[str]:
        """Return all replicas but one."""
        return [other for other in self.cluster.names if other != name]

    def any_other(self, name: str) -> str:
        """Return another replica."""
        return self.rng.choice(self.others(name))

    def snapshot(self, name: str) -> None:
        """Ask a replica for a snapshot."""
        host = self.cluster.hosts[name]
        if host.replica is not None and host.serving and host.process is not None:
            # In the replica's own process: a callback from outside would outlive the process.
            self.loop.call_soon(host.replica.log.request_snapshot, context=host.process.context)
            self.trace.fault("snapshot requested", name)

    def transfer_leadership(self, name: str, target: str | None) -> None:
        """Ask a leader to transfer its leadership, to `target` or to a replica that it chooses."""
        host = self.cluster.hosts[name]
        if host.replica is None or not host.serving or host.process is None:
            return
        self.trace.fault("leadership transferred", host.name)
        log, context = host.replica.log, host.process.context
        self.loop.call_soon(
            lambda: self.cluster.retained.append(
                self.loop.create_task(log.transfer_leadership(target, 1.0), context=context)
            ),
            context=context,
        )

    def refuse_next_restore(self, name: str) -> None:
        """Make the state machine refuse the next snapshot from the leader, as an older version would."""
        host = self.cluster.hosts[name]
        if host.process is not None:
            host.refuse_restore = True

    async def successor(self, first: str) -> str | None:
        """Wait for another leader than this one. Returns None if no other one leads within 1.5 s."""
        for _ in range(75):
            await asyncio.sleep(0.02)
            leader = self.cluster.leader()
            if leader is not None and leader != first:
                return leader
        return None
