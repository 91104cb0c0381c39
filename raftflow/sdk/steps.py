"""Durable steps of a task: `Context.step` and those made of it."""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final

import msgspec

from raftflow.domain.limits import FUNCTION_CHARS_MAX, STEP_RESULT_BYTES_MAX
from raftflow.domain.values.exact import ValueFault, decode_json, write_json
from raftflow.sdk.attempt_socket import RunningStep
from raftflow.sdk.errors import UsageError

if TYPE_CHECKING:
    from raftflow.sdk.attempt_socket import AttemptSocket

_PLAIN: Final = (str, int, float, bool, type(None))
"""Types of values that are the same when they come back from the log."""


class _Begun(msgspec.Struct):
    known: bool
    occurrence: int
    unasked: int = 0
    result: msgspec.Raw = msgspec.field(default_factory=lambda: msgspec.Raw(b"null"))


class _Recorded(msgspec.Struct):
    result: msgspec.Raw = msgspec.field(default_factory=msgspec.Raw)


_decode_begun = msgspec.json.Decoder(_Begun).decode
_decode_recorded = msgspec.json.Decoder(_Recorded).decode


def function_name(function: Callable[..., Any]) -> str:
    """Return the name under which a step records its function."""
    while isinstance(function, functools.partial):
        function = function.func
    named = function if hasattr(function, "__qualname__") else type(function)
    module = getattr(named, "__module__", None)
    return f"{module or ''}:{named.__qualname__}"[:FUNCTION_CHARS_MAX]


def run(
    socket: AttemptSocket, name: str, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """Run a step, or return what an earlier attempt has recorded. A coroutine for a coroutine function."""
    if inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(getattr(function, "function", None)):
        return _run_async(socket, name, function, args, kwargs)
    step = RunningStep(name, function_name(function))
    known = _begin(socket, step)
    if known is not None:
        return decode_json(known)
    order = socket.order
    try:
        try:
            value = function(*args, **kwargs)
            encoded = _encode_result(name, value)
        except Exception:
            with order.lock:
                if order.alone is step:
                    order.alone = None  # it has no occurrence to give back
            if step.occurrence is not None:
                socket.call("fail", {"name": name, "occurrence": step.occurrence})
            raise
        recorded = _record(socket, step, encoded)
    finally:
        with order.lock:
            order.running -= 1
            if order.alone is step:
                order.alone = None
    return _result(value, encoded, recorded)


def _begin(socket: AttemptSocket, step: RunningStep) -> bytes | None:
    """Begin a step: return its record, or None if it has to run. Then it counts as running."""
    order = socket.order
    with order.lock:
        if order.unasked and not order.running:
            order.unasked -= 1
            order.running += 1
            order.alone = step
            return None
        socket.begin_alone_locked()
        begun = _decode_begun(socket.call("step", {"name": step.name, "function": step.function, "unasked": True}))
        order.unasked = begun.unasked
        if begun.known:
            return bytes(begun.result)
        step.occurrence = begun.occurrence
        order.running += 1
        return None


def _record(socket: AttemptSocket, step: RunningStep, encoded: bytes) -> bytes:
    fields = {"name": step.name, "function": step.function, "result": msgspec.Raw(encoded)}
    order = socket.order
    order.lock.acquire()
    if order.alone is not step:
        order.lock.release()
        return socket.call("record", {**fields, "occurrence": step.occurrence})
    try:  # no step begins before this one has its occurrence
        return socket.call("record", fields)
    finally:
        order.alone = None
        order.lock.release()


async def _run_async(
    socket: AttemptSocket,
    name: str,
    function: Callable[..., Awaitable[Any]],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> Any:
    key = {"name": name, "function": function_name(function)}
    if socket.order.unasked or socket.order.alone is not None:
        await asyncio.to_thread(socket.begin_alone, last=True)
    begun = _decode_begun(await socket.call_async("step", key))
    if begun.known:
        return decode_json(bytes(begun.result))
    place = {"name": name, "occurrence": begun.occurrence}
    try:
        value = await function(*args, **kwargs)
        encoded = _encode_result(name, value)
    except Exception:
        await socket.call_async("fail", place)
        raise
    recorded = await socket.call_async("record", {**key, **place, "result": msgspec.Raw(encoded)})
    return _result(value, encoded, recorded)


def _encode_result(name: str, value: Any) -> bytes:
    """Return the result of a step as JSON. Raises `UsageError` if it cannot be recorded."""
    try:
        encoded = write_json(value)
    except ValueFault as fault:
        raise UsageError(
            f"step {name!r}: its result is not JSON: {fault}. Return numbers, text, lists and dicts"
        ) from None
    if len(encoded) > STEP_RESULT_BYTES_MAX:
        raise UsageError(
            f"step {name!r}: its result has {len(encoded)} bytes, and a step records {STEP_RESULT_BYTES_MAX}: write "
            "the data to a place that later attempts read, and return its name"
        )
    return encoded


def _result(value: Any, encoded: bytes, recorded: bytes) -> Any:
    """Return the value of a step that was just recorded: as a later attempt will get it."""
    if recorded != b"{}":
        told = bytes(_decode_recorded(recorded).result)
        if told:  # another attempt of the task was first
            return decode_json(told)
    return value if type(value) in _PLAIN else decode_json(encoded)
