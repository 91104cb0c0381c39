"""Operations of the cached results."""

from __future__ import annotations

from typing import Final

from raftflow.domain.contract import problem_kinds as problems
from raftflow.domain.contract.operation import PAGE_SIZE, Access, AnsweredBy, Operation, Param, Verb
from raftflow.domain.contract.views import CacheCleared, CachePage

_PREFIX = Param("prefix", "string", "only results whose key begins with this")
LIST_CACHE: Final = Operation(
    name="list_cache",
    method="GET",
    path="/v1/cache",
    answered_by=AnsweredBy.LEADER_READ,
    access=Access.READ,
    summary="List cached results in order of their keys: size, where they come from, how often they were used",
    answer=CachePage,
    items="entries",
    params=(_PREFIX, PAGE_SIZE, Param("cursor", "string", "the `next` of the page before")),
    verb=Verb(
        noun="cache",
        name="list",
        given={"prefix": "--prefix"},
        columns={
            "KEY": "key",
            "BYTES": "size",
            "WORKFLOW": "workflow_id",
            "TASK": "task_id",
            "MADE": "made_at",
            "USED": "used_at",
            "HITS": "hits",
        },
    ),
)
CLEAR_CACHE: Final = Operation(
    name="clear_cache",
    method="DELETE",
    path="/v1/cache",
    answered_by=AnsweredBy.LEADER_WRITE,
    access=Access.OPERATE,
    summary="Forget cached results: one, those with a prefix, or all",
    answer=CacheCleared,
    params=(Param("key", "string", "only the result with this key"), _PREFIX),
    extra_problems=(problems.CONFLICT,),
    verb=Verb(noun="cache", name="clear", by_hand=True),
)
