"""What the peers' scripts share. Runs in foreign environments, so it knows the standard library alone."""

from __future__ import annotations

import importlib.metadata
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

_START_S = 30.0


class PeerError(Exception):
    """The system cannot be run here. Says what to install."""


def given() -> dict[str, Any]:
    """Return what the benchmark has told this script."""
    settings: dict[str, Any] = json.loads(sys.argv[1])
    return settings


class Programs:
    """The servers and workers that a script has started; in its own process group."""

    def __init__(self) -> None:
        self._started: list[subprocess.Popen[bytes]] = []

    def start(self, argv: Sequence[str], **more: Any) -> None:
        """Start a program; its output goes to this script's standard error."""
        self._started.append(subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=sys.stderr, **more))

    def stop(self) -> None:
        """End them, the last first, by force if they take longer than some seconds."""
        for process in reversed(self._started):
            process.terminate()
        for process in reversed(self._started):
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def timed(work: Callable[[int], object], tasks: int, *, warm_up_max: int) -> Callable[[], dict[str, Any]]:
    """Do a small piece of work to warm up, and return a function that measures the whole of it in seconds."""
    work(min(warm_up_max, tasks))

    def run() -> dict[str, Any]:
        began = time.perf_counter()
        work(tasks)
        return {"seconds": time.perf_counter() - began}

    return run


def step_figures(
    steps: Callable[[int], list[float]], at_once: Callable[[int, int], object], settings: dict[str, Any]
) -> dict[str, Any]:
    """Measure durable steps: of one task in sequence, and of many tasks at once.

    Args:
        steps: runs one task with a number of steps, and returns the seconds that each took.
        at_once: runs a number of tasks with a number of steps each.
        settings: `tasks`, the steps in sequence; `at_once`, the tasks at once; `steps_each`, the steps of each.

    Returns:
        `ms_p50` and `ms_p99` of a step in sequence, and `per_s`, the steps of all tasks in a second.
    """
    found = sorted(steps(settings["tasks"]))
    began = time.perf_counter()
    at_once(settings["at_once"], settings["steps_each"])
    took = time.perf_counter() - began
    return {
        "ms_p50": found[len(found) // 2] * 1e3,
        "ms_p99": found[len(found) * 99 // 100] * 1e3,
        "per_s": settings["at_once"] * settings["steps_each"] / took,
    }


def serve(start: Callable[[Programs], Callable[[], dict[str, Any]]], packages: Sequence[str], **more: str) -> None:
    """Start a system, then run its workload once for every line on standard input.

    `start` returns what runs the workload once. `more` are versions beside those of the packages.
    """
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what a library prints is not an answer
    programs = Programs()

    def answer(value: dict[str, Any]) -> None:
        answers.write(json.dumps(value) + "\n")
        answers.flush()

    try:
        run = start(programs)
        answer({"ready": {**{name: importlib.metadata.version(name) for name in packages}, **more}})
        for _ in sys.stdin:
            answer(run())
    except PeerError as error:
        answer({"error": str(error)})
    finally:
        programs.stop()


def free_port() -> int:
    """Return a loopback port that nobody uses now."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def wait_port(port: int) -> None:
    """Wait until somebody listens. Raises `PeerError`."""
    deadline = time.monotonic() + _START_S
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1.0).close()
        except OSError:
            if time.monotonic() > deadline:
                raise PeerError(f"nothing listens on port {port} after {_START_S:g} s") from None
            time.sleep(0.02)
        else:
            return


def program(name: str, package: str, *folders: str) -> str:
    """Return the path of a program. Raises `PeerError` that names Debian's package."""
    for folder in (*os.environ.get("PATH", "").split(os.pathsep), *folders):
        for found in sorted(Path(folder).parent.glob(Path(folder).name), reverse=True) if folder else ():
            if os.access(found / name, os.X_OK):
                return str(found / name)
    raise PeerError(f"there is no {name}: install Debian's {package}, or put it on the PATH")
