"""Durable steps of a task: `Context.step` and those made of it."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import inspect
from collections.abc import Awaitable, Callable
from types import FunctionType
from typing import TYPE_CHECKING, Any, Final

import msgspec

from raftflow.domain.limits import FUNCTION_CHARS_MAX, STEP_RESULT_BYTES_MAX
from raftflow.domain.values.exact import ValueFault, decode_json, write_json
from raftflow.sdk.attempt_socket import CallRefused, RunningStep
from raftflow.sdk.errors import TaskParked, UsageError
from raftflow.sdk.spending import fields_of, spent_by_step, step_spending

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
    used_up: bool = False


_decode_begun = msgspec.json.Decoder(_Begun).decode
_decode_recorded = msgspec.json.Decoder(_Recorded).decode


def function_name(function: Callable[..., Any]) -> str:
    """Return the name under which a step records its function."""
    if type(function) is FunctionType:
        return f"{function.__module__ or ''}:{function.__qualname__}"[:FUNCTION_CHARS_MAX]
    while isinstance(function, functools.partial):
        function = function.func
    named = function if hasattr(function, "__qualname__") else type(function)
    module = getattr(named, "__module__", None)
    return f"{module or ''}:{named.__qualname__}"[:FUNCTION_CHARS_MAX]


def run(
    socket: AttemptSocket, name: str, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """Run a step, or return what an earlier attempt has recorded. A coroutine for a coroutine function."""
    if _is_async(function):
        return _run_async(socket, name, function, args, kwargs)
    order = socket.order
    step = RunningStep(name, function_name(function))
    known = _begin(socket, step)
    if known is not None:
        return decode_json(known)
    spent: dict[str, int] = {}
    try:
        outer = spent_by_step.set(spent)
        try:
            value = function(*args, **kwargs)
            encoded = _encode_result(name, value)
        except (Exception, TaskParked) as error:
            _fail(socket, step, error, spent)
            raise
        finally:
            spent_by_step.reset(outer)
        recorded = _record(socket, step, encoded, spent)
    finally:
        order.end(step)
    if recorded == b"{}":
        return value if type(value) in _PLAIN else decode_json(encoded)
    _look_at_budget(socket, recorded)
    return _result(value, encoded, recorded)


def _is_async(function: Callable[..., Any]) -> bool:
    """Tell whether a call of the function, or of what it wraps, makes a coroutine."""
    if type(function) is FunctionType and not function.__dict__:
        return bool(function.__code__.co_flags & inspect.CO_COROUTINE)
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(getattr(function, "function", None))


def _fail(socket: AttemptSocket, step: RunningStep, error: BaseException, spent: dict[str, int]) -> None:
    """Tell that a step has failed, if it has spent something or an occurrence is free again."""
    order = socket.order
    with order.lock:
        if order.alone is step:
            order.alone = None  # it has no occurrence to give back
    if spent or (step.occurrence is not None and isinstance(error, Exception)):
        place = {} if step.occurrence is None else {"occurrence": step.occurrence}
        socket.call("fail", {"name": step.name, **place, **fields_of(spent)})


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


def _record(socket: AttemptSocket, step: RunningStep, encoded: bytes, spent: dict[str, int]) -> bytes:
    order = socket.order
    with order.lock:  # no step begins before this one has its occurrence
        if order.alone is step:
            try:
                if not spent:
                    return socket.record(step, encoded)
                return _record_alone(socket, step, encoded, spent)
            finally:
                order.alone = None
    return _record_begun(socket, step, _fields(step, encoded, spent))


def _fields(step: RunningStep, encoded: bytes, spent: dict[str, int]) -> dict[str, Any]:
    return {"name": step.name, "function": step.function, "result": msgspec.Raw(encoded), **fields_of(spent)}


def _record_alone(socket: AttemptSocket, step: RunningStep, encoded: bytes, spent: dict[str, int]) -> bytes:
    """Record a step that has no occurrence yet and has spent something."""
    try:
        return socket.call("record", _fields(step, encoded, spent))
    except CallRefused:
        with contextlib.suppress(CallRefused, OSError):  # as in `_record_begun`
            socket.call("fail", {"name": step.name, **fields_of(spent)})
        raise


def _record_begun(socket: AttemptSocket, step: RunningStep, fields: dict[str, Any]) -> bytes:
    """Record a step under its occurrence. The next step of the name gets that if the record is refused."""
    try:
        return socket.call("record", {**fields, "occurrence": step.occurrence})
    except CallRefused:
        with contextlib.suppress(CallRefused, OSError):  # the attempt may be over: nothing more is recorded then
            spent = {"spent": fields["spent"]} if "spent" in fields else {}
            socket.call("fail", {"name": step.name, "occurrence": step.occurrence, **spent})
        raise


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
    with step_spending() as spent:
        try:
            value = await function(*args, **kwargs)
            encoded = _encode_result(name, value)
        except (Exception, TaskParked) as error:
            if spent or isinstance(error, Exception):
                await socket.call_async("fail", {**place, **fields_of(spent)})
            raise
        except asyncio.CancelledError:
            # What it has spent counts, and its occurrence is free again: its caller may try once more. If the loop
            # ends, its connection ends as well, so spending goes over one that needs no loop.
            with contextlib.suppress(CallRefused, OSError, TaskParked):
                if spent:
                    socket.call("fail", {**place, **fields_of(spent)})
                else:
                    await socket.call_async("fail", place)
            raise
    fields = {**key, **place, "result": msgspec.Raw(encoded), **fields_of(spent)}
    try:
        recorded = await socket.call_async("record", fields)
    except CallRefused:
        with contextlib.suppress(CallRefused, OSError):  # as in `_record_begun`
            await socket.call_async("fail", {**place, **fields_of(spent)})
        raise
    _look_at_budget(socket, recorded)
    return _result(value, encoded, recorded)


def _look_at_budget(socket: AttemptSocket, recorded: bytes) -> None:
    """Ask before the next step, if a budget is used up."""
    if recorded != b"{}" and _decode_recorded(recorded).used_up:
        socket.ask_again()


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
