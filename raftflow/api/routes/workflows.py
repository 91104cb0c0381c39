"""Routes of workflows and tasks."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from raftflow.api.dispatch.requests import Cost, Handler, Request, Response, Route, require_accepted, require_found
from raftflow.api.http import problems
from raftflow.api.http.bodies import decode
from raftflow.api.http.problems import ProblemError, from_rejection
from raftflow.api.routes import large_submissions
from raftflow.coordinator.commit.submitter import encode_command
from raftflow.coordinator.replica import Replica
from raftflow.domain.commands import ControlWorkflow, SetPriority, SubmitWorkflow
from raftflow.domain.contract import operations
from raftflow.domain.contract.operation import STALE
from raftflow.domain.contract.views import (
    HEADER_FORWARDED,
    PriorityRequest,
    TaskView,
    UsageView,
    WorkflowCreated,
    WorkflowView,
)
from raftflow.domain.rejections import Rejection
from raftflow.domain.replies import AnyReply
from raftflow.domain.tasks.workflow import WorkflowSpec
from raftflow.formats.documents import DocumentError, normalize
from raftflow.formats.readers.json_reader import decode_json
from raftflow.machine.read import queries

OFF_LOOP_BYTES = 32 * 1024
"""Larger documents are read by another process and enter the log in pieces (`routes/large_submissions.py`)."""


def _read_document(body: bytes) -> WorkflowSpec:
    try:
        return normalize(decode_json(body))
    except DocumentError as error:
        kind = problems.INVALID_DOCUMENT if error.limit is None else problems.TOO_LARGE
        raise ProblemError(
            kind, f"the workflow document is invalid: {str(error)[:1000]}", errors=error.problems, limit=error.limit
        ) from None
    except RecursionError:
        raise ProblemError(problems.INVALID_DOCUMENT, "the workflow document is nested too deeply") from None


async def submit_workflow(call: Request) -> Response:
    """Add a workflow as a whole, or not at all."""
    request_id = call.idempotency_key
    if len(call.body) <= OFF_LOOP_BYTES:
        return await submit_document(call.replica, call.body, request_id, call.client, call.actor)
    workflow_id = call.replica.ids.workflow_id()
    return _created(
        await large_submissions.submit(call, request_id=request_id, workflow_id=workflow_id, actor=call.actor)
    )


async def submit_document(replica: Replica, body: bytes, request_id: str, client: str, actor: str) -> Response:
    """Read a small workflow document and submit it under a request id, which may be empty.

    `client` is the address that it comes from, `actor` who sends it.

    Raises `ProblemError`.
    """
    command = encode_command(
        SubmitWorkflow(
            at_ms=replica.clock.now_ms(),
            actor=actor,
            request_id=request_id,
            workflow_id=replica.ids.workflow_id(),
            spec=_read_document(body),
        )
    )
    if isinstance(command, Rejection):
        raise from_rejection(command)
    return _created(await replica.propose(command, client))


def _created(answer: AnyReply) -> Response:
    reply = require_accepted(answer)
    return Response(
        WorkflowCreated(id=reply.workflow_id, warnings=list(reply.warnings)),
        operations.workflows.SUBMIT_WORKFLOW.status,
        {"Location": f"/v1/workflows/{reply.workflow_id}"},
    )


async def list_workflows(call: Request) -> Response:
    """List workflows, newest first."""
    state, cursor = call.text("state"), call.text("cursor")
    with _cursor_checked():
        return Response(queries.workflow_page(call.replica.machine, state, call.require_number("limit"), cursor))


async def show_workflow(call: Request) -> Response:
    """Show a workflow's state, counts and times; with `wait_ms`, when it has ended."""
    wait_s = call.hold_s("wait_ms")
    view = await _view(call)
    # A forwarded request is not held: it would occupy a connection between replicas.
    if wait_s and view.finished_at is None and HEADER_FORWARDED not in call.request.headers:
        await call.replica.awaited.wait(view.id, wait_s)
        view = await _view(call)
    return Response(view)


async def _settled(call: Request) -> str:
    """Return the id of the workflow that is read, once nothing of it is on the agenda. Raises `ProposeError`s."""
    workflow_id = call.path("id")
    if STALE.name not in call.request.query:
        await call.replica.settle(workflow_id)
    return workflow_id


async def _view(call: Request) -> WorkflowView:
    workflow_id = await _settled(call)
    view: WorkflowView = require_found(
        queries.workflow_view(call.replica.machine, workflow_id), f"workflow {workflow_id!r}"
    )
    return view


def _control(action: Literal["cancel", "pause", "resume", "retry"]) -> Handler:
    async def control(call: Request) -> Response:
        workflow_id = call.path("id")
        command = ControlWorkflow(
            at_ms=call.replica.clock.now_ms(),
            actor=call.actor,
            request_id=call.idempotency_key,
            workflow_id=workflow_id,
            action=action,
        )
        require_accepted(await call.replica.control(command, call.client))
        return Response(await _view(call))

    return control


async def prioritize_workflow(call: Request) -> Response:
    """Change the priority of a workflow."""
    command = SetPriority(
        at_ms=call.replica.clock.now_ms(),
        actor=call.actor,
        request_id=call.idempotency_key,
        workflow_id=call.path("id"),
        priority=decode(call.body, PriorityRequest).priority,
    )
    require_accepted(await call.replica.control(command, call.client))
    return Response(await _view(call))


async def list_tasks(call: Request) -> Response:
    """List a workflow's tasks in document order."""
    workflow_id = await _settled(call)
    with _cursor_checked():
        page = queries.task_page(call.replica.machine, workflow_id, call.require_number("limit"), call.text("cursor"))
    return Response(require_found(page, f"workflow {workflow_id!r}"))


@contextmanager
def _cursor_checked() -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise ProblemError(problems.INVALID_DOCUMENT, f"query parameter 'cursor': {error}") from None


async def show_task(call: Request) -> Response:
    """Show a task with its attempts."""
    workflow_id = await _settled(call)
    view = require_found(queries.task_view(call.replica.machine, workflow_id, call.path("task")), _task_label(call))
    if call.replica.leader.leading:
        _add_usage(call, view)
    return Response(view)


def _add_usage(call: Request, view: TaskView) -> None:
    """Add what running attempts use, which only the leader's memory has."""
    now_s = asyncio.get_running_loop().time()
    for attempt in view.history:
        sample = (
            call.replica.poll_service.usage.get(attempt.agent, attempt.fence) if attempt.outcome is None else None
        )
        if sample is not None:
            attempt.usage = UsageView(
                cpu_ms=sample.cpu_ms,
                memory_mib=sample.memory_mib,
                peak_mib=sample.peak_mib,
                progress=sample.progress,
                age_s=round(now_s - sample.at_s, 3),
            )
            if attempt.agent == view.agent:
                view.usage = attempt.usage


async def explain_task(call: Request) -> Response:
    """Explain why a task is in its state."""
    explanation = call.replica.explain(await _settled(call), call.path("task"))
    return Response(require_found(explanation, _task_label(call)))


def _task_label(call: Request) -> str:
    return f"task {call.path('task')!r} in workflow {call.path('id')!r}"


SUBMIT_ROUTE = Route(operations.workflows.SUBMIT_WORKFLOW, submit_workflow)

ROUTES: tuple[Route, ...] = (
    SUBMIT_ROUTE,
    Route(operations.workflows.LIST_WORKFLOWS, list_workflows, cost=Cost.PAGE),
    Route(operations.workflows.SHOW_WORKFLOW, show_workflow),
    Route(operations.workflows.CANCEL_WORKFLOW, _control("cancel")),
    Route(operations.workflows.PAUSE_WORKFLOW, _control("pause")),
    Route(operations.workflows.RESUME_WORKFLOW, _control("resume")),
    Route(operations.workflows.RETRY_WORKFLOW, _control("retry")),
    Route(operations.workflows.PRIORITIZE_WORKFLOW, prioritize_workflow),
    Route(operations.tasks.LIST_TASKS, list_tasks, cost=Cost.PAGE),
    Route(operations.tasks.SHOW_TASK, show_task),
    Route(operations.tasks.EXPLAIN_TASK, explain_task),
)
