"""Runs python callables in workers that are kept and used again."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import signal
import socket
import struct
from collections.abc import Sequence
from functools import partial

import msgspec

from raftflow import helpers
from raftflow.agent.calls.attempt import CallingAttempt
from raftflow.agent.calls.channel import Channel
from raftflow.agent.calls.socket import CallSocket
from raftflow.agent.executors.base import Ended, ExecutionEnd, WatchTarget
from raftflow.agent.executors.command import CODE_VARIABLE, LEASE_OVER, NO_BYTECODE, exit_text
from raftflow.agent.executors.launcher_client import LauncherClient
from raftflow.agent.executors.search_path import SearchPath
from raftflow.agent.executors.workers import IdleWorkers, WorkerClient, WorkerLimits
from raftflow.agent.launcher.messages import CONTROL_FD, READY, Exited, FunctionCall, Returned
from raftflow.agent.output.store import STREAMS, OutputStore
from raftflow.agent.output.stream_file import LiveFile, keep_stream
from raftflow.agent.workdir.directory import EXCHANGE, WORKERS, WorkDirectory
from raftflow.agent.workdir.files import CaptureFolder, UnfitFileError, create_file, opened_folder
from raftflow.agent.workdir.folders import SOCKET
from raftflow.agent.workdir.inputs import FetchedInputs
from raftflow.domain.contract.views import Assignment
from raftflow.domain.tasks.program import AssignedCall
from raftflow.domain.values.exact import UNREADABLE

_log = logging.getLogger("raftflow.agent.python")

_RECEIVE_BYTES = 1 << 18
_REST_BYTES_MAX = 1 << 16
"""Of an answer beside its result."""
_START_MAX_S = 30.0
"""How long a worker may take to be ready when a probe waits for it."""
_CUT_EVERY_S = 0.1
"""How often the captured output of calls that run is cut to its limit."""

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Returned).decode


class PythonExecutor:
    """The `Executor` of `PythonCall`."""

    def __init__(
        self,
        launcher: LauncherClient,
        store: OutputStore,
        work: WorkDirectory,
        channel: Channel,
        *,
        output_bytes_max: int,
        limits: WorkerLimits,
        python_path: Sequence[str] = (),
        own_folder: bool = False,
    ) -> None:
        """See the module's text.

        `python_path` are absolute folders, in which modules of users are looked for. `own_folder`: calls without
        `cwd` begin in a folder of their own.
        """
        self._own_folder = own_folder
        self._loop = asyncio.get_running_loop()
        self._path = SearchPath(python_path)
        self._launcher = launcher
        self._store = store
        self._work = work
        self._channel = channel
        self._output_bytes_max = output_bytes_max
        self._limits = limits
        self.result_bytes_max = 64 * 1024
        self._idle = IdleWorkers(limits, self._discard)
        self._running: dict[int, tuple[WorkerClient, Ended]] = {}
        self._started = 0
        self._broken = False
        """The last worker that was started ended before it could do anything."""
        self._cutting: asyncio.TimerHandle | None = None

    @property
    def worker_count(self) -> int:
        """Workers that are alive, idle or busy."""
        return len(self._idle) + len(self._running)

    def start(
        self, assignment: Assignment, ended: Ended, inputs: FetchedInputs | None = None, code: str = ""
    ) -> None:
        """Call the function in an idle worker, or in a new one; see `Executor`."""
        program = assignment.program
        if not isinstance(program, AssignedCall):
            raise TypeError(program)
        path = self._path.of(assignment.cwd, assignment.env)
        if code:
            path = (code, *path)
        cwd = assignment.cwd
        if cwd is None and self._own_folder:
            cwd = self._make_own_folder()
            ended = partial(self._ended_in, cwd, ended)
        worker = self._idle.take(path) or self._start_worker(path, code)
        fence = assignment.fence
        call = FunctionCall(
            fence,
            assignment.attempt,
            assignment.workflow_id,
            assignment.task_id,
            program.function,
            bytes(program.args),
            bytes(program.kwargs),
            assignment.env,
            cwd,
            {need: bytes(result) for need, result in assignment.inputs.items()},
            self._store.directory(fence),
            self._output_bytes_max,
            self.result_bytes_max,
            "" if inputs is None else inputs.path,
            {} if inputs is None else dict(inputs.places),
        )
        data = _encode(call)
        self._give(worker, assignment, struct.pack("<I", len(data)) + data, ended)
        if self._cutting is None:
            self._cutting = self._loop.call_later(_CUT_EVERY_S, self._cut)

    def _make_own_folder(self) -> str:
        path = f"{self._work.part(EXCHANGE)}/{secrets.token_hex(8)}"
        self._make_folder(path)
        return path

    def _make_folder(self, path: str) -> None:
        try:
            os.mkdir(path, 0o700)  # noqa: PTH102 - runs once a worker, or once a call
        except OSError:
            self._work.restore()
            os.mkdir(path, 0o700)  # noqa: PTH102

    def _ended_in(self, folder: str, ended: Ended, fence: int, how: ExecutionEnd) -> None:
        self._work.trash.put(folder)
        ended(fence, how)

    def _give(self, worker: WorkerClient, assignment: Assignment, data: bytes, ended: Ended) -> None:
        fence = worker.fence = assignment.fence
        worker.assignment = assignment
        worker.call = data
        worker.calls += 1
        self._running[fence] = (worker, ended)
        if worker.live is None:
            out, err = worker.streams
            worker.live = (LiveFile(out, self._output_bytes_max), LiveFile(err, self._output_bytes_max))
        for live in worker.live:
            live.begin()
        self._store.began(assignment, worker.live, worker.folder)
        if worker.calls_socket is not None:
            worker.calls_socket.attach(partial(CallingAttempt, assignment, self._channel))
        self._write(worker, data)

    def signal(self, fence: int, number: int) -> None:
        """Send a signal to the worker's process group; any that it does not handle ends the worker."""
        entry = self._running.get(fence)
        if entry is not None:
            worker = entry[0]
            if not worker.doomed:
                worker.answered = bool(worker.incoming) or _has_data(worker.socket, 1 if worker.ready.done() else 2)
                worker.doomed = True
            self._launcher.signal(worker.id, number)

    def watched(self, fence: int) -> WatchTarget | None:
        """Return the worker's id, what it has used before, and where the call tells its progress."""
        entry = self._running.get(fence)
        if entry is None:
            return None
        worker = entry[0]
        return WatchTarget(
            id=worker.id, cpu_before_ms=worker.cpu_ms, kept_kib=worker.kept_kib, progress=worker.progress
        )

    async def probe(self) -> str:
        """Start a worker if the last one could not work. Returns what is wrong, empty if nothing is."""
        if not self._broken:
            return ""
        try:
            worker = self._start_worker(self._path.usual)
        except (OSError, UnfitFileError) as error:
            return f"no python worker can be started: {error}"
        try:
            ready = await asyncio.wait_for(asyncio.shield(worker.ready), _START_MAX_S)
        except TimeoutError:
            return f"a python worker was not ready after {_START_MAX_S:g} s"
        finally:
            self._discard(worker)
        return "" if ready else "a python worker ended before it could begin"

    def _start_worker(self, path: tuple[str, ...], code: str = "") -> WorkerClient:
        """Start a worker that looks for modules of users in `path`. Raises `OSError` and `UnfitFileError`.

        `code` is the folder of the code bundle of its calls, empty for none.
        """
        ours, theirs = socket.socketpair()
        ours.settimeout(0)
        self._started += 1
        worker = WorkerClient(ours, f"{self._work.part(WORKERS)}/{self._started}-{secrets.token_hex(6)}", path, code)
        try:
            self._make_files(worker)
            worker.id = self._launcher.spawn(
                tuple(helpers.worker_command("raftflow.agent.worker.process", *path)),
                {"RAFTFLOW_PROGRESS": worker.progress, "RAFTFLOW_SOCKET": f"{worker.folder}/{SOCKET}"}
                | ({**NO_BYTECODE, CODE_VARIABLE: code} if code else {}),
                lambda exited: self._exited(worker, exited),
                cwd=None,
                given=(*worker.streams, theirs.fileno()),
            )
        except BaseException:
            ours.close()
            self._remove_files(worker)
            raise
        finally:
            theirs.close()
        self._loop.add_reader(ours.fileno(), self._read, worker)
        return worker

    def _make_files(self, worker: WorkerClient) -> None:
        self._make_folder(worker.folder)
        with opened_folder(worker.folder, "the folder of a worker") as fd:
            out, err = (
                create_file(name, f"the file of a worker's {name}", folder=fd, flags=os.O_RDWR | os.O_APPEND)
                for name in STREAMS
            )
        worker.streams = (out, err)
        worker.calls_socket = CallSocket(worker.folder, SOCKET)

    def _remove_files(self, worker: WorkerClient) -> None:
        for fd in worker.streams:
            if fd >= 0:
                os.close(fd)
        worker.streams = (-1, -1)
        if worker.calls_socket is not None:
            worker.calls_socket.close()
            worker.calls_socket = None
        self._work.trash.put(worker.folder)

    def _write(self, worker: WorkerClient, data: bytes) -> None:
        assert worker.socket is not None  # noqa: S101 - only a worker that is alive is given a call
        try:
            sent = worker.socket.send(data)
        except BlockingIOError:
            sent = 0
        except OSError:  # it is dead, or the system has no memory: its exit ends the attempt
            worker.unread = True
            self._discard(worker)
            return
        if sent < len(data):
            worker.outgoing = data[sent:]
            self._loop.add_writer(worker.socket.fileno(), self._flush, worker)

    def _flush(self, worker: WorkerClient) -> None:
        if worker.socket is None:
            return
        try:
            worker.outgoing = worker.outgoing[worker.socket.send(worker.outgoing) :]
        except BlockingIOError:
            return
        except OSError:
            worker.unread, worker.outgoing = True, b""
            self._discard(worker)
        if not worker.outgoing:
            self._loop.remove_writer(worker.socket.fileno())

    def _read(self, worker: WorkerClient) -> None:
        if worker.socket is None:
            return
        try:
            data = worker.socket.recv(_RECEIVE_BYTES)
        except BlockingIOError:
            return
        except ConnectionError:  # the system says so if it has not read everything
            data = b""
            worker.unread = worker.fence is not None
        if not data:
            self._disconnect(worker)  # the launcher tells how it ended
            self._discard(worker)  # or it has only closed its end, and waits for ever
            return
        if not worker.ready.done() and data.startswith(READY):
            worker.ready.set_result(True)
            self._broken = False
            data = data[len(READY) :]
            if not data:
                return
        if worker.fence is None or worker.returned is not None or worker.fault:
            self._distrust(worker, "it spoke without being asked")
            return
        incoming = worker.incoming
        incoming += data
        if len(incoming) < 4:
            return
        (size,) = struct.unpack_from("<I", incoming)
        if size > self.result_bytes_max + _REST_BYTES_MAX:
            self._distrust(worker, f"its answer has {size} bytes")
        elif len(incoming) > 4 + size:
            self._distrust(worker, "there is more in its answer than there should be")
        elif len(incoming) == 4 + size:
            try:
                returned = _decode(memoryview(incoming)[4:])
            except UNREADABLE as error:
                self._distrust(worker, f"its answer cannot be read: {error}")
                return
            worker.incoming = bytearray()
            self._answered(worker, returned)

    def _answered(self, worker: WorkerClient, returned: Returned) -> None:
        if returned.fence != worker.fence:
            # A call that answered in the worker's name has left the worker's own answer to the next one.
            worker.misled = worker.fence is not None and returned.fence < worker.fence
            self._distrust(worker, f"it answered for attempt {returned.fence}")
        elif len(returned.result) > self.result_bytes_max:
            self._distrust(worker, f"its result has {len(returned.result)} bytes")
        elif returned.stale and worker.calls == 1:
            self._distrust(worker, "it calls its modules old before its first call")
        elif returned.stale:
            worker.stale = returned.stale
            self._discard(worker)  # a new one takes the call when this one has ended
        else:
            self._returned(worker, returned)

    def _distrust(self, worker: WorkerClient, fault: str) -> None:
        """End a worker that does not say what a worker says: the function has changed it, or something else."""
        worker.fault = worker.fault or fault
        worker.incoming = bytearray()
        self._discard(worker)
        self._idle.remove(worker)

    def _returned(self, worker: WorkerClient, returned: Returned) -> None:
        fence = returned.fence
        self._keep(worker, fence, returned.sizes, returned.truncated)
        worker.cpu_ms, worker.kept_kib = returned.cpu_life_ms, returned.rss_kib
        how = ExecutionEnd(
            ok=returned.ok,
            error=returned.error,
            result=returned.result,
            cpu_ms=returned.cpu_ms,
            rss_max_kib=returned.rss_max_kib,
            with_files=False,
            by_itself=worker.answered or not worker.doomed,
        )
        worker.call = None
        if returned.leftovers or worker.doomed:
            # What the call left may still run. It ends with the worker and its group, and only then has the attempt.
            worker.returned = how
            self._discard(worker)
            return
        _, ended = self._running.pop(fence)
        worker.fence = None
        if worker.calls_socket is not None and (parked := worker.calls_socket.detach()):
            how = msgspec.structs.replace(how, parked=parked)
        if worker.calls >= self._limits.calls_max or returned.rss_max_kib > self._limits.rss_max_mib * 1024:
            self._discard(worker)
        else:
            self._idle.put(worker)
        ended(fence, how)

    def _discard(self, worker: WorkerClient) -> None:
        self._launcher.signal(worker.id, signal.SIGKILL)

    def _disconnect(self, worker: WorkerClient) -> None:
        if worker.socket is not None:
            self._loop.remove_reader(worker.socket.fileno())
            self._loop.remove_writer(worker.socket.fileno())
            worker.socket.close()
            worker.socket = None
        self._idle.remove(worker)

    def _exited(self, worker: WorkerClient, exited: Exited) -> None:
        if worker.socket is not None and worker.fence is not None:
            self._read(worker)  # it may have answered before it died
        self._disconnect(worker)
        if not worker.ready.done():
            self._broken = True
            worker.ready.set_result(False)
        parked = b"" if worker.calls_socket is None else worker.calls_socket.detach()
        fence = worker.fence
        if fence is not None and not self._start_again(worker, fence, exited):
            try:
                how = worker.returned or self._died(worker, fence, exited)
                if parked:
                    how = msgspec.structs.replace(how, parked=parked)
            except Exception as error:  # noqa: BLE001 - it must cost this attempt only
                _log.exception("attempt %d: its end cannot be handled", fence)
                why = f"the agent could not handle its end: {error!r}"
                how = ExecutionEnd(ok=False, error=why, agent_fault=isinstance(error, OSError))
            worker.fence = None
            _, ended = self._running.pop(fence)
            ended(fence, how)
        self._remove_files(worker)

    def _start_again(self, worker: WorkerClient, fence: int, exited: Exited) -> bool:
        """Give the call of a worker that died to a new one, if it is not its fault. Returns whether it did.

        It is not if the worker had served others, and died before it had read this one or had old modules.
        """
        data, assignment = worker.call, worker.assignment
        is_another_fault = worker.stale or ((worker.unread or worker.outgoing) and worker.calls > 1)
        is_stopped = worker.doomed or exited.lease_over
        if data is None or assignment is None or worker.returned is not None or not is_another_fault or is_stopped:
            return False
        if worker.stale:
            _log.info("attempt %d gets a new worker: %s", fence, worker.stale)
        else:
            _log.info("worker of attempt %d died before the attempt began (%s)", fence, exit_text(exited.code or 0))
        try:
            fresh = self._start_worker(worker.path, worker.code)
        except (OSError, UnfitFileError) as error:
            _log.warning("attempt %d cannot be given to another worker: %s", fence, error)
            return False
        worker.fence = worker.call = None
        self._give(fresh, assignment, data, self._running[fence][1])
        return True

    def _died(self, worker: WorkerClient, fence: int, exited: Exited) -> ExecutionEnd:
        how = self._how(worker, exited)
        self._rescue_output(worker, fence)
        return how

    def _rescue_output(self, worker: WorkerClient, fence: int) -> None:
        """Keep the output of a call whose worker died."""
        folder = CaptureFolder(self._store.directory(fence))
        kept: list[tuple[int, bool]] = []
        for fd, name in zip(worker.streams, STREAMS, strict=True):
            try:
                kept.append(keep_stream(fd, folder, name, self._output_bytes_max))
            except (OSError, UnfitFileError) as error:
                _log.warning("the output of attempt %d is lost: %s", fence, error)
                kept.append((0, True))
        (out, out_cut), (err, err_cut) = kept
        self._keep(worker, fence, (out, err), (out_cut, err_cut))

    def _keep(self, worker: WorkerClient, fence: int, sizes: tuple[int, int], truncated: tuple[bool, bool]) -> None:
        """Tell the store how much a call wrote, with what was lost while it ran."""
        assert worker.live is not None  # noqa: S101 - it has had a call
        out, err = worker.live
        if out.lost or err.lost:
            sizes = (sizes[0] + out.lost, sizes[1] + err.lost)
            truncated = (truncated[0] or out.lost > 0, truncated[1] or err.lost > 0)
        self._store.ended(fence, sizes, truncated)

    def _how(self, worker: WorkerClient, exited: Exited) -> ExecutionEnd:
        cpu_ms = max(exited.cpu_ms - worker.cpu_ms, 0)
        if exited.lease_over or exited.code is None:
            own = exited.agent_fault or not exited.lease_over  # it is the agent's interpreter that cannot be started
            error = exited.error or LEASE_OVER
            return ExecutionEnd(ok=False, error=error, abandoned=exited.lease_over, agent_fault=own, cpu_ms=cpu_ms)
        if worker.fault:
            _log.warning("attempt %s: the worker was killed, for %s", worker.fence, worker.fault)
            error = (
                f"the worker cannot be trusted any more: {worker.fault}; a function must leave file descriptor "
                f"{CONTROL_FD} alone"
            )
            return ExecutionEnd(
                ok=False, error=error, abandoned=worker.misled, cpu_ms=cpu_ms, rss_max_kib=exited.rss_max_kib
            )
        _log.info("worker of attempt %s died: %s", worker.fence, exit_text(exited.code))
        what = f"signal {-exited.code}" if exited.code < 0 else f"exit code {exited.code}"
        tail = _tail(worker.streams[1])
        own = worker.unread or bool(worker.stale) or not worker.ready.result()
        error = f"{'the worker died before the call began' if own else 'worker died'}: {what}"
        error += f": {tail}" if tail else ""
        return ExecutionEnd(ok=False, error=error, agent_fault=own, cpu_ms=cpu_ms, rss_max_kib=exited.rss_max_kib)

    def _cut(self) -> None:
        """Keep the capture files of running calls from growing without bound."""
        self._cutting = None
        for worker, _ in self._running.values():
            for live in worker.live or ():
                with contextlib.suppress(OSError):
                    live.cut()
        if self._running:
            self._cutting = self._loop.call_later(_CUT_EVERY_S, self._cut)


def _has_data(control: socket.socket | None, bytes_least: int) -> bool:
    """Tell whether so much can be read that nobody has read yet."""
    if control is None:
        return False
    try:
        return len(control.recv(bytes_least, socket.MSG_PEEK)) >= bytes_least
    except (BlockingIOError, ConnectionError):
        return False


def _tail(fd: int, bytes_max: int = 2_048) -> str:
    try:
        start = max(os.fstat(fd).st_size - bytes_max, 0)
        return os.pread(fd, bytes_max, start).decode(errors="replace").strip()
    except OSError:
        return ""
