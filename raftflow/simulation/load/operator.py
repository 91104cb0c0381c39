"""The operator of a simulated cluster: adds, removes and upgrades replicas, forgets lost agents, cleans up.

Refused requests are repeated.

The operator knows what a cluster survives, and never requests a change after which lost replicas could be more than a
minority of the voters.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final, TypeVar

from raftflow.coordinator.commit.submitter import NotLeaderError, ProposeError
from raftflow.domain.commands import ForgetAgent
from raftflow.domain.features import NEXT_LEVEL
from raftflow.domain.rejections import Rejection
from raftflow.replication.members.membership import VOTERS_MIN, ChangeRefusedError, MemberInfo, NotReadyError
from raftflow.simulation.world.calls import CallFailed
from raftflow.simulation.world.disk import Loss
from raftflow.simulation.world.loop import Process

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from random import Random

    from raftflow.coordinator.replica import Replica
    from raftflow.domain.replies import AnyReply
    from raftflow.replication.members.membership import Membership
    from raftflow.simulation.checkers.history import RunHistory
    from raftflow.simulation.world.calls import Calls
    from raftflow.simulation.world.cluster import Cluster
    from raftflow.simulation.world.loop import VirtualLoop
    from raftflow.simulation.world.trace import Trace

T = TypeVar("T")

CHANGE_S: Final = 2.0
"""How long a replica works on one request to change the members."""
TIMEOUT_S: Final = 1.2
LATE_S: Final = 2.5
"""How late a request may arrive at a replica."""
LOOK_S: Final = 0.02
FORGET_TRIES_MAX: Final = 10
FINISH_S: Final = 60.0
"""If the members of a healed cluster have not settled by then, they never will."""
Change = tuple[str, str]
"""`add`, `add absent` or `remove`, and the replica."""
Voters = frozenset[str]


class Operator:
    """Requests changes of the members, and forgets agents."""

    def __init__(
        self, *, loop: VirtualLoop, rng: Random, trace: Trace, calls: Calls, cluster: Cluster, history: RunHistory
    ) -> None:
        self.process = Process("operator")
        self._loop = loop
        self._rng = rng
        self._trace = trace
        self._calls = calls
        self._cluster = cluster
        self._history = history
        self._leader: str | None = None
        self._asked: dict[int, tuple[Change, float]] = {}
        """Changes that may still be carried out, and until when, by the number of their request."""
        self._serial = 0

    # What the cluster survives.

    def members(self) -> Membership | None:
        """Return the members as the leader shows them."""
        name = self._cluster.leader()
        replica = None if name is None else self._cluster.hosts[name].replica
        return None if replica is None else replica.log.status().members

    def add_host(self) -> str:
        """Set up a machine that will join, with a file that names the present members; returns its name."""
        return self._cluster.add_host(self._history.members.latest)

    def may_lose(self, name: str) -> bool:
        """Return True if the cluster survives the loss of this replica, however the pending changes end."""
        lost = self._cluster.lost() | {name}
        return all(_survives(voters, lost) for voters in self._possible() if name in voters)

    def _possible(self) -> set[Voters]:
        """Return every list of voters that may become active."""
        lists = self._history.members.possible()
        for change, until_s in self._asked.values():
            if until_s >= self._loop.time():
                lists |= {_changed(voters, change) for voters in lists}
        return lists

    def _may_request(self, change: Change) -> bool:
        lost = self._cluster.lost()
        return all(_survives(_changed(voters, change), lost) for voters in self._possible())

    # Agents.

    def is_absent(self, agent: str) -> bool:
        """Return True if the leader knows an agent that is lost or has left."""
        name = self._cluster.leader()
        replica = None if name is None else self._cluster.hosts[name].replica
        known = None if replica is None else replica.machine.tables.agents.get(agent)
        return known is not None and not known.present

    async def forget_agent(self, agent: str) -> bool:
        """Forget an agent. True once that was acknowledged; False if it was refused or no answer came."""
        self._serial += 1
        request_id = f"operator-{self._serial}"

        async def serve(replica: Replica) -> AnyReply:
            at_ms = replica.clock.now_ms()
            return await replica.propose(
                ForgetAgent(at_ms=at_ms, actor="client:api", request_id=request_id, name=agent)
            )

        for _ in range(FORGET_TRIES_MAX):
            reply = await self._call(serve)
            if reply is not None:
                self._history.acknowledge(request_id, reply)
                return not isinstance(reply, Rejection)
            await asyncio.sleep(self._rng.uniform(0.02, 0.1))
        return False

    # Changes.

    async def add(self, name: str, *, tries_max: int = 12) -> bool:
        """Add a replica. True once that was acknowledged."""
        member = MemberInfo(name, f"{name}:1", f"sim://{name}")
        return await self._ask(("add", name), lambda replica: replica.membership.add(member), tries_max)

    async def add_absent_member(self, name: str) -> None:
        """Add a replica that never runs. It cannot become a voter, and is removed afterwards."""
        member = MemberInfo(name, f"{name}:1", f"sim://{name}")
        serial = self._note(("add absent", name))
        try:
            await self._call(_serving(lambda replica: replica.membership.add(member)))
            await self._call(_serving(lambda replica: replica.membership.add(member)))
        finally:
            self._stop_waiting(serial)

    async def change_at(self, target: str, change: Change) -> None:
        """Request one change from one replica, whether or not it leads."""
        kind, name = change
        if not self._may_request(change):
            return
        if kind == "remove":
            self._history.members.removal_asked(name)
        member = MemberInfo(name, f"{name}:1", f"sim://{name}")
        serial = self._note(change)
        try:
            self._leader = target
            await self._call(
                _serving(
                    lambda replica: (
                        replica.membership.add(member) if kind == "add" else replica.membership.remove(name)
                    )
                )
            )
        finally:
            self._stop_waiting(serial)

    def _note(self, change: Change) -> int:
        self._serial += 1
        self._asked[self._serial] = change, float("inf")
        return self._serial

    def _stop_waiting(self, serial: int) -> None:
        """Stop waiting for the answer. The replica may still work on the request."""
        self._asked[serial] = self._asked[serial][0], self._loop.time() + CHANGE_S + LATE_S

    async def remove(self, name: str, *, tries_max: int = 12) -> bool:
        """Remove a replica. True once that was acknowledged."""
        self._history.members.removal_asked(name)
        return await self._ask(("remove", name), lambda replica: replica.membership.remove(name), tries_max)

    async def _ask(self, change: Change, work: Callable[[Replica], Awaitable[None]], tries_max: int) -> bool:
        if not self._may_request(change):
            return False
        kind, name = change
        serve, serial = _serving(work), self._note(change)
        try:
            for _ in range(tries_max):
                refusal = await self._call(serve)
                if refusal == "":
                    self._trace.fault("member added" if kind == "add" else "member removed", name)
                    self._history.members.acknowledge(kind, name)
                    return True
                if refusal is not None:
                    self._trace.fault("change of members refused", name, f"{kind}: {refusal[:100]}")
                await asyncio.sleep(self._rng.uniform(0.02, 0.3))
        finally:
            self._stop_waiting(serial)
        return False

    async def _call(self, serve: Callable[[Replica], Awaitable[T]]) -> T | None:
        """Ask the leader, or any replica. None if no answer came."""
        target = self._leader or self._rng.choice(self._cluster.names)
        self._leader = None
        try:
            answer = await self._calls.call(self.process, target, serve, TIMEOUT_S)
        except NotLeaderError as error:
            self._leader = error.leader
            return None
        except (ProposeError, CallFailed):
            return None
        self._leader = target
        return answer

    # The end of a run.

    async def finish(self) -> None:
        """Replace lost replicas, upgrade old ones, and make learners voters, until nothing is left to do."""
        until_s = self._loop.time() + FINISH_S
        while not self._history.violations:
            if self._loop.time() > until_s:
                who = [f"{name} {each.role.value} of {each.term}" for name, each in self._cluster.views().items()]
                self._history.violation("members do not settle", f"within {FINISH_S:g} s after healing: {who}")
                return
            members = self.members()
            if members is None:
                await asyncio.sleep(LOOK_S)
            elif not await self._do_next_step(members) and not self._has_pending_requests():
                return
            else:
                await asyncio.sleep(LOOK_S)  # a request may have been answered without virtual time passing

    def _has_pending_requests(self) -> bool:
        """Return True while a replica may still work on a request of which the answer is not awaited."""
        return self._calls.under_way(self.process.name) or any(
            until_s >= self._loop.time() for _change, until_s in self._asked.values()
        )

    async def _do_next_step(self, members: Membership) -> bool:
        """Do the next step. False if no step is left."""
        lost = self._cluster.lost(damaged=False)
        dead = sorted(lost & members.voter_names)
        for name in self._cluster.names:
            if self._cluster.hosts[name].level < NEXT_LEVEL:
                self._cluster.upgrade(name)
                self._cluster.restart(name, Loss.NONE)
                return True
        for learner in sorted(members.learner_names):
            # A learner with a damaged disk may not become a voter beside lost replicas: another one takes its place.
            hopeless = learner in lost or not self._may_request(("add", learner))
            await (self.remove(learner) if hopeless else self.add(learner))
            return True
        if dead and len(members.voters) > VOTERS_MIN:
            await self.remove(dead[0])
            return True
        if dead:
            known = members.voter_names | set(members.removed) | self._cluster.lost()
            spare = [name for name in self._cluster.names if name not in known]
            name = spare[0] if spare else self.add_host()
            self._cluster.restart(name, Loss.ALL)
            await self.add(name)
            return True
        await asyncio.sleep(LOOK_S)
        return False


def _serving(work: Callable[[Replica], Awaitable[None]]) -> Callable[[Replica], Awaitable[str]]:
    async def serve(replica: Replica) -> str:
        """Return why it was refused, or an empty string."""
        try:
            await work(replica)
        except (ChangeRefusedError, NotReadyError) as error:
            return str(error)
        return ""

    return serve


def _survives(voters: Voters, lost: frozenset[str]) -> bool:
    return 2 * len(voters & lost) < len(voters)


def _changed(voters: Voters, change: Change) -> Voters:
    kind, name = change
    if kind == "add":
        return voters | {name}
    if kind == "add absent":
        return voters
    return voters - {name} if len(voters) > VOTERS_MIN else voters
