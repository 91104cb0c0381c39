"""A virtual cluster whose members change: replicas that join, leave, and lose their disks for good."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

from virtual_cluster import Cluster, Disk, Machine, Network, SimLinks

from raftflow.replication.config import LogConfig
from raftflow.replication.engine import PySyncObjLog
from raftflow.replication.errors import LogFailedError, RemovedError
from raftflow.replication.members.introductions import Introduction, is_welcome
from raftflow.replication.members.membership import ChangeRefusedError, MemberInfo, MembershipVersion, NotReadyError
from raftflow.simulation.world.disk import SimulatedCrash

if TYPE_CHECKING:
    import random

    from raftflow.replication.members.membership import Membership


class KnowingLinks(SimLinks):
    """Links to whom the file or the log names, as in production, and to strangers that are welcome."""

    def __init__(self, network: Network, name: str, named: tuple[str, ...], *, strangers: bool) -> None:
        super().__init__(network, name)
        self.named = frozenset(named)
        self.strangers = strangers
        self.membership = MembershipVersion()
        self.lists: list[Membership] = []
        """All that were in force."""

    def follow(self, version: MembershipVersion) -> None:
        self.membership = version
        self.lists.append(version.members)
        if self.alive:
            self.network.joined(self)

    def takes(self, other: KnowingLinks) -> bool:
        if other.name in self.named or self.membership.members.find(other.name) is not None:
            return True
        told = Introduction(
            format=1,
            disk="-",
            level=1,
            members=other.membership.members.names,
            members_index=other.membership.index,
        )
        return self.strangers and is_welcome(self.name, other.name, told, self.membership.certain_index)


class MemberCluster(Cluster):
    """`names` are the replicas that may run: members, replicas that join, and removed ones that do not know it.

    `strangers` tells whether a replica takes in those it does not know; None links everybody with everybody.
    """

    def __init__(self, seed: int, *, strangers: bool | None = None, **settings: object) -> None:
        super().__init__(seed, **settings)
        self.strangers = strangers
        self.founders = self.names
        self.destroyed: set[str] = set()
        self.added: set[str] = set()
        self.removed: set[str] = set()
        """Removals that were acknowledged."""
        self.removing: set[str] = set()
        """Removals that were asked for."""
        self.told: set[str] = set()
        self.leading: dict[int, str] = {}
        self.changes = 0
        self.refused = 0
        self._joined = 0

    def new_disk(self) -> str:
        """Return the name of a replica that has an empty disk and is no member yet."""
        self._joined += 1
        name = f"j{self._joined}"
        latency = self.disks[self.founders[0]].latency
        self.disks[name] = Disk(latency)
        self.names = (*self.names, name)
        return name

    async def _start(self, name: str) -> None:
        machine = self.machines[name] = Machine(lambda index, entry: self._check_apply(name, index, entry))
        join = name not in self.founders
        members = (*self.founders, name) if join else self.founders
        knowing = None
        if self.strangers is not None:
            knowing = KnowingLinks(self.network, name, members, strangers=self.strangers)
        links = self.links[name] = knowing or SimLinks(self.network, name)
        config = LogConfig(
            name=name,
            members=members,
            cluster_id="test",
            data_dir=Path("/") / name,
            join=join,
            **self.settings,
        )
        log = self.logs[name] = PySyncObjLog(
            config,
            machine,
            links,
            self.disks[name],
            disabled_rules=self.disabled_rules,
            on_members=None if knowing is None else knowing.follow,
        )
        log.on_role_change(lambda role, term: self._check_role(name, role, term))
        try:
            await log.start()
        except SimulatedCrash:
            return
        except RemovedError:
            self.retire(name)
        except LogFailedError as error:
            self.failed[name] = error
            self.violations.append(f"{name} refuses to start: {error}")
            self.logs.pop(name, None)

    def retire(self, name: str) -> None:
        """A replica was told that it is removed, and stopped for good."""
        if name not in self.removing:
            self.violations.append(f"{name} was told that it is removed, but nobody asked for that")
        self.told.add(name)
        self.names = tuple(each for each in self.names if each != name)
        self.crash(name)

    def damaged_files(self, name: str) -> int:
        """How many files of a replica's journal were put aside."""
        return sum(".damaged-" in file for file in self.disks[name].list_dir(Path("/") / name / "journal"))

    def destroy(self, name: str) -> None:
        """A replica loses its disk and never comes back."""
        self.destroyed.add(name)
        self.crash(name)
        self.names = tuple(each for each in self.names if each != name)

    async def watch(self) -> None:
        """Look at every replica every few milliseconds."""
        while True:
            for name, log in list(self.logs.items()):
                if isinstance(log.failure, RemovedError):
                    self.retire(name)
                elif log.is_running and log.failure is None and log._raft.is_leader:
                    first = self.leading.setdefault(log._raft.term, name)
                    if first != name:
                        self.violations.append(f"{name} and {first} lead term {log._raft.term}")
            await asyncio.sleep(0.004)

    def membership(self) -> Membership | None:
        """The membership by the leader's log."""
        leader = self.leader()
        return None if leader is None else self.logs[leader].status().members

    async def add(self, name: str, timeout_s: float) -> bool:
        leader = self.leader()
        if leader is None:
            return False
        with contextlib.suppress(ChangeRefusedError, NotReadyError, SimulatedCrash):
            await self.logs[leader].add_member(MemberInfo(name), timeout_s)
            self.added.add(name)
            self.changes += 1
            return True
        self.refused += 1
        return False

    async def remove(self, name: str, timeout_s: float) -> bool:
        leader = self.leader()
        if leader == name:
            await self.logs[leader].transfer_leadership(None, timeout_s)
            leader = self.leader()
        if leader is None or leader == name:
            return False
        self.removing.add(name)
        with contextlib.suppress(ChangeRefusedError, NotReadyError, SimulatedCrash):
            await self.logs[leader].remove_member(name, timeout_s)
            self.removed.add(name)
            self.changes += 1
            return True
        self.refused += 1
        return False

    async def settle_members(self, within_s: float = 20.0) -> bool:
        """Wait until all members have applied the same log to its end and show the same list."""

        def settled() -> bool:
            membership = self.membership()
            if membership is None:
                return False
            names = (membership.voter_names | membership.learner_names) - self.destroyed
            views = [self.logs[name].status() for name in names if name in self.logs]
            return (
                len(views) == len(names)
                and len({view.applied_index for view in views}) == 1
                and len({view.last_index for view in views}) == 1
                and views[0].applied_index == views[0].last_index
                and len({view.members for view in views}) == 1
            )

        return await self.wait(settled, within_s)

    def check_members_end(self) -> None:
        """Check the members' lists, then drop everybody else and check the entries."""
        membership = self.membership()
        assert membership is not None
        members = membership.voter_names | membership.learner_names
        if missing := self.added - members - self.removing:
            self.violations.append(f"{sorted(missing)} were added and are no members")
        if back := self.removed & members:
            self.violations.append(f"{sorted(back)} were removed and are members")
        for name in [name for name in self.logs if name not in members]:
            self.crash(name)
        self.check_end()


async def change_members(cluster: MemberCluster, rng: random.Random, seconds: float) -> None:
    """Ask for one change after the other, some of them at the same time."""
    loop = asyncio.get_running_loop()
    until = loop.time() + seconds
    tasks: list[asyncio.Task] = []
    while loop.time() < until:
        await asyncio.sleep(rng.uniform(0.05, 0.4))
        membership = cluster.membership()
        if membership is None:
            continue
        voters = sorted(membership.voter_names)
        spare = [name for name in cluster.names if name not in voters and name not in membership.removed]
        chance, timeout_s = rng.random(), rng.choice((0.3, 1.5, 4.0))
        if chance < 0.5:
            if len(voters) < 6 and len(cluster.disks) < 16:
                if not spare or rng.random() < 0.3:
                    name = cluster.new_disk()
                    await cluster.start(name)
                else:
                    name = rng.choice(spare)
                tasks.append(asyncio.ensure_future(cluster.add(name, timeout_s)))
        elif chance < 0.85:
            dead = [name for name in voters if name in cluster.destroyed]
            leader = cluster.leader()
            name = rng.choice(dead) if dead and rng.random() < 0.7 else rng.choice(voters)
            if rng.random() < 0.2 and leader is not None:
                name = leader
            if len(voters) > 3 or rng.random() < 0.2:
                tasks.append(asyncio.ensure_future(cluster.remove(name, timeout_s)))
        elif chance < 0.93 and cluster.destroyed <= cluster.removed:
            cluster.destroy(rng.choice([name for name in voters if name in cluster.names] or [voters[0]]))
    await asyncio.gather(*tasks)
