"""Workflows written in Python, task by task or by calling the functions that are tasks.

    flow = Workflow("nightly", priority=50)
    fetch = flow.task("fetch", ["python3", "fetch.py"])
    flow.task("train", python=jobs.train, args=[fetch.result], resources={"cpu": 2})   # needs "fetch" automatically
    client.submit(flow)

    with Workflow("nightly") as flow:
        rows = fetch("2026-11-30")               # functions with `@raftflow.task`: nothing runs here
        train.options(retries=5)(rows)           # needs `fetch`, because it takes its result

Frequent mistakes are refused here, where they are written: a string instead of a list, a task instead of its result.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import Token
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal, Protocol, Self, SupportsIndex, TypeVar
from weakref import WeakKeyDictionary

from raftflow.domain.values.code_bundle import BundleFile
from raftflow.formats.readers.values import RESULT_KEY
from raftflow.sdk.calls import TaskCalls, files_of
from raftflow.sdk.errors import UsageError
from raftflow.sdk.functions import CallRecorder, Duration, TaskFunction, import_name, recorder
from raftflow.sdk.main_code import MAIN


@dataclass(frozen=True, slots=True)
class TaskRef:
    """A task of a `Workflow`: name it in `needs`, or pass its `result` to a `python` task.

    >>> flow = raftflow.Workflow("roots")
    >>> first = flow.task("first", python="math:sqrt", args=[81])
    >>> second = flow.task("second", python="math:sqrt", args=[first.result])
    >>> client.submit(flow).results()["second"]
    3.0
    """

    id: str

    @property
    def result(self) -> dict[str, str]:
        """A reference to the task's result, for the arguments of a `python` task. That task then needs this one."""
        return {RESULT_KEY: self.id}

    def __bool__(self) -> bool:
        """Raise `UsageError`: a workflow is built before anything of it has run."""
        raise UsageError(f"the result of {self.id!r} is not known while the workflow is built")


ItemT_co = TypeVar("ItemT_co", covariant=True)


class ItemList(Protocol[ItemT_co]):
    """A sequence such as a list or a tuple. A string is not one: it can only contain strings."""

    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[ItemT_co]: ...
    def __getitem__(self, index: SupportsIndex, /) -> ItemT_co: ...
    def __contains__(self, item: object, /) -> bool: ...


class HasDocument(Protocol):
    """An object with a workflow document, such as `raftflow.client.Workflow`."""

    def document(self) -> dict[str, Any]:
        """Return the document."""


class Workflow:
    """Builds a workflow document, task by task. Other faults show when it is submitted (or validated).

    >>> root = raftflow.task(math.sqrt)
    >>> with raftflow.Workflow("roots") as flow:
    ...     fourth_root = root(root(81))
    >>> client.submit(flow).results()
    {'sqrt': 9.0, 'sqrt-2': 3.0}
    """

    def __init__(
        self,
        name: str,
        *,
        priority: int = 50,
        on_failure: Literal["stop", "continue"] = "stop",
        max_parallel: int | None = None,
        code: str | None = None,
        budgets: Mapping[str, Any] | None = None,
        defaults: Mapping[str, Any] | None = None,
    ) -> None:
        """Begin without tasks; `defaults` are fields for every task that does not have them.

        `budgets` is what its tasks may spend, such as `{"tokens": 1_000_000, "usd": 20.0}`.
        `code` is the digest of a code bundle that the cluster has; without it the code of the client goes along.
        """
        self._document: dict[str, Any] = {"name": name, "priority": priority, "on_failure": on_failure, "tasks": []}
        if max_parallel is not None:
            self._document["max_parallel"] = max_parallel
        if code is not None:
            self._document["code"] = code
        if budgets:
            self._document["budgets"] = dict(budgets)
        if defaults:
            self._document["defaults"] = dict(defaults)
        self._ids: set[str] = set()
        self._main: dict[Callable[..., Any], None] = {}
        """Functions of the program itself."""
        self._numbers: dict[str, int] = {}
        self._calls: WeakKeyDictionary[TaskFunction[..., Any], TaskCalls] = WeakKeyDictionary()
        self._token: Token[CallRecorder | None] | None = None

    def __enter__(self) -> Self:
        """From here on, calls of functions with `@raftflow.task` become tasks of this workflow."""
        if self._token is not None:
            raise UsageError("this workflow is being built already")
        self._token = recorder.set(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End that."""
        token, self._token = self._token, None
        if token is not None:
            recorder.reset(token)

    def task(
        self,
        task_id: str,
        command: ItemList[str] | None = None,
        *,
        python: str | Callable[..., Any] | None = None,
        args: list[Any] | tuple[Any, ...] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        container: Mapping[str, Any] | None = None,
        wait: Mapping[str, Any] | None = None,
        needs: ItemList[str | TaskRef] = (),
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        resources: Mapping[str, float | str] | None = None,
        retries: int | None = None,
        retry_delay: Duration | None = None,
        retry_delay_max: Duration | None = None,
        timeout: Duration | None = None,
        grace: Duration | None = None,
        expected: Duration | None = None,
        constraints: Mapping[str, Any] | None = None,
        kind: str | None = None,
        cache: bool | Mapping[str, str] | None = None,
        memory_max: float | str | None = None,
        backup: bool | None = None,
        rates: Mapping[str, int] | None = None,
    ) -> TaskRef:
        """Add a task: a `command` list, `python` (a function or its name `package.module:function`), or `container`.

        With `wait` nothing runs: the task waits for a signal or for a decision, such as `{"signal": "go"}`.
        The other parameters are the keys of a task in a document; None leaves a key out. Tasks whose results are
        among `args` and `kwargs` are needed without being named in `needs`. Raises `UsageError`.
        """
        where = f"task {task_id!r}"
        wanted = [_need(where, need) for need in _items(where, "needs", needs)]
        if command is not None:
            command = _command(where, command)
        fields: dict[str, Any] = {
            "command": command,
            "python": python if python is None or isinstance(python, str) else import_name(_function(where, python)),
            "args": None if args is None else _items(where, "args", args),
            "kwargs": _table(where, "kwargs", kwargs),
            "container": _table(where, "container", container),
            "wait": _table(where, "wait", wait),
            "env": _table(where, "env", env),
            "cwd": cwd,
            "resources": _table(where, "resources", resources),
            "retries": retries,
            "retry_delay": retry_delay,
            "retry_delay_max": retry_delay_max,
            "timeout": timeout,
            "grace": grace,
            "expected": expected,
            "constraints": _table(where, "constraints", constraints),
            "kind": kind,
            "cache": cache if isinstance(cache, bool) else _table(where, "cache", cache),
            "memory_max": memory_max,
            "backup": backup,
            "rates": _table(where, "rates", rates),
        }
        if callable(python) and getattr(python, "__module__", None) == MAIN:
            self._main[python] = None
        try:
            wanted += _results(where, fields)
        except RecursionError as error:
            raise UsageError(f"{where}: its arguments hold themselves, or are nested too deeply") from error
        needed = {"needs": list(dict.fromkeys(wanted))} if wanted else {}
        options = python.fields if isinstance(python, TaskFunction) else {}
        if "budgets" in options:
            raise UsageError(f"{where}: budgets are those of a workflow: Workflow(..., budgets=...)")
        given = options | {key: value for key, value in fields.items() if value is not None}
        self._document["tasks"].append({"id": task_id, **needed, **given})
        self._ids.add(task_id)
        return TaskRef(task_id)

    def record(self, function: TaskFunction[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> TaskRef:
        """Make a task of a call; see `__enter__`. Raises `UsageError` if the call cannot be a task."""
        calls = self._calls.get(function)
        if calls is None:
            calls = self._calls[function] = TaskCalls(function)
        task_id = self._free_id(calls.name) if function.task_id is None else function.task_id
        try:
            given, named = _with_results(list(args)), _with_results(dict(kwargs))
        except RecursionError as error:
            raise UsageError(f"task {task_id!r}: its arguments hold themselves, or are nested too deeply") from error
        fields = calls.arguments(tuple(given), named)
        return self.task(task_id, python=function, needs=function.after, **fields)

    def _free_id(self, name: str) -> str:
        """Return the name, or with the first number that makes it a new one."""
        if name not in self._ids:
            return name
        number = self._numbers.get(name, 2)
        while f"{name}-{number}" in self._ids:
            number += 1
        self._numbers[name] = number + 1
        return f"{name}-{number}"

    def main_files(self) -> tuple[BundleFile, ...]:
        """Return the files of the program that its functions need. `Client.submit` sends them along."""
        return files_of(self._main)

    def document(self) -> dict[str, Any]:
        """Return the document as a file would contain it."""
        return {**self._document, "tasks": list(self._document["tasks"])}


def _with_results(value: Any) -> Any:
    """Return arguments with a reference to the result in place of each task."""
    if isinstance(value, TaskRef):
        return value.result
    if isinstance(value, Mapping):
        return {key: _with_results(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_with_results(item) for item in value]
    return value


def _items(where: str, field: str, value: Any) -> list[Any]:
    """Return a list that a caller gave. Raises `UsageError` for a single value instead of a list."""
    if isinstance(value, Sequence) and not isinstance(value, str | bytes | bytearray):
        return list(value)
    if isinstance(value, str | TaskRef) or (isinstance(value, Mapping) and value.keys() == {RESULT_KEY}):
        raise UsageError(f"{where}: {field} is a list: write {field}=[{_shown(value)}]")
    raise UsageError(f"{where}: {field} is a list, not {value!r:.80}")


def _table(where: str, field: str, value: Any) -> dict[str, Any] | None:
    if value is None or isinstance(value, Mapping):
        return None if value is None else dict(value)
    raise UsageError(f"{where}: {field} is a dict, not {_shown(value):.80}")


def _command(where: str, command: Any) -> list[str]:
    if isinstance(command, str):
        try:
            words = shlex.split(command)
        except ValueError:
            words = []
        cure = f"write {words}, or " if words else ""
        shell = f'["sh", "-c", {command!r}] for a shell'
        raise UsageError(f"{where}: command is a list of arguments, and no shell splits it: {cure}{shell}")
    given: list[Any] = _items(where, "command", command)
    for number, word in enumerate(given):
        place = f"{where}: command[{number}]"
        if isinstance(word, TaskRef) or _is_result(word):
            raise UsageError(f"{place} is a task; a command reads results from the file that RAFTFLOW_INPUTS names")
        if not isinstance(word, str):
            raise UsageError(f"{place} is a string, not {word!r:.80}: write {str(word)!r:.80}")
    return given


def _need(where: str, need: Any) -> str:
    if isinstance(need, TaskRef):
        return need.id
    if isinstance(need, str):
        return need
    if _is_result(need):
        raise UsageError(f"{where}: needs lists tasks, not results; a task with a result among args needs no entry")
    raise UsageError(f"{where}: needs lists ids of tasks, not {need!r:.80}")


def _results(where: str, fields: Mapping[str, Any]) -> list[str]:
    """Return whose results are among the arguments. Raises `UsageError` for a task, or a result elsewhere."""
    found: list[str] = []
    for field, value in fields.items():
        for path, item in _walk(field, value):
            if isinstance(item, TaskRef):
                cure = "pass its `result`" if field in ("args", "kwargs") else "name it in needs"
                raise UsageError(f"{where}: {path} is the task {item.id!r}, not its result: {cure}")
            if _is_result(item):
                if field not in ("args", "kwargs"):
                    raise UsageError(f"{where}: {path} is a result, and results belong in args and kwargs only")
                found.append(item[RESULT_KEY])
    return found


def _walk(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Yield a value and everything inside it, with paths such as `args[0].x`."""
    yield path, value
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _walk(f"{path}.{key}", item)
    elif isinstance(value, list | tuple):
        for number, item in enumerate(value):
            yield from _walk(f"{path}[{number}]", item)


def _is_result(value: Any) -> bool:
    return isinstance(value, Mapping) and value.keys() == {RESULT_KEY} and isinstance(value[RESULT_KEY], str)


def _shown(value: Any) -> str:
    """Return how a value is written in Python, a task by its name."""
    if isinstance(value, TaskRef):
        return value.id
    return f"{value[RESULT_KEY]}.result" if _is_result(value) else f"{value!r:.80}"


def _function(where: str, python: Any) -> Any:
    """Return what `python` names. Raises `UsageError` for what is neither a function nor its name."""
    if isinstance(python, TaskRef) or not callable(python):
        raise UsageError(f"{where}: python is a function, or its name module:function, not {python!r:.80}")
    return python
