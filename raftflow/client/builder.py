"""Workflows written in Python.

flow = Workflow("nightly", priority=50)
fetch = flow.task("fetch", ["python3", "fetch.py"])
flow.task("train", python=jobs.train, args=[fetch.result], needs=[fetch], resources={"cpu": 2})
client.submit(flow)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from raftflow.client.errors import UsageError


@dataclass(frozen=True, slots=True)
class TaskRef:
    """A task of a `Workflow`: name it in `needs`, or pass its `result` to a task that needs it."""

    id: str

    @property
    def result(self) -> dict[str, str]:
        """Stands for the task's result among the arguments of a `python` task."""
        return {"$result": self.id}


class Workflow:
    """Builds a workflow document, task by task. Faults show when it is submitted (or validated)."""

    def __init__(
        self, name: str, *, priority: int = 50, on_failure: str = "stop", defaults: Mapping[str, Any] | None = None
    ) -> None:
        """Begin without tasks; `defaults` are fields for every task that does not say otherwise."""
        self._document: dict[str, Any] = {"name": name, "priority": priority, "on_failure": on_failure, "tasks": []}
        if defaults:
            self._document["defaults"] = dict(defaults)

    def task(
        self,
        task_id: str,
        command: Sequence[str] | None = None,
        *,
        python: str | Callable[..., Any] | None = None,
        needs: Sequence[str | TaskRef] = (),
        **fields: Any,
    ) -> TaskRef:
        """Add a task: a `command` list, or `python`, a function or its name `package.module:function`.

        `fields` are the other keys of a task in a document (`args`, `kwargs`, `resources`, `retries`, `timeout` ...).
        """
        task: dict[str, Any] = {"id": task_id, **fields}
        if needs:
            task["needs"] = [need.id if isinstance(need, TaskRef) else need for need in needs]
        if command is not None:
            task["command"] = list(command)
        if python is not None:
            task["python"] = python if isinstance(python, str) else _name_of(python)
        self._document["tasks"].append(task)
        return TaskRef(task_id)

    def document(self) -> dict[str, Any]:
        """Return the document as it would stand in a file."""
        return {**self._document, "tasks": list(self._document["tasks"])}


def _name_of(function: Callable[..., Any]) -> str:
    """Return the name under which an agent can import a function. Raises `UsageError` for one it cannot."""
    module, name = getattr(function, "__module__", None), getattr(function, "__qualname__", None)
    if not module or not name or module == "__main__" or "<" in name:
        raise UsageError(f"{function!r} cannot be imported by an agent: put it at the top level of a module")
    return f"{module}:{name}"
