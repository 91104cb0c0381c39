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
from raftflow.agent.messages import Exited, FromLauncher, Lease, Sample, Sampled, Signal, Spawn, ToLauncher, is_secret

_log = logging.getLogger("raftflow.agent.launcher")

_PACKET_BYTES_MAX = 1 << 20
_BUFFER_BYTES = 1 << 20
_RECEIVES_MAX = 64
"""Packets taken from the socket before the event loop gets its turn."""
_CLOSE_WAIT_S = 6.0
_DEATHS_MAX = 5
"""Launchers that may die within `_DEATHS_WITHIN_S` before the agent gives up."""
_DEATHS_WITHIN_S = 60.0
INSTANCE_VARIABLE = "RAFTFLOW_AGENT_INSTANCE"
"""In the environment of the launcher and of all that it starts: finds them again if the launcher is killed."""

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(FromLauncher).decode


class LauncherError(RuntimeError):
    """The launcher cannot be kept alive."""


class Launcher:
    """Owns the launcher process. Everything happens in the event loop's thread."""

    def __init__(self, instance: str, environ: Mapping[str, str], on_broken: Callable[[LauncherError], None]) -> None:
        self._instance = instance
        self._environ = {key: value for key, value in environ.items() if not is_secret(key)}
        self._environ[INSTANCE_VARIABLE] = instance
        self._on_broken = on_broken
        self._loop = asyncio.get_running_loop()
        self._waiting: dict[int, Callable[[Exited], None]] = {}
        self._on_sampled: Callable[[Sampled], None] | None = None
        self._next_id = 1
        self._outgoing: deque[tuple[bytes, int | None]] = deque()
        self._lease: Lease | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._deaths: deque[float] = deque(maxlen=_DEATHS_MAX)

    @property
    def pid(self) -> int | None:
        """Of the launcher process; None while there is none."""
        return None if self._process is None else self._process.pid

    def start(self) -> None:
        """Start the process. Raises `OSError` if the interpreter cannot be started."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            for end in (ours, theirs):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER_BYTES)
            ours.settimeout(0)
            self._process = subprocess.Popen(
                helpers.command("raftflow.agent.launcher", str(theirs.fileno())),
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                env=self._environ,
                start_new_session=True,
            )
        self._control = ours
        self._loop.add_reader(ours.fileno(), self._receive)
        if self._lease is not None:
            self._send(self._lease)

    def spawn(
        self,
        argv: list[str],
        env: dict[str, str],
        on_exit: Callable[[Exited], None],
        *,
        cwd: str | None,
        stdout: str,
        stderr: str,
        bytes_max: int,
        control: socket.socket | None = None,
    ) -> int:
        """Start a program; `on_exit` is called once, later, even if it cannot be started. Returns its id."""
        identity = self._next_id
        self._next_id += 1
        self._waiting[identity] = on_exit
        message = Spawn(identity, argv, env, cwd, stdout, stderr, bytes_max)
        self._send(message, None if control is None else os.dup(control.fileno()))
        return identity

    def signal(self, identity: int, number: int) -> None:
        """Send a signal to the program's process group."""
        if identity in self._waiting:
            self._send(Signal(identity, number))

    def lease(self, until_ns: int) -> None:
        """Let programs run until `until_ns` of CLOCK_BOOTTIME."""
        self._lease = Lease(until_ns)
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
        if process is None:
            return
        deadline = time.monotonic() + _CLOSE_WAIT_S
        while process.poll() is None and time.monotonic() < deadline:  # noqa: ASYNC110 - no event
            await asyncio.sleep(0.005)
        if process.poll() is None:
            process.kill()
            process.wait()
            kill_by_environment(self._instance)

    def _disconnect(self) -> None:
        while self._outgoing:
            _, fd = self._outgoing.popleft()
            if fd is not None:
                os.close(fd)
        if self._control is not None:
            self._loop.remove_reader(self._control.fileno())
            self._loop.remove_writer(self._control.fileno())
            self._control.close()
            self._control = None

    def _send(self, message: ToLauncher, fd: int | None = None) -> None:
        self._outgoing.append((_encode(message), fd))
        if len(self._outgoing) == 1:
            self._flush()

    def _flush(self) -> None:
        if self._control is None:
            return
        while self._outgoing:
            data, fd = self._outgoing[0]
            try:
                if fd is None:
                    self._control.send(data)
                else:
                    socket.send_fds(self._control, [data], [fd])
            except BlockingIOError:
                self._loop.add_writer(self._control.fileno(), self._flush)
                return
            except ConnectionError:
                break  # the reader finds the launcher dead
            except OSError as error:  # EMSGSIZE: only a `Spawn` can be that large
                self._refuse(data, f"cannot start: {len(data)} bytes of arguments and environment ({error.strerror})")
            self._outgoing.popleft()
            if fd is not None:
                os.close(fd)
        self._loop.remove_writer(self._control.fileno())

    def _refuse(self, data: bytes, why: str) -> None:
        message = msgspec.msgpack.decode(data, type=ToLauncher)
        if isinstance(message, Spawn):
            self._loop.call_soon(self._exited, Exited(message.id, None, why))

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
            if isinstance(message, Exited):
                self._exited(message)
            elif self._on_sampled is not None:
                on_sampled, self._on_sampled = self._on_sampled, None
                on_sampled(message)

    def _exited(self, message: Exited) -> None:
        on_exit = self._waiting.pop(message.id, None)
        if on_exit is not None:
            on_exit(message)

    def _died(self) -> None:
        """The launcher is gone, which only a foreign signal can do: kill what it left, start another."""
        process = self._process
        self._disconnect()
        if process is None:
            return
        process.kill()
        code = process.wait()
        killed = kill_by_environment(self._instance)
        _log.error("the launcher died (exit code %s); killed %d processes that it had started", code, killed)
        waiting, self._waiting = self._waiting, {}
        self._deaths.append(time.monotonic())
        if len(self._deaths) == _DEATHS_MAX and self._deaths[-1] - self._deaths[0] < _DEATHS_WITHIN_S:
            self._process = None
            self._on_broken(LauncherError(f"the launcher died {_DEATHS_MAX} times within {_DEATHS_WITHIN_S:g} s"))
        else:
            self.start()
        for identity, on_exit in waiting.items():
            on_exit(Exited(identity, None, "the agent's launcher process died", lease_over=True))


def kill_by_environment(instance: str) -> int:
    """Kill every process that carries the instance in its environment, this one aside. Returns how many."""
    mark = f"{INSTANCE_VARIABLE}={instance}".encode()
    killed = 0
    for _ in range(3):  # a process may have forked while the list was read
        found = [
            int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit() and _carries(entry, mark)
        ]
        for pid in found:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
                killed += 1
        if not found:
            break
    return killed


def _carries(entry: Path, mark: bytes) -> bool:
    if int(entry.name) == os.getpid():
        return False
    try:
        return mark in (entry / "environ").read_bytes().split(b"\0")
    except OSError:
        return False
