"""Runs python callables in workers that are kept and used again."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import struct
from collections.abc import Callable
from pathlib import Path

import msgspec

from raftflow import helpers
from raftflow.agent.executors.base import Ended, Watched
from raftflow.agent.executors.command import LEASE_OVER, exit_text
from raftflow.agent.executors.launching import Launcher
from raftflow.agent.inputs import Inputs
from raftflow.agent.messages import CONTROL_FD, RETURNED_BYTES_MAX, Call, Exited, Returned
from raftflow.agent.output import STREAMS, OutputStore, keep_head, remove_file
from raftflow.domain.contract import Assignment

_log = logging.getLogger("raftflow.agent.python")

_RECEIVE_BYTES = 1 << 18
_CUT_EVERY_S = 0.1
"""How often the captured output of calls that run is cut to its limit."""

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Returned).decode


class Worker:
    """The agent's end of one worker process."""

    __slots__ = (
        "answered",
        "calls",
        "cpu_ms",
        "doomed",
        "fault",
        "fence",
        "id",
        "incoming",
        "kept_kib",
        "outgoing",
        "progress",
        "returned",
        "socket",
        "streams",
        "truncated",
    )

    def __init__(self, control: socket.socket, streams: tuple[Path, Path], progress: str) -> None:
        self.id = 0
        self.socket: socket.socket | None = control
        self.streams = streams
        self.fence: int | None = None
        """Of the call that runs; None if idle."""
        self.doomed = False
        """It was sent a signal, which may reach it at any later time: it gets no other call."""
        self.answered = False
        """Its answer was there already when it was sent a signal for the first time."""
        self.fault = ""
        """What was wrong with what it said."""
        self.returned: Ended | None = None
        """How its call ended, while the worker and what the call left behind are being killed."""
        self.calls = 0
        self.cpu_ms = 0
        """CPU time up to the end of the last call."""
        self.kept_kib = 0
        """Memory at the end of the last call."""
        self.progress = progress
        """The file in which a call tells its progress; the worker removes it."""
        self.incoming = bytearray()
        self.outgoing = b""
        self.truncated = [False, False]


class PythonExecutor:
    """An `Executor` of assignments with `python`."""

    def __init__(
        self,
        launcher: Launcher,
        store: OutputStore,
        folder: Path,
        *,
        output_bytes_max: int,
        idle_max: int,
        calls_max: int,
        rss_max_mib: int,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._launcher = launcher
        self._store = store
        self._folder = folder
        self._output_bytes_max = output_bytes_max
        self._idle_max = idle_max
        self._calls_max = calls_max
        self._rss_max_kib = rss_max_mib * 1024
        self.result_bytes_max = 64 * 1024
        self._idle: list[Worker] = []
        self._running: dict[int, tuple[Worker, Callable[[int, Ended], None]]] = {}
        self._started = 0
        self._cutting: asyncio.TimerHandle | None = None
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    @property
    def worker_count(self) -> int:
        """Workers that are alive, idle or busy."""
        return len(self._idle) + len(self._running)

    def start(
        self, assignment: Assignment, ended: Callable[[int, Ended], None], inputs: Inputs | None = None
    ) -> None:
        """Call the function in an idle worker, or in a new one; see `Executor`."""
        worker = self._idle.pop() if self._idle else self._start_worker()
        fence = assignment.fence
        worker.fence = fence
        worker.calls += 1
        self._running[fence] = (worker, ended)
        self._store.began(fence, worker.streams)
        call = Call(
            fence,
            assignment.attempt,
            assignment.workflow_id,
            assignment.task_id,
            assignment.python or "",
            bytes(assignment.args),
            bytes(assignment.kwargs),
            assignment.env,
            assignment.cwd,
            {need: bytes(result) for need, result in assignment.inputs.items()},
            self._store.directory(fence),
            self._output_bytes_max,
            self.result_bytes_max,
            "" if inputs is None else inputs.path,
            {} if inputs is None else dict(inputs.places),
        )
        data = _encode(call)
        self._write(worker, struct.pack("<I", len(data)) + data)
        if self._cutting is None:
            self._cutting = self._loop.call_later(_CUT_EVERY_S, self._cut)

    def signal(self, fence: int, number: int) -> None:
        """Send a signal to the worker's process group; any that it does not handle ends the worker."""
        entry = self._running.get(fence)
        if entry is not None:
            worker = entry[0]
            if not worker.doomed:
                worker.answered = bool(worker.incoming) or _has_data(worker.socket)
                worker.doomed = True
            self._launcher.signal(worker.id, number)

    def watched(self, fence: int) -> Watched | None:
        """Return the worker's id, what it has used before, and where the call tells its progress."""
        entry = self._running.get(fence)
        if entry is None:
            return None
        worker = entry[0]
        return Watched(id=worker.id, cpu_before_ms=worker.cpu_ms, kept_kib=worker.kept_kib, progress=worker.progress)

    def _start_worker(self) -> Worker:
        ours, theirs = socket.socketpair()
        ours.settimeout(0)
        self._started += 1
        out, err = (self._folder / f"{self._started}.{name}" for name in STREAMS)
        progress = f"{self._folder}/{self._started}.progress"
        worker = Worker(ours, (out, err), progress)
        with theirs:
            worker.id = self._launcher.spawn(
                helpers.worker_command("raftflow.agent.worker"),
                {"RAFTFLOW_PROGRESS": progress, helpers.USER_PATH: helpers.user_path()},
                lambda exited: self._exited(worker, exited),
                cwd=None,
                stdout=str(out),
                stderr=str(err),
                bytes_max=0,
                control=theirs,
            )
        self._loop.add_reader(ours.fileno(), self._read, worker)
        return worker

    def _write(self, worker: Worker, data: bytes) -> None:
        assert worker.socket is not None  # noqa: S101 - only a worker that is alive is given a call
        sent = 0
        with contextlib.suppress(BlockingIOError, ConnectionError):  # a dead worker is noticed by its exit
            sent = worker.socket.send(data)
        if sent < len(data):
            worker.outgoing = data[sent:]
            self._loop.add_writer(worker.socket.fileno(), self._flush, worker)

    def _flush(self, worker: Worker) -> None:
        if worker.socket is None:
            return
        try:
            worker.outgoing = worker.outgoing[worker.socket.send(worker.outgoing) :]
        except BlockingIOError:
            return
        except ConnectionError:
            worker.outgoing = b""
        if not worker.outgoing:
            self._loop.remove_writer(worker.socket.fileno())

    def _read(self, worker: Worker) -> None:
        if worker.socket is None:
            return
        try:
            data = worker.socket.recv(_RECEIVE_BYTES)
        except BlockingIOError:
            return
        except ConnectionError:
            data = b""
        if not data:
            self._disconnect(worker)  # the launcher tells how it ended
            return
        incoming = worker.incoming
        incoming += data
        if len(incoming) < 4:
            return
        (size,) = struct.unpack_from("<I", incoming)
        if size > RETURNED_BYTES_MAX:
            self._distrust(worker, f"it says that {size} bytes come")
        elif len(incoming) >= 4 + size:
            try:
                returned = _decode(memoryview(incoming)[4 : 4 + size])
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                self._distrust(worker, str(error))
                return
            worker.incoming = bytearray()
            if returned.fence == worker.fence and worker.returned is None:
                self._returned(worker, returned)

    def _returned(self, worker: Worker, returned: Returned) -> None:
        fence = returned.fence
        truncated = (returned.truncated[0] or worker.truncated[0], returned.truncated[1] or worker.truncated[1])
        worker.truncated = [False, False]
        self._store.ended(fence, returned.sizes, truncated)
        worker.cpu_ms, worker.kept_kib = returned.cpu_life_ms, returned.rss_kib
        how = Ended(
            ok=returned.ok,
            error=returned.error,
            result=returned.result,
            cpu_ms=returned.cpu_ms,
            rss_max_kib=returned.rss_max_kib,
            by_itself=worker.answered or not worker.doomed,
        )
        if returned.leftovers or worker.doomed:
            # Children of the call may still run. They end with the worker's group, and only then has the attempt.
            worker.returned = how
            self._discard(worker)
            return
        _, ended = self._running.pop(fence)
        worker.fence = None
        spent = worker.calls >= self._calls_max or returned.rss_max_kib > self._rss_max_kib
        if spent or len(self._idle) >= self._idle_max:
            self._discard(worker)
        else:
            self._idle.append(worker)
        ended(fence, how)

    def _distrust(self, worker: Worker, why: str) -> None:
        """End a worker that says what the worker's code would not: its task has written to the agent's socket."""
        _log.warning("worker of attempt %s sent a message that is none: %s", worker.fence, why)
        worker.fault = (
            f"the worker sent the agent a message that is none ({why}): "
            f"a function must leave file descriptor {CONTROL_FD} alone"
        )
        self._disconnect(worker)
        self._discard(worker)

    def _discard(self, worker: Worker) -> None:
        self._launcher.signal(worker.id, signal.SIGKILL)

    def _disconnect(self, worker: Worker) -> None:
        if worker.socket is not None:
            self._loop.remove_reader(worker.socket.fileno())
            self._loop.remove_writer(worker.socket.fileno())
            worker.socket.close()
            worker.socket = None
        if worker in self._idle:
            self._idle.remove(worker)

    def _exited(self, worker: Worker, exited: Exited) -> None:
        if worker.socket is not None and worker.fence is not None:
            self._read(worker)  # it may have answered before it died
        self._disconnect(worker)
        fence = worker.fence
        if fence is not None:
            how = worker.returned
            if how is None:
                how = self._how(worker, exited)
                sizes, truncated = self._rescue_output(worker, fence)
                self._store.ended(fence, sizes, truncated)
            _, ended = self._running.pop(fence)
            ended(fence, how)
        for path in worker.streams:
            path.unlink(missing_ok=True)
        remove_file(worker.progress)

    def _rescue_output(self, worker: Worker, fence: int) -> tuple[tuple[int, int], tuple[bool, bool]]:
        folder = self._store.directory(fence)
        out, err = (
            keep_head(path, f"{folder}/{name}", self._output_bytes_max)
            for path, name in zip(worker.streams, STREAMS, strict=True)
        )
        return (out[0], err[0]), (out[1] or worker.truncated[0], err[1] or worker.truncated[1])

    def _how(self, worker: Worker, exited: Exited) -> Ended:
        cpu_ms = max(exited.cpu_ms - worker.cpu_ms, 0)
        if exited.lease_over or exited.code is None:
            return Ended(ok=False, error=exited.error or LEASE_OVER, abandoned=exited.lease_over, cpu_ms=cpu_ms)
        _log.info("worker of attempt %s died: %s", worker.fence, exit_text(exited.code))
        what = f"signal {-exited.code}" if exited.code < 0 else f"exit code {exited.code}"
        if worker.fault:
            return Ended(ok=False, error=worker.fault, cpu_ms=cpu_ms, rss_max_kib=exited.rss_max_kib)
        tail = _tail(worker.streams[1])
        error = f"worker died: {what}" + (f": {tail}" if tail else "")
        return Ended(ok=False, error=error, cpu_ms=cpu_ms, rss_max_kib=exited.rss_max_kib)

    def _cut(self) -> None:
        """Keep the capture files of running calls from growing without bound."""
        self._cutting = None
        for worker, _ in self._running.values():
            for index, path in enumerate(worker.streams):
                with contextlib.suppress(FileNotFoundError):
                    if path.stat().st_size > self._output_bytes_max:
                        os.truncate(path, self._output_bytes_max)
                        worker.truncated[index] = True
        if self._running:
            self._cutting = self._loop.call_later(_CUT_EVERY_S, self._cut)


def _has_data(control: socket.socket | None) -> bool:
    """Tell whether something can be read that nobody has read yet."""
    if control is None:
        return False
    try:
        return bool(control.recv(1, socket.MSG_PEEK))
    except (BlockingIOError, ConnectionError):
        return False


def _tail(path: Path, bytes_max: int = 2_048) -> str:
    try:
        with path.open("rb") as file:
            file.seek(max(os.fstat(file.fileno()).st_size - bytes_max, 0))
            return file.read(bytes_max).decode(errors="replace").strip()
    except FileNotFoundError:
        return ""
