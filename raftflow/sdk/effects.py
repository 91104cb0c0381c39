"""Effects of a task: `Context.effect`, and what functions that are called as effects use.

What an effect does is written once, as a generator that yields what is to be done: requests to the agent, and
functions to run. `run` and `run_async` drive it.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import inspect
from collections.abc import Callable, Generator
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Generic, NamedTuple, TypeVar

import msgspec

from raftflow.domain.limits import EFFECT_DETAIL_CHARS_MAX, EFFECT_RESULT_BYTES_MAX
from raftflow.domain.tasks.effects import idempotency_key
from raftflow.domain.values.exact import ValueFault, decode_json, write_json
from raftflow.sdk.errors import ClientError, TaskParked, UsageError
from raftflow.sdk.steps import function_name

if TYPE_CHECKING:
    from raftflow.sdk.attempt_socket import AttemptSocket

R_co = TypeVar("R_co", covariant=True)
T = TypeVar("T")

Verify = Callable[..., Any]
"""Finds out whether a call has happened. It gets the arguments of the call."""


class EffectFailed(ClientError):  # noqa: N818 - as `TaskFailed`
    """An effect has failed: a person has resolved it so, or its result cannot be recorded.

    Every attempt of the task that comes to the effect gets this.

    >>> raftflow.EffectFailed("refund", "the customer has moved").key
    'refund'
    """

    def __init__(self, key: str, why: str) -> None:
        super().__init__(f"effect {key!r} failed: {why}")
        self.key = key
        self.why = why


class NotDone(ClientError):  # noqa: N818 - as `EffectFailed`
    """Raised by a function that is called as an effect: certainly nothing has happened. So it may be called again.

    >>> def charge(cents: int) -> str:
    ...     raise raftflow.NotDone("the card was refused")
    >>> raftflow.Context("wf-1", "demo", attempt=1, fence=7).effect("charge", charge, 100)
    Traceback (most recent call last):
    raftflow.sdk.effects.NotDone: the card was refused
    """


class EffectAnswer(enum.Enum):
    """What a `verify` function may return, beside `raftflow.done(result)`.

    >>> [answer.name for answer in raftflow.EffectAnswer]
    ['NOT_DONE', 'UNKNOWN']
    """

    NOT_DONE = "not done"
    """The call has certainly not happened, and nothing of it is under way any more."""
    UNKNOWN = "unknown"


NOT_DONE: Final = EffectAnswer.NOT_DONE
UNKNOWN: Final = EffectAnswer.UNKNOWN


@dataclass(frozen=True, slots=True)
class EffectDone(Generic[R_co]):
    """The call has happened, with this result. Made by `raftflow.done`.

    >>> raftflow.EffectDone("id-7").result
    'id-7'
    """

    result: R_co


def done(result: T) -> EffectDone[T]:
    """Return what a `verify` function says of a call that has happened, with the result that it had.

    >>> raftflow.done("id-7")
    EffectDone(result='id-7')
    """
    return EffectDone(result)


@dataclass(frozen=True, slots=True)
class RunningEffect:
    """The effect that is being called: what to send along with the call.

    >>> raftflow.RunningEffect("charge", "wf-1/pay/charge/1", fence=7).idempotency_key
    'wf-1/pay/charge/1'
    """

    key: str
    idempotency_key: str
    """The same in every attempt: a service that recognises it does nothing twice. At most 64 characters."""
    fence: int
    """Of the attempt that calls. A store that keeps it can refuse calls with a smaller one."""


_running: ContextVar[RunningEffect] = ContextVar("raftflow_effect")


def current_effect() -> RunningEffect:
    """Return the effect that is being called. Raises `RuntimeError` outside of a call.

    >>> def charge() -> str:
    ...     return raftflow.current_effect().idempotency_key
    >>> raftflow.Context("wf-1", "pay", attempt=1, fence=7).effect("charge", charge)
    'wf-1/pay/charge/1'
    """
    found = _running.get(None)
    if found is None:
        raise RuntimeError("raftflow.current_effect() works in a function that is called as an effect")
    return found


class EffectFunction(NamedTuple):
    """What an effect calls, and how to find out about an earlier call."""

    key: str
    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    verify: Verify | None = None
    idempotent: bool = False


class _Ask(NamedTuple):
    """A request to the agent."""

    name: str
    fields: dict[str, Any]


class _Call(NamedTuple):
    """A function to run, as part of an effect."""

    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    effect: RunningEffect


class _BegunCall(msgspec.Struct):
    state: str
    occurrence: int = 0
    effect: int = 0
    idempotency_key: str = ""
    fence: int = 0
    wait: int = 0
    result: msgspec.Raw = msgspec.field(default_factory=lambda: msgspec.Raw(b"null"))
    error: str = ""


class _Ended(msgspec.Struct):
    wait: int = 0


_decode_begun = msgspec.json.Decoder(_BegunCall).decode
_decode_ended = msgspec.json.Decoder(_Ended).decode

_Exchange = Generator[_Ask | _Call, Any, T]


def is_async(function: Callable[..., Any] | None) -> bool:
    """Tell whether a function returns a coroutine."""
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(getattr(function, "function", None))


# --- what an effect does


def _effect(told: EffectFunction) -> _Exchange[Any]:
    """Begin an effect, find out about an earlier call, call, and tell the outcome."""
    key = told.key
    answer = yield _Ask("effect_begin", {"name": key, "function": function_name(told.function)})
    begun = _decode_begun(answer)
    if begun.state == "done":
        return decode_json(bytes(begun.result))
    if begun.state == "failed":
        raise EffectFailed(key, begun.error)
    if begun.state == "uncertain":
        yield from _park(begun.wait)
    if begun.state == "open":
        found, why = yield from _verify(told, begun)
        if isinstance(found, EffectDone):
            return (yield from _is_done(told, begun, found.result))
        if found is UNKNOWN and not told.idempotent:
            ended = yield _end(told, begun, "uncertain", detail=why[:EFFECT_DETAIL_CHARS_MAX])
            yield from _park(_decode_ended(ended).wait)
    return (yield from _call(told, begun))


def _call(told: EffectFunction, begun: _BegunCall) -> _Exchange[Any]:
    """Call the function, and tell what came of it."""
    try:
        value = yield _function(told.function, told, begun)
    except NotDone:
        yield _end(told, begun, "not_done")
        raise
    except Exception as error:
        found, why = yield from _verify(told, begun)
        if isinstance(found, EffectDone):
            return (yield from _is_done(told, begun, found.result))
        yield _end(told, begun, "not_done" if found is NOT_DONE else "unknown")
        if found is UNKNOWN:
            error.add_note(f"It is not known whether effect {told.key!r} was done: {why}.")
        raise
    except GeneratorExit:
        raise
    except BaseException:
        with contextlib.suppress(Exception, TaskParked):  # the attempt is ending, and may be over
            yield _end(told, begun, "unknown")
        raise
    return (yield from _is_done(told, begun, value))


def _is_done(told: EffectFunction, begun: _BegunCall, value: Any) -> _Exchange[Any]:
    """Record the result of a call that has happened."""
    problem, encoded = "", b"null"
    try:
        encoded = write_json(value)
    except ValueFault as fault:
        problem = f"it was done, but its result is not JSON: {fault}"
    if len(encoded) > EFFECT_RESULT_BYTES_MAX:
        problem = f"it was done, but its result has {len(encoded)} bytes; the limit is {EFFECT_RESULT_BYTES_MAX}"
    if problem:
        yield _end(told, begun, "done", detail=problem)
        raise EffectFailed(told.key, problem)
    yield _end(told, begun, "done", result=msgspec.Raw(encoded))
    return decode_json(encoded)


def _verify(told: EffectFunction, begun: _BegunCall) -> _Exchange[tuple[EffectDone[Any] | EffectAnswer, str]]:
    """Find out whether a call has happened. Returns the answer, and why it is unknown."""
    if told.verify is None:
        return UNKNOWN, "there is no `verify`"
    try:
        found = yield _function(told.verify, told, begun)
    except Exception as error:  # noqa: BLE001 - whatever it raises, it does not know
        return UNKNOWN, f"`verify` raised {type(error).__name__}: {error}"
    if isinstance(found, EffectDone | EffectAnswer):
        return found, "`verify` does not know"
    if found is None or isinstance(found, bool):
        return (UNKNOWN if found is None else EffectDone(None) if found else NOT_DONE), "`verify` does not know"
    return UNKNOWN, f"`verify` returned {type(found).__name__}: return raftflow.done(result), NOT_DONE or UNKNOWN"


def _park(wait: int) -> _Exchange[None]:
    """Park until a person has resolved the effect. Never returns."""
    yield _Ask("park", {"waits": [wait]})
    raise AssertionError("a task that has parked does not come here")


def _function(function: Callable[..., Any], told: EffectFunction, begun: _BegunCall) -> _Call:
    effect = RunningEffect(told.key, begun.idempotency_key, begun.fence)
    return _Call(function, told.args, told.kwargs | _wanted(function, told, effect), effect)


def _wanted(function: Callable[..., Any], told: EffectFunction, effect: RunningEffect) -> dict[str, Any]:
    """Return the key and the fence, as far as the signature of a function names them and the caller does not."""
    try:
        signature = inspect.signature(function)
        given = signature.bind_partial(*told.args, **told.kwargs).arguments
    except (TypeError, ValueError):
        return {}  # the call itself says what is wrong
    offered = {"idempotency_key": effect.idempotency_key, "fence": effect.fence}
    return {name: value for name, value in offered.items() if name in signature.parameters and name not in given}


def _end(told: EffectFunction, begun: _BegunCall, outcome: str, **fields: Any) -> _Ask:
    return _Ask("effect_end", {"name": told.key, "occurrence": begun.occurrence, "outcome": outcome, **fields})


# --- how it is driven


def run(socket: AttemptSocket, told: EffectFunction) -> Any:
    """Do an effect in this thread. Raises `TaskParked`."""
    if is_async(told.verify):
        raise UsageError(f"effect {told.key!r}: `verify` is async, so await `effect_async`")
    socket.begin_alone()
    exchange = _effect(told)
    wanted = next(exchange)
    while True:
        answer, raised = None, None
        try:
            answer = _call_here(wanted) if isinstance(wanted, _Call) else socket.call(*wanted)
            _note_parking(socket, wanted)
        except BaseException as error:  # noqa: BLE001 - the exchange says what becomes of it
            raised = error
        try:
            wanted = exchange.send(answer) if raised is None else exchange.throw(raised)
        except StopIteration as over:
            return over.value


async def run_async(socket: AttemptSocket, told: EffectFunction) -> Any:
    """Do an effect in an event loop. Plain functions run in a thread. Raises `TaskParked`."""
    if socket.order.unasked or socket.order.alone is not None:
        await asyncio.to_thread(socket.begin_alone, last=True)
    cancelled: list[asyncio.CancelledError] = []
    exchange = _effect(told)
    wanted = next(exchange)
    while True:
        answer, raised = None, None
        try:
            if not isinstance(wanted, _Call):
                answer = await socket.call_async(*wanted)
                _note_parking(socket, wanted)
            elif is_async(wanted.function):
                answer = await _await_here(wanted)
            else:
                answer = await _in_thread(wanted, cancelled)
        except BaseException as error:  # noqa: BLE001 - as above
            raised = error
        try:
            wanted = exchange.send(answer) if raised is None else exchange.throw(raised)
        except StopIteration as over:
            if cancelled:
                raise cancelled[0] from None
            return over.value


def run_here(workflow: str, task: str, fence: int, told: EffectFunction) -> Any:
    """Call a function outside of a cluster. A coroutine for a coroutine function."""
    effect = RunningEffect(told.key, idempotency_key(workflow, task, told.key, 1), fence)
    call = _Call(told.function, told.args, told.kwargs | _wanted(told.function, told, effect), effect)
    return _await_here(call) if is_async(told.function) else _call_here(call)


def _call_here(call: _Call) -> Any:
    token = _running.set(call.effect)
    try:
        return call.function(*call.args, **call.kwargs)
    finally:
        _running.reset(token)


async def _await_here(call: _Call) -> Any:
    token = _running.set(call.effect)
    try:
        return await call.function(*call.args, **call.kwargs)
    finally:
        _running.reset(token)


async def _in_thread(call: _Call, cancelled: list[asyncio.CancelledError]) -> Any:
    """Run a plain function in a thread. A thread cannot be cancelled, so a cancelled effect ends with its call."""
    running = asyncio.ensure_future(asyncio.to_thread(_call_here, call))
    while True:
        try:
            return await asyncio.shield(running)
        except asyncio.CancelledError as error:
            if running.done():
                raise
            cancelled.append(error)


def _note_parking(socket: AttemptSocket, wanted: _Ask | _Call) -> None:
    if isinstance(wanted, _Ask) and wanted.name == "park":
        socket.parked = True
        raise TaskParked("a person has to resolve an effect; the function of the task runs again after that")
