"""The agent's ends of python workers, and those of them that wait for calls."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

import msgspec

from raftflow.agent.calls.socket import CallSocket
from raftflow.agent.executors.base import ExecutionEnd
from raftflow.agent.output.stream_file import LiveFile
from raftflow.domain.contract.views import Assignment


class WorkerLimits(msgspec.Struct, frozen=True, kw_only=True):
    """When a worker is replaced or ended; see `AgentConfig`."""

    calls_max: int
    rss_max_mib: int
    idle_max_s: float
    idle_max: int
    idle_max_mib: int


class WorkerClient:
    """The agent's end of one worker process."""

    __slots__ = (
        "answered",
        "assignment",
        "call",
        "calls",
        "calls_socket",
        "code",
        "cpu_ms",
        "doomed",
        "fault",
        "fence",
        "folder",
        "id",
        "idle_since_s",
        "incoming",
        "kept_kib",
        "live",
        "misled",
        "outgoing",
        "path",
        "progress",
        "ready",
        "returned",
        "socket",
        "stale",
        "streams",
        "unread",
    )

    def __init__(self, control: socket.socket, folder: str, path: tuple[str, ...] = (), code: str = "") -> None:
        self.id = 0
        self.code = code
        """Folder of the code bundle that its calls run with, empty for none: one of `path`."""
        self.path = path
        """Folders in which it looks for modules of users: it serves calls that want these."""
        self.stale = ""
        """Why it takes no call any more: a module that it imported has changed."""
        self.socket: socket.socket | None = control
        self.misled = False
        """What it said belongs to an earlier call: not the fault of the one that runs."""
        self.folder = folder
        """Of the files that it writes."""
        self.streams = (-1, -1)
        """Descriptors of the files of its standard output and error: the agent never looks at their names again."""
        self.fault = ""
        """What was wrong with what it said, for which it is killed."""
        self.fence: int | None = None
        """Of the call that runs; None if idle."""
        self.doomed = False
        """It was sent a signal, which may reach it at any later time: it gets no other call."""
        self.answered = False
        """Its answer was there already when it was sent a signal for the first time."""
        self.returned: ExecutionEnd | None = None
        """How its call ended, while the worker and what the call left behind are being killed."""
        self.assignment: Assignment | None = None
        """What the call that runs, or the last one, is for."""
        self.call: bytes | None = None
        """The call that runs, as it was sent."""
        self.ready: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        """True when it waits for calls, False when it ended before it did."""
        self.unread = False
        """It ended before it had read all of its call."""
        self.calls = 0
        self.calls_socket: CallSocket | None = None
        """On which the call that runs may speak to the agent."""
        self.cpu_ms = 0
        """CPU time up to the end of the last call."""
        self.kept_kib = 0
        """Memory at the end of the last call."""
        self.idle_since_s = 0.0
        self.progress = f"{folder}/progress"
        """The file in which a call tells its progress; the worker removes it."""
        self.incoming = bytearray()
        self.outgoing = b""
        self.live: tuple[LiveFile, LiveFile] | None = None
        """The same files, as those of the call that runs."""


class IdleWorkers:
    """Workers that wait, bounded in number, memory and time. `end` is called with those that must go.

    The one that was used last is used next, so those that are not needed wait for long.
    """

    def __init__(self, limits: WorkerLimits, end: Callable[[WorkerClient], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._limits = limits
        self._end = end
        self._waiting: list[WorkerClient] = []
        """The one that waits for the longest time first."""
        self._held_kib = 0
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._waiting)

    def take(self, path: tuple[str, ...]) -> WorkerClient | None:
        """Return a worker that looks for modules in these folders, None if no such worker waits."""
        for place in range(len(self._waiting) - 1, -1, -1):
            if self._waiting[place].path == path:
                worker = self._waiting.pop(place)
                self._held_kib -= worker.kept_kib
                return worker
        return None

    def put(self, worker: WorkerClient) -> None:
        """Let a worker wait. It, or others, may be ended at once."""
        idle_max_kib = self._limits.idle_max_mib * 1024
        if worker.kept_kib > idle_max_kib:
            self._end(worker)
            return
        worker.idle_since_s = self._loop.time()
        self._waiting.append(worker)
        self._held_kib += worker.kept_kib
        while len(self._waiting) > self._limits.idle_max or self._held_kib > idle_max_kib:
            self._end_first()
        if self._timer is None and self._waiting:
            self._timer = self._loop.call_later(self._limits.idle_max_s, self._look)

    def remove(self, worker: WorkerClient) -> None:
        """Forget a worker that has ended; ignored if it does not wait."""
        if worker in self._waiting:
            self._waiting.remove(worker)
            self._held_kib -= worker.kept_kib

    def _end_first(self) -> None:
        worker = self._waiting.pop(0)
        self._held_kib -= worker.kept_kib
        self._end(worker)

    def _look(self) -> None:
        """End those whose time is over."""
        self._timer = None
        until_s = self._loop.time() - self._limits.idle_max_s
        while self._waiting and self._waiting[0].idle_since_s <= until_s + 0.001:
            self._end_first()
        if self._waiting:
            left_s = self._waiting[0].idle_since_s - until_s
            self._timer = self._loop.call_later(left_s, self._look)
