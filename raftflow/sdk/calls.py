"""Calls of functions as tasks of a document: one call, or one for each item of a list.

What can only fail later is refused here: functions that agents cannot import, arguments that do not fit the function,
values that are not JSON, tasks that are too large.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final

from raftflow.domain.limits import NAME_CHARS_MAX, SPEC_BYTES_MAX
from raftflow.domain.values.code_bundle import SCRIPT_FILE, BundleFile
from raftflow.domain.values.exact import ValueFault, write_json
from raftflow.formats.documents import normalize
from raftflow.formats.faults import DocumentError
from raftflow.sdk.errors import UsageError
from raftflow.sdk.functions import TaskFunction, import_name
from raftflow.sdk.main_code import MAIN, main_code

MAP_TASKS_MAX: Final = 50_000
"""Tasks of one workflow of a map. More items become several workflows."""
MAP_BYTES_MAX: Final = 8 * 1024 * 1024
"""Bytes of the arguments of one workflow of a map."""

_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9_.:@+-]+")


class CodedDocument:
    """A document, and the files of the program that its functions need: what `Client.submit` takes."""

    def __init__(self, document: dict[str, Any], main_files: Callable[[], tuple[BundleFile, ...]]) -> None:
        self._document = document
        self.main_files = main_files

    def document(self) -> dict[str, Any]:
        """Return the document."""
        return self._document


class TaskCalls:
    """A function that is about to be called as a task: its name, its options, and a check of arguments."""

    def __init__(self, function: Callable[..., Any]) -> None:
        """Raises `UsageError` if agents cannot import the function, or for a wrong option of its decorator."""
        self.python = import_name(function)
        self.name = task_name(self.python)
        self.main_function = function if getattr(function, "__module__", None) == MAIN else None
        """The function, if it is one of the program itself."""
        plain = function.function if isinstance(function, TaskFunction) else function
        self.fields: dict[str, Any] = {"python": self.python}
        if isinstance(function, TaskFunction):
            self.fields |= function.fields
        self.budgets: Mapping[str, Any] | None = self.fields.pop("budgets", None)
        """What a workflow of its calls may spend."""
        self._context = (None,) if isinstance(function, TaskFunction) and function.takes_context else ()
        self._is_for_workflow = isinstance(function, TaskFunction) and bool(function.task_id or function.after)
        try:
            self._signature: inspect.Signature | None = inspect.signature(plain)
        except (ValueError, TypeError):  # of some built-in functions
            self._signature = None
        try:
            normalize({"name": self.name, **self._budgets(), "tasks": [{"id": self.name, **self.fields}]})
        except DocumentError as error:
            told = "; ".join(f"{fault.path.removeprefix('tasks[0].')}: {fault.message}" for fault in error.problems)
            raise UsageError(f"the options of {self.name} are wrong: {told}") from None

    def arguments(self, args: tuple[Any, ...], kwargs: Mapping[str, Any], where: str = "") -> dict[str, Any]:
        """Return `args` and `kwargs` of a task. Raises `UsageError` if the function cannot take them."""
        return self._checked(args, kwargs, where)[0]

    def _checked(self, args: tuple[Any, ...], kwargs: Mapping[str, Any], where: str) -> tuple[dict[str, Any], int]:
        """Return `args` and `kwargs` of a task, and how many bytes they have."""
        told = f"{where}{self.name}"
        if self._signature is not None:
            try:
                self._signature.bind(*self._context, *args, **kwargs)
            except TypeError as error:
                raise UsageError(f"{told}: {error}") from None
        try:
            size = len(write_json(args)) + (len(write_json(kwargs)) if kwargs else 0)
        except ValueFault as fault:
            raise UsageError(f"{told}: its arguments are not JSON: {fault}") from None
        if size > SPEC_BYTES_MAX:
            raise UsageError(
                f"{told}: its arguments have {size} bytes, and one task takes {SPEC_BYTES_MAX}: write the data to a "
                "place that agents read, and pass its name"
            )
        return ({"args": list(args)} if args else {}) | ({"kwargs": dict(kwargs)} if kwargs else {}), size

    def main_files(self) -> tuple[BundleFile, ...]:
        """Return the files of the program that the function needs; none if it is of a module. Raises `UsageError`."""
        return () if self.main_function is None else files_of((self.main_function,))

    def document(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Return a workflow of one call. Raises `UsageError`."""
        self._check_alone()
        task = {"id": self.name, **self.fields, **self.arguments(args, kwargs)}
        return {"name": self.name, **self._budgets(), "tasks": [task]}

    def _budgets(self) -> dict[str, Any]:
        return {} if self.budgets is None else {"budgets": dict(self.budgets)}

    def map_documents(self, items: Iterable[Any], *, on_failure: str) -> Iterator[dict[str, Any]]:
        """Yield workflows with one call for each item, in order; the id of a task is the index of its item.

        Raises `UsageError`, with the index of the item.
        """
        self._check_alone()
        tasks: list[dict[str, Any]] = []
        size = 0
        for index, item in enumerate(items):
            arguments, item_size = self._checked((item,), {}, f"item {index}: ")
            tasks.append({"id": str(index), **arguments})
            size += item_size
            if len(tasks) == MAP_TASKS_MAX or size > MAP_BYTES_MAX:
                yield self._bag(tasks, on_failure)
                tasks, size = [], 0
        if tasks:
            yield self._bag(tasks, on_failure)

    def _check_alone(self) -> None:
        if self._is_for_workflow:
            raise UsageError(f"{self.name}: `id` and `after` are for calls inside `with raftflow.Workflow(...)`")

    def _bag(self, tasks: list[dict[str, Any]], on_failure: str) -> dict[str, Any]:
        head = {"name": self.name, **self._budgets(), "on_failure": on_failure}
        return {**head, "defaults": self.fields, "tasks": tasks}


def files_of(functions: Iterable[Callable[..., Any]]) -> tuple[BundleFile, ...]:
    """Return the files of the program that functions of it need, each once. Raises `UsageError`."""
    files: dict[str, BundleFile] = {}
    for function in functions:
        code = main_code(function)
        marked = (BundleFile(SCRIPT_FILE, code.script.encode()),) if code.script else ()
        files |= {file.path: file for file in (*code.files, *marked)}
    return tuple(files.values())


def task_name(python: str) -> str:
    """Return a name for a task that calls `module:function`: that of the function, as far as names allow."""
    return _NOT_IN_NAMES.sub("_", python.rpartition(":")[2])[:NAME_CHARS_MAX] or "call"
