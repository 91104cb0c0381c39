"""Other systems in the same run: each in its own virtual environment, driven by a script.

The script (`peers/NAME_peer.py`) starts the system, says `{"ready": ...}`, and for every line that it reads runs the
workload once and answers `{"seconds": S}`. When its input ends it stops what it has started. It and all that it
starts are one process group, which is ended by force if it does not end by itself.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any, Final, Self

from raftflow.bench.load.usage import descendants
from raftflow.bench.settings import BenchError, Settings

PACKAGES: Final[dict[str, tuple[str, ...]]] = {
    "dask": ("distributed",),
    "procrastinate": ("procrastinate", "psycopg[binary]"),
    "etcd": ("grpcio",),
    "celery": ("celery[redis]",),
    "ray": ("ray",),
    "dbos": ("dbos",),
    "restate": ("restate-sdk", "hypercorn", "httpx"),
}
"""What pip installs into the environment of each."""

NPM_PACKAGES: Final = {"restate": ("@restatedev/restate-server-linux-x64@1.7.12",)}
"""What npm installs beside it."""

WORKLOADS: Final = {
    "etcd": ("commit",),
    **dict.fromkeys(("dask", "procrastinate", "celery", "ray"), ("lifecycle", "chain", "fanout", "subprocess")),
    **dict.fromkeys(("dbos", "restate"), ("steps",)),
}
SCRIPTS: Final = Path(__file__).parent.with_name("peers")
READY_S: Final = 120.0
RUN_S: Final = 600.0
_INSTALL_S: Final = 900.0
_STOP_S: Final = 20.0


def check(names: tuple[str, ...], workload: str) -> None:
    """Raise `BenchError` unless each of these systems can run the workload."""
    for name in names:
        if name not in PACKAGES:
            raise BenchError(f"--versus {name}: unknown; there are {', '.join(PACKAGES)}")
        if workload not in WORKLOADS[name]:
            raise BenchError(f"--versus {name}: has no {workload}; it has {', '.join(WORKLOADS[name])}")


def environment(name: str) -> Path:
    """Return the python of a peer's virtual environment; makes it the first time. Raises `BenchError`."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "raftflow-bench"
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    folder = cache / f"{name}-python{version}"
    python = folder / "bin" / "python"
    if (folder / "complete").exists():
        return python
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    for command in (
        [sys.executable, "-m", "venv", str(folder)],
        [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *PACKAGES[name]],
        *(
            ["npm", "install", "--prefix", str(folder), "--no-audit", "--no-fund", package]
            for package in NPM_PACKAGES.get(name, ())
        ),
    ):
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=_INSTALL_S, check=False)
        except subprocess.TimeoutExpired:
            raise BenchError(f"--versus {name}: its virtual environment took more than {_INSTALL_S:g} s") from None
        except FileNotFoundError:
            raise BenchError(f"--versus {name}: there is no {command[0]}; install it") from None
        if done.returncode:
            last = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:]
            raise BenchError(f"--versus {name}: {' '.join(command)} failed: {' '.join(last)}")
    (folder / "complete").touch()
    return python


class Peer:
    """One other system, running between `with` and its end."""

    def __init__(self, name: str, workload: str, settings: Settings) -> None:
        self.name = name
        self.versions: dict[str, str] = {}
        self._workload = workload
        self._settings = settings
        self._process: subprocess.Popen[str] | None = None
        self._folder = Path()

    def __enter__(self) -> Self:
        python = environment(self.name)
        self._folder = Path(
            tempfile.mkdtemp(prefix=f"raftflow-bench-{self.name}-", dir=self._settings.directory.parent)
        )
        settings = self._settings
        given = {
            "workload": self._workload,
            "tasks": settings.tasks,
            "slots": settings.slots,
            "agents": settings.agents,
            "seconds": settings.seconds,
            "at_once": settings.at_once,
            "steps_each": settings.steps_each,
            "directory": str(self._folder),
        }
        script = SCRIPTS / f"{self.name}_peer.py"
        with (self._folder / "log").open("wb") as log:
            self._process = subprocess.Popen(
                [str(python), str(script), json.dumps(given)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,
                cwd=self._folder,
                env={key: value for key, value in os.environ.items() if key not in {"PYTHONPATH", "VIRTUAL_ENV"}},
            )
        try:
            self.versions = self._answer(READY_S)["ready"]
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        process = self._process
        self.resume()
        if process is not None:
            if process.stdin is not None:
                with contextlib.suppress(OSError):
                    process.stdin.close()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_STOP_S)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(_STOP_S)
            if process.stdout is not None:
                process.stdout.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def suspend(self) -> None:
        """Stop all of its processes, so that nothing they do slows another system down."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Continue its processes."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: int) -> None:
        if self._process is not None:
            for pid in (*descendants(self._process.pid), self._process.pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)

    def run(self) -> float:
        """Run the workload once and return its seconds; the processes are stopped before and after.

        Raises `BenchError`.
        """
        self.resume()
        try:
            return float(self.ask()["seconds"])
        finally:
            self.suspend()

    def ask(self) -> dict[str, Any]:
        """Run the workload once and return what the script says of it. Raises `BenchError`."""
        if self._process is None or self._process.stdin is None:
            raise BenchError(f"{self.name} does not run")
        with contextlib.suppress(OSError):  # a dead script shows in its answer
            self._process.stdin.write("run\n")
            self._process.stdin.flush()
        return self._answer(RUN_S)

    def _answer(self, timeout_s: float) -> dict[str, Any]:
        process = self._process
        if process is None or process.stdout is None:
            raise BenchError(f"{self.name} does not run")
        timer = threading.Timer(timeout_s, process.kill)
        timer.start()
        try:
            line = process.stdout.readline()
        finally:
            timer.cancel()
        try:
            answer: dict[str, Any] = json.loads(line)
        except ValueError:
            words = (self._folder / "log").read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1:]
            raise BenchError(f"--versus {self.name} did not answer: {' '.join(words) or 'no output'}") from None
        if "error" in answer:
            raise BenchError(f"--versus {self.name}: {answer['error']}")
        return answer
