"""Routes of what the cluster remembers of finished work: cached results, and how long kinds of tasks take."""

from __future__ import annotations

from raftflow.api.dispatch.requests import Cost, Request, Response, Route, require_accepted
from raftflow.api.http import problems
from raftflow.api.http.problems import ProblemError
from raftflow.domain.commands import ClearCache
from raftflow.domain.contract import operations
from raftflow.domain.contract.views import CacheCleared
from raftflow.machine.read import queries


async def list_cache(call: Request) -> Response:
    """List cached results in order of their keys."""
    prefix, limit, cursor = call.text("prefix") or "", call.require_number("limit"), call.text("cursor")
    return Response(queries.cache_page(call.replica.machine, prefix, limit, cursor))


async def clear_cache(call: Request) -> Response:
    """Forget cached results."""
    key, prefix = call.text("key"), call.text("prefix")
    if key is not None and prefix is not None:
        raise ProblemError(problems.INVALID_DOCUMENT, "give a key or a prefix, or neither to clear the whole cache")
    reply = require_accepted(
        await call.replica.propose(
            ClearCache(
                at_ms=call.replica.clock.now_ms(),
                actor=call.actor,
                request_id=call.idempotency_key,
                key=key,
                prefix=prefix or "",
            ),
            call.client,
        )
    )
    return Response(CacheCleared(cleared=reply.count))


async def list_kinds(call: Request) -> Response:
    """List what was learnt of kinds of tasks."""
    return Response(queries.kinds(call.replica.machine))


ROUTES: tuple[Route, ...] = (
    Route(operations.cache.LIST_CACHE, list_cache, cost=Cost.LARGE),
    Route(operations.cache.CLEAR_CACHE, clear_cache),
    Route(operations.tasks.LIST_KINDS, list_kinds, cost=Cost.LARGE),
)
