"""The replicas of a simulated cluster: the real `Replica` with the real log, on simulated links, disk and clocks.

A replica has one machine (disk, wall clock) and one process after the other. `crash` ends a process at any moment, or
between two operations on the disk; `start` begins the next.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
from typing import TYPE_CHECKING, Any, Final

from raftflow.coordinator.config.replica_config import Timing
from raftflow.coordinator.failures import ReplicaFailedError
from raftflow.domain.features import NEXT_LEVEL
from raftflow.replication.errors import RemovedError
from raftflow.replication.members.births import EmptiedError
from raftflow.simulation.world.calls import Server
from raftflow.simulation.world.disk import Loss
from raftflow.simulation.world.host import SimHost
from raftflow.simulation.world.host_disks import HostDisks
from raftflow.simulation.world.loop import Process
from raftflow.simulation.world.replica_builder import ReplicaEnvironment, build_replica

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

    from raftflow.coordinator.config.replica_config import Limits
    from raftflow.replication.log import LogStatus, Role
    from raftflow.replication.members.membership import Membership
    from raftflow.replication.raft.rules import Rule
    from raftflow.simulation.world.calls import Calls
    from raftflow.simulation.world.loop import VirtualLoop
    from raftflow.simulation.world.network import Network
    from raftflow.simulation.world.observer import ClusterObserver
    from raftflow.simulation.world.trace import Trace

NAMES: Final = "abcdefg"
FILE_MAX: Final = 9
"""The most replicas that the configuration of a new replica names."""


class Cluster:
    """The replicas. `settings` are those of `LogConfig` and `timing` those of `Timing` that a run wants otherwise."""

    def __init__(
        self,
        loop: VirtualLoop,
        rng: Random,
        trace: Trace,
        *,
        network: Network,
        calls: Calls,
        observer: ClusterObserver,
        replicas: int,
        disabled_rules: frozenset[Rule],
        settings: dict[str, Any],
        timing: dict[str, int],
        limits: Limits,
        latency: Callable[[str, str], float],
    ) -> None:
        self._loop = loop
        self._rng = rng
        self._trace = trace
        self._network = network
        self._calls = calls
        self._observer = observer
        self._env = ReplicaEnvironment(
            network=network,
            calls=calls,
            trace=trace,
            observer=observer,
            settings=settings,
            timing=Timing(**timing),
            limits=limits,
            disabled_rules=disabled_rules,
            getrandbits=rng.getrandbits,
            role_changed=self._role_changed,
        )
        self.founders = tuple(NAMES[:replicas])
        self.names = list(self.founders)
        """The machines that exist, members or not. The list changes in place."""
        self.hosts: dict[str, SimHost] = {}
        """All machines that ever existed."""
        self.disks = HostDisks(
            loop, trace, observer, hosts=self.hosts, latency=latency, crash=self.crash, stop=self._stop
        )
        for name in self.founders:
            self._new_host(name, self.founders)
        observer.founded(self.founders)
        self.retained: list[object] = []
        """What belonged to dead processes. It is kept until the run ends, so that nothing is torn down before."""

    def _new_host(self, name: str, file: tuple[str, ...]) -> SimHost:
        host = self.hosts[name] = SimHost(name, self._loop)
        self.disks.use(host, host.disk)
        host.file = file
        return host

    def add_host(self, known: Membership) -> str:
        """Set up a machine with an empty disk, which will join; its file names the `known` members.

        Returns:
            The name of the new machine.
        """
        name = f"j{len(self.hosts) - len(self.founders) + 1}"
        members = [other for other in self.names if known.find(other) is not None]
        host = self._new_host(name, (*members[: FILE_MAX - 1], name))
        host.join = True
        self.names.append(name)
        self._trace.note(name, "is set up")
        return name

    # Views.

    def running(self) -> list[str]:
        """Return the replicas that have a process."""
        return [name for name in self.names if self.hosts[name].process is not None]

    def down(self) -> list[str]:
        """Return the replicas that could be started."""
        hosts = [self.hosts[name] for name in self.names]
        return [host.name for host in hosts if host.process is None and not host.refused and not host.away]

    def lost(self, *, damaged: bool = True) -> frozenset[str]:
        """Return the machines that never come back, by default including those with damaged disks."""
        return frozenset(
            name
            for name, host in self.hosts.items()
            if host.gone is not None or host.refused or (damaged and host.damaged)
        )

    def level(self) -> int:
        """Return the feature level of the cluster, as the running replicas know it."""
        replicas = [self.hosts[name].replica for name in self.running()]
        return max((replica.machine.tables.feature_level for replica in replicas if replica is not None), default=0)

    def leader(self) -> str | None:
        """Return the announced leader of the highest term."""
        best: tuple[int, str] | None = None
        for name in self.names:
            host = self.hosts[name]
            if host.serving and host.replica is not None and host.replica.leader.leading:
                best = max(best or (0, ""), (host.replica.log.status().term, name))
        return None if best is None else best[1]

    def views(self) -> dict[str, LogStatus]:
        """Return how the replicas that serve see the log."""
        hosts = [self.hosts[name] for name in self.names]
        return {host.name: host.replica.log.status() for host in hosts if host.serving and host.replica is not None}

    # Processes.

    def start(self, name: str) -> None:
        """Start a process."""
        host = self.hosts[name]
        if host.process is not None or host.refused or host.gone or host.away:
            return
        host.lives += 1
        host.clock.boot()
        host.may_fail = None if host.disk.capacity_bytes is None else "the disk is full"
        host.refuse_restore = False
        process = host.process = Process(name)
        self._calls.off.discard(name)
        self._trace.note(name, f"starts, life {host.lives}")
        host.disk.on_power_loss = lambda: self._crashed_inside(host, process)
        process.context.run(build_replica, self._env, host, process)
        self._loop.call_soon(self._begin, host, process, context=process.context)

    def _role_changed(self, host: SimHost, role: Role, term: int) -> None:
        self._trace.note(host.name, f"{role.value} in term {term}")
        self._observer.role_changed(host, role, term)

    def _begin(self, host: SimHost, process: Process) -> None:
        task = self._loop.create_task(self._live(host, process), context=process.context)
        task.add_done_callback(self._lived)
        self.retained.append(task)

    def _lived(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self._loop.call_exception_handler({"message": "a process ended", "exception": error})

    async def _live(self, host: SimHost, process: Process) -> None:
        """Run one replica, inside its process."""
        replica = host.replica
        assert replica is not None  # noqa: S101 - built just before
        try:
            await replica.start()
        except ReplicaFailedError as error:
            self._tell(host, process, error, at_start=True)
            return
        self._observer.started(host)
        host.serving = True
        self._calls.servers[host.name] = Server(replica, process)
        reason = await replica.wait_failed()
        self._tell(host, process, reason, at_start=False)

    def _tell(self, host: SimHost, process: Process, why: ReplicaFailedError, *, at_start: bool) -> None:
        self._loop.call_soon(
            functools.partial(self._stopped, host, process, why, at_start=at_start), context=contextvars.Context()
        )

    def _stopped(self, host: SimHost, process: Process, error: ReplicaFailedError, *, at_start: bool) -> None:
        """A replica stopped by itself: allowed after a fault of its disk or its removal, a violation otherwise."""
        if host.process is not process:
            return
        why = str(error)
        self._trace.note(host.name, f"stopped: {why[:200]}")
        if isinstance(error.__cause__, RemovedError):
            self._observer.removal_heard(host.name)
            self._leave(host, "removed")
        elif isinstance(error.__cause__, EmptiedError) and host.wiped:
            self._trace.fault("emptied replica stopped", host.name)
        elif host.damaged and at_start:
            host.refused = why
        elif host.may_fail is None and not host.damaged:
            self._observer.violation("stopped", f"{host.name} stopped without a fault of its disk: {why}")
        self._end(host, silently=False)
        host.disk.restart(Loss.NONE, self._rng)

    def _crashed_inside(self, host: SimHost, process: Process) -> None:
        """Power failed between two operations on the disk. Called inside the replica's code."""
        self._loop.kill(process)
        self._loop.call_soon(self._crash_now, host, process, context=contextvars.Context())

    def _crash_now(self, host: SimHost, process: Process) -> None:
        if host.process is process:
            self._trace.fault("crash at a disk operation", host.name)
            self._end(host, silently=self._rng.random() < 0.5)

    def _stop(self, host: SimHost) -> None:
        self._end(host, silently=False)

    def crash(self, name: str, *, kind: str = "power loss") -> None:
        """End a process now. `restart` decides what survives on the disk."""
        host = self.hosts[name]
        if host.process is not None:
            self._trace.fault(kind, name)
            self._end(host, silently=kind != "kill")

    def _end(self, host: SimHost, *, silently: bool) -> None:
        process, replica, links = host.process, host.replica, host.links
        assert process is not None and replica is not None and links is not None  # noqa: S101, PT018 - it lives
        self._loop.kill(process)
        host.disk.power_off()
        self.retained.append((process, replica, links, self._calls.servers.get(host.name)))
        host.process = host.replica = host.links = None
        host.serving = False
        self._network.leave(links, silently=silently)
        self._calls.died(host.name, silently=silently)
        if silently:
            self._calls.off.add(host.name)
        self._observer.ended(host)

    def restart(self, name: str, loss: Loss) -> None:
        """Restart after a crash, with what the disk kept."""
        host = self.hosts[name]
        if host.process is None and not host.refused and not host.gone and not host.away:
            host.disk.restart(loss, self._rng)
            self.start(name)

    def upgrade(self, name: str) -> None:
        """Stop a replica and install the newest version. The caller restarts it."""
        host = self.hosts[name]
        if host.process is not None:
            self._trace.note(name, "is stopped for the upgrade")
            self._end(host, silently=False)
            host.disk.restart(Loss.NONE, self._rng)
        host.level = NEXT_LEVEL

    def destroy(self, name: str) -> None:
        """Lose a machine with its disk."""
        host = self.hosts[name]
        if host.gone is None:
            self._trace.fault("replica lost with its disk", name)
            if host.process is not None:
                self._end(host, silently=True)
            self._leave(host, "destroyed")

    def _leave(self, host: SimHost, why: str) -> None:
        host.gone = why
        self.names.remove(host.name)

    def close(self) -> None:
        """End every process."""
        for name in self.running():
            self._end(self.hosts[name], silently=True)
