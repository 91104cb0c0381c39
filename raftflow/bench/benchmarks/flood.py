"""flood: what a well-behaved client and a few agents notice while others flood the leader.

Three replicas that ask for a token, with some thousand agents and workflows in their tables. Three phases of
`--seconds`: *quiet*, *bad* (malformed requests, unknown paths, no JSON, wrong tokens, bodies beyond the limit) and
*heavy* (the largest listings, the ledger, whole pages of the audit, verification, documents of which only the last
task is wrong). In the last two, generators offer `FLOOD_PER_S` requests a second to the leader, or as many as the
machine lets them offer: what was offered and answered is reported. Meanwhile one client submits a task every 50 ms,
one at a time, and simulated agents run them; both do as they are told by 429. Everybody is a process of his own.

The leader must not lose its term: `*_new_terms` is 0, or the flood has cost an election. On a machine whose cores are
wanted by others the generators starve the replicas too, which has nothing to do with how requests are treated:
`*_turn_ms_most`, the CPU time of the leader's longest turn of its loop since it started, has only that in it.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from concurrent.futures import ProcessPoolExecutor
from itertools import count
from statistics import median
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec
import uvloop

from raftflow.bench.figures import summary
from raftflow.bench.load.hostile_load import bad_requests, heavy_requests, hostile_load
from raftflow.bench.load.http import LoadConnection, encode
from raftflow.bench.load.jobs import independent
from raftflow.bench.load.usage import cpu_s, machine_load, resident_bytes
from raftflow.bench.load.workers import BUSY, SimulatedAgent, generators
from raftflow.bench.settings import BenchError, Settings
from raftflow.domain.contract.views import ReportedEnd, WorkflowCreated
from raftflow.local.cluster import LocalCluster
from raftflow.local.cluster_file import ClusterOptions

FLOOD_PER_S: Final = 20_000
GENERATORS: Final = 2
PHASES: Final = ("quiet", "bad", "heavy")
WORKFLOWS: Final = 1_000
LARGE_TASKS: Final = 10_000
FIGURES: Final = (
    *(
        f"{phase}_{figure}"
        for phase in PHASES
        for figure in (
            "client_ms_median",
            "client_ms_worst",
            "client_errors",
            "agent_ms_worst",
            "ended_per_s",
            "turn_ms_most",
            "new_terms",
        )
    ),
    *(
        f"{phase}_{figure}"
        for phase in PHASES[1:]
        for figure in ("offered_per_s", "answered_per_s", "leader_mib", "leader_cores")
    ),
)
_LEASE_MS: Final = 600_000
"""So long that the agents which only fill the tables stay."""
_SETTING_UP: Final = 32
_EVERY_S: Final = 0.05
_AGENTS: Final = 4
_HOLD_S: Final = 0.02
_PATIENCE_S: Final = 30.0
_TURN: Final = "raftflow_turn_seconds_max "
_LIMIT_S: Final = 120.0


def measure(settings: Settings) -> dict[str, Any]:
    """Run the phases `settings.runs` times, with a cluster of its own each time; `settings.tasks` idle agents."""
    runs = []
    for number in range(settings.runs):
        options = ClusterOptions(agents=0, lease_ms=_LEASE_MS, with_token=True)
        cluster = LocalCluster.create(settings.directory / f"run{number}", options)
        try:
            cluster.start()
            runs.append(_run(cluster, settings))
        finally:
            cluster.down()
    return {"name": "flood", "runs": runs, **summary(runs, FIGURES), "agents": settings.tasks}


def _run(cluster: LocalCluster, settings: Settings) -> dict[str, Any]:
    leader, token = cluster.wait_leader(), cluster.token or ""
    url, host = cluster.url_of(leader), urlsplit(cluster.url_of(leader)).netloc
    run: dict[str, Any] = {"load_before": machine_load()}
    with generators(1 + GENERATORS) as pool:
        large = pool.submit(fill, url, token, settings.tasks).result(timeout=_LIMIT_S)
        requests = {"quiet": [], "bad": bad_requests(host, token), "heavy": heavy_requests(host, token, large)}
        for phase in PHASES:
            found = _phase(cluster, pool, phase, requests[phase], settings.seconds)
            run |= {f"{phase}_{figure}": value for figure, value in found.items()}
    return run


def _phase(
    cluster: LocalCluster, pool: ProcessPoolExecutor, phase: str, requests: list[bytes], seconds: float
) -> dict[str, Any]:
    leader, token = cluster.wait_leader(), cluster.token or ""
    url, pid, term = cluster.url_of(leader), cluster.pid_of(leader) or 0, _term(cluster)
    cpu, began = cpu_s(pid), time.perf_counter()
    behaved = pool.submit(behave, url, token, phase, seconds)
    share = FLOOD_PER_S / GENERATORS
    floods = [pool.submit(hostile_load, url, requests, share, seconds) for _ in range(GENERATORS)] if requests else []
    mib = 0.0
    while not all(work.done() for work in (behaved, *floods)):
        mib = max(mib, resident_bytes(pid) / 2**20)
        time.sleep(_EVERY_S)
    cores = (cpu_s(pid) - cpu) / (time.perf_counter() - began)
    found: dict[str, Any] = behaved.result(timeout=_LIMIT_S)
    found |= {"leader_mib": mib, "leader_cores": cores}
    tallies = [flood.result(timeout=_LIMIT_S) for flood in floods]
    if tallies:
        found["offered_per_s"] = sum(tally["offered"] / tally["seconds"] for tally in tallies)
        found["answered_per_s"] = sum(tally["answered"] / tally["seconds"] for tally in tallies)
        found["flood"] = tallies
    found["turn_ms_most"] = turn_s(cluster.url_of(leader), token) * 1e3
    cluster.wait_leader()
    found["new_terms"] = _term(cluster) - term
    return found


def _term(cluster: LocalCluster) -> int:
    return max(status.term for status in cluster.statuses().values() if status is not None)


def turn_s(url: str, token: str) -> float:
    """Return the CPU seconds of the longest turn of a replica's event loop so far, as its metrics tell."""
    return uvloop.run(_turn_s(url, token))


async def _turn_s(url: str, token: str) -> float:
    connection = await LoadConnection.open(url, token)
    async with asyncio.timeout(_PATIENCE_S):
        while True:
            status, body = await connection.request("GET", "/metrics", b"")
            if status != BUSY:
                break
            await asyncio.sleep(_EVERY_S)
    connection.close()
    return next(float(line.split()[1]) for line in body.decode().splitlines() if line.startswith(_TURN))


def fill(url: str, token: str, agents: int) -> str:
    """Fill the tables: agents, workflows, and one large workflow whose id is returned. Nobody can run their tasks."""
    return uvloop.run(_fill(url, token, agents))


async def _fill(url: str, token: str, agents: int) -> str:
    names, small = iter(range(agents)), iter(range(WORKFLOWS))

    def idle(number: int) -> dict[str, Any]:
        document = independent(number)
        return {**document, "tasks": [{**task, "resources": {"nothing": 1}} for task in document["tasks"]]}

    async def some() -> None:
        connection = await LoadConnection.open(url, token)
        for number in names:
            agent = {"name": f"idle{number}", "instance": f"instance{number}", "resources": {"cpu": 0.001}}
            await connection.post("/v1/agents", agent)
        for _ in small:
            await connection.post("/v1/workflows", idle(1))
        connection.close()

    async with asyncio.timeout(_LIMIT_S), asyncio.TaskGroup() as group:
        for _ in range(_SETTING_UP):
            group.create_task(some())
    connection = await LoadConnection.open(url, token)
    created = msgspec.json.decode(await connection.post("/v1/workflows", idle(LARGE_TASKS)), type=WorkflowCreated)
    connection.close()
    return created.id


def behave(url: str, token: str, phase: str, seconds: float) -> dict[str, float]:
    """Be the client and the agents that do nothing wrong."""
    return uvloop.run(_Behaved(url, token, phase).run(seconds))


class _Behaved:
    def __init__(self, url: str, token: str, phase: str) -> None:
        self._url = url
        self._token = token
        self._phase = phase
        self._times: list[float] = []
        self._errors = 0
        self._refused = 0
        self._ended = 0

    async def run(self, seconds: float) -> dict[str, float]:
        agents = [
            SimulatedAgent(f"{self._phase}{number}", hold_s=_HOLD_S, on_confirmed=self._confirm)
            for number in range(_AGENTS)
        ]
        working = [asyncio.create_task(self._agent(agent)) for agent in agents]
        began = time.perf_counter()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds + _PATIENCE_S):
                await self._submit(began + seconds)
        passed = time.perf_counter() - began
        for task in working:
            task.cancel()
        await asyncio.gather(*working, return_exceptions=True)
        times = self._times or [passed]
        return {
            "client_ms_median": median(times) * 1e3,
            "client_ms_worst": max(times) * 1e3,
            "client_errors": self._errors,
            "client_refused": self._refused,
            "submitted": len(self._times),
            "agent_ms_worst": max(agent.longest_s for agent in agents) * 1e3,
            "agent_refused": sum(agent.refused for agent in agents),
            "ended_per_s": self._ended / passed,
        }

    def _confirm(self, _: ReportedEnd) -> None:
        self._ended += 1

    async def _agent(self, agent: SimulatedAgent) -> None:
        try:
            await agent.register(self._url, self._token)
            await agent.work()
        except (BenchError, OSError):
            self._errors += 1

    async def _submit(self, until: float) -> None:
        """Submit a task every `_EVERY_S`, one at a time; a time counts from the first try to the acceptance."""
        document = encode(independent(1))
        connection: LoadConnection | None = None
        for number in count():
            began = time.perf_counter()
            if began >= until:
                break
            key = f"Idempotency-Key: {self._phase}-{number}\r\n"
            while True:
                try:
                    connection = connection or await LoadConnection.open(self._url, self._token)
                    status, _ = await connection.request("POST", "/v1/workflows", document, key)
                except OSError:
                    connection, status = None, 0
                if status == 201:
                    break
                self._refused += status == BUSY
                self._errors += status != BUSY
                await asyncio.sleep(_EVERY_S)
            self._times.append(time.perf_counter() - began)
            await asyncio.sleep(max(0.0, began + _EVERY_S - time.perf_counter()))
        if connection is not None:
            connection.close()
