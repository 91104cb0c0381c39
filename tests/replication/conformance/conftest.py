"""The logs that the conformance suite runs over. A further `ReplicatedLog` is added by one harness in `HARNESSES`."""

from __future__ import annotations

import random
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import pytest
from virtual_cluster import Cluster, Disk, Network, SimLinks

from raftflow.replication.config import LogConfig
from raftflow.replication.engine import PySyncObjLog
from raftflow.replication.log import Role
from raftflow.replication.memory import MemoryLog

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from raftflow.replication.log import ReplicatedLog


class Recorder:
    """A state machine that remembers what it applied. The reply is the number of entries; `poison` raises."""

    def __init__(self) -> None:
        self.applied: list[tuple[int, int, bytes]] = []

    @property
    def entries(self) -> list[bytes]:
        return [entry for _index, _term, entry in self.applied]

    def apply(self, index: int, term: int, entry: bytes) -> int:
        if entry == b"poison":
            raise KeyError(entry)
        self.applied.append((index, term, entry))
        return len(self.applied)

    def snapshot(self) -> Iterator[bytes]:
        return iter([b"%d %d %s\n" % each for each in self.applied])

    def prepare(self, pieces: Iterable[bytes]) -> Callable[[], None]:
        lines = [line.split(b" ") for line in b"".join(pieces).splitlines()]
        applied = [(int(index), int(term), entry) for index, term, entry in lines]

        def replace() -> None:
            self.applied = applied

        return replace


class Harness(Protocol):
    """One kind of log, and what its surroundings do to it."""

    can_lose_leadership: bool
    """False for a log that leads as long as it runs."""
    is_durable: bool
    """True for a log whose entries are there again after a restart."""

    async def make(self, machine: Recorder, **limits: int) -> ReplicatedLog:
        """Make a log that will lead, not started. `limits` are `entry_bytes_max` and `queue_entries_max`."""
        ...

    async def begin(self, log: ReplicatedLog) -> None:
        """Start it, and whatever it needs to lead."""
        ...

    async def take_leadership_away(self, log: ReplicatedLog) -> None:
        """Let something happen after which the log no longer leads."""
        ...

    async def give_leadership_back(self, log: ReplicatedLog) -> None:
        """Let the log lead again, in a later term."""
        ...

    async def close(self) -> None:
        """Close what was started beside the log."""
        ...


class MemoryHarness:
    """`MemoryLog`."""

    can_lose_leadership = True
    is_durable = False

    async def make(self, machine: Recorder, **limits: int) -> MemoryLog:
        return MemoryLog(machine, **limits)

    async def begin(self, log: MemoryLog) -> None:
        await log.start()

    async def take_leadership_away(self, log: MemoryLog) -> None:
        log.lose_leadership()

    async def give_leadership_back(self, log: MemoryLog) -> None:
        log.gain_leadership()

    async def close(self) -> None:
        pass


class SingleHarness:
    """`PySyncObjLog` of one replica on a simulated disk."""

    can_lose_leadership = False
    is_durable = True

    def __init__(self) -> None:
        self._disk = Disk(lambda: 0.002)

    async def make(self, machine: Recorder, **limits: int) -> PySyncObjLog:
        links = SimLinks(Network(random.Random(1), lambda: 0.001), "a")
        config = LogConfig(name="a", members=("a",), cluster_id="test", data_dir=Path("/a"), **limits)
        return PySyncObjLog(config, machine, links, self._disk)

    async def begin(self, log: PySyncObjLog) -> None:
        await log.start()

    async def take_leadership_away(self, log: PySyncObjLog) -> None:
        raise NotImplementedError

    async def give_leadership_back(self, log: PySyncObjLog) -> None:
        raise NotImplementedError

    async def close(self) -> None:
        pass


class ClusterHarness:
    """The leader of three `PySyncObjLog` with simulated links and disks."""

    can_lose_leadership = True
    is_durable = True

    def __init__(self) -> None:
        self._cluster: Cluster | None = None

    async def make(self, machine: Recorder, **limits: int) -> PySyncObjLog:
        if self._cluster is None:
            self._cluster = Cluster(1, **limits)
        cluster = self._cluster
        self._links = SimLinks(cluster.network, "a")
        config = LogConfig(
            name="a",
            members=cluster.names,
            cluster_id="test",
            data_dir=Path("/a"),
            election_min_s=0.2,  # the others have longer ones: it is the first to stand
            election_max_s=0.21,
            **limits,
        )
        return PySyncObjLog(config, machine, self._links, cluster.disks["a"])

    async def begin(self, log: PySyncObjLog) -> None:
        cluster = self._cluster
        assert cluster is not None
        if not cluster.logs:
            await cluster.start("b", "c")
        await log.start()
        if await cluster.wait(cluster.leader, 1.0):  # another one leads since a restart
            assert await cluster.logs[cluster.leader()].transfer_leadership("a", 5.0)

    async def take_leadership_away(self, log: PySyncObjLog) -> None:
        assert self._cluster is not None
        self._cluster.network.isolate("a")

    async def give_leadership_back(self, log: PySyncObjLog) -> None:
        cluster = self._cluster
        assert cluster is not None
        leader = await cluster.elect()
        cluster.network.heal_all()
        assert await cluster.logs[leader].transfer_leadership("a", 5.0)

    async def close(self) -> None:
        if self._cluster is not None:
            await self._cluster.close()


HARNESSES: dict[str, type[Harness]] = {
    "memory": MemoryHarness,
    "one_replica": SingleHarness,
    "three_replicas": ClusterHarness,
}


class Suite:
    """What a test of the suite works with."""

    def __init__(self, harness: Harness) -> None:
        self.harness = harness
        self.machine = Recorder()
        self.roles: list[tuple[Role, int]] = []
        self.complete: list[list[bytes]] = []
        """What the state machine held whenever leadership was announced."""
        self.leader_changes = 0
        self.log: ReplicatedLog

    async def make(self, **limits: int) -> ReplicatedLog:
        """Make the log, which is not started."""
        self.log = await self.harness.make(self.machine, **limits)
        self.log.on_role_change(self._on_role)
        self.log.on_leader_change(self._on_leader)
        return self.log

    async def lead(self, **limits: int) -> ReplicatedLog:
        """Make the log, start it and wait until it leads."""
        log = await self.make(**limits)
        await self.harness.begin(log)
        await self.until(lambda: log.status().ready and log.status().role is Role.LEADER)
        return log

    async def until(self, holds: Callable[[], bool], within_s: float = 10.0) -> None:
        """Wait until it holds."""
        await Cluster.wait(self, holds, within_s)  # type: ignore[arg-type] - it uses nothing of the cluster
        assert holds()

    async def restart(self) -> ReplicatedLog:
        """Close the log and start another one in its place, with a state machine that knows nothing."""
        await self.log.close()
        self.machine = Recorder()
        return await self.lead()

    def _on_role(self, role: Role, term: int) -> None:
        self.roles.append((role, term))
        if role is Role.LEADER:
            self.complete.append(list(self.machine.entries))

    def _on_leader(self) -> None:
        self.leader_changes += 1


@pytest.fixture(params=HARNESSES.values(), ids=HARNESSES.keys())
def make_harness(request: pytest.FixtureRequest) -> type[Harness]:
    return request.param


@pytest.fixture
def make_suite() -> type[Suite]:
    return Suite
