"""Wiped disks: of one replica, of a majority, of all but one, and of all at the end of a run.

A wiped replica restarts on an empty disk, in any order, while the others run, are down, or start later. While one
disk is left, no wiped replica may take part (`RunHistory.reborn`). Then the old disks are put back, as an operator
does, and every acknowledged write must be there.

Configuration files never change here, so the files of the founders name only the founders. Emptied founders know and
ask no other replica. If all founders were emptied, they would be right to found a new cluster, even if replicas
that joined later still have data: they cannot tell this from a first start. So at least one founder keeps its disk
(replication/DESIGN.md, "Births").

A first contact is trusted. A voter that has never met an emptied replica remembers the empty disk, and refuses the
old disk when it is put back. The operator then has to replace that replica. Here such disks are not wiped.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from raftflow.domain.features import NEXT_LEVEL
from raftflow.replication.members.identity import IdentityError, read_identity
from raftflow.simulation.world.replica_builder import DATA_DIR

if TYPE_CHECKING:
    from raftflow.simulation.checkers.history import RunHistory
    from raftflow.simulation.nemesis.actions import FaultActions

BORN_WITHIN_S: Final = 5.0
LOOK_S: Final = 0.05
CRASH_STEPS: Final = 40
"""A crash during the birth of the cluster comes within this many operations on the disk."""


class Wipes:
    """Wipes disks and puts them back; one scenario at a time."""

    def __init__(self, actions: FaultActions, history: RunHistory) -> None:
        self._actions = actions
        self._history = history
        self._scenario: asyncio.Task[None] | None = None

    def wipe_disks(self, _name: str) -> None:
        """Wipe the disks of some voters, restart them, and put the disks back."""
        if self._scenario is None or self._scenario.done():
            self._scenario = self._actions.run_scenario(self._wipe())

    async def _wipe(self) -> None:
        actions, rng, cluster = self._actions, self._actions.rng, self._actions.cluster
        voters = sorted(self._history.members.latest.voter_names)
        hosts = [cluster.hosts[name] for name in voters]
        if any(host.level < NEXT_LEVEL or host.gone is not None for host in hosts) or cluster.leader() is None:
            return
        majority = len(voters) // 2 + 1
        victims = rng.sample(voters, rng.choice((1, majority, majority, len(voters) - 1)))
        if set(victims) >= set(cluster.founders):
            victims.remove(rng.choice(cluster.founders))
        if not all(self._is_met(victim, voters) for victim in victims):
            return
        rest = [name for name in voters if name not in victims]
        for name in victims:
            cluster.disks.wipe(name)
        if rng.random() < 0.6:
            for name in rest:
                cluster.crash(name)
        try:
            order = rng.sample(voters, len(voters)) if rng.random() < 0.5 else [*victims, *rest]
            for name in order:
                await asyncio.sleep(rng.choice((0.0, 0.05, 0.4)))
                actions.restart(name)
            until_s = actions.loop.time() + rng.uniform(0.6, 2.0)
            while actions.loop.time() < until_s:
                await asyncio.sleep(LOOK_S)
                self._look(victims)
        finally:
            self._look(victims)
            for name in victims:
                cluster.disks.put_back(name)
        for name in victims:
            await asyncio.sleep(rng.choice((0.0, 0.2)))
            actions.restart(name)

    def _is_met(self, name: str, voters: list[str]) -> bool:
        """Return True if every other voter has met this replica on its present disk, which can be read."""
        try:
            disk = read_identity(self._actions.cluster.hosts[name].disk, DATA_DIR).disk_id
        except IdentityError:
            return False
        return all((voter, name, disk) in self._actions.network.met for voter in voters if voter != name)

    def _look(self, victims: list[str]) -> None:
        for name in victims:
            self._history.reborn(self._actions.cluster.hosts[name])

    async def crash_during_birth(self) -> None:
        """Start the founders one by one, with power losses during the birth of the cluster."""
        actions, rng, cluster = self._actions, self._actions.rng, self._actions.cluster
        names = list(cluster.founders)
        rng.shuffle(names)
        for name in names:
            disk = cluster.hosts[name].disk
            if rng.random() < 0.6:
                disk.crash_at = disk.steps + rng.randrange(1, CRASH_STEPS)
            cluster.start(name)
            await asyncio.sleep(rng.choice((0.0, 0.02, 0.3)))
        await asyncio.sleep(rng.uniform(0.05, 0.5))
        for name in names:
            actions.restart(name)

    async def wipe_all(self) -> None:
        """Wipe all disks after the end of the run. Only then may a second cluster be born, and it must be."""
        actions, rng, cluster, history = self._actions, self._actions.rng, self._actions.cluster, self._history
        voters = sorted(history.members.latest.voter_names)
        if voters != sorted(cluster.founders) or voters != sorted(cluster.names):
            return
        history.over = True  # what comes now is another cluster
        for name in voters:
            cluster.disks.wipe(name)
        for name in rng.sample(voters, len(voters)):
            await asyncio.sleep(rng.choice((0.0, 0.05, 0.4)))
            cluster.start(name)
        until_s = actions.loop.time() + BORN_WITHIN_S
        while cluster.leader() is None:
            if actions.loop.time() > until_s:
                history.over = False
                history.violation("no birth", f"none {BORN_WITHIN_S:g} s after all disks were lost")
                return
            await asyncio.sleep(LOOK_S)
