"""For code that runs as a task: which attempt it is, and the results of the tasks that it needs.

    import raftflow

    def join() -> dict[str, int]:
        parts = raftflow.current().inputs          # results of the tasks that this one needs, by task id
        return {"words": sum(part["words"] for part in parts.values())}

The agent sets the context around every call of a `python = "module:function"` task.

A long task can report its progress. This works in programs of `command` tasks too. A program in another language
writes a number from 0 to 1 into the file that RAFTFLOW_PROGRESS names:

    for done, part in enumerate(parts):
        raftflow.progress(done / len(parts))
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

if TYPE_CHECKING:
    from raftflow.sdk.attempt_socket import AttemptSocket
    from raftflow.sdk.children import ChildFamily, ChildHandle, Prepare

P = ParamSpec("P")
R = TypeVar("R")
ItemT = TypeVar("ItemT")


@dataclass(frozen=True, slots=True)
class Context:
    """The attempt that is running.

    Outside of a cluster its steps run each time, so a function with a context can be tried in a test:

    >>> ctx = raftflow.Context("wf-1", "demo", attempt=1, fence=7)
    >>> ctx.step("root", math.sqrt, 16)
    4.0
    """

    workflow: str
    task: str
    attempt: int
    """1 for the first attempt of the task."""
    fence: int
    """Grows over all attempts of all tasks. Store it with your data, and refuse writes with a smaller fence."""
    inputs: Mapping[str, Any] = field(default_factory=dict)
    """Result of each task that this one needs. If all results together have more than 32 KiB, each access reads its
    result from a file. The file exists while the function runs."""

    def step(self, name: str, function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run `function` once over all attempts of the task, and return its result. Await it for an `async` function.

        The result is in the cluster's log when this returns. A later attempt gets it from there, by the name of the
        step and its occurrence: the second step of a name in an attempt is its occurrence 2. Code around steps may
        change; a step that has the record of another function raises `CallRefused`.

        The result is JSON with at most 64 KiB. It comes back as JSON makes it: tuples as lists. A step that raises
        records nothing. If the process dies between the end of the function and the record, the function runs again.

        In an attempt that is over this raises `RuntimeError`. Outside of a cluster it runs the function.
        """
        socket = _socket_of(self)
        if socket is None:
            return function(*args, **kwargs)
        from raftflow.sdk import steps  # noqa: PLC0415 - most tasks have no steps

        result: R = steps.run(socket, name, function, args, kwargs)
        return result

    def sleep(self, seconds: float, *, name: str = "raftflow.sleep") -> None:
        """Sleep until `seconds` after the first attempt of the task came here. Later attempts sleep for the rest."""
        socket = _socket_of(self)
        if socket is None:
            time.sleep(seconds)
        else:
            socket.begin_alone()
            socket.call("sleep", {"seconds": seconds, "name": name})

    async def sleep_async(self, seconds: float, *, name: str = "raftflow.sleep") -> None:
        """Sleep as `sleep` does, while other tasks of the event loop go on."""
        import asyncio  # noqa: PLC0415 - most tasks never need it

        socket = _socket_of(self)
        if socket is None:
            await asyncio.sleep(seconds)
        else:
            socket.begin_alone()
            await socket.call_async("sleep", {"seconds": seconds, "name": name})

    def spawn(
        self, function: Callable[P, R] | Mapping[str, Any], /, *args: Any, key: str | None = None, **kwargs: Any
    ) -> ChildHandle[R]:
        """Add a call of a function to this workflow, as a child of this task. `result()` of what this returns waits.

        `function` is one that agents can import, or a task as it is written in a document. The child is in the
        cluster's log when this returns. A later attempt of this task that spawns the same under the same key finds
        it; another task under a known key raises `CallRefused`. Without `key` it is the name of the function, with a
        number for the second call and those after it.

        Outside of a cluster it runs the function.
        """
        from raftflow.sdk import children  # noqa: PLC0415 - most tasks have no children

        family = _family_of(self)
        if family is None:
            return children.run_here(function, args, kwargs, key or "child")
        return family.run(children.spawn_one(family, function, args, kwargs, key))

    async def spawn_async(
        self, function: Callable[P, R] | Mapping[str, Any], /, *args: Any, key: str | None = None, **kwargs: Any
    ) -> ChildHandle[R]:
        """Do as `spawn` does, in an event loop."""
        from raftflow.sdk import children  # noqa: PLC0415 - as above

        family = _family_of(self)
        if family is None:
            return await children.run_here_async(function, args, kwargs, key or "child")
        return await family.run_async(children.spawn_one(family, function, args, kwargs, key))

    def map(
        self,
        function: Callable[[ItemT], R],
        items: Iterable[ItemT],
        *,
        key: str | None = None,
        return_exceptions: bool = False,
    ) -> list[R]:
        """Spawn a call of a function for each item, and return the results in the order of the items.

        The task is parked until all have ended: its function runs again from its beginning then, and finds the
        children. The first child without success raises `ChildFailed`, and the others go on. With
        `return_exceptions` a `ChildFailed` is the result of each that did not succeed. The keys are `key` (by default
        the name of the function) and the number of the item.
        """
        from raftflow.sdk import children  # noqa: PLC0415 - as above

        family = _family_of(self)
        spawned: list[ChildHandle[Any]]
        if family is None:
            spawned = [children.run_here(function, (item,), {}, "child") for item in items]
        else:
            spawned = family.run(children.spawn_many(family, function, items, key))
        return self.gather(*spawned, return_exceptions=return_exceptions)

    async def map_async(
        self,
        function: Callable[[ItemT], Coroutine[Any, Any, R]] | Callable[[ItemT], R],
        items: Iterable[ItemT],
        *,
        key: str | None = None,
        return_exceptions: bool = False,
    ) -> list[R]:
        """Do as `map` does, in an event loop."""
        from raftflow.sdk import children  # noqa: PLC0415 - as above

        family = _family_of(self)
        spawned: list[ChildHandle[Any]]
        if family is None:
            spawned = [await children.run_here_async(function, (item,), {}, "child") for item in items]
        else:
            spawned = await family.run_async(children.spawn_many(family, function, items, key))
        return await self.gather_async(*spawned, return_exceptions=return_exceptions)

    def gather(self, *handles: ChildHandle[R], return_exceptions: bool = False) -> list[R]:
        """Return the results of children, in the order of the arguments. The task parks as with `map`."""
        from raftflow.sdk import children  # noqa: PLC0415 - as above

        family = _family_of(self)
        if family is None:
            return children.gather_here(handles, return_exceptions=return_exceptions)
        return family.run(children.gather(handles, return_exceptions=return_exceptions))

    async def gather_async(self, *handles: ChildHandle[R], return_exceptions: bool = False) -> list[R]:
        """Do as `gather` does, in an event loop."""
        from raftflow.sdk import children  # noqa: PLC0415 - as above

        family = _family_of(self)
        if family is None:
            return children.gather_here(handles, return_exceptions=return_exceptions)
        return await family.run_async(children.gather(handles, return_exceptions=return_exceptions))

    def race(self, *handles: ChildHandle[R]) -> R:
        """Return the result of the child that ends first, and cancel the others. The task parks until one has ended.

        Raises `ChildFailed` if the first one did not succeed.
        """
        from raftflow.sdk import children  # noqa: PLC0415 - as above

        family = _family_of(self)
        if family is None:
            return handles[0].result()
        result: R = family.run(children.race(handles))
        return result

    async def race_async(self, *handles: ChildHandle[R]) -> R:
        """Do as `race` does, in an event loop."""
        from raftflow.sdk import children  # noqa: PLC0415 - as above

        family = _family_of(self)
        if family is None:
            return handles[0].result()
        result: R = await family.run_async(children.race(handles))
        return result

    def now(self) -> float:
        """Return the time in seconds since 1970 that the first attempt of the task saw here."""
        return self._number("now", time.time)

    def random(self) -> float:
        """Return a random number from 0 to 1, in every attempt of the task the same."""
        import random  # noqa: PLC0415 - as above

        return self._number("random", random.random)

    def _number(self, call: str, make: Callable[[], float]) -> float:
        socket = _socket_of(self)
        if socket is None:
            return make()
        import msgspec  # noqa: PLC0415 - as above

        socket.begin_alone()
        return msgspec.json.decode(socket.call(call, {}), type=dict[str, float])["result"]


_current: Context | None = None
prepare: Prepare | None = None
"""Prepares a function to be called as a task. Set by the agent's worker: what does so is above this module."""
_family: ChildFamily | None = None
"""Of the attempt that runs, once it has asked about children."""
_socket: AttemptSocket | None = None
"""Of the attempt that runs, once it has asked something."""


def _socket_of(context: Context) -> AttemptSocket | None:
    """Return the socket of a running attempt, None outside of a cluster. Raises `RuntimeError` if it is over."""
    global _socket  # noqa: PLW0603 - one attempt runs in a worker process at a time
    path = os.environ.get("RAFTFLOW_SOCKET")
    if context is not _current:
        if path is None:
            return None
        raise RuntimeError("this context belongs to another attempt: use that of the attempt that runs")
    if _socket is None and path is not None:
        from raftflow.sdk.attempt_socket import AttemptSocket  # noqa: PLC0415 - most tasks ask nothing

        _socket = AttemptSocket(path)
    return _socket


def _family_of(context: Context) -> ChildFamily | None:
    """Return the children of a running attempt, None outside of a cluster. Raises `RuntimeError` if it is over."""
    global _family  # noqa: PLW0603 - as above
    socket = _socket_of(context)
    if _family is None and socket is not None:
        from raftflow.sdk.children import ChildFamily  # noqa: PLC0415 - most tasks have no children

        if prepare is None:
            raise RuntimeError("children are spawned in a task that an agent runs as a python callable")
        _family = ChildFamily(socket, prepare)
    return _family if socket is not None else None


def has_parked(error: BaseException) -> bool:
    """Tell whether an error says that the running attempt has parked. Called by the agent's worker."""
    if _family is None or not _family.parked:
        return False
    from raftflow.sdk.children import TaskParked  # noqa: PLC0415 - as above

    found = error.subgroup(TaskParked) if isinstance(error, BaseExceptionGroup) else error
    return isinstance(found, TaskParked | BaseExceptionGroup)


def current() -> Context:
    """Return the running attempt. Raises `RuntimeError` outside of a task.

    >>> raftflow.current()
    Traceback (most recent call last):
    RuntimeError: raftflow.current() works inside a task that an agent runs as a python callable
    """
    if _current is None:
        raise RuntimeError("raftflow.current() works inside a task that an agent runs as a python callable")
    return _current


def set_current(context: Context | None) -> None:
    """Enter (or leave, with None) an attempt. Called by the agent's worker."""
    global _current, _family, _socket  # noqa: PLW0603 - one attempt runs in a worker process at a time
    _current = context
    _family = None
    if _socket is not None:
        _socket.close()
        _socket = None


_PROGRESS_EVERY_S = 0.2
"""The shortest time between two writes. The agent reads the file once a second."""

_progress_at_s: float | None = None
"""When this attempt last wrote its progress."""


def progress(done: float) -> None:
    """Report how much of this task is done, from 0 to 1. Cheap in a loop; does nothing outside of a task.

    Raises `ValueError` if `done` is not in that range.

    >>> raftflow.progress(0.5)
    >>> raftflow.progress(2)
    Traceback (most recent call last):
    ValueError: progress is a number from 0 to 1, not 2
    """
    global _progress_at_s  # noqa: PLW0603 - one attempt runs in a process at a time
    if not 0.0 <= done <= 1.0:
        raise ValueError(f"progress is a number from 0 to 1, not {done}")
    now_s = time.monotonic()
    if _progress_at_s is not None and done < 1.0 and now_s - _progress_at_s < _PROGRESS_EVERY_S:
        return
    path = os.environ.get("RAFTFLOW_PROGRESS")
    if not path:
        return
    _progress_at_s = now_s
    # A reader between truncation and write finds an empty file, and reads again a second later. A full disk must not
    # fail the task.
    with contextlib.suppress(OSError):
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            os.write(fd, b"%.4f\n" % done)
        finally:
            os.close(fd)


def forget_progress() -> None:
    """Remove the progress of this attempt. Called by the agent's worker. Raises `OSError` if that fails."""
    global _progress_at_s  # noqa: PLW0603 - see above
    _progress_at_s = None
    path = os.environ.get("RAFTFLOW_PROGRESS")
    if path and os.path.lexists(path):  # this runs after every call, and the file seldom exists
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)  # noqa: PTH108 - as above
