"""The nemesis: it injects one fault after the other. Every seed draws its kinds of faults and their rate.

A run has no more faults than the system promises to survive. Disks are lost, and bits are flipped, on a minority of
the voters. All other faults may happen to all replicas, also at the same time. Faults that take time are in
`nemesis/scenarios.py`, `nemesis/member_faults.py` and `nemesis/agent_faults.py`.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import errno
from typing import TYPE_CHECKING, Final

from raftflow.simulation.nemesis.actions import LOSSES
from raftflow.simulation.nemesis.election_faults import ElectionFaults
from raftflow.simulation.nemesis.scenarios import Scenarios
from raftflow.simulation.world.disk import SECTOR_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from raftflow.simulation.nemesis.actions import FaultActions
    from raftflow.simulation.nemesis.agent_faults import AgentFaults
    from raftflow.simulation.nemesis.member_faults import MemberFaults
    from raftflow.simulation.nemesis.wipes import Wipes

HOUR_MS: Final = 3_600_000
CHECKS_MAX: Final = 50


class FaultInjector:
    """Injects one fault after the other, and restarts replicas."""

    def __init__(
        self,
        actions: FaultActions,
        changes: MemberFaults,
        wipes: Wipes,
        agent_faults: AgentFaults,
        *,
        weights: dict[str, int],
        every_s: float,
        loss_throttle: float,
    ) -> None:
        self._actions = actions
        self._changes = changes
        self._loop = actions.loop
        self._rng = actions.rng
        self._trace = actions.trace
        self._cluster = actions.cluster
        self._network = actions.network
        self._agents = actions.agents
        self._bursts = actions.bursts
        self._delays = actions.delays
        self._every_s = every_s
        self._loss_throttle = loss_throttle
        self._suspended = False
        self._agent_faults = agent_faults
        self._kinds = list(weights)
        self._weights = list(weights.values())
        scenarios = Scenarios(actions, refuse_restores="refused restore" in weights)
        elections = ElectionFaults(actions)
        self._handlers: dict[str, Callable[[str], None]] = {
            "power loss": actions.cluster.crash,
            "kill": actions.kill,
            "crash at disk operation": self._crash_at_operation,
            "power loss of all": self._cut_power_of_all,
            "partition": self._partition,
            "one-way partition": self._partition_one_way,
            "isolate": self._isolate_replica,
            "drop connection": self._drop_connection,
            "slow link": self._slow_link,
            "slow disk": self._slow_disk,
            "pause": self._pause_process,
            "clock jump": self._jump_clock,
            "failing disk": self._fail_disk,
            "full disk": self._fill_disk,
            "bit flip": self._flip_bit,
            "misplaced write": self._misplace_write,
            "refused restore": actions.refuse_next_restore,
            "burst": self._submit_burst,
            "isolated leader": scenarios.isolated_leader,
            "slow majority": scenarios.slow_majority,
            "crash after vote": scenarios.crash_after_vote,
            "paused leader": scenarios.paused_leader,
            "lagging follower": scenarios.lagging_follower,
            "snapshot": actions.snapshot,
            "transfer leadership": self._transfer_leadership,
            "agent fault": agent_faults.disturb,
            "lose agent at work": agent_faults.lose_at_work,
            "silent leader": scenarios.silent_leader,
            "isolate all agents": agent_faults.isolate_all,
            "clock past deadlines": self._jump_clock_past_deadlines,
            "add member": changes.add,
            "remove member": changes.remove,
            "replace member": changes.replace,
            "upgrade": changes.upgrade,
            "change at isolated leader": changes.change_at_isolated_leader,
            "absent member": changes.absent_member,
            "damaged voter": changes.damaged_voter,
            "older disk copy": changes.older_disk_copy,
            "replace all others": changes.replace_all_others,
            "half cut": elections.half_cut,
            "flapping link": elections.flapping_link,
            "busy machine": elections.busy_machine,
            "wipe disks": wipes.wipe_disks,
        }

    async def run(self, until_s: float) -> None:
        """Inject faults until the time `until_s`."""
        while self._loop.time() < until_s:
            await asyncio.sleep(self._rng.expovariate(1 / self._every_s))
            if self._loop.time() >= until_s:
                return
            if self._suspended:
                continue
            if self._rng.random() < self._loss_throttle:
                await self._heal_for_a_while()
            self._restart_some()
            if self._kinds:
                kind = self._rng.choices(self._kinds, self._weights)[0]
                self._handlers[kind](self._choose_target())

    @contextlib.contextmanager
    def suspended(self) -> Iterator[None]:
        """Cancel all scenarios, and inject no fault inside the `with` block."""
        self._actions.cancel_all()
        self._suspended = True
        try:
            yield
        finally:
            self._suspended = False

    async def _heal_for_a_while(self) -> None:
        """Heal everything for a while, so that the cluster makes progress between faults.

        Agents that are isolated past their leases stay so: they would hardly ever be lost otherwise.
        """
        for direction in sorted(self._network.blocked):
            if direction[0] not in self._agent_faults.isolated:
                self._network.heal(*direction)
        for name in self._cluster.down():
            self._actions.restart(name)
        for agent in self._agents:
            agent.start()
        await asyncio.sleep(self._rng.uniform(0.4, 1.5))

    def _choose_target(self) -> str:
        leader = self._cluster.leader()
        if leader is not None and self._rng.random() < 0.45:
            return leader
        return self._rng.choice(self._cluster.names)

    def _restart_some(self) -> None:
        """Restart some of the replicas that are down, and heal some of the partitions."""
        for name in self._cluster.down():
            if self._rng.random() < 0.5:
                self._actions.restart(name)
        for direction in sorted(self._network.blocked):
            if self._rng.random() < 0.2 and direction[0] not in self._agent_faults.isolated:
                self._network.heal(*direction)
        for agent in self._agents:
            if agent.process is None and self._rng.random() < 0.3:
                agent.start()

    # Replicas.

    def _crash_at_operation(self, name: str) -> None:
        disk = self._cluster.hosts[name].disk
        disk.crash_at = disk.steps + self._rng.randrange(1, 60)
        if self._cluster.hosts[name].process is None and name in self._cluster.down():
            disk.restart(self._rng.choice(LOSSES), self._rng)
            disk.crash_at = disk.steps + self._rng.randrange(1, 60)
            self._cluster.start(name)

    def _cut_power_of_all(self, _name: str) -> None:
        """Cut the power of all replicas at once. They restart soon."""
        self._trace.fault("power loss of all", "all")
        loss = self._rng.choice(LOSSES)
        for name in self._cluster.names:
            self._cluster.crash(name)
        for name in self._cluster.down():
            self._loop.call_later(
                self._rng.uniform(0.05, 0.6), self._cluster.restart, name, loss, context=contextvars.Context()
            )

    def _pause_process(self, name: str) -> None:
        host = self._cluster.hosts[name]
        process = host.process
        if process is not None and not process.frozen:
            seconds = self._rng.choice((0.06, 0.2, 0.7, 0.9, 1.5, 3.0))
            self._trace.fault("process paused", name, f"for {seconds} s")
            self._loop.freeze(process)
            self._loop.call_later(seconds, self._loop.thaw, process, context=contextvars.Context())

    def _jump_clock(self, name: str) -> None:
        clock = self._cluster.hosts[name].clock
        jump_ms = self._rng.choice((-3_600_000, -60_000, -5_000, -500, 500, 5_000, 50_000, 3_600_000))
        clock.offset_ms = 0 if self._rng.random() < 0.3 else clock.offset_ms + jump_ms
        self._trace.fault("clock jump", name, f"to {clock.offset_ms} ms")

    def _jump_clock_past_deadlines(self, _name: str) -> None:
        self._actions.run_scenario(self._wait_for_work_and_jump())

    async def _wait_for_work_and_jump(self) -> None:
        """Set the leader's wall clock an hour ahead while attempts run. This is later than all their deadlines."""
        for _ in range(CHECKS_MAX):
            leader = self._cluster.leader()
            if leader is not None and any(agent.busy for agent in self._agents):
                self._cluster.hosts[leader].clock.offset_ms = HOUR_MS
                self._trace.fault("clock past deadlines", leader)
                self._bursts.submit(leader, 3)
                return
            await asyncio.sleep(0.02)

    def _submit_burst(self, name: str) -> None:
        target = name if self._rng.random() < 0.15 else self._cluster.leader() or name
        count = self._rng.choice((3, 10, 30))
        self._trace.fault("burst of entries", target, str(count))
        self._bursts.submit(target, count)

    def _transfer_leadership(self, name: str) -> None:
        self._actions.transfer_leadership(self._cluster.leader() or name, None)

    # Disks.

    def _fail_disk(self, name: str) -> None:
        if self._cluster.hosts[name].process is not None:
            if self._rng.random() < 0.4:
                # The bytes of the failed sync can be read until the power fails, and are gone then. If the power
                # fails soon, no record follows them, and the journal does not look damaged.
                after_s = 0.001 * 100.0 ** self._rng.random()
                self._cluster.disks.fail(
                    name,
                    "sync",
                    errno.EIO,
                    where="journal",
                    then=lambda: self._actions.schedule(after_s, self._cluster.crash, name),
                )
                return
            operation = self._rng.choice(("sync", "sync", "write", "create", "rename", "sync_dir"))
            self._cluster.disks.fail(name, operation, errno.EIO)

    def _fill_disk(self, name: str) -> None:
        if self._cluster.hosts[name].process is not None:
            self._cluster.disks.fill(name, self._rng.choice((0, 2_000, 30_000)))

    def _flip_bit(self, name: str) -> None:
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
                self._actions.kill(name)

    def _misplace_write(self, name: str) -> None:
        """Let the disk lose a write, or put it at another place of its file. Only a restart shows that."""
        host = self._cluster.hosts[name]
        process = host.process
        if process is None:
            return
        misdirected = self._rng.random() < 0.5
        part_of_path = "journal" if self._rng.random() < 0.7 else ""

        def elsewhere(offset: int) -> int | None:
            sectors = offset // SECTOR_BYTES
            return self._rng.randrange(sectors) * SECTOR_BYTES if misdirected and sectors else None

        def happens() -> bool:
            if host.process is not process or not (host.damaged or self._changes.may_lose(name)):
                return False
            self._trace.fault("write misdirected" if misdirected else "write lost", name)
            self._actions.schedule(self._rng.uniform(0.0, 0.3), self._actions.kill, name)
            return True

        self._cluster.disks.misplace(name, part_of_path, elsewhere, happens)

    def _slow_disk(self, name: str) -> None:
        extra_s = self._rng.choice((0.02, 0.1, 0.5, 1.5))
        self._delays.disk_until[name] = (self._loop.time() + self._rng.uniform(0.3, 3.0), extra_s)
        self._trace.fault("slow disk", name, f"{extra_s} s")

    # The network.

    def _partition(self, name: str) -> None:
        other = self._actions.any_other(name)
        self._trace.fault("link partitioned", name, f"from {other}")
        self._actions.isolate(name, [other])
        if self._rng.random() < 0.5:
            self._network.lose(name, other, "cut")

    def _partition_one_way(self, name: str) -> None:
        other = self._actions.any_other(name)
        self._trace.fault("link partitioned one way", name, f"to {other}")
        self._network.cut(name, other)

    def _isolate_replica(self, name: str) -> None:
        self._trace.fault("replica isolated", name)
        others = self._actions.others(name)
        if self._rng.random() < 0.4:
            others += [agent.name for agent in self._agents]
        self._actions.isolate(name, others)

    def _drop_connection(self, name: str) -> None:
        self._trace.fault("connection lost", name)
        self._network.lose(name, self._actions.any_other(name), "fault")

    def _slow_link(self, name: str) -> None:
        other = self._actions.any_other(name)
        extra_s = self._rng.choice((0.05, 0.3, 0.8, 1.5))
        until_s = self._loop.time() + self._rng.uniform(0.3, 4.0)
        self._trace.fault("slow link", name, f"to {other}, {extra_s} s")
        self._delays.slow_until[name, other] = (until_s, extra_s)
        if self._rng.random() < 0.5:
            self._delays.slow_until[other, name] = (until_s, extra_s)
