"""`raftflow bench NAME`: which benchmarks there are, and the frame around each result."""

from __future__ import annotations

import asyncio
import os
import platform
import shutil
import tempfile
from pathlib import Path
from typing import Any

from raftflow import __version__
from raftflow.bench import failover

NAMES = ("failover",)
RUNS_DEFAULT = {"failover": 20}


class BenchError(Exception):
    """There is no such benchmark, or it could not be run."""


def run(name: str, *, runs: int | None = None, data_dir: Path | None = None) -> dict[str, Any]:
    """Run one benchmark and return its result with the machine's facts beside it.

    `data_dir` is where the cluster keeps its files (the disk counts); a temporary directory by default, removed
    afterwards. Raises `BenchError` for an unknown name.
    """
    if name not in NAMES:
        raise BenchError(f"no benchmark is called {name!r}; there are: {', '.join(NAMES)}")
    count = RUNS_DEFAULT[name] if runs is None else runs
    directory = Path(tempfile.mkdtemp(prefix=f"raftflow-bench-{name}-")) if data_dir is None else data_dir
    try:
        result = asyncio.run(failover.measure(directory, runs=count))
    finally:
        if data_dir is None:
            shutil.rmtree(directory, ignore_errors=True)
    machine = {"cores": os.cpu_count(), "python": platform.python_version(), "raftflow": __version__}
    return {**result, "machine": machine}
