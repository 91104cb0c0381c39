"""Measure the journal on a real disk: one append and sync at a time, batches, and what a flush costs beside the sync.

    python scripts/bench/journal.py [--directory DIR] [--json]

Prints medians: `sync_ms` (append one 200-byte entry and wait until it is durable), `sync_ms_unfilled` (the same in a
file that was not filled with zeros first), `flush_us` (append and write, without a sync), `entries_per_s` (64 entries
per sync), `open_ms` (open a journal that holds all of these).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import tempfile
import time
from pathlib import Path

from raftflow.replication.real_files import RealFileSystem
from raftflow.replication.storage.journal import Journal

COMMAND = b"x" * 200


def open_journal(fs: RealFileSystem, directory: Path) -> Journal:
    """Open with the default segment size."""
    return Journal.open(fs, directory, check_command=lambda _: None)


async def syncs_ms(journal: Journal, count: int) -> float:
    """Append and sync one entry at a time."""
    samples = []
    for _ in range(count):
        start = time.perf_counter()
        journal.add(COMMAND, journal.last_index + 1, 1)
        await journal.sync()
        samples.append(time.perf_counter() - start)
    return statistics.median(samples) * 1e3


async def unfilled_syncs_ms(fs: RealFileSystem, path: Path, count: int) -> float:
    """Append as much to a file that grows."""
    file = fs.open(path, create=True)
    samples = []
    for number in range(count):
        start = time.perf_counter()
        file.write_at(number * 300, bytes(300))
        await file.sync_off_loop()
        samples.append(time.perf_counter() - start)
    file.close()
    return statistics.median(samples) * 1e3


async def measure(directory: Path, count: int) -> dict[str, float]:
    """Run everything once."""
    fs = RealFileSystem()
    journal = open_journal(fs, directory / "journal")
    result = {"sync_ms": await syncs_ms(journal, count)}
    result["sync_ms_unfilled"] = await unfilled_syncs_ms(fs, directory / "growing", count)

    start = time.perf_counter()
    for _ in range(count * 10):
        journal.add(COMMAND, journal.last_index + 1, 1)
        journal.flush()
    result["flush_us"] = (time.perf_counter() - start) / (count * 10) * 1e6

    start = time.perf_counter()
    for _ in range(count):
        for _ in range(64):
            journal.add(COMMAND, journal.last_index + 1, 1)
        await journal.sync()
    result["entries_per_s"] = count * 64 / (time.perf_counter() - start)

    journal.close()
    start = time.perf_counter()
    open_journal(fs, directory / "journal").close()
    result["open_ms"] = (time.perf_counter() - start) * 1e3
    fs.close()
    return {name: round(value, 3) for name, value in result.items()}


def main() -> None:
    """Parse the arguments, measure, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--directory", type=Path, default=Path(tempfile.gettempdir()), help="on the disk to measure")
    parser.add_argument("--count", type=int, default=1000, help="syncs per measurement")
    parser.add_argument("--json", action="store_true", help="print JSON")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.directory) as directory:
        result = asyncio.run(measure(Path(directory), arguments.count))
    print(
        json.dumps(result)
        if arguments.json
        else os.linesep.join(f"{name:18} {value}" for name, value in result.items())
    )


if __name__ == "__main__":
    main()
