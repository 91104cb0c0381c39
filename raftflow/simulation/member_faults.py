"""Changes of the members and of versions while all other faults go on."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

from raftflow.domain.features import LEVEL

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from raftflow.simulation.operator import Operator
    from raftflow.simulation.stage import Stage

STORIES_MAX: Final = 2
"""Changes that are under way at once."""
VOTERS_MAX: Final = 7
HOSTS_MAX: Final = 14
"""Machines in one run, dead ones counted."""


class MemberFaults:
    """Replicas that come, go, are lost for good, and are upgraded."""

    def __init__(self, stage: Stage, operator: Operator) -> None:
        self._stage = stage
        self._operator = operator
        self._stories: list[asyncio.Task[None]] = []

    def may_lose(self, name: str) -> bool:
        """Return True if the cluster survives the loss of this replica's disk."""
        return self._operator.may_lose(name)

    def add(self, _name: str) -> None:
        """Add a fresh replica, or one that was left outside."""
        self._begin(self._add())

    def remove(self, name: str) -> None:
        """Remove a replica: a follower, a learner, a dead one, or the leader itself."""
        self._begin(self._remove(name))

    def replace(self, name: str) -> None:
        """Lose a replica with its disk for good, or only put it out of service, and put a new one in its place."""
        self._begin(self._replace(name))

    def upgrade(self, name: str) -> None:
        """Stop a replica and start the present version in its place; most are asked to hand over first."""
        cluster = self._stage.cluster
        old = [each for each in cluster.names if cluster.hosts[each].level < LEVEL]
        if old:
            self._stage.play(self._upgrade(name if name in old else self._stage.rng.choice(old)))

    def _begin(self, story: Coroutine[Any, Any, None]) -> None:
        self._stories = [task for task in self._stories if not task.done()]
        if len(self._stories) < STORIES_MAX:
            self._stories.append(self._stage.play(story))
        else:
            story.close()

    async def _add(self) -> None:
        members = self._operator.members()
        if members is None or len(members.voters) >= VOTERS_MAX:
            return
        name = self._newcomer()
        if name is not None:
            self._disturb(name)
            await self._operator.add(name)

    def _newcomer(self) -> str | None:
        """Return a replica that is no member: one that was left outside, or a fresh one, which may start late."""
        stage, rng, cluster = self._stage, self._stage.rng, self._stage.cluster
        members = self._operator.members()
        if members is None:
            return None
        known = members.voter_names | set(members.removed) | cluster.lost()
        spare = [name for name in cluster.names if name not in known]
        if spare and rng.random() < 0.7:
            return rng.choice(spare)
        if len(cluster.hosts) >= HOSTS_MAX:
            return None
        name = cluster.add_host()
        if rng.random() < 0.8:
            cluster.start(name)
        else:
            stage.strike(rng.uniform(0.1, 1.5), stage.restart, name)
        return name

    async def _remove(self, name: str) -> None:
        rng, members = self._stage.rng, self._operator.members()
        if members is None or (len(members.voters) <= 3 and rng.random() < 0.7):
            return
        lost = sorted(self._stage.cluster.lost() & members.voter_names)
        if lost and rng.random() < 0.7:
            name = rng.choice(lost)
        elif members.find(name) is None or rng.random() < 0.4:
            name = rng.choice(sorted(members.voter_names | members.learner_names))
        if name == self._stage.cluster.leader():
            self._stage.trace.note(name, "leads and is to be removed")
        self._disturb(name)
        await self._operator.remove(name)

    async def _replace(self, name: str) -> None:
        stage, rng, members = self._stage, self._stage.rng, self._operator.members()
        if members is None or members.find(name) is None:
            return
        if rng.random() < 0.7:
            if not self.may_lose(name):
                return
            stage.cluster.destroy(name)
            await asyncio.sleep(rng.choice((0.0, 0.2, 1.0)))
        if rng.random() < 0.3 and await self._operator.remove(name, tries_max=2):
            return
        newcomer = self._newcomer()
        if newcomer is not None and await self._operator.add(newcomer):
            self._disturb(newcomer)
            await self._operator.remove(name)

    def _disturb(self, name: str) -> None:
        """Perhaps cut the power of the leader, or of the one concerned, in the middle of a change."""
        stage, rng = self._stage, self._stage.rng
        if rng.random() < 0.4:
            victim = name if rng.random() < 0.4 else stage.cluster.leader()
            stage.strike(rng.uniform(0.0, 0.3), stage.cluster.crash, victim or name)

    async def _upgrade(self, name: str) -> None:
        stage, rng, cluster = self._stage, self._stage.rng, self._stage.cluster
        if cluster.leader() == name and rng.random() < 0.7:
            stage.hand_over(name, None)
            await asyncio.sleep(0.1)
        if cluster.hosts[name].gone is None:
            stage.trace.fault("replica upgraded", name)
            cluster.upgrade(name)
            await asyncio.sleep(rng.uniform(0.02, 0.5))
            stage.restart(name)
