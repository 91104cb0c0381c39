#!/usr/bin/env python3
"""Where the time of one task goes: CPU microseconds of each role, and which part of the code it spends them in.

    python scripts/bench/where_time_goes.py [lifecycle|chain|fanout|subprocess] [--tasks N] [--py-spy PROGRAM]

Runs a workload of `raftflow bench` on a local cluster while py-spy (`pip install py-spy`; it may need to run as root)
samples the leader, one follower and one agent, and prints a Markdown table. A sample counts for the innermost frame
that belongs to a package of raftflow or to a library (`asyncio` is the event loop itself). Only what holds the
interpreter's lock is sampled: no waiting, no sync.
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Final

from raftflow.bench.load.jobs import JOBS, Job
from raftflow.bench.load.usage import Roles
from raftflow.client.aio import AsyncClient
from raftflow.local.cluster import LocalCluster
from raftflow.local.cluster_file import ClusterOptions

TASKS: Final = {"lifecycle": 30_000, "chain": 1_500, "fanout": 10_000, "subprocess": 4_000}
RATE: Final = 500
SHOWN: Final = 7
LIBRARIES: Final = ("pysyncobj", "aiohttp", "uvloop", "asyncio", "msgspec", "httptools", "concurrent", "threading")


def main() -> None:
    """Run the workload under the profiler and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", nargs="?", default="lifecycle", choices=sorted(JOBS))
    parser.add_argument("--tasks", type=int)
    parser.add_argument("--py-spy", default="py-spy")
    options = parser.parse_args()
    spy = shutil.which(options.py_spy)
    if spy is None:
        sys.exit("py-spy is not there: pip install py-spy, or name it with --py-spy")
    job = JOBS[options.name]
    tasks = options.tasks or TASKS[job.name]
    folder = Path(tempfile.mkdtemp(prefix="raftflow-profile-"))
    cluster = LocalCluster.create(
        folder / "cluster", ClusterOptions(agents=2, agent_cpus=2, prefetch=256, lease_ms=10_000)
    )
    try:
        cluster.start()
        pids = pids_of(cluster)
        run(cluster, job, min(tasks, 200))
        roles = Roles(cluster)
        spies = {role: record(spy, pid, folder / role) for role, pid in pids.items()}
        run(cluster, job, tasks)
        spent = roles.spent_us_each(tasks)
        for each in spies.values():
            each.send_signal(signal.SIGINT)  # it writes what it has
            each.wait()
        print(f"{job.name}, {tasks} tasks\n\n| role | us a task | where |\n| --- | --- | --- |")
        for role, us in spent.items():
            where = shares(folder / role) if role in pids else ""
            print(f"| {role} | {us:.0f} | {where} |")
    finally:
        cluster.down()
        shutil.rmtree(folder, ignore_errors=True)


def pids_of(cluster: LocalCluster) -> dict[str, int]:
    """Return the processes to look at, by role."""
    leader = cluster.wait_leader()
    follower = next(name for name in cluster.replica_names if name != leader)
    named = {"leader": leader, "follower": follower, "agents": cluster.agent_names[0]}
    return {role: pid for role, name in named.items() if (pid := cluster.pid_of(name)) is not None}


def record(spy: str, pid: int, path: Path) -> subprocess.Popen[bytes]:
    """Start sampling a process."""
    command = [spy, "record", "--gil", "--nonblocking", "--pid", str(pid), "--rate", str(RATE), "--format", "raw"]
    return subprocess.Popen([*command, "--output", str(path)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def run(cluster: LocalCluster, job: Job, tasks: int) -> None:
    """Submit the workload and wait for its end."""

    async def work() -> None:
        async with AsyncClient(cluster.urls) as client:
            created = await client.submit(job.document(tasks))
            view = await client.wait(created.id, timeout_s=600)
        if view.state != "succeeded":
            sys.exit(f"the workflow ended as {view.state}")

    asyncio.run(work())


def shares(path: Path) -> str:
    """Return the largest shares of the samples in a file of collapsed stacks, as words."""
    counts: Counter[str] = Counter()
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        stack, _, number = line.rpartition(" ")
        counts[owner(stack.split(";"))] += int(number)
    total = counts.total() or 1
    return ", ".join(f"{part} {100 * count / total:.0f} %" for part, count in counts.most_common(SHOWN))


def owner(frames: list[str]) -> str:
    """Return the package of the innermost frame that has one."""
    for frame in reversed(frames):
        _, _, place = frame.rpartition("(")
        parts = place.partition(":")[0].rstrip(")").split("/")
        if "raftflow" in parts:
            return parts[len(parts) - parts[::-1].index("raftflow")].removesuffix(".py")
        for library in LIBRARIES:
            if library in parts or f"{library}.py" in parts:
                return library
    return "other"


if __name__ == "__main__":
    main()
