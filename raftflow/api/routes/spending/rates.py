"""Routes of rate limits."""

from __future__ import annotations

from raftflow.api.dispatch.requests import Cost, Request, Response, Route, require_accepted, require_found
from raftflow.api.http import problems
from raftflow.api.http.bodies import decode
from raftflow.api.http.problems import ProblemError
from raftflow.domain.commands import RemoveRateLimit, SetRateLimit
from raftflow.domain.contract import operations
from raftflow.domain.contract.views import RateLimitList, RateLimitRemoved, RateLimitRequest
from raftflow.domain.values.rates import parse_rate
from raftflow.machine.read.spending import rates


def _now_ms(call: Request) -> int:
    return max(call.replica.clock.now_ms(), call.replica.machine.clock_ms)


async def list_limits(call: Request) -> Response:
    """List the rate limits."""
    return Response(RateLimitList(limits=rates.limit_views(call.replica.machine, _now_ms(call))))


async def set_limit(call: Request) -> Response:
    """Set or change a rate limit."""
    wanted, name = decode(call.body, RateLimitRequest), call.path("name")
    try:
        amount, period_ms = parse_rate(wanted.rate)
    except ValueError as error:
        raise ProblemError(problems.INVALID_DOCUMENT, f"rate: {error}") from None
    command = SetRateLimit(
        at_ms=call.replica.clock.now_ms(),
        actor=call.actor,
        request_id=call.idempotency_key,
        name=name,
        amount=amount,
        period_ms=period_ms,
        burst=amount if wanted.burst is None else wanted.burst,
    )
    require_accepted(await call.replica.propose(command, call.client))
    view = rates.limit_view(call.replica.machine, name, _now_ms(call))
    return Response(require_found(view, f"rate limit {name!r}"))


async def remove_limit(call: Request) -> Response:
    """Remove a rate limit."""
    name = call.path("name")
    command = RemoveRateLimit(
        at_ms=call.replica.clock.now_ms(), actor=call.actor, request_id=call.idempotency_key, name=name
    )
    require_accepted(await call.replica.propose(command, call.client))
    return Response(RateLimitRemoved(name=name))


ROUTES: tuple[Route, ...] = (
    Route(operations.rates.LIST_LIMITS, list_limits, cost=Cost.LARGE),
    Route(operations.rates.SET_LIMIT, set_limit),
    Route(operations.rates.REMOVE_LIMIT, remove_limit),
)
