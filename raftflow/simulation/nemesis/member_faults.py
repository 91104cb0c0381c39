"""Changes of members and of versions, while all other faults continue."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

from raftflow.domain.features import NEXT_LEVEL

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from raftflow.simulation.load.operator import Operator
    from raftflow.simulation.nemesis.actions import FaultActions

CHANGES_MAX: Final = 2
"""Changes at the same time."""
VOTERS_MAX: Final = 7
JOURNAL_BYTES_MIN: Final = 200
MET_CHECK_S: Final = 0.05
MET_CHECKS_MAX: Final = 60
HOSTS_MAX: Final = 14
"""Machines in one run, including those that were lost."""


class MemberFaults:
    """Adds, removes, loses, replaces and upgrades replicas."""

    def __init__(self, actions: FaultActions, operator: Operator) -> None:
        self._actions = actions
        self._operator = operator
        self._changes: list[asyncio.Task[None]] = []
        self._replacement: asyncio.Task[None] | None = None

    def may_lose(self, name: str) -> bool:
        """Return True if the cluster survives the loss of this replica's disk."""
        return self._operator.may_lose(name)

    def add(self, _name: str) -> None:
        """Add a new replica, or one that is not a member yet."""
        self._start_change(self._add())

    def remove(self, name: str) -> None:
        """Remove a replica: a follower, a learner, a lost one, or the leader."""
        self._start_change(self._remove(name))

    def replace(self, name: str) -> None:
        """Lose a replica with its disk, or leave it running, and replace it by a new one."""
        self._start_change(self._replace(name))

    def upgrade(self, name: str) -> None:
        """Stop a replica and start the newest version in its place. Most leaders transfer their leadership first."""
        cluster = self._actions.cluster
        old = [each for each in cluster.names if cluster.hosts[each].level < NEXT_LEVEL]
        if old:
            self._actions.run_scenario(self._upgrade(name if name in old else self._actions.rng.choice(old)))

    def change_at_isolated_leader(self, _name: str) -> None:
        """Ask an isolated leader for a change, have it write a snapshot and restart, and reconnect it."""
        self._start_change(self._change_at_isolated_leader())

    def absent_member(self, _name: str) -> None:
        """Lose a replica and add one that never runs, as with a wrong address. Then remove it."""
        self._start_change(self._add_absent_member())

    def damaged_voter(self, _name: str) -> None:
        """Damage the journal of the only follower that has the newest entries, and kill the leader."""
        self._actions.run_scenario(self._damage())

    def replace_all_others(self, _name: str) -> None:
        """Replace all voters but one while that one is down, so that it knows no member when it restarts."""
        if self._replacement is None or self._replacement.done():
            self._replacement = self._actions.run_scenario(self._replace_all_others())

    def older_disk_copy(self, _name: str) -> None:
        """Put an older copy of its disk into such a follower, and kill the leader."""
        if not any(host.older for host in self._actions.cluster.hosts.values()):
            self._actions.run_scenario(self._put_older_copy_back())

    async def _change_at_isolated_leader(self) -> None:
        actions, rng, cluster = self._actions, self._actions.rng, self._actions.cluster
        leader, members = cluster.leader(), self._operator.members()
        if leader is None or members is None:
            return
        others = actions.others(leader)
        voters = sorted(members.voter_names - {leader})
        actions.trace.fault("change at an isolated leader", leader)
        actions.isolate(leader, others)
        if len(voters) > 2:
            for name in voters[: rng.choice((1, 2))]:
                actions.run_scenario(self._operator.change_at(leader, ("remove", name)))
        else:
            newcomer = self._newcomer()
            if newcomer is not None:
                actions.run_scenario(self._operator.change_at(leader, ("add", newcomer)))
        await asyncio.sleep(rng.choice((0.01, 0.03, 0.06)))
        actions.snapshot(leader)
        await asyncio.sleep(rng.choice((0.05, 0.1, 0.2)))
        actions.kill(leader)
        await asyncio.sleep(rng.uniform(0.1, 0.8))
        actions.reconnect(leader, others)
        actions.restart(leader)

    async def _replace_all_others(self) -> None:
        actions, rng, cluster = self._actions, self._actions.rng, self._actions.cluster
        members, followers = self._operator.members(), self._followers()
        if members is None or not followers or not members.voter_names <= set(cluster.founders):
            return
        away = followers[0]
        if len(cluster.hosts) + len(members.voters) - 1 > HOSTS_MAX or not self.may_lose(away):
            return
        actions.trace.fault("all other voters replaced", away)
        actions.kill(away)
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
        actions.restart(away)

    async def _add_absent_member(self) -> None:
        actions, cluster = self._actions, self._actions.cluster
        members = self._operator.members()
        if members is None or len(cluster.hosts) >= HOSTS_MAX:
            return
        followers = [name for name in sorted(members.voter_names) if name != cluster.leader()]
        victim = actions.rng.choice(followers)
        if self.may_lose(victim):
            cluster.destroy(victim)
        absent = self._operator.add_host()
        cluster.hosts[absent].gone = "never runs"
        cluster.names.remove(absent)
        actions.trace.fault("absent member added", absent)
        await self._operator.add_absent_member(absent)
        await self._operator.remove(absent)

    async def _put_older_copy_back(self) -> None:
        """Copy a follower's disk, restart it, and put the copy back when all voters have met that start.

        This happens to one replica of a run, while the disks of all others are intact: older copies are promised to
        be survived on that condition.
        """
        actions, cluster = self._actions, self._actions.cluster
        followers = self._followers()
        if not followers or not self.may_lose(followers[0]) or cluster.hosts[followers[0]].level < NEXT_LEVEL:
            return
        victim = followers[0]
        host = cluster.hosts[victim]
        actions.kill(victim)
        copy = host.disk.copy()
        actions.restart(victim)
        life = host.process
        for _ in range(MET_CHECKS_MAX):
            await asyncio.sleep(MET_CHECK_S)
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

        await self._damage(victim, put, kind="voter on an older disk copy")

    def _is_met_by_all(self, name: str) -> bool:
        hosts, members = self._actions.cluster.hosts, self._operator.members()
        voters = frozenset() if members is None else members.voter_names
        linked = [hosts[each].links for each in sorted(voters) if each != name]
        return name in voters and all(links is not None and name in links.up for links in linked)

    def _followers(self) -> list[str]:
        """Return the voters that do not lead, in random order; none if the members are not known."""
        leader, members = self._actions.cluster.leader(), self._operator.members()
        if leader is None or members is None:
            return []
        followers = [name for name in sorted(members.voter_names) if name != leader]
        self._actions.rng.shuffle(followers)
        return followers

    async def _damage(
        self, chosen: str | None = None, spoil: Callable[[], None] | None = None, *, kind: str = "voter damaged"
    ) -> None:
        actions, rng, cluster = self._actions, self._actions.rng, self._actions.cluster
        followers = self._followers()
        leader = cluster.leader()
        if leader is None or not followers or (chosen is not None and chosen not in followers):
            return
        victim = chosen or followers[0]
        laggards = [name for name in followers if name != victim]
        if not self.may_lose(victim):
            return
        actions.isolate(leader, laggards)
        actions.isolate(victim, laggards)
        actions.bursts.submit(leader, rng.choice((3, 10)))
        await asyncio.sleep(0.05)
        if not self.may_lose(victim):  # other replicas were damaged or lost meanwhile
            actions.reconnect(leader, laggards)
            actions.reconnect(victim, laggards)
            return
        actions.trace.fault(kind, victim)
        actions.kill(victim)
        actions.kill(leader)
        if spoil is None:
            self.flip_journal(victim)
        else:
            spoil()
        actions.reconnect(victim, laggards)
        actions.restart(victim)
        for name in laggards:
            actions.restart(name)
        await asyncio.sleep(rng.uniform(1.0, 2.0))
        actions.reconnect(leader, laggards)
        actions.restart(leader)

    def flip_journal(self, name: str) -> bool:
        """Flip a bit in the older half of a replica's journal. The replica can detect and repair that.

        Returns False if the journal is too short.
        """
        rng, host = self._actions.rng, self._actions.cluster.hosts[name]
        disk = host.disk
        written = {path: len(disk.content(path).rstrip(b"\0")) for path in disk.files() if "journal" in str(path)}
        journal = [path for path, used in written.items() if used > JOURNAL_BYTES_MIN]
        if journal:
            offset = rng.randrange(JOURNAL_BYTES_MIN // 2, written[journal[0]] // 2 + 1)
            disk.flip(journal[0], offset, 1 << rng.randrange(8))
            host.damaged = True
        return bool(journal)

    def _start_change(self, change: Coroutine[Any, Any, None]) -> None:
        self._changes = [task for task in self._changes if not task.done()]
        if len(self._changes) < CHANGES_MAX:
            self._changes.append(self._actions.run_scenario(change))
        else:
            change.close()

    async def _add(self) -> None:
        members = self._operator.members()
        if members is None or len(members.voters) >= VOTERS_MAX:
            return
        name = self._newcomer()
        if name is not None:
            self._crash_during_change(name)
            await self._operator.add(name)

    def _newcomer(self) -> str | None:
        """Return a replica that is not a member: an existing one, or a new one, which may start late."""
        actions, rng, cluster = self._actions, self._actions.rng, self._actions.cluster
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
            actions.schedule(rng.uniform(0.1, 1.5), actions.restart, name)
        return name

    async def _remove(self, name: str) -> None:
        rng, members = self._actions.rng, self._operator.members()
        if members is None or (len(members.voters) <= 3 and rng.random() < 0.7):
            return
        lost = sorted(self._actions.cluster.lost() & members.voter_names)
        if lost and rng.random() < 0.7:
            name = rng.choice(lost)
        elif members.find(name) is None or rng.random() < 0.4:
            name = rng.choice(sorted(members.voter_names | members.learner_names))
        if name == self._actions.cluster.leader():
            self._actions.trace.note(name, "leads and will be removed")
        self._crash_during_change(name)
        await self._operator.remove(name)

    async def _replace(self, name: str) -> None:
        actions, rng, members = self._actions, self._actions.rng, self._operator.members()
        if members is None or members.find(name) is None:
            return
        if rng.random() < 0.7:
            if not self.may_lose(name):
                return
            actions.cluster.destroy(name)
            await asyncio.sleep(rng.choice((0.0, 0.2, 1.0)))
        if rng.random() < 0.3 and await self._operator.remove(name, tries_max=2):
            return
        newcomer = self._newcomer()
        if newcomer is not None and await self._operator.add(newcomer):
            self._crash_during_change(newcomer)
            await self._operator.remove(name)

    def _crash_during_change(self, name: str) -> None:
        """In some cases, cut the power of the leader, or of the replica concerned, during a change."""
        actions, rng = self._actions, self._actions.rng
        if rng.random() < 0.4:
            victim = name if rng.random() < 0.4 else actions.cluster.leader()
            actions.schedule(rng.uniform(0.0, 0.3), actions.cluster.crash, victim or name)

    async def _upgrade(self, name: str) -> None:
        actions, rng, cluster = self._actions, self._actions.rng, self._actions.cluster
        if cluster.leader() == name and rng.random() < 0.7:
            actions.transfer_leadership(name, None)
            await asyncio.sleep(0.1)
        if cluster.hosts[name].gone is None:
            actions.trace.fault("replica upgraded", name)
            cluster.upgrade(name)
            await asyncio.sleep(rng.uniform(0.02, 0.5))
            actions.restart(name)
