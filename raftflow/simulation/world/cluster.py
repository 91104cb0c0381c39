"""The replicas of a simulated cluster: the real `Replica` with the real log, on simulated links, disk and clocks.

A replica has one machine (disk, wall clock) and many lives, each a `Process`. `crash` ends a life at any moment, or
between two operations on the disk; `start` begins the next.
"""

from __future__ import annotations

import asyncio
import contextvars
import errno
import functools
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

from raftflow.coordinator.clock import IdSource
from raftflow.coordinator.config.peer_directory import PeerDirectory
from raftflow.coordinator.config.replica_config import Address, CoordinatorConfig, Limits, MemberConfig, Timing
from raftflow.coordinator.history import AppliedHistory
from raftflow.coordinator.replica import Replica, ReplicaFailedError
from raftflow.domain.features import LEVEL
from raftflow.replication.config import LogConfig
from raftflow.replication.engine import PySyncObjLog
from raftflow.replication.errors import RemovedError
from raftflow.replication.members.births import EmptiedError, Neighbours
from raftflow.replication.members.introducer import Introducer
from raftflow.simulation.world.calls import Server
from raftflow.simulation.world.disk import FaultyFileSystem, Loss, SimulatedCrash
from raftflow.simulation.world.loop import START_S, Process
from raftflow.simulation.world.network import SimLinks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from random import Random

    from raftflow.coordinator.audit.audit_file import AuditFile
    from raftflow.machine.machine import EntryResult
    from raftflow.replication.log import LogStatus, ReplicatedLog, Role, StateMachine
    from raftflow.replication.members.membership import MembershipVersion
    from raftflow.replication.raft.rules import Rule
    from raftflow.simulation.checkers.checks import RunHistory
    from raftflow.simulation.world.calls import Calls
    from raftflow.simulation.world.loop import VirtualLoop
    from raftflow.simulation.world.network import Network
    from raftflow.simulation.world.trace import Trace

AHEAD_AT_START_MS_MAX: Final = 50_000
"""No clock is further ahead when a process starts: beyond the margin of a minute, deadlines of running attempts pass
before their time."""
DATA_DIR: Final = Path("/data")
EPOCH_MS: Final = 1_700_000_000_000
NAMES: Final = "abcdefg"
_FULL_BYTES: Final = 2_000
STOP_WITHIN_S: Final = 0.5
SYNC_STOP_WITHIN_S: Final = 2.5
"""Longer than the slowest disk takes to tell that a sync failed."""
LOOK_S: Final = 0.02
QUICK_SYNC_S: Final = 0.0008
"""Small syncs of up to this long are done on the event loop: about half of a healthy disk's."""
FILE_MAX: Final = 9
"""Replicas that the configuration of a newcomer names."""


class SimClock:
    """A machine's wall clock, which may jump."""

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop
        self.offset_ms = 0

    def now_ms(self) -> int:
        """Return milliseconds since the epoch, as far as this machine knows."""
        return EPOCH_MS + int((self._loop.time() - START_S) * 1000) + self.offset_ms

    def running_s(self) -> float:
        """Return seconds that nobody can set."""
        return self._loop.time()

    def boot(self) -> None:
        """Put the clock right before a process starts: the time at that moment is believed (`ClusterClock`)."""
        self.offset_ms = min(self.offset_ms, AHEAD_AT_START_MS_MAX)


class SimHost:
    """The machine on which one replica lives."""

    def __init__(self, name: str, loop: VirtualLoop) -> None:
        self.name = name
        self.disk = FaultyFileSystem(keep_trace=False)
        self.clock = SimClock(loop)
        self.lives = 0
        self.process: Process | None = None
        """The present life, None while it is down."""
        self.replica: Replica | None = None
        self.links: SimLinks | None = None
        self.serving = False
        self.may_fail: str | None = None
        """The fault of the disk because of which this life may stop by itself."""
        self.damaged = False
        """Bits of its disk were flipped: it may refuse to start, for good."""
        self.refuse_restore = False
        """The state machine will refuse the next snapshot that is installed in this life."""
        self.kept: tuple[FaultyFileSystem, bool] | None = None
        """The disk that was taken out, and whether it was damaged, while an empty one is in its place."""
        self.refused: str | None = None
        """Why it does not start any more."""
        self.gone: str | None = None
        """Why this machine is no more: its disk was lost for good, or it heard that it was removed."""
        self.level = LEVEL
        """The highest feature level that the version which is installed here understands."""
        self.away = False
        """It is out of service for longer: nobody starts it."""
        self.older = False
        """An older copy of its disk was put back, or is about to be."""
        self.nonces = 0
        self.join = False
        self.file: tuple[str, ...] = ()
        """The replicas in the configuration with which it was started first."""

    def new_nonce(self) -> str:
        """Return what tells one start of this replica from all others, whatever becomes of its disk."""
        self.nonces += 1
        return f"{self.name}-{self.nonces}"

    @property
    def wiped(self) -> bool:
        """Whether this replica has lost its disk, and runs on an empty one."""
        return self.kept is not None


class ObservedMachine:
    """The state machine as the log drives it, with the checks beside it."""

    def __init__(self, inner: StateMachine, host: SimHost, history: RunHistory) -> None:
        self._inner = inner
        self._host = host
        self._history = history

    def apply(self, index: int, term: int, entry: bytes) -> object:
        """Apply one entry and compare what came of it."""
        if self._host.level < LEVEL:
            self._history.applying(self._host, index, entry)
        result: EntryResult = self._inner.apply(index, term, entry)  # type: ignore[assignment]
        self._history.applied(self._host, index, term, entry, result)
        return result

    def snapshot(self) -> Iterator[bytes]:
        """Freeze the state."""
        return self._inner.snapshot()

    def prepare(self, pieces: Iterable[bytes]) -> Callable[[], None]:
        """Read a snapshot."""
        become = self._inner.prepare(pieces)

        def become_observed() -> None:
            if self._host.refuse_restore and self._host.serving:
                self._host.refuse_restore = False
                self._host.may_fail = "a snapshot cannot be restored"
                self._history.fault("snapshot refused", self._host.name)
                self._must_stop()
                raise ValueError("a snapshot of a version that this one cannot read")
            become()
            self._history.restored(self._host)

        return become_observed

    def _must_stop(self) -> None:
        """A replica that could not load a snapshot must not go on as though it had."""
        host, process = self._host, self._host.process

        def check() -> None:
            if host.process is process and process is not None and not process.frozen:
                self._history.violation(
                    "failed load ignored", f"{host.name} goes on without the state of its snapshot"
                )

        asyncio.get_running_loop().call_later(STOP_WITHIN_S, check, context=contextvars.Context())


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
        history: RunHistory,
        replicas: int,
        disabled_rules: frozenset[Rule],
        settings: dict[str, Any],
        timing: dict[str, int],
        latency: Callable[[str, str], float],
    ) -> None:
        self._loop = loop
        self._rng = rng
        self._trace = trace
        self._network = network
        self._calls = calls
        self._history = history
        self._disabled_rules = disabled_rules
        self._settings = settings
        self._timing = Timing(**timing)
        self.founders = tuple(NAMES[:replicas])
        self.names = list(self.founders)
        """The machines that are there, members or not. The list changes in place."""
        self.hosts: dict[str, SimHost] = {}
        """All machines that ever were."""
        self._latency = latency
        for name in self.founders:
            self._new_host(name, self.founders)
        history.members.founded(self.founders)
        self.graves: list[object] = []
        """What belonged to dead processes: kept, so that nothing of it is torn down while the run goes on."""

    def _new_host(self, name: str, file: tuple[str, ...]) -> SimHost:
        host = self.hosts[name] = SimHost(name, self._loop)
        self._use_disk(host, host.disk)
        host.file = file
        return host

    def _use_disk(self, host: SimHost, disk: FaultyFileSystem) -> None:
        disk.delay_s = lambda operation: self._latency(host.name, operation)
        disk.quick_s = QUICK_SYNC_S
        host.disk = disk

    def add_host(self) -> str:
        """Set up a machine with an empty disk, which will join; returns its new name."""
        name = f"j{len(self.hosts) - len(self.founders) + 1}"
        latest = self._history.members.latest
        members = [other for other in self.names if latest.find(other) is not None]
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
        """Return the machines that never come back, with those whose disks are damaged unless told otherwise."""
        return frozenset(
            name
            for name, host in self.hosts.items()
            if host.gone is not None or host.refused or (damaged and host.damaged)
        )

    def level(self) -> int:
        """Return the feature level of the cluster, as far as anybody who runs knows."""
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

    # Lives.

    def start(self, name: str) -> None:
        """Begin a life."""
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
        process.context.run(self._build, host, process)
        self._loop.call_soon(self._begin, host, process, context=process.context)

    def _build(self, host: SimHost, process: Process) -> None:
        introducer = Introducer(host.disk, DATA_DIR, level=host.level, new_nonce=host.new_nonce)
        links = host.links = SimLinks(self._network, process, introducer, host.level)
        neighbours = Neighbours(introducer, host.level, links.levels)
        config = CoordinatorConfig(
            cluster_id="simulation",
            secret=b"s" * 32,
            members=tuple(_member(name) for name in host.file),
            name=host.name,
            data_dir=DATA_DIR,
            bind=Address(host.name, 2),
            peer_bind=Address(host.name, 1),
            timing=self._timing,
            limits=Limits(),
        )
        log_config = LogConfig(
            name=host.name,
            members=host.file,
            cluster_id="simulation",
            data_dir=DATA_DIR,
            addresses={name: (f"{name}:1", f"sim://{name}") for name in host.file},
            join=host.join,
            **self._settings,
        )

        directory = PeerDirectory(config, links.set_peers)

        def follow(standing: MembershipVersion) -> None:
            links.standing = standing
            introducer.update(standing)
            directory.follow(standing)

        def make_log(machine: StateMachine, audit: AuditFile) -> ReplicatedLog:
            observed = ObservedMachine(machine, host, self._history)
            return PySyncObjLog(
                log_config,
                observed,
                links,
                host.disk,
                before_compaction=audit.compact,
                disabled_rules=self._disabled_rules,
                on_members=follow,
                neighbours=neighbours,
            )

        ids = IdSource(host.clock, self._rng.getrandbits)
        host.replica = Replica(
            config, make_log, host.disk, clock=host.clock, ids=ids, level=host.level, peer_levels=links.levels
        )
        introducer.history = AppliedHistory(host.replica.machine, host.replica.audit)
        host.replica.log.on_role_change(lambda role, term: self._role_changed(host, role, term))

    def _role_changed(self, host: SimHost, role: Role, term: int) -> None:
        self._trace.note(host.name, f"{role.value} in term {term}")
        self._history.role_changed(host, role, term)

    def _begin(self, host: SimHost, process: Process) -> None:
        task = self._loop.create_task(self._live(host, process), context=process.context)
        task.add_done_callback(self._lived)
        self.graves.append(task)

    def _lived(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self._loop.call_exception_handler({"message": "a life ended", "exception": error})

    async def _live(self, host: SimHost, process: Process) -> None:
        """One life, inside its process."""
        replica = host.replica
        assert replica is not None  # noqa: S101 - built just before
        try:
            await replica.start()
        except ReplicaFailedError as error:
            self._tell(host, process, error, at_start=True)
            return
        self._history.started(host)
        host.serving = True
        self._calls.servers[host.name] = Server(replica, process)
        reason = await replica.wait_failed()
        self._tell(host, process, reason, at_start=False)

    def _tell(self, host: SimHost, process: Process, why: ReplicaFailedError, *, at_start: bool) -> None:
        self._loop.call_soon(
            functools.partial(self._stopped, host, process, why, at_start=at_start), context=contextvars.Context()
        )

    def _stopped(self, host: SimHost, process: Process, error: ReplicaFailedError, *, at_start: bool) -> None:
        """A replica stopped by itself: right after a fault of its disk or its removal, wrong otherwise."""
        if host.process is not process:
            return
        why = str(error)
        self._trace.note(host.name, f"stopped: {why[:200]}")
        if isinstance(error.__cause__, RemovedError):
            self._history.members.told(host.name)
            self._leave(host, "removed")
        elif isinstance(error.__cause__, EmptiedError) and host.wiped:
            self._trace.fault("emptied replica stopped", host.name)
        elif host.damaged and at_start:
            host.refused = why
        elif host.may_fail is None and not host.damaged:
            self._history.violation("stopped", f"{host.name} stopped without a fault of its disk: {why}")
        self._end(host, silently=False)
        host.disk.restart(Loss.NONE, self._rng)

    def _crashed_inside(self, host: SimHost, process: Process) -> None:
        """Power failed between two operations on the disk. Called in the middle of the replica's code."""
        self._loop.kill(process)
        self._loop.call_soon(self._crash_now, host, process, context=contextvars.Context())

    def _crash_now(self, host: SimHost, process: Process) -> None:
        if host.process is process:
            self._trace.fault("crash at a disk operation", host.name)
            self._end(host, silently=self._rng.random() < 0.5)

    def crash(self, name: str, *, kind: str = "power loss") -> None:
        """End a life now. The disk settles what survives when the next begins."""
        host = self.hosts[name]
        if host.process is not None:
            self._trace.fault(kind, name)
            self._end(host, silently=kind == "power loss")

    def _end(self, host: SimHost, *, silently: bool) -> None:
        process, replica, links = host.process, host.replica, host.links
        assert process is not None and replica is not None and links is not None  # noqa: S101, PT018 - it lives
        self._loop.kill(process)
        host.disk.power_off()
        self.graves.append((process, replica, links, self._calls.servers.get(host.name)))
        host.process = host.replica = host.links = None
        host.serving = False
        self._network.leave(links, silently=silently)
        self._calls.died(host.name, silently=silently)
        if silently:
            self._calls.off.add(host.name)
        self._history.ended(host)

    def restart(self, name: str, loss: Loss) -> None:
        """Start again after a crash, with what the disk kept."""
        host = self.hosts[name]
        if host.process is None and not host.refused and not host.gone and not host.away:
            host.disk.restart(loss, self._rng)
            self.start(name)

    def upgrade(self, name: str) -> None:
        """Install the present version on a machine, whose process ends; it is to be started again."""
        host = self.hosts[name]
        if host.process is not None:
            self._trace.note(name, "is stopped for the upgrade")
            self._end(host, silently=False)
            host.disk.restart(Loss.NONE, self._rng)
        host.level = LEVEL

    def destroy(self, name: str) -> None:
        """Take a machine away for good, with its disk."""
        host = self.hosts[name]
        if host.gone is None:
            self._trace.fault("replica lost for ever", name)
            if host.process is not None:
                self._end(host, silently=True)
            self._leave(host, "destroyed")

    def _leave(self, host: SimHost, why: str) -> None:
        host.gone = why
        self.names.remove(host.name)

    # Faults of a machine.

    def fail_disk(
        self, name: str, operation: str, error: int, *, where: str = "", then: Callable[[], None] = lambda: None
    ) -> None:
        """Let the next such operation on a disk fail, on a path that contains `where`; then call `then`."""
        host = self.hosts[name]

        def fail(asked: str, path: Path) -> int | None:
            if asked != operation or where not in str(path) or host.process is None:
                return None
            host.disk.fail = _sound
            host.may_fail = f"{operation} fails with {errno.errorcode[error]}"
            self._trace.fault(f"failing {operation}", name)
            if operation == "sync" and path.suffix == ".segment":
                self._must_stop(host)
            then()
            return error

        host.disk.fail = fail

    def _must_stop(self, host: SimHost) -> None:
        """A replica whose journal could not be synced must not go on: what it believes is not on its disk."""
        process, log = host.process, cast("Any", host.replica).log
        durable, until_s = log.parts.journal.durable_index, self._loop.time() + SYNC_STOP_WITHIN_S

        def check() -> None:
            if host.process is not process or process is None or process.frozen:
                return
            now_durable = log.parts.journal.durable_index
            if now_durable > durable or self._loop.time() >= until_s:
                self._history.violation(
                    "failed sync ignored", f"{host.name} goes on and believes in {now_durable}, after {durable}"
                )
                return
            self._loop.call_later(LOOK_S, check, context=contextvars.Context())

        self._loop.call_later(LOOK_S, check, context=contextvars.Context())

    def fill_disk(self, name: str, room_bytes: int = _FULL_BYTES) -> None:
        """Leave so many bytes on a replica's disk."""
        host = self.hosts[name]
        host.disk.capacity_bytes = host.disk.used_bytes() + room_bytes
        host.may_fail = "the disk is full"
        self._trace.fault("full disk", name)

    def empty_disk(self, name: str) -> None:
        """Make room again."""
        self.hosts[name].disk.capacity_bytes = None

    def replace_disk(self, name: str, files: dict[Path, bytes]) -> None:
        """Put an older copy of its files on the disk of a replica that is down."""
        host = self.hosts[name]
        self._trace.fault("older copy put back", name)
        self._history.forgets(name)
        host.disk.replace(files)
        host.damaged = True

    def repair_disk(self, name: str) -> None:
        """Put an end to faults that have not shown yet."""
        host = self.hosts[name]
        host.disk.fail = _sound
        host.disk.crash_at = None
        host.disk.capacity_bytes = None

    def wipe(self, name: str) -> None:
        """Take a replica's disk out and put an empty one in; it is to be started again."""
        host = self.hosts[name]
        if host.gone is None and host.kept is None:
            self.crash(name)
            self._trace.fault("disk wiped", name)
            host.kept = (host.disk, host.damaged)
            self._use_disk(host, FaultyFileSystem(keep_trace=False))

    def put_back(self, name: str) -> None:
        """Give a replica its old disk again; it is to be started again."""
        host = self.hosts[name]
        if host.kept is not None:
            if host.process is not None:
                self._end(host, silently=False)
            self._trace.note(name, "gets its disk back")
            disk, host.damaged = host.kept
            host.kept = None
            self._use_disk(host, disk)

    def close(self) -> None:
        """End every life."""
        for name in self.running():
            self._end(self.hosts[name], silently=True)


def _member(name: str) -> MemberConfig:
    return MemberConfig(name=name, peer=Address(name, 1), url=f"sim://{name}")


def _sound(_operation: str, _path: Path) -> int | None:
    return None


__all__ = ["EPOCH_MS", "NAMES", "Cluster", "ObservedMachine", "SimClock", "SimHost", "SimulatedCrash"]
