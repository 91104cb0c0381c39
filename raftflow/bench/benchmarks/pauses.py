"""pauses: for how long a replica's event loop answers nobody, with many live tasks, snapshots included.

Three replicas. A prober, a process of its own, asks each of them over one kept connection for its health, every few
milliseconds; the longest answer is the longest pause (and what the kernel and a busy machine add). Meanwhile

1. *loading*: tasks are submitted, in documents of at most `PER_WORKFLOW`,
2. *steady*: for `--seconds` small workflows come at a fixed rate, and simulated agents take tasks, the loaded ones
   too, hold each for a moment and report it,
3. *snapshot*: the same, and tiny submissions as fast as they are answered, until every replica has written a
   snapshot that has all the loaded tasks in it. A replica's samples count for this phase while it writes; the rest
   counts for no phase. Replicas write by their thresholds, which differ by replica: not all at once.

A sample that took long stands for the requests that would have been sent meanwhile: p99.9 is over time, not over the
requests that a stalled replica let through. How late the prober itself was is reported beside (`prober_ms_most`).
The replica that led when a phase began is its leader; `new_terms` says whether that holds for all of it.

Afterwards each command that moves very many tasks is carried out on a leader of its own: `turn_ms_*` is the longest
turn of its event loop (`large_commands.py`).
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any, Final

import uvloop

from raftflow.bench.benchmarks import large_commands
from raftflow.bench.figures import summary
from raftflow.bench.load.http import LoadConnection, encode
from raftflow.bench.load.jobs import independent
from raftflow.bench.load.usage import machine_load, resident_bytes
from raftflow.bench.load.workers import SimulatedAgent, generators
from raftflow.bench.settings import BenchError, Settings
from raftflow.local.cluster import LocalCluster
from raftflow.local.cluster_file import ClusterOptions
from raftflow.replication.storage.snapshot_store import SUFFIX, TEMPORARY_SUFFIX

PER_WORKFLOW: Final = 10_000
EVERY_S: Final = 0.005
"""How often each replica is asked."""
PHASES: Final = ("loading", "steady", "snapshot")
ROLES: Final = ("leader", "follower")
FIGURES: Final = (
    *(f"{phase}_{role}_ms_{kind}" for phase in PHASES for role in ROLES for kind in ("most", "p999")),
    "prober_ms_most",
    "load_tasks_per_s",
    "snapshot_s_leader",
    "snapshot_s_follower",
    "leader_mib",
    "follower_mib",
    "new_terms",
    *large_commands.FIGURES,
)
_AGENTS, _CPUS, _HOLD_S = 4, 8, 0.05
_SMALL: Final = {**independent(5), "name": "small", "priority": 90}
_SMALL_PER_S: Final = 20
_ENTRIES_LOADING, _ENTRIES_PER_S, _ENTRIES_PER_DOCUMENT = 2_000, 400, 100
"""More entries than loading and the steady phase can make: the thresholds of snapshots lie above them."""
_HASTE: Final = 4
"""Connections that submit as fast as they can, to pass the thresholds."""
_LOOK_S: Final = 0.01
_BEFORE_S: Final = 0.2
"""The state is frozen a moment before the file of a snapshot appears."""
_LIMIT_S: Final = 900.0
_CREATED, _LATER, _RETRY_S = 201, (503, 429), 0.05
_BEGUN, _STOP = "probing", "stop-probing"

Sample = tuple[str, float, float]
"""Replica, when it was asked, and the seconds until it had answered."""


def measure(settings: Settings) -> dict[str, Any]:
    """Run it `settings.runs` times with `settings.tasks` tasks, each time with a cluster of its own."""
    runs = []
    for number in range(settings.runs):
        documents = -(-settings.tasks // PER_WORKFLOW)
        entries = _ENTRIES_LOADING + _ENTRIES_PER_DOCUMENT * documents + round(_ENTRIES_PER_S * settings.seconds)
        limits = f"[limits]\nsnapshot_entries = {entries}\nsnapshot_bytes = {64 * 2**30}\n"
        cluster = LocalCluster.create(
            settings.directory / f"run{number}", ClusterOptions(agents=0, lease_ms=30_000, replica_toml=limits)
        )
        try:
            cluster.start()
            run = _run(cluster, settings)
        finally:
            cluster.down()
        runs.append(run | large_commands.measure(settings.directory / f"large{number}", settings.tasks))
    return {"name": "pauses", "runs": runs, **summary(runs, FIGURES), "tasks": settings.tasks}


def _run(cluster: LocalCluster, settings: Settings) -> dict[str, Any]:
    urls = dict(zip(cluster.replica_names, cluster.urls, strict=True))
    term, load = _term(cluster), machine_load()
    with generators(1) as pool:
        probing = pool.submit(probe, urls, str(cluster.directory))
        try:
            while not ((cluster.directory / _BEGUN).exists() or probing.done()):
                time.sleep(_LOOK_S)
            phases = _Phases(cluster, probing.done)
            run = uvloop.run(phases.run(settings))
        finally:
            (cluster.directory / _STOP).touch()
        samples, late = probing.result(timeout=_LIMIT_S)
    for phase, windows in phases.windows.items():
        for role in ROLES:
            names = [name for name in urls if (name == phases.leaders[phase]) == (role == "leader")]
            found = sorted(seconds for name in names for seconds in _inside(samples, name, windows[name]))
            if not found:
                raise BenchError(f"nobody answered in the phase {phase}: it was too short, ask for more --seconds")
            run[f"{phase}_{role}_ms_most"] = found[-1] * 1e3
            run[f"{phase}_{role}_ms_p999"] = found[len(found) * 999 // 1000] * 1e3
    run["prober_ms_most"] = late * 1e3
    run["new_terms"] = _term(cluster) - term
    mib = {name: resident_bytes(cluster.pid_of(name) or 0) / 2**20 for name in urls}
    run["leader_mib"] = mib.pop(phases.leaders["snapshot"])
    run["follower_mib"] = max(mib.values())
    return {**run, "load_before": load}


def _term(cluster: LocalCluster) -> int:
    return max(status.term for status in cluster.statuses().values() if status is not None)


def _inside(samples: list[Sample], name: str, windows: list[tuple[float, float]]) -> Iterator[float]:
    """Yield what a request sent at any of the ticks within the windows had to wait."""
    for asked, at, seconds in samples:
        if asked == name and any(begin <= at + seconds and at <= end for begin, end in windows):
            while seconds > 0:
                yield seconds
                seconds -= EVERY_S  # noqa: PLW2901 - the request that was due at the next tick waits so much less


def probe(urls: dict[str, str], directory: str) -> tuple[list[Sample], float]:
    """Be the prober until the file `_STOP` is in the directory; `_BEGUN` says that it has begun.

    Returns the samples and the longest time that the prober was late itself.
    """
    return uvloop.run(_probe(urls, Path(directory)))


async def _probe(urls: dict[str, str], directory: Path) -> tuple[list[Sample], float]:
    samples: list[Sample] = []
    late = 0.0

    async def ask(name: str, url: str) -> None:
        connection = await LoadConnection.open(url)
        due = time.perf_counter()
        while not stopping.is_set():
            began = time.perf_counter()
            status, _ = await connection.request("GET", "/healthz", b"")
            if status != 200:
                raise BenchError(f"the health of {name} was answered with {status}")
            samples.append((name, began, time.perf_counter() - began))
            begun.discard(name)
            due = max(due + EVERY_S, time.perf_counter())
            await asyncio.sleep(due - time.perf_counter())
        connection.close()

    stopping = asyncio.Event()
    begun = set(urls)
    async with asyncio.TaskGroup() as group:
        for name, url in urls.items():
            group.create_task(ask(name, url))
        while not (directory / _STOP).exists():
            if not begun:
                begun = {""}
                (directory / _BEGUN).touch()
            due = time.perf_counter() + EVERY_S
            await asyncio.sleep(EVERY_S)
            late = max(late, time.perf_counter() - due)
        stopping.set()
    return samples, late


class _Sender:
    """Submits to one replica, leader or not, and again while it is told to come back later."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._connection: LoadConnection | None = None

    async def submit(self, document: bytes, key: str) -> None:
        """Submit until it is accepted. Raises `BenchError` if it is refused, `TimeoutError`."""
        header = f"Idempotency-Key: {key}\r\n"
        async with asyncio.timeout(_LIMIT_S):
            while True:
                try:
                    self._connection = self._connection or await LoadConnection.open(self._url)
                    status, body = await self._connection.request("POST", "/v1/workflows", document, header)
                except OSError:
                    self._connection, status, body = None, _LATER[0], b""
                if status == _CREATED:
                    return
                if status not in _LATER:
                    raise BenchError(
                        f"a submission was answered with {status}: {body[:300].decode(errors='replace')}"
                    )
                await asyncio.sleep(_RETRY_S)

    def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._connection.close()


Windows = dict[str, list[tuple[float, float]]]


class _Phases:
    """The load, and when which phase was."""

    def __init__(self, cluster: LocalCluster, prober_ended: Callable[[], bool]) -> None:
        self.windows: dict[str, Windows] = {phase: {name: [] for name in cluster.replica_names} for phase in PHASES}
        self.leaders: dict[str, str] = {}
        """Who led when each phase began."""
        self._cluster = cluster
        self._prober_ended = prober_ended
        self._numbers = count()

    async def run(self, settings: Settings) -> dict[str, Any]:
        """Go through the phases. Raises `BenchError`, `TimeoutError`."""
        await self._note_leader("loading")
        began = time.perf_counter()
        with self._phase("loading"):
            await self._load(settings.tasks)
        run: dict[str, Any] = {"load_tasks_per_s": settings.tasks / (time.perf_counter() - began)}
        loaded = await self._index(await self._note_leader("steady"))
        agents = [SimulatedAgent(f"steady{number}", cpus=_CPUS, hold_s=_HOLD_S) for number in range(_AGENTS)]
        try:
            async with asyncio.TaskGroup() as group:
                work = [group.create_task(self._agent(agent)) for agent in agents]
                work.append(group.create_task(self._small(1 / _SMALL_PER_S)))
                with self._phase("steady"):
                    await asyncio.sleep(settings.seconds)
                early = [name for name, index in self._snapshots().items() if index > loaded]
                if early:
                    raise BenchError(f"{early} wrote a snapshot in the steady phase: ask for less --seconds")
                leader = await self._note_leader("snapshot")
                work += [group.create_task(self._small(0.0)) for _ in range(_HASTE)]
                async with asyncio.timeout(_LIMIT_S):
                    seconds = await self._watch(loaded)
                for task in work:
                    task.cancel()
        except BaseExceptionGroup as failures:
            raise failures.exceptions[0] from failures
        run["snapshot_s"] = dict(seconds)
        run["snapshot_s_leader"] = seconds.pop(leader)
        run["snapshot_s_follower"] = max(seconds.values())
        return run

    async def _note_leader(self, phase: str) -> str:
        self.leaders[phase] = leader = await asyncio.to_thread(self._cluster.wait_leader)
        return leader

    @contextmanager
    def _phase(self, phase: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        for windows in self.windows[phase].values():
            windows.append((began, time.perf_counter()))

    async def _load(self, tasks: int) -> None:
        send = _Sender(self._cluster.url_of(self.leaders["loading"]))
        for first in range(0, tasks, PER_WORKFLOW):
            await send.submit(encode(independent(min(PER_WORKFLOW, tasks - first))), f"load-{first}")
        send.close()

    async def _index(self, leader: str) -> int:
        status = await asyncio.to_thread(self._cluster.status_of, leader)
        if status is None:
            raise BenchError(f"{leader} does not answer")
        return status.applied_index

    async def _agent(self, agent: SimulatedAgent) -> None:
        """Work for the leader, which may change."""
        while True:
            leader = await asyncio.to_thread(self._cluster.wait_leader)
            with contextlib.suppress(BenchError, OSError):
                await agent.register(self._cluster.url_of(leader))
                await agent.work()

    async def _small(self, every_s: float) -> None:
        """Submit small workflows, each when the one before was answered and not before `every_s`."""
        send = _Sender(self._cluster.url_of(self.leaders["steady"]))
        document = encode(_SMALL)
        try:
            while True:
                due = time.perf_counter() + every_s
                await send.submit(document, f"small-{next(self._numbers)}")
                await asyncio.sleep(max(0.0, due - time.perf_counter()))
        finally:
            send.close()

    async def _watch(self, loaded: int) -> dict[str, float]:
        """Watch the files of snapshots until each replica has one with everything in it; returns their seconds."""
        began: dict[str, float] = {}
        seconds: dict[str, float] = {}
        while len(seconds) < len(self._cluster.replica_names):
            await asyncio.sleep(_LOOK_S)
            if self._prober_ended():
                raise BenchError("the prober has ended early")
            now = time.perf_counter()
            written = self._snapshots()
            for name in self._cluster.replica_names:
                if name in seconds:
                    continue
                if written[name] > loaded:
                    begin = began.get(name, now)
                    seconds[name] = now - begin
                    self.windows["snapshot"][name].append((begin - _BEFORE_S, now))
                elif self._writes(name):
                    began.setdefault(name, now)
        return seconds

    def _directory(self, name: str) -> Path:
        return self._cluster.directory / name / "snapshots"

    def _snapshots(self) -> dict[str, int]:
        """Return the last index of each replica's newest snapshot, 0 without one."""
        names = {name: self._directory(name).glob(f"*{SUFFIX}") for name in self._cluster.replica_names}
        return {name: max((int(file.name[:16], 16) for file in files), default=0) for name, files in names.items()}

    def _writes(self, name: str) -> bool:
        return any(self._directory(name).glob(f"*{TEMPORARY_SUFFIX}"))
