"""The agent's end of the launcher: starts it, talks to it, and cleans up if it ever dies."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import subprocess
import time
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec

from raftflow import helpers
from raftflow.agent.launcher.messages import (
    INSTANCE_VARIABLE,
    Alive,
    Exited,
    FromLauncher,
    LeaseExtension,
    Ping,
    Sample,
    Sampled,
    Signal,
    Spawn,
    ToLauncher,
)
from raftflow.agent.launcher.process_marks import ProcessMarks
from raftflow.agent.launcher.process_tree import kill_descendants, state_of
from raftflow.agent.launcher.program_limits import ProgramLimits
from raftflow.agent.other_user import child_user
from raftflow.agent.workdir.files import is_of_the_system

_log = logging.getLogger("raftflow.agent.launcher")

_PACKET_BYTES_MAX = 1 << 20
_BUFFER_BYTES = 1 << 20
_RECEIVES_MAX = 64
"""Packets taken from the socket before the event loop gets its turn."""
_CLOSE_WAIT_S = 6.0
_DEATHS_MAX = 5
"""Launchers in a row that may die before they say anything: then the agent gives up, since they cannot work here.
Those that are killed later are replaced as often as it takes."""
_AGAIN_S = 0.5
_WATCH_EVERY_S = 0.5
_SILENCE_MAX_S = 15.0
"""So long a launcher may say nothing though it was asked; a busy machine may delay it."""
_TRACED_MAX_S = 2.0
"""The same for one that a process holds which traces it (a debugger may, for a moment)."""
_REAP_MAX_S = 1.0
"""So long the agent waits for the end of processes that it has killed."""
_LAUNCHER_MODULE = "raftflow.agent.launcher.process"

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(FromLauncher).decode


class LauncherError(RuntimeError):
    """The launcher cannot be kept alive."""


class LauncherClient:
    """Owns the launcher process. Everything happens in the event loop's thread."""

    def __init__(
        self,
        instance: str,
        environ: Mapping[str, str],
        on_broken: Callable[[LauncherError], None],
        *,
        limits: ProgramLimits | None = None,
        adopts: bool = False,
    ) -> None:
        """See the module's text.

        Args:
            instance: in the environment of all that is started (`WorkDirectory.mark`).
            environ: of all that is started (`task_environment`).
            on_broken: called when launchers cannot be kept alive.
            limits: what programs begin with.
            adopts: this process adopts what a launcher leaves, and has no other children.
        """
        self._instance = instance
        self._limits = msgspec.json.encode(limits or ProgramLimits()).decode()
        self._adopts = adopts
        self._environ = {**environ, INSTANCE_VARIABLE: instance}
        self._on_broken = on_broken
        self._loop = asyncio.get_running_loop()
        self._waiting: dict[int, Callable[[Exited], None]] = {}
        self._on_sampled: Callable[[Sampled], None] | None = None
        self._next_id = 1
        self._outgoing: deque[tuple[bytes, tuple[int, ...]]] = deque()
        self._lease: LeaseExtension | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._deaths = 0
        """Launchers in a row that died before they had said anything."""
        self._watched_s = 0.0
        self._asked_s: float | None = None
        """When the oldest question was asked that has no answer."""
        self._timer: asyncio.TimerHandle | None = None
        self._again: asyncio.TimerHandle | None = None

    @property
    def pid(self) -> int | None:
        """Of the launcher process; None while it does not run."""
        return None if self._process is None else self._process.pid

    def start(self) -> None:
        """Start the process. Raises `OSError` if the interpreter cannot be started."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with contextlib.ExitStack() as undo, theirs:
            undo.callback(ours.close)
            for end in (ours, theirs):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER_BYTES)
            ours.settimeout(0)
            self._process = subprocess.Popen(
                helpers.command(_LAUNCHER_MODULE, str(theirs.fileno()), self._limits),
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                env=self._environ,
                start_new_session=True,
                **child_user(),
            )
            undo.pop_all()
        self._control = ours
        self._loop.add_reader(ours.fileno(), self._receive)
        self._asked_s = None
        if self._lease is not None:
            self._outgoing.appendleft((_encode(self._lease), ()))
        self._flush()
        self._watch()

    def _watch(self) -> None:
        """See to it that the launcher works while there is something for it to do."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(_WATCH_EVERY_S, self._watch)
        process = self._process
        if process is None or not self._waiting:
            self._asked_s = None
            return
        now_s = self._loop.time()
        if now_s - self._watched_s > 2 * _WATCH_EVERY_S:  # this process was paused itself
            self._asked_s = None
        self._watched_s = now_s
        state = state_of(process.pid)
        if state == "T":
            _log.error("somebody has stopped the launcher: it goes on")
            process.send_signal(signal.SIGCONT)
        if self._asked_s is None:
            self._asked_s = now_s
            self._send(Ping())
        elif now_s - self._asked_s > (_TRACED_MAX_S if state == "t" else _SILENCE_MAX_S):
            _log.error("the launcher has not answered for %g s: it is killed", now_s - self._asked_s)
            kill_descendants(process.pid)
            process.kill()

    def kill_overdue(self) -> None:
        """Kill all that the launcher has started, without its help: the lease is over, and it may be stopped."""
        if self._process is not None:
            kill_descendants(self._process.pid)

    def spawn(
        self,
        argv: tuple[str, ...],
        env: dict[str, str],
        on_exit: Callable[[Exited], None],
        *,
        cwd: str | None,
        folder: str = "",
        bytes_max: int = 0,
        given: tuple[int, ...] = (),
        cleanup: tuple[str, ...] = (),
        cleanup_env: Mapping[str, str] | None = None,
    ) -> int:
        """Start a program; `on_exit` is called once, later, even if it cannot be started. Returns its id.

        Its output is captured in `folder`, or it gets the descriptors `given`: see `Spawn`. Raises `OSError` if these
        cannot be passed on; then `on_exit` is not called.
        """
        passed: list[int] = []
        try:
            for fd in given:
                passed.append(os.dup(fd))  # noqa: PERF401 - those that were made are closed
        except OSError:
            for fd in passed:
                os.close(fd)
            raise
        identity = self._next_id
        self._next_id += 1
        self._waiting[identity] = on_exit
        spawn = Spawn(identity, argv, env, cwd, folder, bytes_max, cleanup, dict(cleanup_env or {}))
        self._send(spawn, tuple(passed))
        return identity

    def signal(self, identity: int, number: int) -> None:
        """Send a signal to the program's process group."""
        if identity in self._waiting:
            self._send(Signal(identity, number))

    def lease(self, until_ns: int) -> None:
        """Let programs run until `until_ns` of CLOCK_BOOTTIME."""
        self._lease = LeaseExtension(until_ns)
        self._send(self._lease)

    def sample(self, wanted: list[tuple[int, int]], on_sampled: Callable[[Sampled], None]) -> None:
        """Ask what programs use: see `Sample`. `on_sampled` is called once, later, unless the launcher dies.

        Only the last one who asked is answered.
        """
        self._on_sampled = on_sampled
        self._send(Sample(wanted))

    async def close(self) -> None:
        """End the launcher, and with it everything that it started."""
        process, self._process = self._process, None
        self._disconnect()
        for timer in (self._timer, self._again):
            if timer is not None:
                timer.cancel()
        if process is None:
            return
        process.send_signal(signal.SIGCONT)
        deadline = time.monotonic() + _CLOSE_WAIT_S
        while process.poll() is None and time.monotonic() < deadline:  # noqa: ASYNC110 - no event
            await asyncio.sleep(0.005)
        if process.poll() is None:
            kill_descendants(process.pid)
            process.kill()
        if process.poll() != 0:  # somebody killed it before it had killed everything itself
            self._kill_left(process)

    def _disconnect(self) -> None:
        while self._outgoing:
            _, fds = self._outgoing.popleft()
            for fd in fds:
                os.close(fd)
        if self._control is not None:
            self._loop.remove_reader(self._control.fileno())
            self._loop.remove_writer(self._control.fileno())
            self._control.close()
            self._control = None

    def _send(self, message: ToLauncher, fds: tuple[int, ...] = ()) -> None:
        self._outgoing.append((_encode(message), fds))
        if len(self._outgoing) == 1:
            self._flush()

    def _flush(self) -> None:
        if self._control is None:
            return
        while self._outgoing:
            data, fds = self._outgoing[0]
            try:
                if fds:
                    socket.send_fds(self._control, [data], fds)
                else:
                    self._control.send(data)
            except BlockingIOError:
                self._loop.add_writer(self._control.fileno(), self._flush)
                return
            except ConnectionError:
                break  # the reader finds the launcher dead
            except OSError as error:  # EMSGSIZE: only a `Spawn` can be that large
                why = f"cannot start: {len(data)} bytes of arguments and environment ({error.strerror})"
                self._refuse(data, why, agent_fault=is_of_the_system(error))
            self._outgoing.popleft()
            for fd in fds:
                os.close(fd)
        self._loop.remove_writer(self._control.fileno())

    def _refuse(self, data: bytes, why: str, *, agent_fault: bool) -> None:
        message = msgspec.msgpack.decode(data, type=ToLauncher)
        if isinstance(message, Spawn):
            self._loop.call_soon(self._exited, Exited(message.id, None, why, agent_fault=agent_fault))

    def _receive(self) -> None:
        for _ in range(_RECEIVES_MAX):
            if self._control is None:
                return
            try:
                data = self._control.recv(_PACKET_BYTES_MAX)
            except BlockingIOError:
                return
            except ConnectionError:
                data = b""
            if not data:
                self._died()
                return
            message = _decode(data)
            self._deaths = 0
            if isinstance(message, Alive):
                self._asked_s = None
            elif isinstance(message, Exited):
                self._exited(message)
            elif self._on_sampled is not None:
                on_sampled, self._on_sampled = self._on_sampled, None
                on_sampled(message)

    def _exited(self, message: Exited) -> None:
        on_exit = self._waiting.pop(message.id, None)
        if on_exit is not None:
            on_exit(message)

    def _kill_left(self, launcher: subprocess.Popen[bytes]) -> tuple[int, int | None]:
        """Kill what a dead launcher has left, and reap all of it.

        Returns how many processes, and the launcher's exit code: None if a process outside still traces it.

        It kills twice. A process that traces the launcher delays its end, so it must be killed first. And the socket
        of a process closes before its children are handed to this process, so they are all found only after its end.
        """
        killed = self._kill_found()
        try:
            code = launcher.wait(_REAP_MAX_S)
        except subprocess.TimeoutExpired:
            code = None
        if self._adopts:
            killed += kill_descendants(os.getpid())
            _reap_all(time.monotonic() + (0.0 if code is None else _REAP_MAX_S))
        return killed, code

    def _kill_found(self) -> int:
        """Kill what carries this agent's mark or descends from it. Returns how many."""
        killed = kill_by_environment(self._instance)
        return killed + (kill_descendants(os.getpid()) if self._adopts else 0)

    def _died(self) -> None:
        """The launcher is gone, which only a foreign signal can do: kill what it left, start another."""
        process = self._process
        self._disconnect()
        if process is None:
            return
        process.kill()
        killed, code = self._kill_left(process)
        self._process = None
        _log.error("the launcher died (exit code %s); killed %d processes that it had started", code, killed)
        waiting, self._waiting = self._waiting, {}
        self._deaths += 1
        self._start_again()
        for identity, on_exit in waiting.items():
            why = "the agent's launcher process died"
            on_exit(Exited(identity, None, why, lease_over=True, agent_fault=True))

    def _start_again(self) -> None:
        """Start another launcher, later if that is not possible now."""
        if self._deaths >= _DEATHS_MAX:
            self._on_broken(LauncherError(f"{_DEATHS_MAX} launchers in a row died at their start"))
            return
        try:
            self.start()
        except OSError as error:
            _log.error("no launcher can be started: %s; trying again", error)
            self._again = self._loop.call_later(_AGAIN_S, self._start_again)


def _reap_all(until_s: float) -> None:
    """Reap children until none is left, or until a time of the monotonic clock. They have been killed."""
    with contextlib.suppress(ChildProcessError):
        while True:
            if os.waitpid(-1, os.WNOHANG)[0]:
                continue
            if time.monotonic() > until_s:
                return
            time.sleep(0.0005)


def kill_by_environment(instance: str, *, spare_launchers: bool = False) -> int:
    """Kill every process that carries the instance in its environment or as its mark, this one aside.

    Returns how many.

    A launcher that has lost its agent is ending by itself, and keeps the output of what it kills: it can be spared.
    """
    mark = f"{INSTANCE_VARIABLE}={instance}".encode()
    marks = ProcessMarks(instance)
    killed = 0
    for _ in range(3):  # a process may have forked while the list was read
        found = [
            int(entry.name)
            for entry in Path("/proc").iterdir()
            if entry.name.isdigit() and _carries(entry, mark, marks) and not (spare_launchers and _is_launcher(entry))
        ]
        for pid in found:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
                killed += 1
        if not found:
            break
    return killed


def _is_launcher(entry: Path) -> bool:
    try:
        return _LAUNCHER_MODULE.encode() in (entry / "cmdline").read_bytes().split(b"\0")
    except OSError:
        return False


def _carries(entry: Path, mark: bytes, marks: ProcessMarks) -> bool:
    if int(entry.name) == os.getpid():
        return False
    if marks.id_of(int(entry.name)) is not None:
        return True
    try:
        return mark in (entry / "environ").read_bytes().split(b"\0")
    except OSError:
        return False
