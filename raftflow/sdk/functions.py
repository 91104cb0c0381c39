"""Functions as tasks: the decorator, and the name by which an agent imports a function.

    @raftflow.task(resources={"cpu": 2}, retries=3)
    def double(x: int) -> int:
        return 2 * x

A decorated function is called as before. The options are keys of a task in a workflow document. A function whose
first parameter is annotated with `raftflow.Context` gets the context of its attempt there, and callers leave it out.

Inside `with raftflow.Workflow(...)` a call does not run: it becomes a task of the workflow (`builder.py`).
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from types import FunctionType
from typing import Any, Concatenate, Generic, ParamSpec, Protocol, TypedDict, TypeVar, Unpack, overload

from raftflow.sdk.context import Context, current
from raftflow.sdk.errors import UsageError
from raftflow.sdk.main_code import MAIN, module_of

P = ParamSpec("P")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)

Duration = str | float
"""Such as `"40s"` or `"1h30m"`; a number is in seconds."""


class TaskOptions(TypedDict, total=False):
    """Options of `task`: keys of a task in a workflow document. `labels` and `exclusive` are its constraints.

    `budgets` are those of the workflow that a call alone, or a map, makes.
    """

    resources: Mapping[str, float | str]
    retries: int
    retry_delay: Duration
    retry_delay_max: Duration
    timeout: Duration
    grace: Duration
    expected: Duration
    labels: Mapping[str, str]
    exclusive: bool
    kind: str
    cache: bool | Mapping[str, str]
    memory_max: float | str
    backup: bool
    rates: Mapping[str, int]
    budgets: Mapping[str, Any]
    env: Mapping[str, str]


class CallRecorder(Protocol):
    """A workflow that is being built: it takes the calls of task functions."""

    def record(self, function: TaskFunction[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """Make a task of a call and return what stands for its result."""


recorder: ContextVar[CallRecorder | None] = ContextVar("recorder", default=None)
"""The workflow that is being built in this context."""


class TaskFunction(Generic[P, R_co]):
    """A function with the options of its tasks. Calling it runs it here, as without the decorator.

    >>> root = raftflow.task(math.sqrt, retries=3)
    >>> root(16)
    4.0
    >>> client.run(root.options(resources={"cpu": 0.5}), 16)
    4.0
    """

    __qualname__: str

    def __init__(
        self,
        function: Callable[..., R_co],
        fields: Mapping[str, Any],
        *,
        task_id: str | None = None,
        after: Sequence[Any] = (),
    ) -> None:
        """Wrap a function; `fields` are keys of a task in a document, `task_id` and `after` those of one task."""
        self.function = function
        self.fields = dict(fields)
        self.task_id = task_id
        self.after = tuple(after)
        self.takes_context = _takes_context(function)
        functools.update_wrapper(self, function)
        if inspect.iscoroutinefunction(function) and hasattr(inspect, "markcoroutinefunction"):
            inspect.markcoroutinefunction(self)  # Python 3.12 and newer

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R_co:
        """Run the function here, or make a task of the call inside `with Workflow(...)`.

        A function with a context gets that of the running attempt.
        """
        building = recorder.get()
        if building is not None:
            result: R_co = building.record(self, args, kwargs)
            return result
        if self.takes_context:
            return self.function(current(), *args, **kwargs)
        return self.function(*args, **kwargs)

    def options(
        self,
        *,
        id: str | None = None,  # noqa: A002 - the key of a document
        after: Sequence[Any] = (),
        **options: Unpack[TaskOptions],
    ) -> TaskFunction[P, R_co]:
        """Return the same function with other options, for single calls: `train.options(retries=5)(rows)`.

        `id` and `after` are for a call inside `with Workflow(...)`: its id, and tasks that must succeed before it
        although it does not take their results. Raises `UsageError` for unknown options.
        """
        fields = {**self.fields, **_fields(options)}
        return TaskFunction(self.function, fields, task_id=id or self.task_id, after=after or self.after)

    def __get__(self, instance: object, owner: type | None = None) -> Any:
        return self if instance is None else functools.partial(self.function, instance)

    def __reduce__(self) -> str:
        return self.__qualname__  # pickled by its name, as a function is

    def __repr__(self) -> str:
        return f"<task {self.__module__}:{self.__qualname__}>"


class _Unannotated:
    """The type of a first parameter that is not annotated: nothing else accepts it."""


class TaskDecorator:
    """What `task` with options returns."""

    def __init__(self, fields: Mapping[str, Any]) -> None:
        """`fields` are keys of a task in a document."""
        self._fields = fields

    @overload
    def __call__(self, function: Callable[Concatenate[_Unannotated, ...], R], /) -> TaskFunction[..., R]: ...
    @overload
    def __call__(self, function: Callable[Concatenate[Context, P], R], /) -> TaskFunction[P, R]: ...
    @overload
    def __call__(self, function: Callable[P, R], /) -> TaskFunction[P, R]: ...
    def __call__(self, function: Callable[..., Any], /) -> TaskFunction[..., Any]:
        """Make a function a task. Raises `UsageError` for what is not a function."""
        if isinstance(function, TaskFunction):
            raise UsageError(f"{function!r} is a task already")
        if isinstance(function, staticmethod | classmethod) or not callable(function):
            raise UsageError(f"@raftflow.task decorates functions, not {function!r:.80}")
        return TaskFunction(function, self._fields)


@overload
def task(function: Callable[Concatenate[_Unannotated, ...], R], /) -> TaskFunction[..., R]: ...
@overload
def task(function: Callable[Concatenate[Context, P], R], /) -> TaskFunction[P, R]: ...
@overload
def task(function: Callable[P, R], /) -> TaskFunction[P, R]: ...
@overload
def task(**options: Unpack[TaskOptions]) -> TaskDecorator: ...
def task(function: Callable[..., Any] | None = None, /, **options: Any) -> Any:
    """Make a function a task: `@raftflow.task` or `@raftflow.task(retries=3)`. It can still be called as before.

    Options are those of `TaskOptions`: keys of a task in a workflow document, `labels` that the agent must carry, and
    `exclusive` for a task that runs alone on its agent. Wrong values are refused when a call of the function is
    submitted. Raises `UsageError` for unknown options.

    >>> @raftflow.task(retries=3, resources={"cpu": 2})
    ... def double(x: int) -> int:
    ...     return 2 * x
    >>> double(21)
    42
    """
    decorator = TaskDecorator(_fields(options))
    return decorator if function is None else decorator(function)


def _fields(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return options as keys of a task in a document; None leaves one out. Raises `UsageError` for unknown ones."""
    known = TaskOptions.__optional_keys__
    if unknown := sorted(options.keys() - known):
        raise UsageError(f"a task has no option {unknown[0]!r}; it has {', '.join(sorted(known))}")
    fields = {name: value for name, value in options.items() if value is not None}
    constraints = {name: fields.pop(name) for name in ("labels", "exclusive") if name in fields}
    return fields | ({"constraints": constraints} if constraints else {})


def import_name(function: Any) -> str:
    """Return the name by which an agent can import a function. Raises `UsageError` if it has none."""
    module, name = getattr(function, "__module__", None), getattr(function, "__qualname__", None)
    if not callable(function):
        raise UsageError(f"a task is a function, not {function!r:.80}")
    if inspect.ismethod(function) and not isinstance(function.__self__, type):
        raise UsageError(f"{name} is a method of an object, which stays here: make it a function of a module")
    if not module or not name:
        raise UsageError(f"{function!r:.80} has no name, so agents cannot import it: write a function around it")
    if "<lambda>" in name:
        raise UsageError("a lambda has no name, so agents cannot import it: write a function with `def`")
    if "<locals>" in name:
        inner, outer = name.rpartition(".")[2], name.partition(".")[0]
        raise UsageError(f"{inner} is defined inside {outer}, so agents cannot import it: move it out of there")
    if module == MAIN:
        return f"{module_of(function)}:{name}"
    found: Any = sys.modules.get(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    if found is None or not callable(found):
        raise UsageError(f"agents cannot import {name}: the module {module} has no function of that name")
    return f"{module}:{name}"


def _takes_context(function: Callable[..., Any]) -> bool:
    """Tell whether the first parameter is annotated with `Context`."""
    plain = inspect.unwrap(function)
    if not isinstance(plain, FunctionType) or not plain.__code__.co_argcount:
        return False
    annotation = plain.__annotations__.get(plain.__code__.co_varnames[0])
    if isinstance(annotation, str) and annotation.endswith("Context"):
        # A module with `from __future__ import annotations` has the text only.
        with contextlib.suppress(Exception):
            annotation = eval(annotation, plain.__globals__)  # noqa: S307 - the function's own annotation
    return annotation is Context
