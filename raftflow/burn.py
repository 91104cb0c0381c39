"""A task that uses a given amount of CPU time, memory and time. It replaces the real work of recorded workflows.

The WfFormat reader (`raftflow.formats.foreign.wfformat`) and benchmarks use it, as a callable (`raftflow.burn:burn`)
or as a program (`python3 -m raftflow.burn --cpu-seconds 2 --memory-mib 64 --threads 2`). The callable is the default.
It runs in a worker process that the agent keeps, so a task of a millisecond costs a millisecond and does not start
an interpreter.

The kernel measures CPU time per thread. So a busy machine does the same amount of work in a longer time. Several
threads run in parallel, because hashing a large block releases the interpreter lock.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import threading
import time
from pathlib import Path

MEMORY_MIB_MAX = 1024 * 1024
THREADS_MAX = 1024
_BLOCK = bytes(64 * 1024)
"""Is hashed in a loop. Above 2 KiB hashlib lets other threads run; hashing this block takes less than 0.1 ms."""


def burn(cpu_seconds: float, memory_mib: int = 0, threads: int = 1, seconds: float = 0.0) -> dict[str, int]:
    """Use `cpu_seconds` of CPU time on `threads` threads and `memory_mib` MiB of memory, with every page touched.

    Returns after at least `seconds`. The rest of that time is slept, as recorded tasks waited for their disks. The
    result has what was used: `cpu_ms`, `memory_mib`. Raises `ValueError` for amounts out of range and `MemoryError`
    if there is not enough memory.
    """
    if not 0 <= cpu_seconds < float("inf") or not 0 <= seconds < float("inf"):
        raise ValueError("seconds and cpu_seconds are finite and not negative")
    if not 0 <= memory_mib <= MEMORY_MIB_MAX or not 1 <= threads <= THREADS_MAX:
        raise ValueError(f"memory_mib is 0 to {MEMORY_MIB_MAX}, threads 1 to {THREADS_MAX}")
    started, cpu_start = time.monotonic(), time.thread_time()
    # A bytearray is filled with zeros byte by byte, so the kernel has to back every page. `bytes` is not.
    memory = bytearray(memory_mib * 1024 * 1024)
    used: list[float] = []
    share = cpu_seconds / threads
    others = [threading.Thread(target=_burn_one, args=(share, used, None)) for _ in range(threads - 1)]
    for other in others:
        other.start()
    _burn_one(share, used, cpu_start)  # touching the memory counts as work
    for other in others:
        other.join()
    rest = seconds - (time.monotonic() - started)
    if rest > 0:
        time.sleep(rest)
    return {"cpu_ms": round(sum(used) * 1000), "memory_mib": len(memory) // (1024 * 1024)}


def _burn_one(cpu_seconds: float, used: list[float], start: float | None) -> None:
    """Hash until this thread has used its share of CPU time since `start`, and append what it used."""
    if start is None:
        start = time.thread_time()
    while (spent := time.thread_time() - start) < cpu_seconds:
        hashlib.sha256(_BLOCK)
    used.append(spent)


def main(arguments: list[str] | None = None) -> int:
    """Run `burn` as a program; the result goes to the file that `RAFTFLOW_RESULT` names, if any."""
    parser = argparse.ArgumentParser(prog="raftflow.burn", description="Use CPU time and memory, then end.")
    parser.add_argument("--cpu-seconds", type=float, default=0.0, help="CPU time over all threads")
    parser.add_argument("--memory-mib", type=int, default=0, help="memory to touch and hold")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=0.0, help="end no earlier than this")
    options = parser.parse_args(arguments)
    try:
        result = burn(options.cpu_seconds, options.memory_mib, options.threads, options.seconds)
    except ValueError as error:
        parser.error(str(error))
    except MemoryError:
        print(f"raftflow.burn: no {options.memory_mib} MiB of memory are available", file=sys.stderr)  # noqa: T201 - program
        return 1
    path = os.environ.get("RAFTFLOW_RESULT")
    if path:
        Path(path).write_text(json.dumps(result), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
