"""Runs programs: an argument list, never a shell, in a process group of their own."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import msgspec

from raftflow.agent.executors.base import Ended, Watched
from raftflow.agent.executors.launching import Launcher
from raftflow.agent.inputs import Inputs
from raftflow.agent.messages import Exited
from raftflow.agent.output import OutputStore, remove_file
from raftflow.domain.contract import Assignment

LEASE_OVER = "stopped because the agent's lease was over"
"""By the launcher, when the agent itself could not do it in time."""

_encode = msgspec.json.Encoder().encode


class CommandExecutor:
    """An `Executor` of assignments with `command`."""

    def __init__(self, launcher: Launcher, store: OutputStore, folder: Path, *, output_bytes_max: int) -> None:
        """`folder` is for the files through which programs get inputs and leave results; emptied here."""
        self._launcher = launcher
        self._store = store
        self._output_bytes_max = output_bytes_max
        self.result_bytes_max = 64 * 1024
        if folder.exists():
            shutil.rmtree(folder)
        folder.mkdir(parents=True, mode=0o700)
        self._exchange = str(folder)
        # One file for all who need nothing: most attempts then touch no file at all.
        self._no_inputs = f"{folder}/none.json"
        Path(self._no_inputs).write_text("{}")
        Path(self._no_inputs).chmod(0o400)
        self._running: dict[int, tuple[int, Assignment, Callable[[int, Ended], None]]] = {}

    def start(
        self, assignment: Assignment, ended: Callable[[int, Ended], None], inputs: Inputs | None = None
    ) -> None:
        """Start the program; see `Executor`."""
        fence = assignment.fence
        folder = self._store.directory(fence)
        inputs_path = self._no_inputs
        if inputs is not None:
            inputs_path = inputs.path
        elif assignment.inputs:
            inputs_path = f"{self._exchange}/{fence}.inputs.json"
            with open(inputs_path, "wb", 0) as file:  # noqa: PTH123 - runs once an attempt
                file.write(_encode(assignment.inputs))
        env = {
            **assignment.env,
            "RAFTFLOW_WORKFLOW": assignment.workflow_id,
            "RAFTFLOW_TASK": assignment.task_id,
            "RAFTFLOW_ATTEMPT": str(assignment.attempt),
            "RAFTFLOW_FENCE": str(fence),
            "RAFTFLOW_RESULT": self._result_of(fence),
            "RAFTFLOW_INPUTS": inputs_path,
            "RAFTFLOW_PROGRESS": self._progress_of(fence),
        }
        self._store.began(fence)
        identity = self._launcher.spawn(
            assignment.command or [],
            env,
            lambda exited: self._exited(fence, exited),
            cwd=assignment.cwd,
            stdout=f"{folder}/stdout",
            stderr=f"{folder}/stderr",
            bytes_max=self._output_bytes_max,
        )
        self._running[fence] = (identity, assignment, ended)

    def signal(self, fence: int, number: int) -> None:
        """Send a signal to the attempt's process group."""
        entry = self._running.get(fence)
        if entry is not None:
            self._launcher.signal(entry[0], number)

    def watched(self, fence: int) -> Watched | None:
        """Return the program's id and where it tells its progress."""
        entry = self._running.get(fence)
        return None if entry is None else Watched(id=entry[0], progress=self._progress_of(fence))

    def _exited(self, fence: int, exited: Exited) -> None:
        _, assignment, ended = self._running.pop(fence)
        how = self._how(fence, exited)
        remove_file(self._progress_of(fence))
        if assignment.inputs:
            remove_file(f"{self._exchange}/{fence}.inputs.json")
        self._store.ended(fence, exited.sizes, exited.truncated)
        ended(fence, how)

    def _result_of(self, fence: int) -> str:
        return f"{self._exchange}/{fence}.result.json"

    def _progress_of(self, fence: int) -> str:
        return f"{self._exchange}/{fence}.progress"

    def _how(self, fence: int, exited: Exited) -> Ended:
        result, error = take_result(self._result_of(fence), self.result_bytes_max)
        ok = exited.code == 0 and not exited.lease_over
        if not ok:
            result, error = b"", _why(exited)
        return Ended(
            ok=ok and not error,
            exit_code=exited.code,
            error=error,
            result=result,
            abandoned=exited.lease_over,
            by_itself=not exited.signalled,
            cpu_ms=exited.cpu_ms,
            rss_max_kib=exited.rss_max_kib,
        )


def _why(exited: Exited) -> str:
    """Return what was wrong with a program that failed."""
    if exited.lease_over or exited.code is None:
        return exited.error or LEASE_OVER
    tail = exited.stderr_tail.decode(errors="replace").rstrip()
    what = exit_text(exited.code)
    return f"{what}: {tail}" if tail else what


def exit_text(code: int) -> str:
    """Return an exit code in words; negative codes are signals."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"killed by signal {-code}"


def take_result(path: str, bytes_max: int) -> tuple[bytes, str]:
    """Remove what the program left as its result and return it (empty for none), and why it cannot be read.

    Whether it can be a result is looked at when the attempt ends (`domain.reportable`).
    """
    try:
        file = open(path, "rb", 0)  # noqa: PTH123, SIM115 - runs once an attempt
    except FileNotFoundError:
        return b"", ""
    except OSError as error:
        remove_file(path)
        return b"", f"the result cannot be read: {error.strerror}"
    with file:
        remove_file(path)
        data = file.read(bytes_max + 1)
        if len(data) > bytes_max:
            size = os.fstat(file.fileno()).st_size
            return b"", f"the result has {size} bytes, the limit is {bytes_max}: leave a file and name it instead"
    return data.strip(), ""
