"""Operations of effects."""

from __future__ import annotations

from typing import Final

from raftflow.domain.contract import problem_kinds as problems
from raftflow.domain.contract.operation import CURSOR, PAGE_SIZE, Access, AnsweredBy, Operation, Param, Verb
from raftflow.domain.contract.views import EffectDecision, EffectPage, EffectView

LIST_EFFECTS: Final = Operation(
    name="list_effects",
    method="GET",
    path="/v1/effects",
    answered_by=AnsweredBy.LEADER_READ,
    access=Access.READ,
    summary="List the effects that have no outcome, or all",
    details="An effect is a call that must not happen twice, such as a payment. Those that are `uncertain` wait "
    "for a decision.",
    answer=EffectPage,
    items="effects",
    params=(
        Param("show", "string", "which effects", ("unresolved", "all"), default="unresolved"),
        Param("workflow", "string", "only the effects of this workflow"),
        PAGE_SIZE,
        CURSOR,
    ),
    verb=Verb(
        noun="effect",
        name="list",
        columns={
            "ID": "id",
            "STATE": "state",
            "WORKFLOW": "workflow",
            "TASK": "task",
            "NAME": "name",
            "KEY": "idempotency_key",
            "SINCE": "changed_at",
        },
        by_hand=True,
    ),
)
SHOW_EFFECT: Final = Operation(
    name="show_effect",
    method="GET",
    path="/v1/effects/{id}",
    answered_by=AnsweredBy.LEADER_READ,
    access=Access.READ,
    summary="Show an effect",
    answer=EffectView,
    verb=Verb(noun="effect", name="show"),
)
RESOLVE_EFFECT: Final = Operation(
    name="resolve_effect",
    method="POST",
    path="/v1/effects/{id}",
    answered_by=AnsweredBy.LEADER_WRITE,
    access=Access.APPROVE,
    summary="Decide about an effect of which nobody can tell whether it was done",
    details="The first decision counts. Another one is refused, and told who decided what.",
    answer=EffectView,
    body=EffectDecision,
    extra_problems=(problems.CONFLICT, problems.TOO_LARGE),
    verb=Verb(noun="effect", name="resolve", by_hand=True),
)
