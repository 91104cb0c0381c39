"""Children of a task: `Context.spawn`, `map`, `gather` and `race`.

What they do is written once, as generators that yield requests to the agent and get the answers. `run` and
`run_async` drive them.

A task that must wait parks: the agent notes for what, and `TaskParked` unwinds the function. Another attempt runs it
again from its beginning when the children have ended, and finds them by their keys.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, Generic, Literal, Protocol, TypeVar

import msgspec

from raftflow.domain.limits import PARK_RANGES_MAX, SPAWN_KEY_CHARS_MAX
from raftflow.domain.tasks.children import Positions, key_problem, merge_ranges
from raftflow.domain.values.exact import ValueFault, decode_json, write_json
from raftflow.sdk.errors import ClientError, TaskParked, UsageError

if TYPE_CHECKING:
    from raftflow.sdk.attempt_socket import AttemptSocket

R_co = TypeVar("R_co", covariant=True)
T = TypeVar("T")

SPAWN_TASKS: Final = 250
"""Children in one request. The coordinator reads and adds so many in a few milliseconds."""
SPAWN_BYTES: Final = 128 * 1024
"""Bytes of the tasks in one request, as far as it has more than one."""
_NUMBER_CHARS: Final = 8
"""Characters that the number of an item takes in a key."""

Exchange = Generator[tuple[str, dict[str, Any]], bytes, T]
"""Yields requests, a name and fields, and gets the answers."""


class PreparedFunction(Protocol):
    """A function that is about to be called as a task (`raftflow.sdk.calls.TaskCalls`)."""

    name: str
    fields: dict[str, Any]
    """Keys of its tasks in a document, without the arguments."""
    budgets: Mapping[str, Any] | None
    """What a workflow of its calls may spend. A child has none: it counts in the budgets of its workflow."""

    def arguments(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Return `args` and `kwargs` of a task. Raises `UsageError` if the function cannot take them."""


Prepare = Callable[[Callable[..., Any]], PreparedFunction]


class ChildFailed(ClientError):  # noqa: N818 - as `TaskFailed`
    """A child has ended without success.

    >>> raftflow.ChildFailed("page-7", "main:page-7", "failed", "exit code 3").key
    'page-7'
    """

    def __init__(self, key: str, task_id: str, state: Literal["failed", "cancelled"], error: str) -> None:
        super().__init__(f"child {key!r} ({task_id}) {'failed' if state == 'failed' else 'was cancelled'}: {error}")
        self.key = key
        self.task_id = task_id
        self.state = state
        self.error = error


class ChildHandle(Generic[R_co]):
    """A task that this task has spawned. `key` is its key, `number` its place in the workflow.

    Outside of a cluster the function of a child runs at once:

    >>> context = raftflow.Context("wf-1", "main", 1, 1, {})
    >>> context.spawn(abs, -2, key="two").result()
    2
    """

    def __init__(self, family: ChildFamily, key: str, number: int) -> None:
        """Made by `Context.spawn`."""
        self._family = family
        self.key = key
        self.number = number

    def result(self) -> R_co:
        """Return its result. The task parks until it has ended. Raises `ChildFailed`."""
        found: R_co = self._family.run(gather([self], return_exceptions=False))[0]
        return found

    async def result_async(self) -> R_co:
        """Do the same in an event loop."""
        found: R_co = (await self._family.run_async(gather([self], return_exceptions=False)))[0]
        return found

    def __repr__(self) -> str:
        return f"<child {self.key}>"


class _End(msgspec.Struct):
    number: int
    id: str
    state: Literal["succeeded", "failed", "cancelled"]
    result: msgspec.Raw = msgspec.field(default_factory=lambda: msgspec.Raw(b"null"))
    error: str = ""


class _Found(msgspec.Struct):
    total: int = 0
    open: int = 0
    first: _End | None = None
    failed: _End | None = None
    ends: list[_End] = []
    next: int | None = None


class _Numbers(msgspec.Struct):
    children: list[int]


_decode_found = msgspec.json.Decoder(_Found).decode
_decode_numbers = msgspec.json.Decoder(_Numbers).decode


class ChildFamily:
    """The children of one attempt's task: keys that were given out, and the way to the agent."""

    def __init__(self, socket: AttemptSocket, prepare: Prepare) -> None:
        self._socket = socket
        self.prepare = prepare
        self._used: dict[str, int] = {}
        self.parked = False

    def run(self, exchange: Exchange[T]) -> T:
        """Do an exchange in this thread. Raises `TaskParked`."""
        answer = None
        try:
            while True:
                name, fields = exchange.send(answer)  # type: ignore[arg-type]  # None begins it
                answer = self._socket.call(name, fields)
                self._note(name)
        except StopIteration as over:
            done: T = over.value
            return done

    async def run_async(self, exchange: Exchange[T]) -> T:
        """Do an exchange in an event loop. Raises `TaskParked`."""
        answer = None
        try:
            while True:
                name, fields = exchange.send(answer)  # type: ignore[arg-type]  # None begins it
                answer = await self._socket.call_async(name, fields)
                self._note(name)
        except StopIteration as over:
            done: T = over.value
            return done

    def _note(self, name: str) -> None:
        if name == "park":
            self.parked = True
            raise TaskParked(
                "the task waits; its function runs again from its beginning when what it waits for has happened"
            )

    def free_key(self, name: str) -> str:
        """Return a key that this attempt has not used: the name, with a number if needed."""
        name = name[: SPAWN_KEY_CHARS_MAX - 2 * _NUMBER_CHARS]
        count = self._used[name] = self._used.get(name, 0) + 1
        return name if count == 1 else f"{name}-{count}"


def _prepare(family: ChildFamily, function: Callable[..., Any]) -> PreparedFunction:
    calls = family.prepare(function)
    if calls.budgets is not None:
        raise UsageError(f"{calls.name}: a child has no budgets: what it spends counts in those of its workflow")
    return calls


def spawn_one(
    family: ChildFamily,
    function: Callable[..., Any] | Mapping[str, Any],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    key: str | None,
) -> Exchange[ChildHandle[Any]]:
    """Spawn a call of a function, or a task as it is written in a document."""
    if isinstance(function, Mapping):
        if args or kwargs:
            raise UsageError("a task that is written as in a document has its arguments in `args` and `kwargs`")
        task = {**function, "id": _checked(key or family.free_key(str(function.get("id", "task"))))}
    else:
        calls = _prepare(family, function)
        task = {"id": _checked(key or family.free_key(calls.name)), **calls.fields, **calls.arguments(args, kwargs)}
    children = yield from _spawn(family, [task], {})
    return children[0]


def spawn_many(
    family: ChildFamily, function: Callable[..., Any], items: Iterable[Any], key: str | None
) -> Exchange[list[ChildHandle[Any]]]:
    """Spawn a call for each item."""
    calls = _prepare(family, function)
    base = _checked(key or family.free_key(calls.name))
    tasks = ({"id": f"{base}.{number}", **calls.arguments((item,), {})} for number, item in enumerate(items))
    return (yield from _spawn(family, tasks, calls.fields))


def _checked(key: str) -> str:
    wrong = key_problem(key)
    if wrong is not None:
        raise UsageError(f"the key {key[:80]!r} {wrong}")
    return key


def _spawn(
    family: ChildFamily, tasks: Iterable[dict[str, Any]], defaults: Mapping[str, Any]
) -> Exchange[list[ChildHandle[Any]]]:
    """Spawn tasks, in requests of a good size."""
    children: list[ChildHandle[Any]] = []
    keys: list[str] = []
    encoded: list[msgspec.Raw] = []
    size = 0

    def send() -> Exchange[None]:
        nonlocal size
        answer = _decode_numbers((yield "spawn", {"tasks": encoded.copy(), "defaults": defaults})).children
        children.extend([ChildHandle(family, key, number) for key, number in zip(keys, answer, strict=True)])
        keys.clear()
        encoded.clear()
        size = 0

    for task in tasks:
        try:
            data = write_json(task)
        except ValueFault as fault:
            raise UsageError(f"child {task['id']!r} is not JSON: {fault}") from None
        if encoded and (len(encoded) == SPAWN_TASKS or size + len(data) > SPAWN_BYTES):
            yield from send()
        keys.append(task["id"])
        encoded.append(msgspec.Raw(data))
        size += len(data)
    if encoded:
        yield from send()
    return children


def gather(children: Sequence[ChildHandle[Any]], *, return_exceptions: bool) -> Exchange[list[Any]]:
    """Return the results of children, in their order. Parks until all have ended."""
    if not children:
        return []
    ranges = _ranges_of(children)
    found = _decode_found((yield "children", {"children": ranges}))
    by_number = {child.number: child for child in children}
    if found.failed is not None and not return_exceptions:
        raise _failure(by_number[found.failed.number], found.failed)
    if found.open:
        yield "park", {"children": ranges, "mode": "all" if return_exceptions else "succeeded"}
    results: dict[int, Any] = {}
    begin: int | None = 0
    while begin is not None:
        piece = _decode_found((yield "children", {"children": ranges, "ends": True, "begin": begin}))
        for end in piece.ends:
            if end.state == "succeeded":
                results[end.number] = decode_json(bytes(end.result))
            elif end.number in by_number:
                results[end.number] = _failure(by_number[end.number], end)
        begin = piece.next
    return [results[child.number] for child in children]


def race(children: Sequence[ChildHandle[Any]]) -> Exchange[Any]:
    """Return the result of the child that ends first, and cancel the others. Parks until one has ended."""
    if not children:
        raise UsageError("a race needs at least one child")
    ranges = _ranges_of(children)
    found = _decode_found((yield "children", {"children": ranges}))
    if found.first is None:
        yield "park", {"children": ranges, "mode": "any"}
    first = found.first
    assert first is not None  # noqa: S101 - a task that has parked does not come here
    if found.open:
        yield "cancel", {"children": ranges}
    if first.state != "succeeded":
        raise _failure(next(child for child in children if child.number == first.number), first)
    return decode_json(bytes(first.result))


def _ranges_of(children: Sequence[ChildHandle[Any]]) -> Positions:
    """Return the numbers of children as ranges. Raises `UsageError` if they are too many."""
    numbers = [child.number for child in children]
    ranges = merge_ranges(tuple([(number, number) for number in numbers]), max(numbers) + 1)
    if len(ranges) > PARK_RANGES_MAX:
        raise UsageError(
            f"a task waits for {len(ranges)} groups of children at once, the limit is {PARK_RANGES_MAX}: spawn "
            "children that belong together with one `map`"
        )
    return ranges


def _failure(child: ChildHandle[Any], end: _End) -> ChildFailed:
    assert end.state != "succeeded"  # noqa: S101 - the callers look
    return ChildFailed(child.key, end.id, end.state, end.error)


class LocalChild(ChildHandle[R_co]):
    """A child outside of a cluster: its function ran when it was spawned."""

    def __init__(self, key: str, value: Any, error: Exception | None) -> None:
        self.key = key
        self.number = 0
        self._value = value
        self._error = error

    def result(self) -> R_co:
        """Return its result."""
        if self._error is not None:
            raise self._error
        found: R_co = self._value
        return found

    async def result_async(self) -> R_co:
        """Return its result."""
        return self.result()


def run_here(function: Callable[..., Any] | Mapping[str, Any], args: Any, kwargs: Any, key: str) -> LocalChild[Any]:
    """Run a call here. Raises `UsageError` for a task that is not a function."""
    if isinstance(function, Mapping):
        raise UsageError("a task that is written as in a document runs on a cluster only")
    try:
        value = function(*args, **kwargs)
        if inspect.iscoroutine(value):
            value = asyncio.run(value)
    except Exception as error:  # noqa: BLE001 - it is the child's
        return LocalChild(key, None, error)
    return LocalChild(key, value, None)


async def run_here_async(
    function: Callable[..., Any] | Mapping[str, Any], args: Any, kwargs: Any, key: str
) -> LocalChild[Any]:
    """Run a call here, in an event loop. Raises `UsageError` for a task that is not a function."""
    if isinstance(function, Mapping) or not _is_async(function):
        return run_here(function, args, kwargs, key)
    try:
        return LocalChild(key, await function(*args, **kwargs), None)
    except Exception as error:  # noqa: BLE001 - it is the child's
        return LocalChild(key, None, error)


def _is_async(function: Callable[..., Any]) -> bool:
    return inspect.iscoroutinefunction(getattr(function, "function", function))


def gather_here(children: Sequence[ChildHandle[Any]], *, return_exceptions: bool) -> list[Any]:
    """Return the results of children that ran here."""
    results: list[Any] = []
    for child in children:
        try:
            results.append(child.result())
        except Exception as error:
            if not return_exceptions:
                raise
            results.append(error)
    return results
