#!/usr/bin/env python3
"""Commit latency and throughput of the replicated log: three processes, loopback sockets, real fdatasync.

Prints one JSON document. Usage: commit_log.py [--size BYTES] [--in-flight N] [--seconds S] [--dir DIR]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import multiprocessing.connection
import shutil
import socket
import statistics
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import uvloop

from raftflow.replication.config import LogConfig
from raftflow.replication.engine import PySyncObjLog
from raftflow.replication.log import Applied, Role
from raftflow.replication.net.links import StreamLinks
from raftflow.replication.real_files import RealFileSystem

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from multiprocessing.connection import Connection

NAMES = ("a", "b", "c")
WARM_UP_ENTRIES = 200


class Counter:
    """A state machine that does next to nothing."""

    def __init__(self) -> None:
        self.count = 0

    def apply(self, _index: int, _term: int, _entry: bytes) -> int:
        """Count."""
        self.count += 1
        return self.count

    def snapshot(self) -> Iterator[bytes]:
        """Return the count."""
        return iter([b"%d" % self.count])

    def prepare(self, pieces: Iterable[bytes]) -> Callable[[], None]:
        """Take the count."""
        count = int(b"".join(pieces))
        return lambda: setattr(self, "count", count)


async def replica(name: str, ports: dict[str, int], directory: Path, options: argparse.Namespace) -> dict | None:
    """Run one replica; the leader measures and returns the figures."""
    fs = RealFileSystem()
    links = StreamLinks(
        name=name,
        cluster_id="bench",
        bind=("127.0.0.1", ports[name]),
        peers={other: ("127.0.0.1", port) for other, port in ports.items() if other != name},
        secret=b"the secret of a benchmark needs none",
    )
    config = LogConfig(name=name, members=NAMES, cluster_id="bench", data_dir=directory / name)
    log = PySyncObjLog(config, Counter(), links, fs)
    leading = asyncio.Event()
    log.on_role_change(lambda role, _term: leading.set() if role is Role.LEADER else leading.clear())
    await log.start()
    try:
        async with asyncio.timeout(options.seconds * 2 + 15):
            await leading.wait()
            figures = await measure(log, options)
    except TimeoutError:
        figures = None
    await log.close()
    fs.close()
    return figures


async def measure(log: PySyncObjLog, options: argparse.Namespace) -> dict:
    """Measure one at a time, then `in_flight` at a time."""
    entry = b"x" * options.size
    for _ in range(WARM_UP_ENTRIES):
        await log.submit(entry, 5.0)
    latencies: list[float] = []
    until = time.perf_counter() + options.seconds
    while (began := time.perf_counter()) < until:
        outcome = await log.submit(entry, 5.0)
        latencies.append(time.perf_counter() - began)
        if not isinstance(outcome, Applied):
            raise SystemExit(f"an entry was not applied: {outcome}")
    done = 0
    began = time.perf_counter()
    until = began + options.seconds

    async def worker() -> None:
        nonlocal done
        while time.perf_counter() < until:
            outcome = await log.submit(entry, 5.0)
            done += isinstance(outcome, Applied)

    await asyncio.gather(*(worker() for _ in range(options.in_flight)))
    per_s = done / (time.perf_counter() - began)
    latencies.sort()
    return {
        "ms_median": round(statistics.median(latencies) * 1000, 3),
        "ms_p99": round(latencies[int(len(latencies) * 0.99)] * 1000, 3),
        "one_at_a_time_per_s": round(len(latencies) / options.seconds),
        "in_flight": options.in_flight,
        "per_s": round(per_s),
        "entry_bytes": options.size,
    }


def run(name: str, ports: dict[str, int], directory: Path, options: argparse.Namespace, answer: Connection) -> None:
    """Run a replica as a process of its own."""
    with asyncio.Runner(
        loop_factory=(asyncio.new_event_loop if options.asyncio else uvloop.new_event_loop)
    ) as runner:
        answer.send(runner.run(replica(name, ports, directory, options)))


def main() -> None:
    """Start the processes and print what the leader measured."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=200)
    parser.add_argument("--in-flight", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--asyncio", action="store_true")
    parser.add_argument("--dir", type=Path, default=None)
    options = parser.parse_args()
    directory = Path(tempfile.mkdtemp(prefix="raftflow-bench-", dir=options.dir))
    listeners = [socket.create_server(("127.0.0.1", 0)) for _ in NAMES]
    ports = {name: listener.getsockname()[1] for name, listener in zip(NAMES, listeners, strict=True)}
    for listener in listeners:
        listener.close()
    context = multiprocessing.get_context("spawn")
    answers, processes = [], []
    for name in NAMES:
        receiving, sending = context.Pipe(duplex=False)
        process = context.Process(target=run, args=(name, ports, directory, options, sending), daemon=True)
        process.start()
        sending.close()
        answers.append(receiving)
        processes.append(process)
    try:
        ready = multiprocessing.connection.wait(answers, timeout=options.seconds * 2 + 20)
        figures = next((found for answer in ready if (found := answer.recv()) is not None), None)
    finally:
        for process in processes:
            process.terminate()
            process.join()
        shutil.rmtree(directory)
    if figures is None:
        raise SystemExit("no replica measured anything")
    print(json.dumps({"name": "commit_log", **figures}))


if __name__ == "__main__":
    main()
