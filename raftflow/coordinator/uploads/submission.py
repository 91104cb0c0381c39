"""A large submission, ready to be sent into the log piece by piece."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from raftflow.domain import limits
from raftflow.domain.commands import SubmitWorkflow
from raftflow.domain.pieces import Draft, TaskPiece
from raftflow.domain.tasks.budgets import Budget
from raftflow.domain.tasks.workflow import OnFailure, WorkflowSpec
from raftflow.machine.read.requests import fingerprint_of


class WorkflowSubmission(msgspec.Struct, frozen=True):
    """What the commands of an upload are made of."""

    name: str
    priority: int
    on_failure: OnFailure
    max_parallel: int | None
    tasks: int
    needs: int
    path: tuple[int, ...]
    fingerprint: bytes
    code: str = ""
    budgets: tuple[Budget, ...] = ()
    pieces: tuple[TaskPiece, ...] = ()


def submission_of(
    spec: WorkflowSpec,
    request_id: str,
    learnt_ms: Mapping[str, int],
    *,
    tasks_max: int = limits.PIECE_TASKS_MAX,
    bytes_max: int = limits.PIECE_BYTES_MAX,
) -> WorkflowSubmission:
    """Cut a workflow whose graph is in order.

    `learnt_ms` says for kinds of tasks how long they are taken to run (`learning.expected_times`). Takes time in
    proportion to the workflow. Raises `ValueError` or `OverflowError` for a value that cannot be encoded.
    """
    draft = Draft(spec)
    draft.rank([None if kind is None else learnt_ms.get(kind) for kind in draft.kinds()])
    whole = SubmitWorkflow(at_ms=0, actor="", request_id=request_id, workflow_id="", spec=spec)
    return WorkflowSubmission(
        name=spec.name,
        priority=spec.priority,
        on_failure=spec.on_failure,
        max_parallel=spec.max_parallel,
        tasks=len(spec.tasks),
        needs=draft.needs,
        path=draft.path(),
        fingerprint=fingerprint_of(whole),
        code=spec.code,
        budgets=spec.budgets,
        pieces=tuple(draft.cut(tasks_max, bytes_max)),
    )
