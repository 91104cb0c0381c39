"""The route of the facts of a replica's machine."""

from __future__ import annotations

from typing import TYPE_CHECKING

from raftflow.api.dispatch.requests import Request, Response, Route
from raftflow.domain.contract import operations

if TYPE_CHECKING:
    from raftflow.api.diagnostics.host_facts import HostFacts


def route_of(facts: HostFacts) -> Route:
    """Return the route of these facts."""

    async def show_host(call: Request) -> Response:
        del call
        return Response(await facts.view())

    return Route(operations.replicas.SHOW_HOST, show_host)
