"""What goes wrong, and when: every seed draws which kinds of faults it has and how often (swarm testing).

No run has more than the system promises to survive: bits are flipped on the disks of a minority only. Everything else
may happen to everybody, at once as well.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import errno
from typing import TYPE_CHECKING, Final

from raftflow.simulation.disk import Loss

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from random import Random

    from raftflow.simulation.agents import SimAgent
    from raftflow.simulation.bursts import Bursts
    from raftflow.simulation.calls import Calls
    from raftflow.simulation.cluster import Cluster
    from raftflow.simulation.loop import VirtualLoop
    from raftflow.simulation.network import Direction, Network
    from raftflow.simulation.trace import Trace

LOSSES: Final = (Loss.ALL, Loss.ALL, Loss.SOME, Loss.TORN, Loss.NONE)

KINDS: Final[dict[str, int]] = {
    "crash": 10,
    "kill": 6,
    "crash at step": 8,
    "blackout": 4,
    "cut": 8,
    "cut one way": 6,
    "isolate": 5,
    "lose connection": 6,
    "slow link": 6,
    "slow disk": 4,
    "pause": 10,
    "clock": 8,
    "failing disk": 4,
    "full disk": 2,
    "flip": 2,
    "bad restore": 2,
    "burst": 16,
    "ex-leader": 6,
    "slow majority": 6,
    "election": 4,
    "stall": 4,
    "left behind": 5,
    "snapshot": 8,
    "transfer": 5,
    "agent": 8,
}
"""Kinds of faults with their usual weight."""


class Weather:
    """Delays of links and disks at the moment."""

    def __init__(self, rng: Random, loop: VirtualLoop, slow: float) -> None:
        self._rng = rng
        self._loop = loop
        self.slow = slow
        """Share of frames and syncs that take long."""
        self.steady = False
        """Frames that leave together arrive together."""
        self.slow_until: dict[Direction, tuple[float, float]] = {}
        """Direction of a link to when it is fast again, and how slow it is."""
        self.disk_until: dict[str, tuple[float, float]] = {}

    def link_s(self, direction: Direction) -> float:
        """Return how long a frame takes."""
        until_s, extra_s = self.slow_until.get(direction, (0.0, 0.0))
        base_s = 0.001 if self.steady else self._rng.uniform(0.0003, 0.002)
        if self._loop.time() < until_s:
            return base_s + self._rng.uniform(0.2, 1.0) * extra_s
        return base_s + (self._rng.choice((0.02, 0.05, 0.15)) if self._rng.random() < self.slow else 0.0)

    def disk_s(self, name: str, operation: str) -> float:
        """Return how long a sync or other work takes."""
        del operation
        until_s, extra_s = self.disk_until.get(name, (0.0, 0.0))
        if self._loop.time() < until_s:
            return self._rng.uniform(0.0, extra_s)
        if self._rng.random() < self.slow / 4:
            return self._rng.uniform(0.01, 0.1)
        return self._rng.uniform(0.0002, 0.0015)

    def clear(self) -> None:
        """Let everything be fast again."""
        self.slow = 0.0
        self.slow_until.clear()
        self.disk_until.clear()


class Faults:
    """Makes one fault after the other, and has replicas come back."""

    def __init__(
        self,
        *,
        loop: VirtualLoop,
        rng: Random,
        trace: Trace,
        cluster: Cluster,
        network: Network,
        calls: Calls,
        agents: list[SimAgent],
        bursts: Bursts,
        weather: Weather,
        weights: dict[str, int],
        every_s: float,
        calm: float,
    ) -> None:
        self._loop = loop
        self._rng = rng
        self._trace = trace
        self._cluster = cluster
        self._network = network
        self._calls = calls
        self._agents = agents
        self._bursts = bursts
        self._dramas: list[asyncio.Task[None]] = []
        self._strokes: list[asyncio.TimerHandle] = []
        self._held = False
        self._weather = weather
        self._every_s = every_s
        self._calm = calm
        self._kinds = list(weights)
        self._weights = list(weights.values())
        self._deeds: dict[str, Callable[[str], None]] = {
            "crash": self._crash,
            "kill": self._kill,
            "crash at step": self._crash_at_step,
            "blackout": self._blackout,
            "cut": self._cut,
            "cut one way": self._cut_one_way,
            "isolate": self._isolate,
            "lose connection": self._lose,
            "slow link": self._slow_link,
            "slow disk": self._slow_disk,
            "pause": self._pause,
            "clock": self._clock,
            "failing disk": self._fail_disk,
            "full disk": self._fill_disk,
            "flip": self._flip,
            "bad restore": self._spoil_restore,
            "burst": self._burst,
            "ex-leader": self._ex_leader,
            "slow majority": self._slow_majority,
            "election": self._election,
            "stall": self._stall,
            "left behind": self._leave_behind,
            "snapshot": self._snapshot,
            "transfer": self._transfer,
            "agent": self._agent,
        }

    async def run(self, until_s: float) -> None:
        """Make faults until then."""
        while self._loop.time() < until_s:
            await asyncio.sleep(self._rng.expovariate(1 / self._every_s))
            if self._loop.time() >= until_s:
                return
            if self._held:
                continue
            if self._rng.random() < self._calm:
                await self._breathe()
            self._revive()
            if self._kinds:
                kind = self._rng.choices(self._kinds, self._weights)[0]
                self._deeds[kind](self._victim())

    def end(self) -> None:
        """Let no fault that is still being acted out reach into the time after."""
        deeds: list[asyncio.Task[None] | asyncio.TimerHandle] = [*self._dramas, *self._strokes]
        for deed in deeds:
            deed.cancel()

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Make no fault meanwhile, and end those that are being acted out."""
        self.end()
        self._held = True
        try:
            yield
        finally:
            self._held = False

    async def _breathe(self) -> None:
        """Heal everything for a while, so that there is something to lose."""
        self._network.heal_all()
        for name in self._cluster.down():
            self._restart(name)
        for agent in self._agents:
            agent.start()
        await asyncio.sleep(self._rng.uniform(0.4, 1.5))

    def _victim(self) -> str:
        leader = self._cluster.leader()
        if leader is not None and self._rng.random() < 0.45:
            return leader
        return self._rng.choice(self._cluster.names)

    def _other(self, name: str) -> str:
        return self._rng.choice([other for other in self._cluster.names if other != name])

    def _revive(self) -> None:
        """Perhaps start what is down; heal what is cut."""
        for name in self._cluster.down():
            if self._rng.random() < 0.5:
                self._restart(name)
        for direction in sorted(self._network.blocked):
            if self._rng.random() < 0.2:
                self._network.heal(*direction)
        for agent in self._agents:
            if agent.process is None and self._rng.random() < 0.3:
                agent.start()

    def _restart(self, name: str) -> None:
        self._cluster.repair_disk(name)
        self._cluster.restart(name, self._rng.choice(LOSSES))

    # Replicas.

    def _crash(self, name: str) -> None:
        self._cluster.crash(name)

    def _kill(self, name: str) -> None:
        host = self._cluster.hosts[name]
        if host.process is not None:
            self._cluster.crash(name, kind="kill")
            host.disk.restart(Loss.NONE, self._rng)  # the page cache outlives the process

    def _crash_at_step(self, name: str) -> None:
        disk = self._cluster.hosts[name].disk
        disk.crash_at = disk.steps + self._rng.randrange(1, 60)
        if self._cluster.hosts[name].process is None and name in self._cluster.down():
            disk.restart(self._rng.choice(LOSSES), self._rng)
            disk.crash_at = disk.steps + self._rng.randrange(1, 60)
            self._cluster.start(name)

    def _blackout(self, _name: str) -> None:
        """Cut the power of all replicas at once; they come back soon."""
        self._trace.fault("power loss of all", "all")
        loss = self._rng.choice(LOSSES)
        for name in self._cluster.names:
            self._cluster.crash(name)
        for name in self._cluster.down():
            self._loop.call_later(
                self._rng.uniform(0.05, 0.6), self._cluster.restart, name, loss, context=contextvars.Context()
            )

    def _pause(self, name: str) -> None:
        host = self._cluster.hosts[name]
        process = host.process
        if process is not None and not process.frozen:
            seconds = self._rng.choice((0.06, 0.2, 0.7, 0.9, 1.5, 3.0))
            self._trace.fault("process stopped", name, f"for {seconds} s")
            self._loop.freeze(process)
            self._loop.call_later(seconds, self._loop.thaw, process, context=contextvars.Context())

    def _clock(self, name: str) -> None:
        clock = self._cluster.hosts[name].clock
        jump_ms = self._rng.choice((-3_600_000, -60_000, -5_000, -500, 500, 5_000, 50_000, 3_600_000))
        clock.offset_ms = 0 if self._rng.random() < 0.3 else clock.offset_ms + jump_ms
        self._trace.fault("wall clock jumps", name, f"to {clock.offset_ms} ms")

    def _burst(self, name: str) -> None:
        target = name if self._rng.random() < 0.15 else self._cluster.leader() or name
        self._bursts.fire(target, self._rng.choice((3, 10, 30)))

    def _ex_leader(self, _name: str) -> None:
        """Cut a leader off while it takes entries, have another one elected, and let the first one lead again.

        With five replicas and more one follower stays with it, and what that follower answers comes late.
        """
        self._dramas.append(self._loop.create_task(self._play()))

    async def _play(self) -> None:
        rng, network = self._rng, self._network
        first = self._cluster.leader()
        if first is None:
            return
        others = [name for name in self._cluster.names if name != first]
        rng.shuffle(others)
        if len(others) >= 4 and rng.random() < 0.8:
            friend = others.pop()
            slow_s = rng.choice((1.0, 2.0, 2.0))
            self._weather.slow_until[friend, first] = (self._loop.time() + 0.3, slow_s)
        self._trace.fault("leader cut off with a tail", first)
        for other in others:
            network.cut(first, other)
            network.cut(other, first)
        self._bursts.fire(first, rng.choice((2, 5, 20, 40)))
        successor = await self._successor(first)
        if successor is not None:
            self._bursts.fire(successor, rng.choice((1, 2, 8, 30)))
            if rng.random() < 0.3:
                self._snapshot(successor)
            await asyncio.sleep(rng.choice((0.0, 0.02, 0.1)))
        for other in others:
            network.heal(first, other)
            network.heal(other, first)
        if successor is not None and rng.random() < 0.7:
            await asyncio.sleep(rng.choice((0.05, 0.1, 0.3)))
            self._hand_over(successor, first)
            await asyncio.sleep(0.05)
            self._bursts.fire(first, 5)

    def _slow_majority(self, _name: str) -> None:
        """Leave a leader the followers that it needs, on links so slow that it sends again what is on its way."""
        self._dramas.append(self._loop.create_task(self._crawl()))

    async def _crawl(self) -> None:
        rng, network = self._rng, self._network
        leader = self._cluster.leader()
        if leader is None:
            return
        others = [name for name in self._cluster.names if name != leader]
        rng.shuffle(others)
        needed, spare = others[: len(others) // 2], others[len(others) // 2 :]
        slow_s, until_s = rng.choice((0.1, 0.2, 0.3)), self._loop.time() + rng.uniform(0.5, 1.5)
        self._trace.fault("slow majority", leader, f"with {','.join(needed)}, {slow_s} s")
        for name in spare:
            network.cut(leader, name)
            network.cut(name, leader)
        for name in needed:
            self._weather.slow_until[leader, name] = (until_s, slow_s)
        while self._loop.time() < until_s:
            self._bursts.fire(leader, rng.choice((1, 2, 5)))
            await asyncio.sleep(rng.uniform(0.01, 0.06))
        for name in spare:
            network.heal(leader, name)
            network.heal(name, leader)

    def _election(self, _name: str) -> None:
        """Take the leader away, and cut the power of whoever has just voted; it comes back at once."""
        self._dramas.append(self._loop.create_task(self._elect()))

    async def _elect(self) -> None:
        rng, cluster = self._rng, self._cluster
        leader = cluster.leader()
        if leader is None:
            return
        before = max((status.term for status in cluster.views().values()), default=0)
        self._crash(leader)
        for _ in range(700):
            await asyncio.sleep(0.001)
            voters = [name for name, status in cluster.views().items() if status.term > before]
            if voters:
                break
        else:
            return
        await asyncio.sleep(rng.choice((0.0, 0.0005, 0.001, 0.002, 0.005)))
        for name in rng.sample(voters, 1 if rng.random() < 0.7 else len(voters)):
            self._crash(name)
            await asyncio.sleep(rng.uniform(0.0, 0.01))
            self._cluster.repair_disk(name)
            self._cluster.restart(name, Loss.ALL)
        await asyncio.sleep(rng.uniform(0.1, 0.5))
        self._restart(leader)

    def _stall(self, name: str) -> None:
        """Stop a leader that nobody reaches but clients: when it goes on it does not know that it was replaced."""
        self._dramas.append(self._loop.create_task(self._hold_up(self._cluster.leader() or name)))

    async def _hold_up(self, name: str) -> None:
        process = self._cluster.hosts[name].process
        others = [other for other in self._cluster.names if other != name]
        if process is None or process.frozen:
            return
        self._trace.fault("leader cut off and stopped", name)
        for other in others:
            self._network.cut(name, other)
            self._network.cut(other, name)
            self._network.lose(name, other, "cut")
        await asyncio.sleep(0.004)
        self._loop.freeze(process)
        await asyncio.sleep(self._rng.uniform(0.6, 1.0))
        self._bursts.fire(self._cluster.leader() or name, 3)
        await asyncio.sleep(self._rng.uniform(0.1, 0.5))
        self._loop.thaw(process)
        await asyncio.sleep(self._rng.uniform(0.0, 0.3))
        for other in others:
            self._network.heal(name, other)
            self._network.heal(other, name)

    def _leave_behind(self, _name: str) -> None:
        """Let a follower miss so much that the leader has only a snapshot for it, or believes so."""
        self._dramas.append(self._loop.create_task(self._miss()))

    async def _miss(self) -> None:
        rng, network = self._rng, self._network
        leader = self._cluster.leader()
        if leader is None:
            return
        follower = self._other(leader)
        self._trace.fault("follower left behind", follower)
        self._bursts.fire(leader, rng.choice((3, 30)))
        await asyncio.sleep(rng.choice((0.0, 0.003, 0.005, 0.02)))
        network.cut(leader, follower)
        network.cut(follower, leader)
        await asyncio.sleep(rng.choice((0.01, 0.05)))
        self._snapshot(leader)
        await asyncio.sleep(rng.choice((0.05, 0.15)))
        self._bursts.fire(leader, rng.choice((1, 5, 30)))
        await asyncio.sleep(0.02)
        if rng.random() < 0.3:
            self._snapshot(leader)
            await asyncio.sleep(0.1)
        if "bad restore" in self._kinds and rng.random() < 0.5:
            self._spoil_restore(follower)
        network.lose(leader, follower, "cut")
        network.heal(leader, follower)
        network.heal(follower, leader)

    async def _successor(self, first: str) -> str | None:
        for _ in range(75):
            await asyncio.sleep(0.02)
            leader = self._cluster.leader()
            if leader is not None and leader != first:
                return leader
        return None

    def _hand_over(self, name: str, target: str | None) -> None:
        host = self._cluster.hosts[name]
        if host.replica is None or not host.serving or host.process is None:
            return
        self._trace.fault("leadership handed over", host.name)
        log, context = host.replica.log, host.process.context
        self._loop.call_soon(
            lambda: self._cluster.graves.append(
                self._loop.create_task(log.transfer_leadership(target, 1.0), context=context)
            ),
            context=context,
        )

    def _snapshot(self, name: str) -> None:
        host = self._cluster.hosts[name]
        if host.replica is not None and host.serving and host.process is not None:
            # In the replica's own process: what is scheduled from outside would outlive it.
            self._loop.call_soon(host.replica.log.request_snapshot, context=host.process.context)
            self._trace.note(name, "is asked for a snapshot")

    def _transfer(self, name: str) -> None:
        self._hand_over(self._cluster.leader() or name, None)

    # Disks.

    def _fail_disk(self, name: str) -> None:
        if self._cluster.hosts[name].process is not None:
            if self._rng.random() < 0.4:
                # What such a sync did not write is gone when the power goes, though it can still be read before.
                self._cluster.fail_disk(name, "sync", errno.EIO, where="journal")
                after_s = self._rng.uniform(0.05, 0.3)
                self._strokes.append(self._loop.call_later(after_s, self._crash, name, context=contextvars.Context()))
                return
            operation = self._rng.choice(("sync", "sync", "write", "create", "rename", "sync_dir"))
            self._cluster.fail_disk(name, operation, errno.EIO)

    def _fill_disk(self, name: str) -> None:
        if self._cluster.hosts[name].process is not None:
            self._cluster.fill_disk(name, self._rng.choice((0, 2_000, 30_000)))

    def _flip(self, name: str) -> None:
        hosts = self._cluster.hosts
        host = hosts[name]
        damaged = sum(other.damaged for other in hosts.values())
        if not host.damaged and damaged >= (len(hosts) - 1) // 2:
            return
        files = [path for path in host.disk.files() if host.disk.content(path)]
        if files:
            path = self._rng.choice(files)
            content = host.disk.content(path)
            used = len(content.rstrip(b"\0")) or len(content)
            offset = self._rng.randrange(used)
            host.disk.flip(path, offset, 1 << self._rng.randrange(8))
            host.damaged = True
            self._trace.fault("bit flipped", name, f"in {path} at {offset}")
            if host.process is not None and self._rng.random() < 0.7:
                self._cluster.crash(name, kind="kill")
                host.disk.restart(Loss.NONE, self._rng)

    def _spoil_restore(self, name: str) -> None:
        """Let the state machine refuse the next snapshot that comes from the leader, as an older version would."""
        host = self._cluster.hosts[name]
        if host.process is not None:
            host.refuse_restore = True

    def _slow_disk(self, name: str) -> None:
        extra_s = self._rng.choice((0.02, 0.1, 0.5, 1.5))
        self._weather.disk_until[name] = (self._loop.time() + self._rng.uniform(0.3, 3.0), extra_s)
        self._trace.fault("slow disk", name, f"{extra_s} s")

    # The network.

    def _cut(self, name: str) -> None:
        other = self._other(name)
        self._trace.fault("link cut", name, f"from {other}")
        self._network.cut(name, other)
        self._network.cut(other, name)
        if self._rng.random() < 0.5:
            self._network.lose(name, other, "cut")

    def _cut_one_way(self, name: str) -> None:
        other = self._other(name)
        self._trace.fault("link cut one way", name, f"to {other}")
        self._network.cut(name, other)

    def _isolate(self, name: str) -> None:
        self._trace.fault("replica cut off", name)
        others = [other for other in self._cluster.names if other != name]
        if self._rng.random() < 0.4:
            others += [agent.name for agent in self._agents]
        for other in others:
            self._network.cut(name, other)
            self._network.cut(other, name)

    def _lose(self, name: str) -> None:
        self._trace.fault("connection lost", name)
        self._network.lose(name, self._other(name), "fault")

    def _slow_link(self, name: str) -> None:
        other = self._other(name)
        extra_s = self._rng.choice((0.05, 0.3, 0.8, 1.5))
        until_s = self._loop.time() + self._rng.uniform(0.3, 4.0)
        self._trace.fault("slow link", name, f"to {other}, {extra_s} s")
        self._weather.slow_until[name, other] = (until_s, extra_s)
        if self._rng.random() < 0.5:
            self._weather.slow_until[other, name] = (until_s, extra_s)

    # Agents.

    def _agent(self, _name: str) -> None:
        agent = self._rng.choice(self._agents)
        chance = self._rng.random()
        if chance < 0.25:
            agent.kill()
            if self._rng.random() < 0.5:
                self._loop.call_later(0.05, agent.start, context=contextvars.Context())
        elif chance < 0.5:
            process = agent.process
            if process is not None and not process.frozen:
                seconds = self._rng.choice((0.2, 0.8, 2.0, 4.0))
                self._trace.fault("agent stopped", agent.name, f"for {seconds} s")
                self._loop.freeze(process)
                self._loop.call_later(seconds, self._loop.thaw, process, context=contextvars.Context())
        elif chance < 0.65:
            agent.leave()
        else:
            self._trace.fault("agent cut off", agent.name)
            for replica in self._cluster.names:
                self._network.cut(agent.name, replica)
