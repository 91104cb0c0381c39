"""Faults that take time: each builds a history that random strokes would seldom come upon."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from raftflow.simulation.world.disk import Loss

if TYPE_CHECKING:
    from collections.abc import Mapping

    from raftflow.simulation.nemesis.actions import FaultActions
    from raftflow.simulation.world.loop import Process


FOUND_WITHIN_S: Final = 0.15
"""From a new leader until agents that reach it have polled it, if nothing else happens."""
SILENT: Final = "leader's machine silent"
IN_CONTACT_S: Final = 0.6
"""An agent that polled so long ago or later was in contact with the leader: a poll is held for 0.4 s."""


class Scenarios:
    """What happens to leaders with tails, to voters, and to followers left behind."""

    def __init__(self, stage: FaultActions, *, spoil_restores: bool) -> None:
        self._stage = stage
        self._spoil_restores = spoil_restores
        """Some snapshots cannot be loaded."""

    def ex_leader(self, _name: str) -> None:
        """Cut a leader off while it takes entries, have another one elected, and let the first one lead again.

        With five replicas and more one follower stays with it, and what that follower answers comes late.
        """
        self._stage.play(self._cut_off_with_a_tail())

    async def _cut_off_with_a_tail(self) -> None:
        stage, rng = self._stage, self._stage.rng
        first = stage.cluster.leader()
        if first is None:
            return
        others = stage.others(first)
        rng.shuffle(others)
        if len(others) >= 4 and rng.random() < 0.8:
            friend = others.pop()
            slow_s = rng.choice((1.0, 2.0, 2.0))
            stage.delays.slow_until[friend, first] = (stage.loop.time() + 0.3, slow_s)
        stage.trace.fault("leader cut off with a tail", first)
        stage.cut_off(first, others)
        stage.bursts.fire(first, rng.choice((2, 5, 20, 40)))
        successor = await stage.successor(first)
        if successor is not None:
            stage.bursts.fire(successor, rng.choice((1, 2, 8, 30)))
            if rng.random() < 0.3:
                stage.snapshot(successor)
            await asyncio.sleep(rng.choice((0.0, 0.02, 0.1)))
        stage.rejoin(first, others)
        if successor is not None and rng.random() < 0.7:
            await asyncio.sleep(rng.choice((0.05, 0.1, 0.3)))
            stage.hand_over(successor, first)
            await asyncio.sleep(0.05)
            stage.bursts.fire(first, 5)

    def silent_leader(self, _name: str) -> None:
        """Let the leader fall silent to replicas, agents and clients. Its process lives, and knows nothing."""
        self._stage.play(self._fall_silent())

    async def _fall_silent(self) -> None:
        stage = self._stage
        first = stage.cluster.leader()
        replica = None if first is None else stage.cluster.hosts[first].replica
        if first is None or replica is None:
            return
        at_work: dict[str, Process] = {}
        for agent in stage.agents:
            silent_s = replica.leader.silent_s(agent.name)
            if agent.process is not None and silent_s is not None and silent_s < IN_CONTACT_S:
                at_work[agent.name] = agent.process
        everybody = [*stage.others(first), *[agent.name for agent in stage.agents], *stage.clients]
        stage.trace.fault(SILENT, first)
        # Calls are lost for good in a cut, where TCP would go on: whoever was told nothing then hears nothing later.
        judged = stage.calls_are_good and stage.trace.faults[SILENT] == 1
        count = stage.faults_so_far()
        stage.cut_off(first, everybody)
        successor = await stage.successor(first)
        if successor is not None:
            await asyncio.sleep(FOUND_WITHIN_S)
            alone = stage.faults_so_far() == count and stage.only_one_cut_off(first)
            if judged and alone and stage.cluster.leader() == successor:
                self._judge(successor, at_work)
            await asyncio.sleep(stage.rng.uniform(0.0, 1.0))
        stage.rejoin(first, everybody)

    def _judge(self, successor: str, agents: Mapping[str, Process]) -> None:
        """Whoever was at work before the leader fell silent must have found its successor by now."""
        stage = self._stage
        replica = stage.cluster.hosts[successor].replica
        now = {agent.name: agent.process for agent in stage.agents}
        if replica is None:
            return
        for name, process in agents.items():
            known = replica.machine.tables.agents.get(name)
            if now[name] is not process or process.frozen or known is None or not known.present:
                continue
            if name in replica.leader.unheard:
                stage.missed(f"{name} has not found {successor} {FOUND_WITHIN_S} s after it was elected")

    def slow_majority(self, _name: str) -> None:
        """Leave a leader the followers that it needs, on links so slow that it sends again what is on its way."""
        self._stage.play(self._crawl())

    async def _crawl(self) -> None:
        stage, rng = self._stage, self._stage.rng
        leader = stage.cluster.leader()
        if leader is None:
            return
        others = stage.others(leader)
        rng.shuffle(others)
        needed, spare = others[: len(others) // 2], others[len(others) // 2 :]
        slow_s, until_s = rng.choice((0.1, 0.2, 0.3)), stage.loop.time() + rng.uniform(0.5, 1.5)
        stage.trace.fault("slow majority", leader, f"with {','.join(needed)}, {slow_s} s")
        stage.cut_off(leader, spare)
        for name in needed:
            stage.delays.slow_until[leader, name] = (until_s, slow_s)
        while stage.loop.time() < until_s:
            stage.bursts.fire(leader, rng.choice((1, 2, 5)))
            await asyncio.sleep(rng.uniform(0.01, 0.06))
        stage.rejoin(leader, spare)

    def election(self, _name: str) -> None:
        """Take the leader away, and cut the power of whoever has just voted; it comes back at once."""
        self._stage.play(self._elect())

    async def _elect(self) -> None:
        stage, rng, cluster = self._stage, self._stage.rng, self._stage.cluster
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
            cluster.crash(name)
            await asyncio.sleep(rng.uniform(0.0, 0.01))
            cluster.disks.repair(name)
            cluster.restart(name, Loss.ALL)
        await asyncio.sleep(rng.uniform(0.1, 0.5))
        stage.restart(leader)

    def stall(self, name: str) -> None:
        """Stop a leader that nobody reaches but clients: when it goes on it does not know that it was replaced."""
        self._stage.play(self._hold_up(self._stage.cluster.leader() or name))

    async def _hold_up(self, name: str) -> None:
        stage, rng = self._stage, self._stage.rng
        process = stage.cluster.hosts[name].process
        others = stage.others(name)
        if process is None or process.frozen:
            return
        stage.trace.fault("leader cut off and stopped", name)
        stage.cut_off(name, others)
        for other in others:
            stage.network.lose(name, other, "cut")
        await asyncio.sleep(0.004)
        stage.loop.freeze(process)
        await asyncio.sleep(rng.uniform(0.6, 1.0))
        stage.bursts.fire(stage.cluster.leader() or name, 3)
        await asyncio.sleep(rng.uniform(0.1, 0.5))
        stage.loop.thaw(process)
        await asyncio.sleep(rng.uniform(0.0, 0.3))
        stage.rejoin(name, others)

    def left_behind(self, _name: str) -> None:
        """Let a follower miss so much that the leader has only a snapshot for it, or believes so."""
        self._stage.play(self._miss())

    async def _miss(self) -> None:
        stage, rng, network = self._stage, self._stage.rng, self._stage.network
        leader = stage.cluster.leader()
        if leader is None:
            return
        follower = stage.any_other(leader)
        stage.trace.fault("follower left behind", follower)
        stage.bursts.fire(leader, rng.choice((3, 30)))
        await asyncio.sleep(rng.choice((0.0, 0.003, 0.005, 0.02)))
        stage.cut_off(leader, [follower])
        await asyncio.sleep(rng.choice((0.01, 0.05)))
        stage.snapshot(leader)
        await asyncio.sleep(rng.choice((0.05, 0.15)))
        stage.bursts.fire(leader, rng.choice((1, 5, 30)))
        await asyncio.sleep(0.02)
        if rng.random() < 0.3:
            stage.snapshot(leader)
            await asyncio.sleep(0.1)
        if self._spoil_restores and rng.random() < 0.5:
            stage.spoil_restore(follower)
        network.lose(leader, follower, "cut")
        stage.rejoin(leader, [follower])
