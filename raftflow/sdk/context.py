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

import os
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

if TYPE_CHECKING:
    from raftflow.sdk.attempt_socket import AttemptSocket
    from raftflow.sdk.children import ChildFamily, ChildHandle, Prepare
    from raftflow.sdk.waits import Approval

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
        socket = _socket if self is _current and _socket is not None else _socket_of(self)
        if socket is None:
            return function(*args, **kwargs)
        result: R = _run_step(socket, name, function, args, kwargs)
        return result

    def effect(
        self,
        key: str,
        function: Callable[..., R],
        /,
        *args: Any,
        verify: Callable[..., Any] | None = None,
        idempotent: bool = False,
        **kwargs: Any,
    ) -> R:
        """Call `function` for what must not happen twice: send a mail, pay. Await it if the function is `async`.

        The intent is in the cluster's log before the call, the outcome after it. A later attempt gets the result from
        there. If it finds an intent without an outcome, the call may have happened. Then it asks `verify`, with the
        same arguments, which returns `raftflow.done(result)`, `raftflow.NOT_DONE` or `raftflow.UNKNOWN`; True, False
        and None will do too. Without an answer it calls again if `idempotent` says that the called service
        recognises the key. Else the effect is *uncertain*: the task parks until a person has resolved it
        (`raftflow effect resolve`). If that person decides that it failed, this raises `EffectFailed`.

        The function gets `idempotency_key` and `fence` if its signature names them; `raftflow.current_effect()` has
        both too. If it raises, its outcome is unknown, unless it raises `raftflow.NotDone`. `key` and occurrence name
        the effect, as they name a step; a call after an error means the same effect. Outside of a cluster it calls
        the function.

        >>> ctx.effect("pay", lambda cents: f"paid {cents}", 500, verify=lambda cents: raftflow.NOT_DONE)
        'paid 500'
        """
        from raftflow.sdk import effects  # noqa: PLC0415 - most tasks have no effects

        told = effects.EffectFunction(key, function, args, kwargs, verify, idempotent)
        socket = _socket_of(self)
        if socket is None:
            found: R = effects.run_here(self.workflow, self.task, self.fence, told)
            return found
        drive: Callable[..., Any] = effects.run_async if effects.is_async(function) else effects.run
        value: R = drive(socket, told)
        return value

    async def effect_async(
        self,
        key: str,
        function: Callable[..., Coroutine[Any, Any, R]] | Callable[..., R],
        /,
        *args: Any,
        verify: Callable[..., Any] | None = None,
        idempotent: bool = False,
        **kwargs: Any,
    ) -> R:
        """Do as `effect` does, in an event loop. `function` and `verify` may be `async`; others run in a thread."""
        from raftflow.sdk import effects  # noqa: PLC0415 - as above

        told = effects.EffectFunction(key, function, args, kwargs, verify, idempotent)
        socket = _socket_of(self)
        if socket is not None:
            found: R = await effects.run_async(socket, told)
            return found
        here = effects.run_here(self.workflow, self.task, self.fence, told)
        value: R = await here if effects.is_async(function) else here
        return value

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

    def spend(self, amounts: Mapping[str, float | str] | None = None, /, **more: float | str) -> None:
        """Count what was spent against the budgets of the workflow: `ctx.spend(tokens=1200, usd=0.03)`.

        Inside the function of a step it is counted together with the record of the step, and also if the step fails.
        Outside it is a step of its own: a later attempt that comes here counts nothing again. Amounts are numbers or
        text, with at most six decimals; others raise `UsageError`. What has no budget is counted too.

        When a budget is used up, the workflow pauses: what runs goes on, and the next step of each task parks it
        until the budget is raised. Outside of a step the next `spend` parks it too, after it is counted. Outside of
        a cluster nothing is counted.

        >>> ctx.step("ask", lambda: ctx.spend(tokens=1200, usd=0.03) or "answer")
        'answer'
        """
        from raftflow.sdk import spending  # noqa: PLC0415 - most tasks spend nothing

        spending.spend(_socket_of(self), {**(amounts or {}), **more})

    async def spend_async(self, amounts: Mapping[str, float | str] | None = None, /, **more: float | str) -> None:
        """Do as `spend` does, in an event loop."""
        from raftflow.sdk import spending  # noqa: PLC0415 - as above

        await spending.spend_async(_socket_of(self), {**(amounts or {}), **more})

    def rate(self, limit: str, count: int = 1, *, name: str = "") -> None:
        """Take `count` units of a rate limit (`raftflow limit set`), and wait in place until it has them.

        Attempts that wait are served in the order in which they came, before tasks that take when they are placed. It
        is a step: a later attempt that comes here takes nothing again. `name` is that of the step, by default one for
        each limit. A limit that is not set, and more than its burst, raise `CallRefused`. Outside of a cluster it
        returns at once.

        >>> ctx.rate("llm", 2)
        """
        socket = _socket_of(self)
        if socket is not None:
            socket.begin_alone()
            socket.call("rate", {"limit": limit, "count": count, "name": name})

    async def rate_async(self, limit: str, count: int = 1, *, name: str = "") -> None:
        """Do as `rate` does, while other tasks of the event loop go on."""
        socket = _socket_of(self)
        if socket is not None:
            socket.begin_alone()
            await socket.call_async("rate", {"limit": limit, "count": count, "name": name})

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

    def wait(self, name: str, *, timeout: float | str | None = None, default: Any = ..., schema: Any = None) -> Any:
        """Wait for a signal to the workflow, and return its payload. The task is parked meanwhile: it holds nothing.

        The signal comes by `Client.send_signal`, `raftflow signal send` or HTTP. One that came before is taken at
        once. What came is a record of the task, as a step: later attempts get it again. The second wait of a name is
        another one. After `timeout` (seconds, or a duration such as `"3d"`, from the first attempt that came here)
        this returns `default`, any JSON, or raises `WaitTimeout`.

        With a JSON Schema as `schema` a payload that does not fit is refused when it is sent. One that was sent
        before the wait began is taken, and raises `SignalInvalid`.

        Outside of a cluster there are no signals: it returns `default`, or raises `WaitTimeout`.

        >>> ctx.wait("review", timeout="2h", default={"stars": 0})
        {'stars': 0}
        """
        from raftflow.sdk import waits  # noqa: PLC0415 - most tasks wait for nothing

        family = _family_of(self)
        if family is None:
            return waits.wait_here(name, default)
        return family.run(waits.wait(name, timeout, default, schema))

    async def wait_async(
        self,
        name: str,
        *,
        timeout: float | str | None = None,  # noqa: ASYNC109 - the cluster's time, recorded
        default: Any = ...,
        schema: Any = None,
    ) -> Any:
        """Do as `wait` does, in an event loop. Of several that wait at the same time the first to come is enough."""
        from raftflow.sdk import waits  # noqa: PLC0415 - as above

        family = _family_of(self)
        if family is None:
            return waits.wait_here(name, default)
        return await family.run_async(waits.wait(name, timeout, default, schema))

    def approval(
        self,
        title: str,
        details: Any = None,
        *,
        choices: Sequence[str] = ("approve", "deny"),
        timeout: float | str | None = None,
        on_timeout: str | None = None,
        name: str | None = None,
    ) -> Approval:
        """Ask people to decide, and return what they decided: a string, equal to the choice. The task is parked.

        `raftflow approval list` shows `title` and `details` (any JSON). The answer has a `comment`, a `payload` (what
        the person gave or edited), `by` and `at`. After `timeout` it is `on_timeout`, one of the choices, or
        `WaitTimeout` is raised. The first decision counts. Title and occurrence are the key of the record; `name`
        takes the place of a title that changes.

        Outside of a cluster nobody can be asked: it returns `on_timeout`, or raises `WaitTimeout`.

        >>> ctx.approval("publish", details={"text": "hello"}, timeout="3d", on_timeout="deny") == "deny"
        True
        """
        from raftflow.sdk import waits  # noqa: PLC0415 - as above

        family = _family_of(self)
        if family is None:
            return waits.ask_here(title, on_timeout)
        return family.run(waits.ask(title, details, choices, timeout, on_timeout, name))

    async def approval_async(
        self,
        title: str,
        details: Any = None,
        *,
        choices: Sequence[str] = ("approve", "deny"),
        timeout: float | str | None = None,  # noqa: ASYNC109 - as above
        on_timeout: str | None = None,
        name: str | None = None,
    ) -> Approval:
        """Do as `approval` does, in an event loop."""
        from raftflow.sdk import waits  # noqa: PLC0415 - as above

        family = _family_of(self)
        if family is None:
            return waits.ask_here(title, on_timeout)
        return await family.run_async(waits.ask(title, details, choices, timeout, on_timeout, name))

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
_run_step: Callable[..., Any]
"""`raftflow.sdk.steps.run`, imported with the first socket: most tasks ask nothing."""


def _socket_of(context: Context) -> AttemptSocket | None:
    """Return the socket of a running attempt, None outside of a cluster. Raises `RuntimeError` if it is over."""
    global _socket, _run_step  # noqa: PLW0603 - one attempt runs in a worker process at a time
    path = os.environ.get("RAFTFLOW_SOCKET")
    if context is not _current:
        if path is None:
            return None
        raise RuntimeError("this context belongs to another attempt: use that of the attempt that runs")
    if _socket is None and path is not None:
        from raftflow.sdk import attempt_socket, steps  # noqa: PLC0415 - most tasks ask nothing

        _run_step = steps.run
        _socket = attempt_socket.AttemptSocket(path)
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
    if not ((_family is not None and _family.parked) or (_socket is not None and _socket.parked)):
        return False
    from raftflow.sdk.errors import TaskParked  # noqa: PLC0415 - as above

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
