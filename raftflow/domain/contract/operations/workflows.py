"""Operations of workflows."""

from __future__ import annotations

from typing import Any, Final

from raftflow.domain import limits
from raftflow.domain.contract import problem_kinds as problems
from raftflow.domain.contract.operation import CURSOR, PAGE_SIZE, AnsweredBy, Operation, Param
from raftflow.domain.contract.views import PriorityRequest, WorkflowCreated, WorkflowPage, WorkflowView
from raftflow.domain.tasks.states import WorkflowState

SUBMIT_WORKFLOW: Final = Operation(
    name="submit_workflow",
    method="POST",
    path="/v1/workflows",
    answered_by=AnsweredBy.LEADER_WRITE,
    summary="Submit a workflow",
    answer=WorkflowCreated,
    status=201,
    body=dict,
    body_schema="WorkflowDocument",
    extra_problems=(problems.TOO_LARGE,),
)
LIST_WORKFLOWS: Final = Operation(
    name="list_workflows",
    method="GET",
    path="/v1/workflows",
    answered_by=AnsweredBy.LEADER_READ,
    summary="List workflows, newest first",
    answer=WorkflowPage,
    items="workflows",
    params=(Param("state", "string", "only workflows in this state", tuple(WorkflowState)), PAGE_SIZE, CURSOR),
)
SHOW_WORKFLOW: Final = Operation(
    name="show_workflow",
    method="GET",
    path="/v1/workflows/{id}",
    answered_by=AnsweredBy.LEADER_READ,
    summary="Show a workflow",
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
)


def _control_workflow(action: str, summary: str, *, verb: str = "", body: Any = None) -> Operation[WorkflowView]:
    return Operation(
        name=f"{verb or action}_workflow",
        method="POST",
        path=f"/v1/workflows/{{id}}/{action}",
        answered_by=AnsweredBy.LEADER_WRITE,
        summary=summary,
        answer=WorkflowView,
        body=body,
        extra_problems=(problems.CONFLICT,),
    )


CANCEL_WORKFLOW: Final = _control_workflow("cancel", "Cancel what has not ended; running attempts are told to stop")
PAUSE_WORKFLOW: Final = _control_workflow("pause", "Start nothing new; running attempts continue")
RESUME_WORKFLOW: Final = _control_workflow("resume", "Continue after a pause")
RETRY_WORKFLOW: Final = _control_workflow("retry", "Run the failed and cancelled tasks of a finished workflow again")
PRIORITIZE_WORKFLOW: Final = _control_workflow(
    "priority", "Change the priority of a workflow that has not ended", verb="prioritize", body=PriorityRequest
)
