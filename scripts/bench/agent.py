"""Measure what an attempt costs an agent beside the task itself: no leader, no HTTP. Prints JSON.

    python scripts/bench/agent.py [--calls 10000] [--commands 500] [--runs 3]

`python`: a no-op callable in kept workers; `command`: /bin/true through the launcher; `bare`: a loop of posix_spawn
and waitpid without anything around it, in as many threads as slots. `agent_us` is the CPU time of the agent process
alone, for one task.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import statistics
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import uvloop

from raftflow.agent.executors.base import ExecutionEnd, Executor
from raftflow.agent.executors.command import CommandExecutor
from raftflow.agent.executors.launcher_client import LauncherClient
from raftflow.agent.executors.python import PythonExecutor
from raftflow.agent.executors.workers import WorkerLimits
from raftflow.agent.output.store import OutputStore
from raftflow.agent.workdir.directory import WorkDirectory
from raftflow.domain.contract.views import Assignment
from raftflow.domain.tasks.program import AssignedCall, AssignedProgram, CommandLine

PROGRAM = "/bin/true"


class NoChannel:
    """Where calls of attempts go: the programs here make none."""

    def send(self, call: object, told: object) -> None:
        """Refuse a call."""
        raise NotImplementedError

    def forget(self, fence: int) -> None:
        """An attempt is over."""

    def now_ms(self) -> int:
        """Return the cluster's clock."""
        return time.time_ns() // 1_000_000


class Driver:
    """Keeps a number of slots of one executor busy."""

    def __init__(self, executor: Executor, program: AssignedProgram) -> None:
        self._executor = executor
        self._program = program
        self._fence = 0
        self._left = 0
        self._open = 0
        self._done = asyncio.get_running_loop().create_future()

    async def run(self, count: int, slots: int) -> dict[str, float]:
        """Run `count` attempts on `slots` slots."""
        self._left, self._done = count, asyncio.get_running_loop().create_future()
        began_s, cpu_s = time.perf_counter(), time.process_time()
        for _ in range(min(slots, count)):
            self._start()
        await self._done
        return {
            "per_s": count / (time.perf_counter() - began_s),
            "agent_us": (time.process_time() - cpu_s) / count * 1e6,
        }

    def _start(self) -> None:
        self._left -= 1
        self._open += 1
        self._fence += 1
        assignment = Assignment(
            fence=self._fence,
            workflow_id="wf-bench",
            workflow_name="bench",
            task_id="t",
            attempt=1,
            resources={"cpu": 1000},
            program=self._program,
        )
        self._executor.start(assignment, self._ended)

    def _ended(self, _: int, how: ExecutionEnd) -> None:
        self._open -= 1
        if not how.ok:
            self._done.set_exception(RuntimeError(how.error))
        elif self._left:
            self._start()
        elif not self._open:
            self._done.set_result(None)


def bare(count: int, slots: int) -> dict[str, float]:
    """Start programs with nothing around them."""

    def spawn(_: int) -> None:
        os.waitpid(os.posix_spawn(PROGRAM, [PROGRAM], os.environ, setsid=True), 0)

    began_s, cpu_s = time.perf_counter(), time.process_time()
    with ThreadPoolExecutor(slots) as pool:
        list(pool.map(spawn, range(count)))
    seconds = time.perf_counter() - began_s
    return {"per_s": count / seconds, "agent_us": (time.process_time() - cpu_s) / count * 1e6}


def median(runs: list[dict[str, float]]) -> dict[str, float]:
    """Return the median of each figure."""
    return {key: round(statistics.median(run[key] for run in runs), 1) for key in runs[0]}


async def measure(calls: int, commands: int, runs: int) -> dict[str, dict[str, float]]:
    """Run everything and return the medians."""
    limit = 1 << 20
    figures: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as name:
        work = WorkDirectory(Path(name))
        store = OutputStore(work, count_max=1_000, bytes_max=1 << 30, age_max_s=86_400, output_bytes_max=limit)
        launcher = LauncherClient("bench-" + str(os.getpid()), os.environ, print)
        launcher.start()
        python = PythonExecutor(
            launcher,
            store,
            work,
            NoChannel(),
            output_bytes_max=limit,
            limits=WorkerLimits(
                calls_max=1 << 30, rss_max_mib=1_024, idle_max_s=60.0, idle_max=16, idle_max_mib=1_024
            ),
        )
        command = CommandExecutor(launcher, store, work, NoChannel(), output_bytes_max=limit)
        drivers = (
            ("python", Driver(python, AssignedCall("time:time")), calls, (1, 4)),
            ("command", Driver(command, CommandLine((PROGRAM,))), commands, (1, 2, 4)),
        )
        for kind, driver, count, all_slots in drivers:
            for slots in all_slots:
                await driver.run(min(count, 100), slots)  # workers start, files are in the cache
                figures[f"{kind}_{slots}"] = median([await driver.run(count, slots) for _ in range(runs)])
        await launcher.close()
        work.close()
    for slots in (1, 2, 4):
        figures[f"bare_{slots}"] = median([bare(commands, slots) for _ in range(runs)])
    return figures


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=10_000)
    parser.add_argument("--commands", type=int, default=500)
    parser.add_argument("--runs", type=int, default=3)
    given = parser.parse_args()
    figures = uvloop.run(measure(given.calls, given.commands, given.runs))
    about = {"name": "agent", "python": platform.python_version(), "cores": os.cpu_count(), "runs": given.runs}
    print(json.dumps({**about, "median": figures}, indent=2))


if __name__ == "__main__":
    main()
