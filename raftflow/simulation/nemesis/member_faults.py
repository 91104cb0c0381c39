"""Changes of the members and of versions while all other faults go on."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

from raftflow.domain.features import NEXT_LEVEL

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from raftflow.simulation.load.operator import Operator
    from raftflow.simulation.nemesis.actions import FaultActions

STORIES_MAX: Final = 2
"""Changes that are under way at once."""
VOTERS_MAX: Final = 7
JOURNAL_BYTES_MIN: Final = 200
MET_LOOK_S: Final = 0.05
MET_LOOKS_MAX: Final = 60
HOSTS_MAX: Final = 14
"""Machines in one run, dead ones counted."""


class MemberFaults:
    """Replicas that come, go, are lost for good, and are upgraded."""

    def __init__(self, stage: FaultActions, operator: Operator) -> None:
        self._stage = stage
        self._operator = operator
        self._stories: list[asyncio.Task[None]] = []
        self._exchange: asyncio.Task[None] | None = None

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
        old = [each for each in cluster.names if cluster.hosts[each].level < NEXT_LEVEL]
        if old:
            self._stage.play(self._upgrade(name if name in old else self._stage.rng.choice(old)))

    def lone_change(self, _name: str) -> None:
        """Ask a leader that is cut off for a change, have it write a snapshot and start again, and let it rejoin."""
        self._begin(self._change_alone())

    def ghost(self, _name: str) -> None:
        """Lose a replica and have one added that never runs, as with a wrong address; then clear both away."""
        self._begin(self._add_ghost())

    def damaged_voter(self, _name: str) -> None:
        """Damage the journal of the only follower that has the newest entries, and take the leader away."""
        self._stage.play(self._damage())

    def replace_all(self, _name: str) -> None:
        """Replace every voter but one while that one is away, so that it knows nobody when it comes back."""
        if self._exchange is None or self._exchange.done():
            self._exchange = self._stage.play(self._replace_all())

    def old_copy(self, _name: str) -> None:
        """Put an older copy of its disk back on such a follower, and take the leader away."""
        if not any(host.older for host in self._stage.cluster.hosts.values()):
            self._stage.play(self._put_back())

    async def _change_alone(self) -> None:
        stage, rng, cluster = self._stage, self._stage.rng, self._stage.cluster
        leader, members = cluster.leader(), self._operator.members()
        if leader is None or members is None:
            return
        others = stage.others(leader)
        voters = sorted(members.voter_names - {leader})
        stage.trace.fault("change at a leader cut off", leader)
        stage.cut_off(leader, others)
        if len(voters) > 2:
            for name in voters[: rng.choice((1, 2))]:
                stage.play(self._operator.change_at(leader, ("remove", name)))
        else:
            newcomer = self._newcomer()
            if newcomer is not None:
                stage.play(self._operator.change_at(leader, ("add", newcomer)))
        await asyncio.sleep(rng.choice((0.01, 0.03, 0.06)))
        stage.snapshot(leader)
        await asyncio.sleep(rng.choice((0.05, 0.1, 0.2)))
        stage.kill(leader)
        await asyncio.sleep(rng.uniform(0.1, 0.8))
        stage.rejoin(leader, others)
        stage.restart(leader)

    async def _replace_all(self) -> None:
        stage, rng, cluster = self._stage, self._stage.rng, self._stage.cluster
        members, followers = self._operator.members(), self._followers()
        if members is None or not followers or not members.voter_names <= set(cluster.founders):
            return
        away = followers[0]
        if len(cluster.hosts) + len(members.voters) - 1 > HOSTS_MAX or not self.may_lose(away):
            return
        stage.trace.fault("all others replaced", away)
        stage.kill(away)
        host = cluster.hosts[away]
        host.away = True
        try:
            for name in sorted(members.voter_names - {away}):
                newcomer = self._operator.add_host()
                cluster.start(newcomer)
                if not (await self._operator.add(newcomer) and await self._operator.remove(name)):
                    break
            await asyncio.sleep(rng.choice((0.0, 0.5)))
        finally:
            host.away = False
        stage.restart(away)

    async def _add_ghost(self) -> None:
        stage, cluster = self._stage, self._stage.cluster
        members = self._operator.members()
        if members is None or len(cluster.hosts) >= HOSTS_MAX:
            return
        followers = [name for name in sorted(members.voter_names) if name != cluster.leader()]
        victim = stage.rng.choice(followers)
        if self.may_lose(victim):
            cluster.destroy(victim)
        ghost = self._operator.add_host()
        cluster.hosts[ghost].gone = "never runs"
        cluster.names.remove(ghost)
        stage.trace.fault("replica that never runs added", ghost)
        await self._operator.add_ghost(ghost)
        await self._operator.remove(ghost)

    async def _put_back(self) -> None:
        """Copy a follower's disk, let it start anew, and when everybody has met that start put the copy back.

        Of one replica in a run, while the disks of all others are whole: what is promised for old copies.
        """
        stage, cluster = self._stage, self._stage.cluster
        followers = self._followers()
        if not followers or not self.may_lose(followers[0]) or cluster.hosts[followers[0]].level < NEXT_LEVEL:
            return
        victim = followers[0]
        host = cluster.hosts[victim]
        stage.kill(victim)
        copy = host.disk.copy()
        stage.restart(victim)
        life = host.process
        for _ in range(MET_LOOKS_MAX):
            await asyncio.sleep(MET_LOOK_S)
            if host.process is not life or host.gone is not None:
                return
            if self._is_met_by_all(victim):
                break
        else:
            return
        host.older = True

        def put() -> None:
            if host.gone is None and host.process is None and not host.wiped:
                cluster.disks.replace(victim, copy)

        await self._damage(victim, put, kind="voter with an old copy")

    def _is_met_by_all(self, name: str) -> bool:
        hosts, members = self._stage.cluster.hosts, self._operator.members()
        voters = frozenset() if members is None else members.voter_names
        linked = [hosts[each].links for each in sorted(voters) if each != name]
        return name in voters and all(links is not None and name in links.up for links in linked)

    def _followers(self) -> list[str]:
        """Return the voters that do not lead, in any order; nobody if that is not known."""
        leader, members = self._stage.cluster.leader(), self._operator.members()
        if leader is None or members is None:
            return []
        followers = [name for name in sorted(members.voter_names) if name != leader]
        self._stage.rng.shuffle(followers)
        return followers

    async def _damage(
        self, chosen: str | None = None, spoil: Callable[[], None] | None = None, *, kind: str = "voter damaged"
    ) -> None:
        stage, rng, cluster = self._stage, self._stage.rng, self._stage.cluster
        followers = self._followers()
        leader = cluster.leader()
        if leader is None or not followers or (chosen is not None and chosen not in followers):
            return
        victim = chosen or followers[0]
        laggards = [name for name in followers if name != victim]
        if not self.may_lose(victim):
            return
        stage.cut_off(leader, laggards)
        stage.cut_off(victim, laggards)
        stage.bursts.fire(leader, rng.choice((3, 10)))
        await asyncio.sleep(0.05)
        if not self.may_lose(victim):  # others were damaged or lost meanwhile
            stage.rejoin(leader, laggards)
            stage.rejoin(victim, laggards)
            return
        stage.trace.fault(kind, victim)
        stage.kill(victim)
        stage.kill(leader)
        if spoil is None:
            self._flip_journal(victim)
        else:
            spoil()
        stage.rejoin(victim, laggards)
        stage.restart(victim)
        for name in laggards:
            stage.restart(name)
        await asyncio.sleep(rng.uniform(1.0, 2.0))
        stage.rejoin(leader, laggards)
        stage.restart(leader)

    def _flip_journal(self, name: str) -> None:
        """Flip a bit in the older half of a replica's journal, which it can notice and repair."""
        rng, host = self._stage.rng, self._stage.cluster.hosts[name]
        disk = host.disk
        written = {path: len(disk.content(path).rstrip(b"\0")) for path in disk.files() if "journal" in str(path)}
        journal = [path for path, used in written.items() if used > JOURNAL_BYTES_MIN]
        if journal:
            offset = rng.randrange(JOURNAL_BYTES_MIN // 2, written[journal[0]] // 2 + 1)
            disk.flip(journal[0], offset, 1 << rng.randrange(8))
            host.damaged = True

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
        name = self._operator.add_host()
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
