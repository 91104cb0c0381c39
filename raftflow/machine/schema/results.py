"""Cached results, and claims: which of equal tasks runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from raftflow.domain import limits
from raftflow.domain.tasks.states import FINAL, TaskState
from raftflow.machine.schema.declaration import Limit, Reason, Restoring, SnapshotError, Table, saved_rows
from raftflow.machine.tables.results import CachedResult, Claim

if TYPE_CHECKING:
    from collections.abc import Iterator

    from raftflow.machine.tables.state import State
    from raftflow.machine.tables.tasks import Task
    from raftflow.machine.tables.workflows import Workflow


def _result_problems(state: State, _: int) -> Iterator[str]:
    size = sum(entry.size_bytes for entry in state.results)
    if state.results.size_bytes != size:
        yield f"{state.results.size_bytes} bytes of cached results counted, there are {size}"
    if size > limits.CACHE_BYTES_MAX:
        yield f"{len(state.results)} results of {size} bytes are cached, which is too much"


RESULTS = Table(
    name="results",
    about="results that may stand for those of equal tasks, least recently used first",
    saved=saved_rows(
        field=15,
        kind=b"C",
        row=CachedResult,
        rows=lambda state: state.results,
        add=lambda state, entry: state.results.put(entry),
        bytes_of=lambda entry: entry.size_bytes,
    ),
    derive=Reason("nothing of it follows from other tables"),
    problems=_result_problems,
    limit=Limit(name="CACHE_ENTRIES_MAX", rows=lambda state: len(state.results)),
    retire=Reason("a result outlives the workflow that made it"),
    parts=Reason("10,000 entries at most, which cost a few milliseconds"),
)


def _derive_claims(restoring: Restoring) -> None:
    """Enter each task with a claim as its owner, or in line."""
    state = restoring.state
    for workflow in state.workflows.values():
        for task in workflow.tasks if workflow.caches else ():
            if task.claim:
                _claim(state, workflow, task)
    if any(claim.owner is None and not _is_being_stopped(state, claim) for claim in state.claims.values()):
        raise SnapshotError("tasks wait for an equal one that is not there")


def _is_being_stopped(state: State, claim: Claim) -> bool:
    """Tell whether the workflows of all tasks in a line are being stopped."""
    return all(state.by_number[number].stop_pending for number, _ in claim.line)


def _claim(state: State, workflow: Workflow, task: Task) -> None:
    member = (workflow.number, task.position)
    claim = state.claims.setdefault(task.claim, Claim(None))
    if task.state is TaskState.WAITING:
        claim.line[member] = None
    elif task.state in FINAL or claim.owner is not None:
        raise SnapshotError(f"{workflow.id}/{task.id}: holds a claim that is not its own")
    else:
        claim.owner = member


def _claim_problems(state: State, _: int) -> Iterator[str]:
    owners: dict[str, tuple[int, int]] = {}
    lines: dict[str, list[tuple[int, int]]] = {}
    for workflow in state.workflows.values():
        for task in workflow.tasks:
            member = (workflow.number, task.position)
            if task.claim and task.state is TaskState.WAITING:
                lines.setdefault(task.claim, []).append(member)
            elif task.claim and owners.setdefault(task.claim, member) != member:
                yield f"task {workflow.id}/{task.id}: runs beside an equal one"
    for name in {**state.claims, **owners, **lines}:
        claim = state.claims.get(name)
        if claim is None or claim.owner != owners.get(name) or sorted(claim.line) != lines.get(name, []):
            yield f"the claim {name.split(chr(0))[0]!r} does not match the tasks that share it"


CLAIMS = Table(
    name="claims",
    about="for equal tasks the one that runs, and those that wait for it",
    saved=Reason("a task holds the name of its claim"),
    derive=_derive_claims,
    problems=_claim_problems,
    limit=Limit(name="LIVE_TASKS_MAX", rows=lambda state: len(state.claims)),
    retire=Reason("tasks that have ended hold no claim"),
    parts=lambda state: (state.claims,),
)
