"""The attempt's end of its socket (`raftflow/agent/SOCKET.md`): requests to the agent, and their answers.

Threads take a connection each while they ask; tasks of an event loop share one.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import threading
from itertools import count
from typing import Any, Final
from weakref import WeakSet

import msgspec

from raftflow.sdk.errors import ClientError, TaskParked

_RECEIVE_BYTES: Final = 1 << 16
_PATH_BYTES_MAX: Final = 107
_LINE_BYTES_MAX: Final = 1 << 20
_THREADS_MAX: Final = 6
"""Threads that ask at the same time. Others wait: the agent takes a bounded number of connections."""


class CallRefused(ClientError):  # noqa: N818 - as the errors of the client
    """The agent or the cluster refused what a task asked: `kind` says why in one word, the text what to do.

    >>> refusal = raftflow.CallRefused("limit", "a task has at most 20,000 steps")
    >>> print(refusal.kind, refusal, sep=": ")
    limit: a task has at most 20,000 steps
    """

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(detail)
        self.kind = kind


class _Error(msgspec.Struct):
    type: str
    detail: str


class _Answer(msgspec.Struct):
    id: int | None = None
    ok: msgspec.Raw = msgspec.field(default_factory=msgspec.Raw)
    error: _Error | None = None


class _Occurrence(msgspec.Struct):
    occurrence: int


_decode_occurrence = msgspec.json.Decoder(_Occurrence).decode
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(_Answer).decode
_DONE: Final = b'{"id":0,"ok":{}}\n'
"""The answer to a request of a thread that says nothing but success, as most do."""


class RunningStep(msgspec.Struct, eq=False, gc=False):
    """A step that runs. `occurrence` is None while it runs without having been begun at the agent."""

    name: str
    function: str
    occurrence: int | None = None


class StepOrder:
    """Which steps run, and whether the next one has to be begun at the agent.

    The agent counts the occurrences of a name in the order in which steps begin. While nothing else runs, and the
    agent knows that no record can be found, a step runs unasked and takes its occurrence with its record: one request
    in place of two. Before another step begins, the one that runs unasked is begun.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        """Held while occurrences are given out."""
        self.unasked = 0
        """How many steps may still run without being begun."""
        self.running = 0
        self.alone: RunningStep | None = None
        """The step that runs without having been begun."""

    def end(self, step: RunningStep) -> None:
        """Note that a step does not run any more."""
        with self.lock:
            self.running -= 1
            if self.alone is step:
                self.alone = None


_sockets: WeakSet[AttemptSocket] = WeakSet()


def _before_fork() -> None:
    """Begin what runs unasked: the steps of the process that is made come after it."""
    for each in tuple(_sockets):
        with contextlib.suppress(CallRefused, OSError, RuntimeError):  # the attempt is over: nothing is recorded
            each.begin_alone()


def _after_fork_in_child() -> None:
    """Begin to count again: what runs in the parent, and who holds its lock, is not known here."""
    for each in tuple(_sockets):
        each.forget_inherited()


os.register_at_fork(before=_before_fork, after_in_child=_after_fork_in_child)


class AttemptSocket:
    """Asks the agent, for the attempt that runs in this process."""

    def __init__(self, path: str) -> None:
        self.order = StepOrder()
        self.parked = False
        """The attempt has parked: it asks nothing any more."""
        self._path = path
        self._closed = False
        self._forget_connections()
        _sockets.add(self)

    def _forget_connections(self) -> None:
        self._idle: list[_ThreadConnection] = []
        self._connected = 0
        """Connections of threads, idle or not."""
        self._freed = threading.Condition()
        self._waiting = 0
        """Threads that wait for a connection."""
        self._open: list[socket.socket] = []
        self._loops: dict[asyncio.AbstractEventLoop, asyncio.Task[_LoopConnection]] = {}

    def forget_inherited(self) -> None:
        """Begin again in a process that was forked: the connections of its parent carry the parent's requests."""
        self.order = StepOrder()
        self._forget_connections()

    def call(self, name: str, fields: dict[str, Any]) -> bytes:
        """Send a request and return what it was answered with, as JSON. Raises `CallRefused`."""
        return self.ask(_encode({"id": 0, "call": name, **fields}) + b"\n")

    def record(self, step: RunningStep, result: bytes) -> bytes:
        """Record a step that has no occurrence yet and has spent nothing; as `call` does."""
        name, function = _encode(step.name), _encode(step.function)
        return self.ask(b'{"id":0,"call":"record","name":%b,"function":%b,"result":%b}\n' % (name, function, result))

    def ask(self, line: bytes) -> bytes:
        """Send the line of a request with the id 0; as `call` does.

        When many tasks do steps, each finds the memory of its process cold. So this path is short.
        """
        try:
            connection = self._idle.pop()
        except IndexError:
            connection = self._free_connection()
        try:
            answer = connection.ask(line)
        except BaseException:
            self._discard(connection)
            raise
        self._idle.append(connection)
        if self._waiting:
            with self._freed:
                self._freed.notify()
        return b"{}" if answer == _DONE else self._told(_decode(answer))

    def _free_connection(self) -> _ThreadConnection:
        """Return a connection: a new one, or one that another thread has given back."""
        with self._freed:
            self._waiting += 1  # before the look: who gives one back looks at this afterwards
            try:
                while True:
                    with contextlib.suppress(IndexError):
                        return self._idle.pop()
                    if self._connected < _THREADS_MAX:
                        break
                    self._freed.wait()
            finally:
                self._waiting -= 1
            connection = _ThreadConnection(self._connect())
            self._connected += 1
            return connection

    def _discard(self, connection: _ThreadConnection) -> None:
        """An answer may still come on this connection: it is not used again."""
        with self._freed:
            self._connected -= 1
            self._freed.notify()
        with contextlib.suppress(ValueError):
            self._open.remove(connection.socket)
        connection.socket.close()

    async def call_async(self, name: str, fields: dict[str, Any]) -> bytes:
        """Do the same in an event loop."""
        loop = asyncio.get_running_loop()
        connecting = self._loops.get(loop)
        if connecting is None:
            connecting = self._loops[loop] = loop.create_task(_LoopConnection.open(self._connect()))
        stream = await asyncio.shield(connecting)
        return self._told(await stream.ask(name, fields))

    def _told(self, answer: _Answer) -> bytes:
        if answer.error is None:
            return bytes(answer.ok)
        if answer.error.type == "parked":
            self.parked = True
            raise TaskParked(answer.error.detail)
        raise CallRefused(answer.error.type, answer.error.detail)

    def begin_alone(self, *, last: bool = False) -> None:
        """Begin the step that runs unasked, if there is one. With `last` no further one runs unasked for now."""
        order = self.order
        if order.alone is None and not (last and order.unasked):
            return
        with order.lock:
            self.begin_alone_locked()
            if last:
                order.unasked = 0

    def ask_again(self) -> None:
        """Begin the next step at the agent, which may refuse it: a budget is used up."""
        with self.order.lock:
            self.order.unasked = 0

    def begin_alone_locked(self) -> None:
        """Do so while the lock of the order is held: that step comes before what begins next."""
        step, self.order.alone = self.order.alone, None
        if step is not None:
            begun = self.call("step", {"name": step.name, "function": step.function})
            step.occurrence = _decode_occurrence(begun).occurrence

    def close(self) -> None:
        """Close all connections."""
        self._closed = True
        self._idle.clear()
        for connecting in self._loops.values():
            if connecting.done() and not connecting.cancelled() and connecting.exception() is None:
                connecting.result().close()
        self._loops.clear()
        for each in self._open:
            each.close()
        self._open.clear()

    def _connect(self) -> socket.socket:
        if self._closed:
            raise RuntimeError("the task is over: its context asks nothing any more")
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            if len(os.fsencode(self._path)) <= _PATH_BYTES_MAX:
                connection.connect(self._path)
            else:
                folder, _, name = self._path.rpartition("/")
                fd = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
                try:
                    connection.connect(f"/proc/self/fd/{fd}/{name}")
                finally:
                    os.close(fd)
        except BaseException:
            connection.close()
            raise
        self._open.append(connection)
        return connection


class _ThreadConnection:
    """A connection of one thread: one request at a time."""

    __slots__ = ("socket",)

    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection

    def ask(self, line: bytes) -> bytes:
        """Return the line of the answer."""
        self.socket.sendall(line)
        answer = self.socket.recv(_RECEIVE_BYTES)
        while not answer.endswith(b"\n"):
            data = self.socket.recv(_RECEIVE_BYTES)
            if not data:
                raise _lost()
            answer += data
        return answer


class _LoopConnection:
    """A connection of one event loop: answers come in any order."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._numbers = count(1)
        self._waiting: dict[int, asyncio.Future[_Answer]] = {}
        self._reading = asyncio.get_running_loop().create_task(self._read())

    @classmethod
    async def open(cls, connection: socket.socket) -> _LoopConnection:
        reader, writer = await asyncio.open_unix_connection(sock=connection, limit=_LINE_BYTES_MAX)
        return cls(reader, writer)

    async def ask(self, name: str, fields: dict[str, Any]) -> _Answer:
        number = next(self._numbers)
        answer: asyncio.Future[_Answer] = asyncio.get_running_loop().create_future()
        self._waiting[number] = answer
        if self._reading.done():
            raise _lost()
        try:
            self._writer.write(_encode({"id": number, "call": name, **fields}) + b"\n")
            return await answer
        finally:
            self._waiting.pop(number, None)

    async def _read(self) -> None:
        try:
            while line := await self._reader.readline():
                answer = _decode(line)
                waiting = self._waiting.get(answer.id or 0)
                if waiting is not None and not waiting.done():
                    waiting.set_result(answer)
        finally:
            for waiting in self._waiting.values():
                if not waiting.done():
                    waiting.set_exception(_lost())

    def close(self) -> None:
        with contextlib.suppress(RuntimeError):  # its loop may be closed already
            self._reading.cancel()
            self._writer.close()


def _lost() -> ConnectionResetError:
    return ConnectionResetError("the agent closed the connection: the attempt is over, or asked too much")
