"""Operations of workflows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from raftflow.domain import limits
from raftflow.domain.contract import problem_kinds as problems
from raftflow.domain.contract.operation import CURSOR, PAGE_SIZE, Access, AnsweredBy, Operation, Param, Verb
from raftflow.domain.contract.views import PriorityRequest, WorkflowCreated, WorkflowPage, WorkflowView
from raftflow.domain.tasks.states import WorkflowState

SUBMIT_WORKFLOW: Final = Operation(
    name="submit_workflow",
    method="POST",
    path="/v1/workflows",
    answered_by=AnsweredBy.LEADER_WRITE,
    access=Access.SUBMIT,
    summary="Submit a workflow",
    answer=WorkflowCreated,
    status=201,
    body=dict,
    body_schema="WorkflowDocument",
    extra_problems=(problems.TOO_LARGE, problems.NOT_FOUND),
    answer_s=30.0,  # a large document takes the replicas a while to check and replicate
    verb=Verb(noun="workflow", name="submit", by_hand=True),
)
LIST_WORKFLOWS: Final = Operation(
    name="list_workflows",
    method="GET",
    path="/v1/workflows",
    answered_by=AnsweredBy.LEADER_READ,
    access=Access.READ,
    summary="List workflows, newest first",
    answer=WorkflowPage,
    items="workflows",
    params=(Param("state", "string", "only workflows in this state", tuple(WorkflowState)), PAGE_SIZE, CURSOR),
    verb=Verb(
        noun="workflow",
        name="list",
        given={"state": "--state"},
        columns={
            "ID": "id",
            "NAME": "name",
            "STATE": "state",
            "TASKS": "tasks.total",
            "SUCCEEDED": "tasks.succeeded",
            "FAILED": "tasks.failed",
            "RUNNING": "tasks.running",
            "SUBMITTED": "submitted_at",
            "FINISHED": "finished_at",
        },
    ),
)
SHOW_WORKFLOW: Final = Operation(
    name="show_workflow",
    method="GET",
    path="/v1/workflows/{id}",
    answered_by=AnsweredBy.LEADER_READ,
    access=Access.READ,
    summary="Show a workflow: state, counts of tasks, times",
    answer=WorkflowView,
    params=(
        Param(
            "wait_ms",
            "integer",
            "hold the answer until the workflow has ended, but no longer than this; the answer may come earlier",
            maximum=limits.WORKFLOW_WAIT_MS_MAX,
            default=0,
        ),
    ),
    verb=Verb(noun="workflow", name="show"),
)


def _control_workflow(
    action: str,
    summary: str,
    details: str = "",
    *,
    name: str = "",
    body: Any = None,
    given: Mapping[str, str] | None = None,
) -> Operation[WorkflowView]:
    return Operation(
        name=f"{name or action}_workflow",
        method="POST",
        path=f"/v1/workflows/{{id}}/{action}",
        answered_by=AnsweredBy.LEADER_WRITE,
        access=Access.SUBMIT,
        summary=summary,
        details=details,
        answer=WorkflowView,
        body=body,
        extra_problems=(problems.CONFLICT,),
        verb=Verb(noun="workflow", name=action, given=given or {}, line="{id} {state}"),
    )


CANCEL_WORKFLOW: Final = _control_workflow(
    "cancel", "Cancel a workflow: what has not started never will, running attempts are told to stop"
)
PAUSE_WORKFLOW: Final = _control_workflow("pause", "Start nothing new of a workflow; running attempts continue")
RESUME_WORKFLOW: Final = _control_workflow("resume", "Continue a paused workflow")
RETRY_WORKFLOW: Final = _control_workflow("retry", "Run the failed and cancelled tasks of a finished workflow again")
PRIORITIZE_WORKFLOW: Final = _control_workflow(
    "priority",
    "Change the priority of a workflow that has not ended, 0 to 100",
    "Tasks that have not started take their new place at once.",
    name="prioritize",
    body=PriorityRequest,
    given={"priority": "N"},
)
