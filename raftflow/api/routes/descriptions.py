"""Routes of what describes the API: OpenAPI, and the JSON Schema of workflow documents."""

from __future__ import annotations

import functools

import msgspec

from raftflow.api.dispatch.requests import Request, Response, Route
from raftflow.api.openapi import describe
from raftflow.domain.contract import operations
from raftflow.formats import schema


async def describe_api(_call: Request) -> Response:
    """Give out the OpenAPI document."""
    return Response(_openapi_bytes(), headers={"Content-Type": operations.descriptions.DESCRIBE_API.media_type})


async def show_workflow_schema(_call: Request) -> Response:
    """Give out the schema of workflow documents."""
    return Response(
        _workflow_schema_bytes(), headers={"Content-Type": operations.descriptions.SHOW_WORKFLOW_SCHEMA.media_type}
    )


@functools.cache
def _openapi_bytes() -> bytes:
    return msgspec.json.encode(describe(operations.OPERATIONS))


@functools.cache
def _workflow_schema_bytes() -> bytes:
    return msgspec.json.encode(schema.workflow_schema_file())


ROUTES: tuple[Route, ...] = (
    Route(operations.descriptions.DESCRIBE_API, describe_api),
    Route(operations.descriptions.SHOW_WORKFLOW_SCHEMA, show_workflow_schema),
)
