"""Runs programs: an argument list, never a shell, in a process group of their own."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Mapping
from functools import partial
from typing import Final, NamedTuple

import msgspec

from raftflow.agent.calls.attempt import CallingAttempt
from raftflow.agent.calls.channel import Channel
from raftflow.agent.calls.socket import CallSocket
from raftflow.agent.executors.base import Ended, ExecutionEnd, WatchTarget
from raftflow.agent.executors.launcher_client import LauncherClient
from raftflow.agent.launcher.messages import Exited
from raftflow.agent.output.store import OutputStore
from raftflow.agent.workdir.directory import EXCHANGE, WorkDirectory
from raftflow.agent.workdir.files import UnfitFileError, is_of_the_system
from raftflow.agent.workdir.folders import NO_INPUTS, AttemptFolder, AttemptFolders
from raftflow.agent.workdir.inputs import FetchedInputs
from raftflow.domain.contract.views import Assignment
from raftflow.domain.tasks.program import CommandLine

_log = logging.getLogger("raftflow.agent.command")

LEASE_OVER = "stopped because the agent's lease was over"
"""By the launcher, when the agent itself could not do it in time."""

CODE_VARIABLE: Final = "RAFTFLOW_CODE"
"""Names the folder of the attempt's code bundle."""
NO_BYTECODE: Final = {"PYTHONDONTWRITEBYTECODE": "1"}
"""For programs that run with a code bundle: bytecode beside its files would count as a change of them."""
_PROBE_MAX_S: Final = 10.0

_encode = msgspec.json.Encoder().encode


class _RunningProgram(msgspec.Struct):
    """A program that runs."""

    id: int
    """The launcher's."""
    folder: AttemptFolder
    ended: Ended


class Launch(NamedTuple):
    """A program to start, as in `messages.Spawn`."""

    argv: tuple[str, ...]
    env: dict[str, str]
    cwd: str | None
    cleanup: tuple[str, ...] = ()
    cleanup_env: Mapping[str, str] | None = None


class CommandExecutor:
    """The `Executor` of `CommandLine`."""

    def __init__(
        self,
        launcher: LauncherClient,
        store: OutputStore,
        work: WorkDirectory,
        channel: Channel,
        *,
        output_bytes_max: int,
        own_folder: bool = False,
    ) -> None:
        """See the module's text. `own_folder`: programs without `cwd` begin in the folder of their attempt."""
        self._own_folder = own_folder
        self._launcher = launcher
        self._store = store
        self._work = work
        self._channel = channel
        self._folders = AttemptFolders(work, CallSocket)
        self._output_bytes_max = output_bytes_max
        self.result_bytes_max = 64 * 1024
        self._running: dict[int, _RunningProgram] = {}

    def start(
        self, assignment: Assignment, ended: Ended, inputs: FetchedInputs | None = None, code: str = ""
    ) -> None:
        """Start the program; see `Executor`."""
        fence = assignment.fence
        folder = self._folders.begin(_encode(assignment.inputs) if assignment.inputs else NO_INPUTS)
        env = {
            **assignment.env,
            "RAFTFLOW_WORKFLOW": assignment.workflow_id,
            "RAFTFLOW_TASK": assignment.task_id,
            "RAFTFLOW_ATTEMPT": str(assignment.attempt),
            "RAFTFLOW_FENCE": str(fence),
            "RAFTFLOW_RESULT": folder.result,
            "RAFTFLOW_INPUTS": folder.inputs if inputs is None else inputs.path,
            "RAFTFLOW_PROGRESS": folder.progress,
            "RAFTFLOW_SOCKET": folder.socket_path,
        }
        if code:
            env = {**NO_BYTECODE, **env, CODE_VARIABLE: code}
        launch = self.launch_of(assignment, folder, env)
        self._store.began(assignment)
        identity = self._launcher.spawn(
            launch.argv,
            launch.env,
            lambda exited: self._exited(fence, exited),
            cwd=launch.cwd,
            folder=self._store.directory(fence),
            bytes_max=self._output_bytes_max,
            cleanup=launch.cleanup,
            cleanup_env=launch.cleanup_env,
        )
        self._running[fence] = _RunningProgram(identity, folder, ended)
        if isinstance(folder.socket, CallSocket):
            folder.socket.attach(partial(CallingAttempt, assignment, self._channel))

    def launch_of(self, assignment: Assignment, folder: AttemptFolder, env: dict[str, str]) -> Launch:
        """Return what the launcher starts for an attempt. `env` is its environment, with paths of this machine."""
        program = assignment.program
        if not isinstance(program, CommandLine):
            raise TypeError(program)
        cwd = folder.path if assignment.cwd is None and self._own_folder else assignment.cwd
        return Launch(program.argv, env, cwd)

    def signal(self, fence: int, number: int) -> None:
        """Send a signal to the attempt's process group."""
        program = self._running.get(fence)
        if program is not None:
            self._launcher.signal(program.id, number)

    def watched(self, fence: int) -> WatchTarget | None:
        """Return the program's id and where it tells its progress."""
        program = self._running.get(fence)
        return None if program is None else WatchTarget(id=program.id, progress=program.folder.progress)

    async def probe(self) -> str:
        """Run a program that does nothing. A missing program is not a fault: the system made a process for it."""
        exited: asyncio.Future[Exited] = asyncio.get_running_loop().create_future()

        def ended(told: Exited) -> None:
            if not exited.done():
                exited.set_result(told)

        folder = f"{self._work.part(EXCHANGE)}/probe"
        self._launcher.spawn(("/bin/true",), {}, ended, cwd=None, folder=folder, bytes_max=1)
        try:
            told = await asyncio.wait_for(exited, _PROBE_MAX_S)
        except TimeoutError:
            return f"the launcher has not run a program for {_PROBE_MAX_S:g} s"
        return told.error if told.agent_fault or told.lease_over else ""

    def _exited(self, fence: int, exited: Exited) -> None:
        program = self._running.pop(fence)
        parked = program.folder.socket.detach() if isinstance(program.folder.socket, CallSocket) else b""
        try:
            how = self._how(program.folder, exited)
            if parked:
                how = msgspec.structs.replace(how, parked=parked)
            if exited.code is None:
                self._store.broke_off(fence)
            else:
                self._store.ended(fence, exited.sizes, exited.truncated)
        except Exception as error:  # noqa: BLE001 - it must cost this attempt only
            _log.exception("attempt %d: its end cannot be handled", fence)
            why = f"the agent could not handle its end: {error!r}"
            own = isinstance(error, OSError)  # the work directory is gone, for instance
            how = ExecutionEnd(ok=False, exit_code=exited.code, error=why, agent_fault=own)
        program.ended(fence, how)

    def _how(self, folder: AttemptFolder, exited: Exited) -> ExecutionEnd:
        result, error, own = self._take_result(folder)
        ok = exited.code == 0 and not exited.lease_over
        if exited.problem:
            self._work.restore()
            result, error = b"", error or exited.problem
        if not ok:
            result, error, own = b"", _why(exited), exited.agent_fault
        return ExecutionEnd(
            ok=ok and not error,
            exit_code=exited.code,
            error=error,
            result=result,
            abandoned=exited.lease_over,
            agent_fault=own,
            by_itself=not exited.signalled,
            cpu_ms=exited.cpu_ms,
            rss_max_kib=exited.rss_max_kib,
        )

    def _take_result(self, folder: AttemptFolder) -> tuple[bytes, str, bool]:
        """Take the result out of the folder, which ends with that.

        Returns it, what is wrong with it, and whether that is the machine's fault.
        """
        try:
            data = self._folders.end(folder, self.result_bytes_max)
        except UnfitFileError as error:
            return b"", str(error), is_of_the_system(error)
        return b"" if data is None else data.strip(), "", False


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
