"""Workflows that come in pieces: begun, filled, finished or dropped. The pieces are in `tables/uploads.py`.

An upload counts towards the limits from its beginning with all the tasks that were announced, so it cannot fail for
them later, and is shown to nobody. Its end makes it a workflow, in one step that costs the same however large it is.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from raftflow.domain import limits
from raftflow.domain.events import WorkflowReady
from raftflow.domain.rejections import Rejection, RejectionCode
from raftflow.domain.replies import Done, WorkflowAccepted
from raftflow.domain.tasks.checks import check_workflow_values
from raftflow.domain.tasks.preparation import PATH_MAX, GraphFacts
from raftflow.domain.tasks.states import TaskState
from raftflow.domain.tasks.workflow import GraphProblem
from raftflow.domain.values.ids import name_problem
from raftflow.machine.commands.bundles import unknown_code
from raftflow.machine.commands.spending.rates import rate_warnings
from raftflow.machine.commands.workflows import admit, enter, invalid, limit_problem, warnings_of
from raftflow.machine.tables.requests import FINGERPRINT_BYTES
from raftflow.machine.tables.uploads import Upload

if TYPE_CHECKING:
    from raftflow.domain.commands import AddTasks, BeginWorkflow, DropUploads, FinishWorkflow
    from raftflow.machine.rules.context import ApplyContext
    from raftflow.machine.tables.state import State


def begin_workflow(step: ApplyContext, command: BeginWorkflow) -> Done | Rejection:
    """Begin an upload."""
    state = step.state
    problems = _begin_problems(command)
    if problems:
        return invalid(problems)
    if command.workflow_id in state.workflows or command.workflow_id in state.uploads:
        return Rejection(RejectionCode.CONFLICT, f"there is a workflow {command.workflow_id!r} already")
    if len(state.uploads) >= limits.UPLOADS_MAX:
        return Rejection(
            RejectionCode.LIMIT,
            f"{limits.UPLOADS_MAX} large workflows are being taken in; submit again when one of them is",
            limit=limits.UPLOADS_MAX,
        )
    refused = limit_problem(state, command.tasks, new_workflow=True) or unknown_code(state, command.code)
    if refused is not None:
        return refused
    state.bundles.refer(command.code)
    state.uploads[command.workflow_id] = Upload(
        command.workflow_id,
        command.name,
        priority=command.priority,
        on_failure=command.on_failure,
        max_parallel=command.max_parallel,
        tasks=command.tasks,
        needs=command.needs,
        code=command.code,
        budgets=command.budgets,
    )
    state.upload_tasks += command.tasks
    return Done()


def _begin_problems(command: BeginWorkflow) -> list[GraphProblem]:
    problems = []
    wrong = name_problem(command.workflow_id)
    if wrong is not None:
        problems.append(GraphProblem("id", f"{command.workflow_id[:80]!r} {wrong}"))
    problems += check_workflow_values(
        command.name, command.priority, command.max_parallel, command.code, command.budgets
    )
    if not 1 <= command.tasks <= limits.TASKS_PER_WORKFLOW_MAX:
        problems.append(GraphProblem("tasks", f"{command.tasks} tasks; 1 to {limits.TASKS_PER_WORKFLOW_MAX}"))
    if not 0 <= command.needs <= limits.EDGES_PER_WORKFLOW_MAX:
        problems.append(GraphProblem("needs", f"{command.needs} needs; 0 to {limits.EDGES_PER_WORKFLOW_MAX}"))
    return problems


def add_tasks(step: ApplyContext, command: AddTasks) -> Done | Rejection:
    """Add a piece, all of it or nothing."""
    upload = step.state.uploads.get(command.workflow_id)
    if upload is None:
        return _unknown(command.workflow_id)
    if command.number != len(upload.pieces):
        return Rejection(
            RejectionCode.CONFLICT,
            f"piece {command.number} of {command.workflow_id}: {len(upload.pieces)} pieces have come before",
        )
    problems = upload.problems(command.profiles, command.tasks)
    if problems:
        return invalid(problems)
    upload.add(step.state.shape, command.profiles, command.tasks)
    return Done()


def finish_workflow(step: ApplyContext, command: FinishWorkflow) -> WorkflowAccepted | Rejection:
    """Make a workflow of an upload, in constant time, except for tasks that share results."""
    state = step.state
    upload = state.uploads.get(command.workflow_id)
    if upload is None:
        return _unknown(command.workflow_id)
    problems = _finish_problems(upload, command)
    if problems:
        return invalid(problems)
    _forget(state, upload)
    workflow = upload.finish()
    warnings = warnings_of(state.kinds, upload.shapes)
    workflow.warnings = tuple(warnings + rate_warnings(state.rates, workflow.profiles))
    path = command.path
    workflow.facts = GraphFacts(1 + upload.highest, path, workflow.tasks[path[0]].rank)
    enter(step, workflow)
    if workflow.counts[TaskState.READY]:
        step.events.append(WorkflowReady(workflow.id))
    admit(step, workflow)
    return WorkflowAccepted(workflow.id, workflow.warnings)


def _finish_problems(upload: Upload, command: FinishWorkflow) -> list[GraphProblem]:
    if not upload.whole:
        have = f"{upload.arrived} of {len(upload.tasks)} tasks and {upload.needs_arrived} of {upload.needs} needs"
        return [GraphProblem("tasks", f"{have} have come")]
    if len(command.fingerprint) != FINGERPRINT_BYTES:
        return [GraphProblem("fingerprint", f"has {len(command.fingerprint)} bytes, not {FINGERPRINT_BYTES}")]
    path = command.path
    if not 1 <= len(path) <= PATH_MAX or any(not 0 <= position < len(upload.tasks) for position in path):
        return [GraphProblem("path", "is not a path of this workflow")]
    for before, after in pairwise(path):
        task = upload.tasks[after]
        if task is None or before not in task.needs:
            return [GraphProblem("path", f"the task at {after} does not need the one at {before}")]
    return []


def _forget(state: State, upload: Upload) -> None:
    del state.uploads[upload.workflow.id]
    state.upload_tasks -= len(upload.tasks)


def drop_uploads(step: ApplyContext, command: DropUploads) -> Done:
    """Forget uploads."""
    state = step.state
    found = [state.uploads[name] for name in dict.fromkeys(command.workflow_ids) if name in state.uploads]
    for upload in found:
        _forget(state, upload)
        state.bundles.release(upload.workflow.code, step.clock_ms)
        step.discarded.put(upload)
    return Done(changed=bool(found))


def _unknown(workflow_id: str) -> Rejection:
    return Rejection(
        RejectionCode.NOT_FOUND, f"there is no upload {workflow_id[:80]!r}: it was finished, or dropped; begin again"
    )
