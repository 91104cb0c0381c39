"""Scenarios: faults that take time. Each builds a history that random faults seldom produce."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from raftflow.simulation.world.disk import Loss

if TYPE_CHECKING:
    from collections.abc import Mapping

    from raftflow.simulation.nemesis.actions import FaultActions
    from raftflow.simulation.world.loop import Process


FOUND_WITHIN_S: Final = 0.15
"""Time from an election until agents that reach the new leader have polled it, if no other fault happens."""
SILENT: Final = "leader silent"
IN_CONTACT_S: Final = 0.6
"""An agent that polled within this time was in contact with the leader. A poll is held for 0.4 s."""


class Scenarios:
    """Scenarios for leaders with uncommitted tails, for voters, and for lagging followers."""

    def __init__(self, actions: FaultActions, *, refuse_restores: bool) -> None:
        self._actions = actions
        self._spoil_restores = refuse_restores
        """Some snapshots cannot be loaded."""

    def isolated_leader(self, _name: str) -> None:
        """Isolate a leader while it takes entries, wait for another leader, and let the first one lead again.

        With five replicas or more, one follower stays connected to it, and the answers of that follower are late.
        """
        self._actions.run_scenario(self._isolate_leader_with_tail())

    async def _isolate_leader_with_tail(self) -> None:
        actions, rng = self._actions, self._actions.rng
        first = actions.cluster.leader()
        if first is None:
            return
        others = actions.others(first)
        rng.shuffle(others)
        if len(others) >= 4 and rng.random() < 0.8:
            friend = others.pop()
            slow_s = rng.choice((1.0, 2.0, 2.0))
            actions.delays.slow_until[friend, first] = (actions.loop.time() + 0.3, slow_s)
        actions.trace.fault("leader isolated with a tail", first)
        actions.isolate(first, others)
        actions.bursts.submit(first, rng.choice((2, 5, 20, 40)))
        successor = await actions.successor(first)
        if successor is not None:
            actions.bursts.submit(successor, rng.choice((1, 2, 8, 30)))
            if rng.random() < 0.3:
                actions.snapshot(successor)
            await asyncio.sleep(rng.choice((0.0, 0.02, 0.1)))
        actions.reconnect(first, others)
        if successor is not None and rng.random() < 0.7:
            await asyncio.sleep(rng.choice((0.05, 0.1, 0.3)))
            actions.transfer_leadership(successor, first)
            await asyncio.sleep(0.05)
            actions.bursts.submit(first, 5)

    def silent_leader(self, _name: str) -> None:
        """Isolate the leader from replicas, agents and clients. Its process lives and does not know it."""
        self._actions.run_scenario(self._silence_leader())

    async def _silence_leader(self) -> None:
        actions = self._actions
        first = actions.cluster.leader()
        replica = None if first is None else actions.cluster.hosts[first].replica
        if first is None or replica is None:
            return
        at_work: dict[str, Process] = {}
        for agent in actions.agents:
            silent_s = replica.leader.liveness.silent_s(agent.name)
            if agent.process is not None and silent_s is not None and silent_s < IN_CONTACT_S:
                at_work[agent.name] = agent.process
        everybody = [*actions.others(first), *[agent.name for agent in actions.agents], *actions.clients]
        actions.trace.fault(SILENT, first)
        # A partition loses calls for ever, where TCP would send them again. So only the first one is judged.
        judged = actions.calls_are_reliable and actions.trace.faults[SILENT] == 1
        count = actions.faults_begun()
        actions.isolate(first, everybody)
        # An agent that is isolated already cannot find the next leader, also if that partition heals meanwhile.
        judged = judged and actions.is_only_one_isolated(first)
        successor = await actions.successor(first)
        if successor is not None:
            await asyncio.sleep(FOUND_WITHIN_S)
            alone = actions.faults_begun() == count and actions.is_only_one_isolated(first)
            if judged and alone and actions.cluster.leader() == successor:
                self._judge(successor, at_work)
            await asyncio.sleep(actions.rng.uniform(0.0, 1.0))
        actions.reconnect(first, everybody)

    def _judge(self, successor: str, agents: Mapping[str, Process]) -> None:
        """Agents that were connected before the leader fell silent must have found its successor by now."""
        actions = self._actions
        replica = actions.cluster.hosts[successor].replica
        now = {agent.name: agent.process for agent in actions.agents}
        members = None if replica is None else replica.log.status().members
        if replica is None or members is None:
            return
        voters = {member.name for member in members.voters}
        if not voters.issuperset(actions.cluster.running()):
            return  # simulated agents know a replica that is being added, and nobody has told it yet who leads
        for name, process in agents.items():
            known = replica.machine.tables.agents.get(name)
            if now[name] is not process or process.frozen or known is None or not known.present:
                continue
            if name in replica.leader.liveness.unheard:
                actions.on_slow_failover(f"{name} has not found {successor} {FOUND_WITHIN_S} s after it was elected")

    def slow_majority(self, _name: str) -> None:
        """Leave the leader a bare majority of followers, on links so slow that it sends entries again."""
        self._actions.run_scenario(self._slow_majority_down())

    async def _slow_majority_down(self) -> None:
        actions, rng = self._actions, self._actions.rng
        leader = actions.cluster.leader()
        if leader is None:
            return
        others = actions.others(leader)
        rng.shuffle(others)
        needed, spare = others[: len(others) // 2], others[len(others) // 2 :]
        slow_s, until_s = rng.choice((0.1, 0.2, 0.3)), actions.loop.time() + rng.uniform(0.5, 1.5)
        actions.trace.fault("slow majority", leader, f"with {','.join(needed)}, {slow_s} s")
        actions.isolate(leader, spare)
        for name in needed:
            actions.delays.slow_until[leader, name] = (until_s, slow_s)
        while actions.loop.time() < until_s:
            actions.bursts.submit(leader, rng.choice((1, 2, 5)))
            await asyncio.sleep(rng.uniform(0.01, 0.06))
        actions.reconnect(leader, spare)

    def crash_after_vote(self, _name: str) -> None:
        """Crash the leader, then cut the power of replicas that have just voted. They restart at once."""
        self._actions.run_scenario(self._crash_voters())

    async def _crash_voters(self) -> None:
        actions, rng, cluster = self._actions, self._actions.rng, self._actions.cluster
        leader = cluster.leader()
        if leader is None:
            return
        before = max((status.term for status in cluster.views().values()), default=0)
        cluster.crash(leader)
        for _ in range(700):
            await asyncio.sleep(0.001)
            voters = [name for name, status in cluster.views().items() if status.term > before]
            if voters:
                break
        else:
            return
        await asyncio.sleep(rng.choice((0.0, 0.0005, 0.001, 0.002, 0.005)))
        for name in rng.sample(voters, 1 if rng.random() < 0.7 else len(voters)):
            cluster.crash(name, kind="power loss after a vote")
            await asyncio.sleep(rng.uniform(0.0, 0.01))
            cluster.disks.repair(name)
            cluster.restart(name, Loss.ALL)
        await asyncio.sleep(rng.uniform(0.1, 0.5))
        actions.restart(leader)

    def paused_leader(self, name: str) -> None:
        """Pause an isolated leader that clients reach. When it continues, it does not know that it was replaced."""
        self._actions.run_scenario(self._pause_isolated_leader(self._actions.cluster.leader() or name))

    async def _pause_isolated_leader(self, name: str) -> None:
        actions, rng = self._actions, self._actions.rng
        process = actions.cluster.hosts[name].process
        others = actions.others(name)
        if process is None or process.frozen:
            return
        actions.trace.fault("leader isolated and paused", name)
        actions.isolate(name, others)
        for other in others:
            actions.network.lose(name, other, "cut")
        await asyncio.sleep(0.004)
        actions.loop.freeze(process)
        await asyncio.sleep(rng.uniform(0.6, 1.0))
        actions.bursts.submit(actions.cluster.leader() or name, 3)
        await asyncio.sleep(rng.uniform(0.1, 0.5))
        actions.loop.thaw(process)
        await asyncio.sleep(rng.uniform(0.0, 0.3))
        actions.reconnect(name, others)

    def lagging_follower(self, _name: str) -> None:
        """Let a follower lag so far behind that the leader sends it a snapshot."""
        self._actions.run_scenario(self._let_follower_lag())

    async def _let_follower_lag(self) -> None:
        actions, rng, network = self._actions, self._actions.rng, self._actions.network
        leader = actions.cluster.leader()
        if leader is None:
            return
        follower = actions.any_other(leader)
        actions.trace.fault("follower left behind", follower)
        actions.bursts.submit(leader, rng.choice((3, 30)))
        await asyncio.sleep(rng.choice((0.0, 0.003, 0.005, 0.02)))
        actions.isolate(leader, [follower])
        await asyncio.sleep(rng.choice((0.01, 0.05)))
        actions.snapshot(leader)
        await asyncio.sleep(rng.choice((0.05, 0.15)))
        actions.bursts.submit(leader, rng.choice((1, 5, 30)))
        await asyncio.sleep(0.02)
        if rng.random() < 0.3:
            actions.snapshot(leader)
            await asyncio.sleep(0.1)
        if self._spoil_restores and rng.random() < 0.5:
            actions.refuse_next_restore(follower)
        network.lose(leader, follower, "cut")
        actions.reconnect(leader, [follower])
