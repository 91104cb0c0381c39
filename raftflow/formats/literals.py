"""Values of YAML and TOML whose text differs from how they are printed: `0x10`, `1_000`, `+5`, `010`, dates.

In most places the value is meant. An environment variable is a string and must get exactly the text of the document.
So such a value is refused in `env`: the author quotes it to say what is meant.
"""

from __future__ import annotations

import datetime as dt
from typing import Any, Self

from raftflow.domain.contract.views import FieldProblem
from raftflow.domain.values.exact import as_path
from raftflow.formats.faults import DocumentError


class IntegerLiteral(int):
    """A whole number with the text that the document has for it, which differs from its decimal digits."""

    text: str

    def __new__(cls, number: int, text: str) -> Self:
        """Keep the text of a number."""
        made = super().__new__(cls, number)
        made.text = text
        return made


def plain_values(document: Any) -> Any:
    """Return a document with plain whole numbers, and with ISO 8601 strings instead of dates and times.

    Raises `DocumentError` with the path of each environment variable that would get another text than the document's.
    The parser bounds the depth.
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
        if isinstance(value, IntegerLiteral):
            faults.append(FieldProblem(path, f"{value.text[:40]} is a number, and its text would change: quote it"))
        elif isinstance(value, dt.date | dt.time):
            faults.append(FieldProblem(path, "is a date or a time, but must be a string: quote it"))
    return faults


def _settled(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _settled(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_settled(each) for each in value]
    if isinstance(value, dt.date | dt.time):
        return value.isoformat()
    return int(value) if isinstance(value, IntegerLiteral) else value
