"""Operations of rate limits."""

from __future__ import annotations

from typing import Final

from raftflow.domain import limits
from raftflow.domain.contract import problem_kinds as problems
from raftflow.domain.contract.operation import Access, AnsweredBy, Operation, Verb
from raftflow.domain.contract.views import RateLimitList, RateLimitRemoved, RateLimitRequest, RateLimitView
from raftflow.domain.values.ids import NAME_PATTERN

LIST_LIMITS: Final = Operation(
    name="list_limits",
    method="GET",
    path="/v1/limits",
    answered_by=AnsweredBy.LEADER_READ,
    access=Access.READ,
    summary="List the rate limits, and what each has now",
    answer=RateLimitList,
    items="limits",
    verb=Verb(
        noun="limit",
        name="list",
        columns={
            "NAME": "name",
            "RATE": "rate",
            "BURST": "burst",
            "AVAILABLE": "available",
            "FULL IN S": "full_in_s",
        },
    ),
)
SET_LIMIT: Final = Operation(
    name="set_limit",
    method="POST",
    path="/v1/limits/{name}",
    answered_by=AnsweredBy.LEADER_WRITE,
    access=Access.OPERATE,
    summary="Set or change a rate limit, which all tasks of all workflows share",
    details="A new limit has its whole burst. A changed one keeps what it has, as far as the new burst allows.",
    answer=RateLimitView,
    body=RateLimitRequest,
    path_rules={"name": {"pattern": NAME_PATTERN, "maxLength": limits.RATE_NAME_CHARS_MAX}},
    extra_problems=(problems.TOO_LARGE,),
    verb=Verb(
        noun="limit",
        name="set",
        given={"rate": "--rate N/UNIT", "burst": "--burst N"},
        line="{name} {rate} burst {burst}",
    ),
)
REMOVE_LIMIT: Final = Operation(
    name="remove_limit",
    method="DELETE",
    path="/v1/limits/{name}",
    answered_by=AnsweredBy.LEADER_WRITE,
    access=Access.OPERATE,
    summary="Remove a rate limit",
    details="Tasks that take from it wait until it is set again, and running ones are refused.",
    answer=RateLimitRemoved,
    verb=Verb(noun="limit", name="remove", line="{name} removed"),
)
