"""`raftflow bench NAME`: which benchmarks there are, and the frame around each result."""

from __future__ import annotations

import asyncio
import os
import platform
import shutil
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from raftflow import __version__
from raftflow.bench.benchmarks import (
    agents,
    commit,
    failover,
    flood,
    maps,
    parked,
    pauses,
    pure,
    recovery,
    soak,
    steps,
    waits,
)
from raftflow.bench.load import jobs, peer
from raftflow.bench.load.usage import machine_load
from raftflow.bench.settings import BenchError, Settings

__all__ = ["BENCHMARKS", "NAMES", "BenchError", "Benchmark", "run"]

_LIBRARIES: Final = ("pysyncobj", "aiohttp", "msgspec", "uvloop")


@dataclass(frozen=True, slots=True)
class Benchmark:
    """One benchmark with its defaults."""

    what: str
    """What it measures, in a line."""
    measure: Callable[[Settings], dict[str, Any]]
    runs: int
    tasks: int = 0
    """Size of the work, 0 if it has none."""
    seconds: float = 3.0


def _failover(settings: Settings) -> dict[str, Any]:
    return asyncio.run(
        failover.measure(settings.directory, runs=settings.runs, agents=settings.agents, how=settings.how)
    )


def _job(name: str) -> Callable[[Settings], dict[str, Any]]:
    return partial(jobs.measure, jobs.JOBS[name])


BENCHMARKS: Final[dict[str, Benchmark]] = {
    "lifecycle": Benchmark("no-op callables from submission to known results", _job("lifecycle"), 5, 10_000),
    "chain": Benchmark("callables one after the other", _job("chain"), 5, 200),
    "fanout": Benchmark("one callable, then many, then one", _job("fanout"), 5, 1_000),
    "map": Benchmark("client.map of a no-op, beside a document of the same tasks", maps.measure, 5, 10_000),
    "subprocess": Benchmark("/bin/true, beside a bare loop that starts it", _job("subprocess"), 5, 500),
    "steps": Benchmark("durable steps: of one task in sequence, of many at once", steps.measure, 5, 500),
    "waits": Benchmark("from a signal to the code that waited for it", waits.measure, 3, 300),
    "parked": Benchmark("many tasks that wait: memory, failovers, a restart", parked.measure, 5, 100_000),
    "commit": Benchmark("acknowledged writes through HTTP, transitions of many clients", commit.measure, 3),
    "apply": Benchmark("the state machine alone: transitions, memory of tasks", pure.apply, 5, 20_000),
    "place": Benchmark("the scheduler alone: one round of placements", pure.placements, 5, 100_000),
    "snapshot": Benchmark("pause, size and time of snapshots, by tasks", pure.snapshot, 1),
    "agents": Benchmark("long-polling agents, idle and at work", agents.measure, 1, 5_000, 10.0),
    "failover": Benchmark("from the leader's end to the next assignment, write, task", _failover, 20),
    "flood": Benchmark("a good client while others flood the leader", flood.measure, 1, 1_000, 10.0),
    "pauses": Benchmark("longest pause of a replica with many live tasks", pauses.measure, 1, 1_000_000, 10.0),
    "recovery": Benchmark("start of replicas with many tasks after all were killed", recovery.measure, 3, 100_000),
    "soak": Benchmark("memory, latency and false elections at half load", soak.measure, 1, 5_000, 60.0),
}
NAMES: Final = tuple(BENCHMARKS)


def run(name: str, *, runs: int | None = None, data_dir: Path | None = None, **given: Any) -> dict[str, Any]:
    """Run one benchmark and return its result with the machine's facts beside it.

    `data_dir` is where clusters keep their files (the disk counts): a directory is made in it and removed afterwards;
    the system's directory for temporary files by default. `given` are further fields of `Settings`; None stands for
    the default. Raises `BenchError` for an unknown name, and if it cannot be run.
    """
    benchmark = BENCHMARKS.get(name)
    if benchmark is None:
        raise BenchError(f"no benchmark is called {name!r}; there are: {', '.join(NAMES)}")
    peer.check(given.get("versus") or (), name)
    if data_dir is not None:
        data_dir.mkdir(parents=True, exist_ok=True)
    directory = Path(tempfile.mkdtemp(prefix=f"raftflow-bench-{name}-", dir=data_dir))
    load_before = machine_load()
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, directory, ignore_errors=True)
        settings = Settings(
            directory=directory / "cluster",
            runs=runs or benchmark.runs,
            tasks=benchmark.tasks,
            seconds=benchmark.seconds,
        )
        settings = replace(settings, **{key: value for key, value in given.items() if value is not None})
        result = benchmark.measure(settings)
    machine = {
        "cores": os.cpu_count(),
        "load_average": [load_before, machine_load()],
        "kernel": platform.release(),
        "python": platform.python_version(),
        "raftflow": __version__,
        **{library: version(library) for library in _LIBRARIES},
    }
    return {**result, "machine": machine}
