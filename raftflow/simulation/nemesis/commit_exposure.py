# ruff: noqa: ASYNC110 - virtual time: polling costs nothing
"""Commit exposure: as soon as an acknowledged entry is not on a majority's disks, the power fails.

Without the guard a leader counts entries that its followers have discarded. Mostly it sends them again before a fault
happens. So random faults show many false acknowledgements and few lost writes. This module uses the moment: all
replicas lose power, those without the entry restart first and elect a leader, and the checks tell whether the write
is lost. A cluster that keeps the rules survives this too, because the power may fail at any moment. With the guard
such a moment never comes.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from raftflow.simulation.nemesis.kinds import EXPOSURE
from raftflow.simulation.world.disk import Loss

if TYPE_CHECKING:
    from raftflow.simulation.checkers.history import RunHistory
    from raftflow.simulation.nemesis.faults import FaultInjector
    from raftflow.simulation.world.cluster import Cluster
    from raftflow.simulation.world.host import SimHost
    from raftflow.simulation.world.loop import VirtualLoop
    from raftflow.simulation.world.network import Network
    from raftflow.simulation.world.trace import Trace

LOOK_EVERY_S: Final = 0.0005
"""Shorter than the delay of a frame, so that no exposure ends unseen."""
ELECTED_WITHIN_S: Final = 3.0
SETTLE_S: Final = 0.3
"""From a leader to its first committed entries."""
EXPOSURES_MAX: Final = 3
"""In one run."""


class CommitExposure:
    """Watches the newest acknowledged entry, and cuts the power when it is not on a majority's disks."""

    def __init__(
        self,
        *,
        loop: VirtualLoop,
        trace: Trace,
        cluster: Cluster,
        network: Network,
        history: RunHistory,
        faults: FaultInjector,
    ) -> None:
        self._loop = loop
        self._trace = trace
        self._cluster = cluster
        self._network = network
        self._history = history
        self._faults = faults
        self._reach: dict[str, int] = {}
        """The last index of each replica when it ran last."""
        self._synced: dict[tuple[str, int], int] = {}
        """For each process of a replica, the highest index that its disk ever had."""

    async def run(self) -> None:
        """Watch until the power was cut `EXPOSURES_MAX` times."""
        for _ in range(EXPOSURES_MAX):
            while 2 * len(lacking := self._lacking()) <= len(self._history.members.latest.voters):
                await asyncio.sleep(LOOK_EVERY_S)
            await self._cut_power(lacking)

    def _lacking(self) -> dict[str, Loss]:
        """Return the replicas that lack the newest acknowledged entry, and what their disks must lose to lack it."""
        index = self._history.top_acknowledged
        known = self._history.entries.get(index)
        if known is None:
            return {}
        voters = self._history.members.latest.voter_names
        hosts = [self._cluster.hosts[name] for name in self._cluster.names if name in voters]
        found = {host.name: self._lack(host, index, known.term) for host in hosts}
        return {name: loss for name, loss in found.items() if loss is not None}

    def _lack(self, host: SimHost, index: int, term: int) -> Loss | None:
        if host.replica is None or not host.serving:
            return Loss.NONE if not host.refused and self._reach.get(host.name, index) < index else None
        log = host.replica.log
        parts = log.parts  # type: ignore[attr-defined] # nobody else knows
        raft, journal = parts.raft, parts.journal
        self._reach[host.name] = raft.last_index
        life = (host.name, host.lives)
        # Entries that were cut off stay on the disk until that is durable.
        self._synced[life] = max(self._synced.get(life, 0), min(raft.last_index, journal.durable_index))
        if raft.first_index > index:
            return None  # it is in a snapshot
        if raft.last_index < index or raft.term_at(index) != term:
            return Loss.NONE
        return Loss.ALL if self._synced[life] < index else None

    async def _cut_power(self, lacking: dict[str, Loss]) -> None:
        """Cut the power of all replicas. Restart those without the entry first, until they have a leader."""
        cluster = self._cluster
        self._trace.fault(EXPOSURE, ",".join(lacking))
        with self._faults.suspended():
            for name in cluster.names:
                cluster.crash(name)
            for name, loss in lacking.items():
                for other in lacking:
                    self._network.heal(name, other)
                cluster.disks.repair(name)
                cluster.restart(name, loss)
            until_s = self._loop.time() + ELECTED_WITHIN_S
            while cluster.leader() is None and self._loop.time() < until_s:
                await asyncio.sleep(0.01)
            await asyncio.sleep(SETTLE_S)
            for name in cluster.down():
                cluster.disks.repair(name)
                cluster.restart(name, Loss.NONE)
