"""The real log on a virtual clock with simulated links and disks: whole clusters, deterministic, fast.

`VirtualLoop` is an asyncio loop whose time jumps to the next timer. `Network` connects replicas as TCP does: frames
keep their order on a connection, a lost connection loses what is on it, a new one is made soon. `Cluster` starts,
kills and restarts replicas, and checks at every applied entry that all replicas apply the same.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import selectors
from pathlib import Path
from typing import TYPE_CHECKING

from raftflow.replication.config import LogConfig
from raftflow.replication.engine import PySyncObjLog
from raftflow.replication.errors import LogFailedError, NoQuorumError
from raftflow.replication.log import Applied, Rejected, Role
from raftflow.simulation.world.disk import FaultyFile, FaultyFileSystem, Loss, SimulatedCrash

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence

    from raftflow.replication.raft.rules import Rule


class _JumpingSelector(selectors.DefaultSelector):
    """Instead of waiting, moves the loop's clock."""

    loop: VirtualLoop

    def select(self, timeout: float | None = None) -> list:
        if timeout is None:
            raise RuntimeError("the simulation waits for something that will never happen")
        if timeout > 0:
            self.loop.now += timeout
        return super().select(0)


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop in which waiting takes no time."""

    def __init__(self) -> None:
        selector = _JumpingSelector()
        selector.loop = self
        self.now = 1000.0
        super().__init__(selector)

    def time(self) -> float:
        return self.now


def run_virtual(main: Coroutine, seed: int = 0) -> object:
    """Run `main` to its end on a virtual loop, with `random` seeded."""
    random.seed(seed)
    loop = VirtualLoop()

    def on_exception(_loop: asyncio.AbstractEventLoop, context: dict) -> None:
        if not isinstance(context.get("exception"), SimulatedCrash):
            loop.default_exception_handler(context)

    loop.set_exception_handler(on_exception)
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        return runner.run(main)


class SlowFile(FaultyFile):
    """Takes a while to sync."""

    async def sync_off_loop(self) -> None:
        self._check()
        up_to = self._fs.writes
        await asyncio.sleep(self._fs.latency())
        self._check()
        self._sync(up_to)


class Disk(FaultyFileSystem):
    """One replica's disk."""

    def __init__(self, latency: Callable[[], float]) -> None:
        super().__init__()
        self.latency = latency
        self.on_crash: Callable[[], None] = lambda: None

    def step(self, operation: str, path: Path) -> None:
        armed = self.crash_at is not None and self.steps + 1 == self.crash_at
        try:
            super().step(operation, path)
        except SimulatedCrash:
            if armed:
                asyncio.get_running_loop().call_soon(self.on_crash)
            raise

    def open(self, path: Path, *, create: bool = False) -> SlowFile:
        file = super().open(path, create=create)
        return SlowFile(self, file._path, file._inode)


class Machine:
    """Remembers the entries it applied, in order."""

    def __init__(self, on_apply: Callable[[int, bytes], None] = lambda _index, _entry: None) -> None:
        self.entries: list[bytes] = []
        self._on_apply = on_apply

    def apply(self, index: int, term: int, entry: bytes) -> int:
        self._on_apply(index, entry)
        self.entries.append(entry)
        return len(self.entries)

    def snapshot(self) -> Iterator[bytes]:
        return iter([entry + b"\n" for entry in self.entries])

    def prepare(self, pieces: Iterable[bytes]) -> Callable[[], None]:
        entries = b"".join(pieces).split(b"\n")[:-1]

        def install() -> None:
            self.entries = entries

        return install


class SimLinks:
    """The links of one replica in a `Network`."""

    def __init__(self, network: Network, name: str) -> None:
        self.network = network
        self.name = name
        self.alive = False

    def set_handlers(self, on_frame: Callable, on_up: Callable, on_down: Callable) -> None:
        self.on_frame, self.on_up, self.on_down = on_frame, on_up, on_down

    async def start(self) -> None:
        self.alive = True
        self.network.joined(self)

    def send(self, peer: str, frame: bytes | Sequence[bytes]) -> bool:
        return self.network.send(self.name, peer, frame if isinstance(frame, bytes) else b"".join(frame))

    def reset(self, peer: str) -> None:
        self.network.disconnect(self.name, peer)

    def buffered(self, peer: str) -> int:
        return self.network.on_the_way.get((self.name, peer), 0)

    async def close(self) -> None:
        if self.alive:
            self.network.left(self)
            self.alive = False

    def takes(self, other: SimLinks) -> bool:
        """Whether this end lets a connection with another one be made."""
        return True


class Network:
    """Connections between replicas. `delay()` is how long a frame takes, in seconds."""

    def __init__(self, rng: random.Random, delay: Callable[[], float]) -> None:
        self.rng = rng
        self.delay = delay
        self.loop = asyncio.get_running_loop()
        self.links: dict[str, SimLinks] = {}
        self.connections: dict[frozenset[str], int] = {}
        self.cut_pairs: set[frozenset[str]] = set()
        self.epoch = 0
        self.arrives: dict[tuple[str, str], float] = {}
        self.frames = 0
        self.on_the_way: dict[tuple[str, str], int] = {}
        """Bytes on each connection; they stand for what a real link could not write yet."""
        self.drop: Callable[[str, str, bytes], bool] = lambda _source, _target, _frame: False

    def joined(self, links: SimLinks) -> None:
        self.links[links.name] = links
        for other in sorted(self.links):
            if other != links.name:
                self._connect_soon(frozenset((links.name, other)))

    def left(self, links: SimLinks) -> None:
        if self.links.get(links.name) is not links:
            return
        for other in sorted(self.links):
            if other != links.name:
                self.disconnect(links.name, other, again=False)
        del self.links[links.name]

    def cut(self, one: str, other: str) -> None:
        """Break the connection and let no new one be made."""
        self.cut_pairs.add(frozenset((one, other)))
        self.disconnect(one, other, again=False)

    def heal(self, one: str, other: str) -> None:
        pair = frozenset((one, other))
        if pair in self.cut_pairs:
            self.cut_pairs.discard(pair)
            self._connect_soon(pair)

    def heal_all(self) -> None:
        for pair in sorted(self.cut_pairs, key=sorted):
            self.heal(*pair)

    def isolate(self, name: str) -> None:
        for other in sorted(self.links):
            if other != name:
                self.cut(name, other)

    def disconnect(self, one: str, other: str, *, again: bool = True) -> None:
        pair = frozenset((one, other))
        if self.connections.pop(pair, None) is None:
            return
        self.on_the_way.pop((one, other), None)
        self.on_the_way.pop((other, one), None)
        for name, peer in sorted(((one, other), (other, one))):
            self.links[name].on_down(peer)
        if again:
            self._connect_soon(pair)

    def _connect_soon(self, pair: frozenset[str]) -> None:
        self.loop.call_later(self.rng.uniform(0.001, 0.03), self._connect, pair)

    def _connect(self, pair: frozenset[str]) -> None:
        if pair in self.connections or pair in self.cut_pairs or not all(name in self.links for name in pair):
            return
        one, other = sorted(pair)
        if not (self.links[one].takes(self.links[other]) and self.links[other].takes(self.links[one])):
            return
        self.epoch += 1
        self.connections[pair] = self.epoch
        self.links[one].on_up(other)
        if pair in self.connections:
            self.links[other].on_up(one)

    def send(self, source: str, target: str, frame: bytes) -> bool:
        pair = frozenset((source, target))
        epoch = self.connections.get(pair)
        if epoch is None:
            return False
        self.frames += 1
        if self.drop(source, target, frame):
            return True
        when = max(self.loop.time() + self.delay(), self.arrives.get((source, target), 0.0) + 1e-6)
        self.arrives[source, target] = when
        self.on_the_way[source, target] = self.on_the_way.get((source, target), 0) + len(frame)
        self.loop.call_at(when, self._deliver, epoch, source, target, frame)
        return True

    def _deliver(self, epoch: int, source: str, target: str, frame: bytes) -> None:
        if self.connections.get(frozenset((source, target))) == epoch:
            self.on_the_way[source, target] -= len(frame)
            self.links[target].on_frame(source, frame)


class Cluster:
    """Replicas with their disks. `violations` collects what must never happen."""

    def __init__(
        self,
        seed: int,
        *,
        replicas: int = 3,
        disabled_rules: frozenset[Rule] = frozenset(),
        delay: Callable[[], float] | None = None,
        sync_s: Callable[[], float] | None = None,
        **settings: object,
    ) -> None:
        self.rng = rng = random.Random(seed)
        self.names = tuple("abcdefg"[:replicas])
        self.network = Network(rng, delay or (lambda: rng.uniform(0.0005, 0.003)))
        self.slow_disks: dict[str, float] = {}
        """Disks that take so many seconds longer for a sync."""
        latency = sync_s or (lambda: rng.uniform(0.0005, 0.003))
        self.disks = {name: Disk(lambda name=name: latency() + self.slow_disks.get(name, 0.0)) for name in self.names}
        self.disabled_rules = disabled_rules
        self.settings = {"segment_bytes": 8192, "snapshot_entries": 10**6, "snapshot_stall_s": 2.0, **settings}
        self.logs: dict[str, PySyncObjLog] = {}
        self.machines: dict[str, Machine] = {}
        self.links: dict[str, SimLinks] = {}
        self.violations: list[str] = []
        self.canon: dict[int, bytes] = {}
        self.leaders: dict[int, str] = {}
        self.acked: dict[bytes, int] = {}
        self.rejected: dict[bytes, str] = {}
        self.top_acked_index = 0
        self.serial = 0
        self.failed: dict[str, LogFailedError] = {}

    # Replicas.

    async def start(self, *names: str) -> None:
        for name in names or self.names:
            await self._start(name)

    async def _start(self, name: str) -> None:
        machine = self.machines[name] = Machine(lambda index, entry: self._check_apply(name, index, entry))
        links = self.links[name] = SimLinks(self.network, name)
        config = LogConfig(
            name=name, members=self.names, cluster_id="test", data_dir=Path("/") / name, **self.settings
        )
        log = self.logs[name] = PySyncObjLog(
            config, machine, links, self.disks[name], disabled_rules=self.disabled_rules
        )
        log.on_role_change(lambda role, term: self._check_role(name, role, term))
        try:
            await log.start()
        except SimulatedCrash:
            return
        except LogFailedError as error:
            self.failed[name] = error
            self.violations.append(f"{name} refuses to start: {error}")
            del self.logs[name]

    def crash_after(self, name: str, steps: int, loss: Loss) -> None:
        """Cut the power of one replica in the middle of what it does to its disk, after so many operations."""
        disk = self.disks[name]
        disk.crash_at = disk.steps + steps
        disk.on_crash = lambda: self.crash(name, loss)

    def crash(self, name: str, loss: Loss = Loss.ALL) -> None:
        """Cut the power of one replica."""
        log = self.logs.pop(name, None)
        if log is not None:
            log.abandon()
            links = self.links[name]
            if links.alive:
                links.alive = False
                self.network.left(links)
        self.disks[name].restart(loss, self.rng)

    def leader(self) -> str | None:
        """The announced leader of the highest term."""
        best: tuple[int, str] | None = None
        for name, log in self.logs.items():
            status = log.status()
            if status.role is Role.LEADER:
                best = max(best or (0, ""), (status.term, name))
        return best[1] if best else None

    async def wait(self, condition: Callable[[], object], within_s: float = 10.0, every_s: float = 0.005) -> bool:
        """Wait until the condition holds; False after `within_s` of simulated time."""
        loop = asyncio.get_running_loop()
        until = loop.time() + within_s
        while not condition():
            if loop.time() > until:
                return False
            await asyncio.sleep(every_s)
        return True

    async def elect(self) -> str:
        assert await self.wait(self.leader), "no leader"
        leader = self.leader()
        assert leader is not None
        return leader

    async def stand_alone(self, name: str, term: int) -> None:
        """Let a replica that reaches nobody stand for election until it is past `term`: by itself it would not."""
        parts = self.logs[name].parts

        def is_past() -> bool:
            parts.raft.campaign_now()
            parts.driver.request_turn()
            return parts.raft.term > term

        assert await self.wait(is_past)

    async def settle(self, within_s: float = 10.0) -> bool:
        """Wait until all replicas that run have applied the same log to its end."""

        def settled() -> bool:
            views = [log.status() for log in self.logs.values()]
            return (
                self.leader() is not None
                and len({view.applied_index for view in views}) == 1
                and len({view.last_index for view in views}) == 1
                and views[0].applied_index == views[0].last_index
                and len({view.term for view in views}) == 1
            )

        return await self.wait(settled, within_s)

    async def close(self) -> None:
        for name in list(self.logs):
            await self.logs.pop(name).close()

    # Checked while it runs.

    def _check_apply(self, name: str, index: int, entry: bytes) -> None:
        known = self.canon.setdefault(index, entry)
        if known != entry:
            self.violations.append(f"{name} applies {entry!r} at {index}, another replica applied {known!r}")

    def _check_role(self, name: str, role: Role, term: int) -> None:
        if role is Role.LEADER and self.leaders.setdefault(term, name) != name:
            self.violations.append(f"{name} and {self.leaders[term]} lead term {term}")

    # Clients.

    async def put(self, name: str, timeout_s: float = 2.0, size: int = 20) -> object:
        """Submit a fresh entry to one replica and remember the outcome."""
        log = self.logs.get(name)
        if log is None:
            return None
        self.serial += 1
        entry = b"%d:" % self.serial + b"x" * size
        outcome = await log.submit(entry, timeout_s)
        if isinstance(outcome, Applied):
            self.acked[entry] = outcome.index
            self.top_acked_index = max(self.top_acked_index, outcome.index)
        elif isinstance(outcome, Rejected):
            self.rejected[entry] = outcome.reason
        return outcome

    async def read(self, name: str, timeout_s: float = 1.0) -> int | None:
        """Read at one replica and check that nothing acknowledged before the read began is missing."""
        log = self.logs.get(name)
        if log is None:
            return None
        floor = self.top_acked_index
        try:
            index = await log.read_index(timeout_s)
        except NoQuorumError:
            return None
        if index < floor:
            self.violations.append(f"{name} reads at {index}, though {floor} was acknowledged before")
        return index

    def check_end(self) -> None:
        """Check what must hold when everything has come to rest."""
        for name, log in self.logs.items():
            failure = log.failure
            if failure is not None:
                self.violations.append(f"{name} failed: {failure}")
        sequences = {name: self.machines[name].entries for name in self.logs}
        reference = max(sequences.values(), key=len)
        for name, entries in sequences.items():
            if entries != reference[: len(entries)] or len(entries) != len(reference):
                self.violations.append(f"{name} holds {len(entries)} entries, another replica {len(reference)}")
        present = set(reference)
        if len(present) != len(reference):
            self.violations.append("an entry was applied twice")
        lost = [entry for entry in self.acked if entry not in present]
        if lost:
            self.violations.append(f"{len(lost)} acknowledged entries are lost, {lost[0]!r} for one")
        false = [entry for entry in self.rejected if entry in present]
        if false:
            self.violations.append(f"{len(false)} rejected entries were applied, {self.rejected[false[0]]} for one")


@contextlib.asynccontextmanager
async def running(seed: int = 1, **settings: object) -> object:
    """A started cluster that is closed at the end and has seen no violation."""
    cluster = Cluster(seed, **settings)
    await cluster.start()
    yield cluster
    assert cluster.violations == []
    await cluster.close()
