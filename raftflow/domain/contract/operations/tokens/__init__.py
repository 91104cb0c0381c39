"""Operations of tokens."""

from __future__ import annotations

from typing import Final

from raftflow.domain.contract import problem_kinds as problems
from raftflow.domain.contract.operation import Access, AnsweredBy, Operation, Verb
from raftflow.domain.contract.views import (
    IdentityView,
    RotateRequest,
    TokenList,
    TokenMade,
    TokenRequest,
    TokenRevoked,
)

CREATE_TOKEN: Final = Operation(
    name="create_token",
    method="POST",
    path="/v1/tokens",
    answered_by=AnsweredBy.LEADER_WRITE,
    summary="Create a token",
    details=(
        "The token is shown this once: the cluster keeps only its digest. A request that is sent again with its "
        "idempotency key gets the same token. A cluster without a token of its configuration refuses: it lets "
        "everybody in."
    ),
    access=Access.ADMIN,
    status=201,
    answer=TokenMade,
    body=TokenRequest,
    extra_problems=(problems.CONFLICT, problems.TOO_LARGE),
    verb=Verb(noun="token", name="create", by_hand=True),
)
LIST_TOKENS: Final = Operation(
    name="list_tokens",
    method="GET",
    path="/v1/tokens",
    answered_by=AnsweredBy.LEADER_READ,
    summary="List the tokens, without their secrets",
    access=Access.ADMIN,
    answer=TokenList,
    items="tokens",
    verb=Verb(
        noun="token",
        name="list",
        columns={
            "NAME": "name",
            "ROLE": "role",
            "STATE": "state",
            "MADE": "made_at",
            "EXPIRES": "expires_at",
            "OLD SECRET UNTIL": "old_secret_until",
            "AGENTS": "agents",
        },
    ),
)
ROTATE_TOKEN: Final = Operation(
    name="rotate_token",
    method="POST",
    path="/v1/tokens/{name}/rotate",
    answered_by=AnsweredBy.LEADER_WRITE,
    summary="Give a token a new secret",
    details=(
        "The old secret stays valid for a time, so that its holders can be told the new one. Its lifetime begins "
        "again. A second rotation ends the secret before the last one at once."
    ),
    access=Access.ADMIN,
    answer=TokenMade,
    body=RotateRequest,
    body_required=False,
    extra_problems=(problems.CONFLICT,),
    verb=Verb(
        noun="token",
        name="rotate",
        given={"overlap_s": "--overlap DURATION"},
        line="{token}",
    ),
)
REVOKE_TOKEN: Final = Operation(
    name="revoke_token",
    method="DELETE",
    path="/v1/tokens/{name}",
    answered_by=AnsweredBy.LEADER_WRITE,
    summary="Revoke a token: those who have it are let in no more",
    details="Connections that were opened with it are closed within a second, held answers too.",
    access=Access.ADMIN,
    answer=TokenRevoked,
    verb=Verb(noun="token", name="revoke", line="{name} revoked"),
)
SHOW_IDENTITY: Final = Operation(
    name="show_identity",
    method="GET",
    path="/v1/identity",
    answered_by=AnsweredBy.ASKED_REPLICA,
    summary="Show who you are to the cluster, and what you may do",
    access=Access.ANY,
    answer=IdentityView,
    verb=Verb(noun="token", name="whoami", line="{name} {role}"),
)
