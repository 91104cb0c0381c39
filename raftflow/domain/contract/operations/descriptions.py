"""Operations that describe the API and its documents."""

from __future__ import annotations

from typing import Any, Final

from raftflow.domain.contract.operation import Access, AnsweredBy, Operation, UsedBy

SHOW_WORKFLOW_SCHEMA: Final = Operation(
    name="show_workflow_schema",
    method="GET",
    path="/v1/schema/workflow.json",
    answered_by=AnsweredBy.ASKED_REPLICA,
    summary="Give out the JSON Schema of workflow documents",
    answer=dict[str, Any],
    media_type="application/schema+json",
    access=Access.OPEN,  # editors send no token, and the schema says nothing about the cluster
    used_by=UsedBy.TOOL,
)
DESCRIBE_API: Final = Operation(
    name="describe_api",
    method="GET",
    path="/v1/openapi.json",
    answered_by=AnsweredBy.ASKED_REPLICA,
    access=Access.ANY,
    summary="Describe this API",
    answer=dict[str, Any],
    no_verb="programs read it, by HTTP or by the SDK",
)
