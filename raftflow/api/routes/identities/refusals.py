"""The route of the refused requests of a replica."""

from __future__ import annotations

from typing import TYPE_CHECKING

from raftflow.api.dispatch.requests import Cost, Request, Response, Route
from raftflow.domain.contract import operations

if TYPE_CHECKING:
    from raftflow.api.figures.refusals import RefusedRequests


def route_of(refusals: RefusedRequests) -> Route:
    """Return the route of these refusals."""

    async def list_refusals(call: Request) -> Response:
        del call
        return Response(refusals.page())

    return Route(operations.audit.LIST_REFUSALS, list_refusals, cost=Cost.LARGE)
