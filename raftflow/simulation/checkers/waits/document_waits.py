"""Tasks of documents that wait, by the audit alone: what begins in a command, and what its answer makes of the task.

Such a task has no attempt. It parks at the end of the command that met its needs, and its answer is its result.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec

if TYPE_CHECKING:
    from raftflow.domain.contract.views import AuditRecord
    from raftflow.domain.tasks.program import TaskWait
    from raftflow.simulation.world.observer import TaskKey

_BEGUN: Final = re.compile(r"([^ ]+)/([^ /]+): waits for \w+ '\w+', wait (\d+)(?:;|$)")


class BegunWait(NamedTuple):
    """A task of a document that began to wait in a command."""

    task: TaskKey
    number: int
    """Of the open wait, 0 if its answer was there, or the audit does not say."""
    after: str
    """What became of the task in the same command."""


def begun_waits(record: AuditRecord) -> list[BegunWait]:
    """Return the tasks of documents that began to wait, in order."""
    tasks = [(step.workflow_id, step.task_id) for step in record.transitions if step.event == "wait_begun"]
    if not tasks:
        return []
    numbers = {(found[1], found[2]): int(found[3]) for found in _BEGUN.finditer(record.detail)}
    after = {(step.workflow_id, step.task_id): step.after for step in record.transitions}
    return [BegunWait(task, numbers.get(task, 0), after[task]) for task in tasks]


def result_of(wait: TaskWait, answer: dict[str, Any]) -> bytes:
    """Return the result that an answer gives to the task, as JSON; empty if the task fails."""
    if answer["outcome"] == "timeout" and "payload" not in answer:
        return b""
    if wait.event == "signal":
        return msgspec.json.encode(answer["payload"])
    if answer["outcome"] == "timeout":
        decision = {"choice": answer["payload"], "comment": "", "payload": None, "by": ""}
    else:
        decision = {name: answer[name] for name in ("choice", "comment", "payload", "by")}
    return msgspec.json.encode(decision)
