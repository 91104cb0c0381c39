"""Durable steps of a task: `Context.step` and those made of it."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final

import msgspec

from raftflow.domain.limits import FUNCTION_CHARS_MAX, STEP_RESULT_BYTES_MAX
from raftflow.domain.values.exact import ValueFault, decode_json, write_json
from raftflow.sdk.errors import UsageError

if TYPE_CHECKING:
    from raftflow.sdk.attempt_socket import AttemptSocket

_PLAIN: Final = (str, int, float, bool, type(None))
"""Types of values that are the same when they come back from the log."""


class _Begun(msgspec.Struct):
    known: bool
    occurrence: int
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
    key = {"name": name, "function": function_name(function)}
    begun = _decode_begun(socket.call("step", key))
    if begun.known:
        return decode_json(bytes(begun.result))
    place = {"name": name, "occurrence": begun.occurrence}
    try:
        value = function(*args, **kwargs)
        encoded = _encode_result(name, value)
    except Exception:
        socket.call("fail", place)
        raise
    recorded = socket.call("record", {**key, **place, "result": msgspec.Raw(encoded)})
    return _result(value, encoded, recorded)


async def _run_async(
    socket: AttemptSocket,
    name: str,
    function: Callable[..., Awaitable[Any]],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> Any:
    key = {"name": name, "function": function_name(function)}
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
