"""What goes wrong, and when: every seed draws which kinds of faults it has and how often (swarm testing).

No run has more than the system promises to survive: disks are lost, and bits flipped, for a minority of the voters
only. Everything else may happen to everybody, at once as well. What takes time is in `nemesis/scenarios.py` and
`nemesis/member_faults.py`.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import errno
from typing import TYPE_CHECKING, Final

from raftflow.simulation.nemesis.actions import LOSSES
from raftflow.simulation.nemesis.scenarios import Scenarios

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from raftflow.simulation.nemesis.actions import FaultActions
    from raftflow.simulation.nemesis.member_faults import MemberFaults
    from raftflow.simulation.nemesis.wipes import Wipes

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
    "silent leader": 4,
    "fleet cut off": 3,
    "add member": 9,
    "remove member": 9,
    "replace member": 6,
    "upgrade": 8,
    "lone change": 4,
    "ghost": 3,
    "damaged voter": 3,
}
"""Kinds of faults with their usual weight. "wipe" comes beside them (`plan.py`), "clock ahead" and "give up" are
of the family `leases` only, "old copy" and "all replaced" of `repairs`."""


HOUR_MS: Final = 3_600_000
LOOKS_MAX: Final = 50
AWAY_S: Final = (1.6, 3.0)
"""How long an agent is cut off that is to be given up; a lease is 1.5 s."""


class FaultInjector:
    """Makes one fault after the other, and has replicas come back."""

    def __init__(
        self,
        stage: FaultActions,
        changes: MemberFaults,
        wipes: Wipes,
        *,
        weights: dict[str, int],
        every_s: float,
        loss_throttle: float,
    ) -> None:
        self._stage = stage
        self._changes = changes
        self._loop = stage.loop
        self._rng = stage.rng
        self._trace = stage.trace
        self._cluster = stage.cluster
        self._network = stage.network
        self._agents = stage.agents
        self._bursts = stage.bursts
        self._delays = stage.delays
        self._every_s = every_s
        self._loss_throttle = loss_throttle
        self._held = False
        self._away: set[str] = set()
        """Agents that are cut off for longer than their lease."""
        self._kinds = list(weights)
        self._weights = list(weights.values())
        scenarios = Scenarios(stage, spoil_restores="bad restore" in weights)
        self._deeds: dict[str, Callable[[str], None]] = {
            "crash": stage.cluster.crash,
            "kill": stage.kill,
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
            "bad restore": stage.spoil_restore,
            "burst": self._burst,
            "ex-leader": scenarios.ex_leader,
            "slow majority": scenarios.slow_majority,
            "election": scenarios.election,
            "stall": scenarios.stall,
            "left behind": scenarios.left_behind,
            "snapshot": stage.snapshot,
            "transfer": self._transfer,
            "agent": self._agent,
            "give up": self._give_up,
            "silent leader": scenarios.silent_leader,
            "fleet cut off": self._cut_fleet_off,
            "clock ahead": self._clock_ahead,
            "add member": changes.add,
            "remove member": changes.remove,
            "replace member": changes.replace,
            "upgrade": changes.upgrade,
            "lone change": changes.lone_change,
            "ghost": changes.ghost,
            "damaged voter": changes.damaged_voter,
            "old copy": changes.old_copy,
            "all replaced": changes.replace_all,
            "wipe": wipes.wipe,
        }

    async def run(self, until_s: float) -> None:
        """Make faults until then."""
        while self._loop.time() < until_s:
            await asyncio.sleep(self._rng.expovariate(1 / self._every_s))
            if self._loop.time() >= until_s:
                return
            if self._held:
                continue
            if self._rng.random() < self._loss_throttle:
                await self._breathe()
            self._revive()
            if self._kinds:
                kind = self._rng.choices(self._kinds, self._weights)[0]
                self._deeds[kind](self._victim())

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Make no fault meanwhile, and end those that are being acted out."""
        self._stage.end()
        self._held = True
        try:
            yield
        finally:
            self._held = False

    async def _breathe(self) -> None:
        """Heal everything for a while, so that there is something to lose."""
        self._network.heal_all()
        for name in self._cluster.down():
            self._stage.restart(name)
        for agent in self._agents:
            agent.start()
        await asyncio.sleep(self._rng.uniform(0.4, 1.5))

    def _victim(self) -> str:
        leader = self._cluster.leader()
        if leader is not None and self._rng.random() < 0.45:
            return leader
        return self._rng.choice(self._cluster.names)

    def _revive(self) -> None:
        """Perhaps start what is down; heal what is cut."""
        for name in self._cluster.down():
            if self._rng.random() < 0.5:
                self._stage.restart(name)
        for direction in sorted(self._network.blocked):
            if self._rng.random() < 0.2 and direction[0] not in self._away:
                self._network.heal(*direction)
        for agent in self._agents:
            if agent.process is None and self._rng.random() < 0.3:
                agent.start()

    # Replicas.

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

    def _clock_ahead(self, _name: str) -> None:
        self._stage.play(self._put_an_hour_ahead())

    async def _put_an_hour_ahead(self) -> None:
        """Put the leader's wall clock an hour ahead while attempts run, which is beyond every deadline of theirs."""
        for _ in range(LOOKS_MAX):
            leader = self._cluster.leader()
            if leader is not None and any(agent.busy for agent in self._agents):
                self._cluster.hosts[leader].clock.offset_ms = HOUR_MS
                self._trace.fault("hour ahead at work", leader)
                self._bursts.fire(leader, 3)
                return
            await asyncio.sleep(0.02)

    def _burst(self, name: str) -> None:
        target = name if self._rng.random() < 0.15 else self._cluster.leader() or name
        self._bursts.fire(target, self._rng.choice((3, 10, 30)))

    def _transfer(self, name: str) -> None:
        self._stage.hand_over(self._cluster.leader() or name, None)

    # Disks.

    def _fail_disk(self, name: str) -> None:
        if self._cluster.hosts[name].process is not None:
            if self._rng.random() < 0.4:
                # What such a sync did not write is gone when the power goes, though it can still be read before. If
                # that is soon nothing stands behind it, and the journal does not look damaged.
                after_s = 0.001 * 100.0 ** self._rng.random()
                self._cluster.disks.fail(
                    name,
                    "sync",
                    errno.EIO,
                    where="journal",
                    then=lambda: self._stage.strike(after_s, self._cluster.crash, name),
                )
                return
            operation = self._rng.choice(("sync", "sync", "write", "create", "rename", "sync_dir"))
            self._cluster.disks.fail(name, operation, errno.EIO)

    def _fill_disk(self, name: str) -> None:
        if self._cluster.hosts[name].process is not None:
            self._cluster.disks.fill(name, self._rng.choice((0, 2_000, 30_000)))

    def _flip(self, name: str) -> None:
        host = self._cluster.hosts[name]
        if not host.damaged and not self._changes.may_lose(name):
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
            if self._rng.random() < 0.7:
                self._stage.kill(name)

    def _slow_disk(self, name: str) -> None:
        extra_s = self._rng.choice((0.02, 0.1, 0.5, 1.5))
        self._delays.disk_until[name] = (self._loop.time() + self._rng.uniform(0.3, 3.0), extra_s)
        self._trace.fault("slow disk", name, f"{extra_s} s")

    # The network.

    def _cut(self, name: str) -> None:
        other = self._stage.any_other(name)
        self._trace.fault("link cut", name, f"from {other}")
        self._stage.cut_off(name, [other])
        if self._rng.random() < 0.5:
            self._network.lose(name, other, "cut")

    def _cut_one_way(self, name: str) -> None:
        other = self._stage.any_other(name)
        self._trace.fault("link cut one way", name, f"to {other}")
        self._network.cut(name, other)

    def _isolate(self, name: str) -> None:
        self._trace.fault("replica cut off", name)
        others = self._stage.others(name)
        if self._rng.random() < 0.4:
            others += [agent.name for agent in self._agents]
        self._stage.cut_off(name, others)

    def _lose(self, name: str) -> None:
        self._trace.fault("connection lost", name)
        self._network.lose(name, self._stage.any_other(name), "fault")

    def _slow_link(self, name: str) -> None:
        other = self._stage.any_other(name)
        extra_s = self._rng.choice((0.05, 0.3, 0.8, 1.5))
        until_s = self._loop.time() + self._rng.uniform(0.3, 4.0)
        self._trace.fault("slow link", name, f"to {other}, {extra_s} s")
        self._delays.slow_until[name, other] = (until_s, extra_s)
        if self._rng.random() < 0.5:
            self._delays.slow_until[other, name] = (until_s, extra_s)

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
        elif chance < 0.8:
            self._give_up(agent.name)
        else:
            self._trace.fault("agent cut off", agent.name)
            for replica in self._cluster.names:
                self._network.cut(agent.name, replica)

    def _cut_fleet_off(self, _name: str) -> None:
        self._stage.play(self._cut_off_all())

    async def _cut_off_all(self) -> None:
        """Cut all agents off past their leases, twice or three times, and let them come back in between."""
        if self._away:
            return
        agents = [agent.name for agent in self._agents]
        for _ in range(self._rng.choice((2, 3))):
            self._trace.fault("fleet cut off", ",".join(agents))
            replicas = list(self._cluster.names)
            self._away.update(agents)
            try:
                for agent in agents:
                    for replica in replicas:
                        self._network.cut(agent, replica)
                await asyncio.sleep(self._rng.uniform(*AWAY_S))
            finally:
                self._away.difference_update(agents)
            for agent in agents:
                for replica in replicas:
                    self._network.heal(agent, replica)
            await asyncio.sleep(self._rng.uniform(0.3, 1.0))

    def _give_up(self, _name: str) -> None:
        self._stage.play(self._cut_off_for_long())

    async def _cut_off_for_long(self) -> None:
        """Cut an agent off at work until it is given up, and let it come back with what it had finished before."""
        for _ in range(LOOKS_MAX):
            busy = [agent.name for agent in self._agents if agent.busy and agent.name not in self._away]
            if busy:
                break
            await asyncio.sleep(0.02)
        else:
            return
        agent = self._rng.choice(busy)
        self._trace.fault("agent given up at work", agent)
        replicas = list(self._cluster.names)
        self._away.add(agent)
        try:
            for replica in replicas:
                self._network.cut(agent, replica)
            await asyncio.sleep(self._rng.uniform(*AWAY_S))
        finally:
            self._away.discard(agent)
        for replica in replicas:
            self._network.heal(agent, replica)
