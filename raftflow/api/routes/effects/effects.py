"""Routes of effects: what has no outcome, and what people decide about it."""

from __future__ import annotations

from raftflow.api.dispatch.requests import Cost, Request, Response, Route, require_accepted, require_found
from raftflow.api.http import problems
from raftflow.api.http.bodies import decode
from raftflow.api.http.problems import ProblemError
from raftflow.domain.commands import ResolveEffect
from raftflow.domain.contract import operations
from raftflow.domain.contract.reportable import result_fault
from raftflow.domain.contract.views import EffectDecision, EffectView
from raftflow.domain.limits import NUMBER_MAX
from raftflow.machine.read import effects

_DIGITS_MAX = len(str(NUMBER_MAX))


async def list_effects(call: Request) -> Response:
    """List effects."""
    try:
        page = effects.effect_page(
            call.replica.machine,
            call.require_number("limit"),
            call.text("cursor"),
            unresolved=call.text("show") != "all",
            workflow_id=call.text("workflow") or "",
        )
    except ValueError as error:
        raise ProblemError(problems.INVALID_DOCUMENT, f"query parameter 'cursor': {error}") from None
    return Response(page)


async def show_effect(call: Request) -> Response:
    """Show an effect."""
    return Response(_view(call, _number(call)))


async def resolve_effect(call: Request) -> Response:
    """Take a decision."""
    decision, number = decode(call.body, EffectDecision), _number(call)
    result = bytes(decision.result)
    fault = result_fault(result)
    if fault is not None:
        raise ProblemError(problems.INVALID_DOCUMENT, f"result: {fault}")
    command = ResolveEffect(
        at_ms=call.replica.clock.now_ms(),
        actor=call.actor,
        request_id=call.idempotency_key,
        number=number,
        resolution=decision.resolution,
        result=result if decision.resolution == "done" else b"",
        detail=decision.detail,
    )
    require_accepted(await call.replica.propose(command, call.client))
    return Response(_view(call, number))


def _number(call: Request) -> int:
    """Return the number of the effect in the path; 0, which none has, for another text."""
    text = call.path("id")
    number = int(text) if text.isascii() and text.isdigit() and len(text) <= _DIGITS_MAX else 0
    return number if number <= NUMBER_MAX else 0


def _view(call: Request, number: int) -> EffectView:
    view: EffectView = require_found(
        effects.find_effect(call.replica.machine, number), f"effect {call.path('id')[:80]!r}"
    )
    return view


ROUTES: tuple[Route, ...] = (
    Route(operations.effects.LIST_EFFECTS, list_effects, cost=Cost.LARGE),
    Route(operations.effects.SHOW_EFFECT, show_effect),
    Route(operations.effects.RESOLVE_EFFECT, resolve_effect),
)
