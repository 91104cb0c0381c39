"""Values that YAML and TOML read from texts that look otherwise: `0x10`, `1_000`, `+5`, `010`, dates.

In most places the value is meant. An environment variable is a text, and gets the value as it is written or none: so
such a value of one is refused, and the document's author says by quotes what is meant.
"""

from __future__ import annotations

import datetime as dt
from typing import Any, Self

from raftflow.domain.contract.views import FieldProblem
from raftflow.domain.values.exact import as_path
from raftflow.formats.faults import DocumentError


class Written(int):
    """A whole number that was written in another way than it is shown."""

    text: str

    def __new__(cls, number: int, text: str) -> Self:
        """Make one of a number and of how it was written."""
        made = super().__new__(cls, number)
        made.text = text
        return made


def settle(document: Any) -> Any:
    """Return a document with plain whole numbers, and texts in place of dates and times, as ISO 8601 has them.

    Raises `DocumentError` with the path of each environment variable that would get another text than was written.
    The depth is bounded by the parser.
    """
    if isinstance(document, dict):
        problems = [problem for steps, env in _environments(document) for problem in _faults(steps, env)]
        if problems:
            raise DocumentError(problems)
    return _settled(document)


def _environments(document: dict[str, Any]) -> list[tuple[tuple[int | str, ...], dict[str, Any]]]:
    tasks = document.get("tasks")
    holders: list[tuple[tuple[int | str, ...], Any]] = [(("defaults",), document.get("defaults"))]
    holders += [(("tasks", place), task) for place, task in enumerate(tasks if isinstance(tasks, list) else ())]
    return [
        ((*steps, "env"), holder["env"])
        for steps, holder in holders
        if isinstance(holder, dict) and isinstance(holder.get("env"), dict)
    ]


def _faults(steps: tuple[int | str, ...], env: dict[str, Any]) -> list[FieldProblem]:
    faults = []
    for key, value in env.items():
        path = as_path((*steps, key))
        if isinstance(value, Written):
            faults.append(
                FieldProblem(path, f"{value.text[:40]} is a number, and would be written otherwise: quote it")
            )
        elif isinstance(value, dt.date | dt.time):
            faults.append(FieldProblem(path, "is a date or a time, and must be a text: quote it"))
    return faults


def _settled(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _settled(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_settled(each) for each in value]
    if isinstance(value, dt.date | dt.time):
        return value.isoformat()
    return int(value) if isinstance(value, Written) else value
