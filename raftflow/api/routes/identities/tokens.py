"""Routes of tokens."""

from __future__ import annotations

import base64
import hmac
import secrets
from hashlib import sha256
from typing import TYPE_CHECKING, Final

from raftflow.api.dispatch.requests import Cost, Request, Response, Route, require_accepted
from raftflow.api.http import problems
from raftflow.api.http.bodies import decode
from raftflow.api.http.identity import TOKEN_PREFIX, digest_of
from raftflow.api.http.problems import ProblemError
from raftflow.domain.commands import CreateToken, RevokeToken, RotateToken
from raftflow.domain.contract import operations
from raftflow.domain.contract.views import (
    IdentityView,
    RotateRequest,
    TokenList,
    TokenMade,
    TokenRequest,
    TokenRevoked,
)
from raftflow.domain.values.times import iso_utc
from raftflow.machine.read.identities import tokens

if TYPE_CHECKING:
    from raftflow.machine.rows import TokenRow

_SECRET_BYTES: Final = 32
_PURPOSE: Final = b"raftflow: token, 1"


def _secret(call: Request, name: str) -> bytes:
    """Return a new token. A request that comes again with its idempotency key gets the same one.

    It is made of the cluster's secret then, which every replica has and nobody else: of the one that the token was
    made of if it is there already, else of the one that is used now.
    """
    if not call.idempotency_key:
        return _written(secrets.token_bytes(_SECRET_BYTES))
    fields = [call.operation.name.encode(), name.encode(), call.actor.encode(), call.idempotency_key.encode()]
    text = _PURPOSE + b"".join(b"%d:%b," % (len(field), field) for field in fields)
    made = [_written(hmac.digest(secret, text, sha256)) for secret in call.replica.secrets]
    row: TokenRow | None = tokens.find_token(call.replica.machine, name)
    return next((token for token in made if row is not None and row.digest == digest_of(token)), made[0])


def _written(secret: bytes) -> bytes:
    """Return a secret as the text that is sent."""
    return TOKEN_PREFIX + base64.urlsafe_b64encode(secret).rstrip(b"=")


def _now_ms(call: Request) -> int:
    return max(call.replica.clock.now_ms(), call.replica.machine.clock_ms)


async def create_token(call: Request) -> Response:
    """Create a token."""
    wanted = decode(call.body, TokenRequest)
    if not call.replica.config.tokens:
        raise ProblemError(
            problems.CONFLICT,
            "this cluster lets everybody in: start its replicas with a token (replica.token_file) first",
        )
    token = _secret(call, wanted.name)
    command = CreateToken(
        at_ms=call.replica.clock.now_ms(),
        actor=call.actor,
        request_id=call.idempotency_key,
        name=wanted.name,
        role=wanted.role,
        digest=digest_of(token),
        lifetime_ms=round((wanted.expires_s or 0) * 1000),
        agents=wanted.agents or "",
        labels=wanted.labels,
    )
    require_accepted(await call.replica.propose(command, call.client))
    return Response(_made(call, wanted.name, token), operations.tokens.CREATE_TOKEN.status)


async def rotate_token(call: Request) -> Response:
    """Give a token a new secret."""
    wanted = decode(call.body, RotateRequest) if call.body else RotateRequest()
    name = call.path("name")
    token = _secret(call, name)
    command = RotateToken(
        at_ms=call.replica.clock.now_ms(),
        actor=call.actor,
        request_id=call.idempotency_key,
        name=name,
        digest=digest_of(token),
        overlap_ms=round(wanted.overlap_s * 1000),
    )
    require_accepted(await call.replica.propose(command, call.client))
    return Response(_made(call, name, token))


def _made(call: Request, name: str, token: bytes) -> TokenMade:
    """Return what is shown of a new secret. Raises `ProblemError` if it is not valid any more."""
    row: TokenRow | None = tokens.find_token(call.replica.machine, name)
    if row is None or row.digest != digest_of(token):
        raise ProblemError(
            problems.CONFLICT, f"token {name!r} was revoked or rotated since this request came first: rotate it"
        )
    return TokenMade(
        name=name,
        role=row.role,
        token=token.decode(),
        expires_at=None if row.expires_ms is None else iso_utc(row.expires_ms),
    )


async def list_tokens(call: Request) -> Response:
    """List the tokens."""
    return Response(TokenList(tokens=tokens.token_views(call.replica.machine, _now_ms(call))))


async def revoke_token(call: Request) -> Response:
    """Revoke a token."""
    name = call.path("name")
    command = RevokeToken(
        at_ms=call.replica.clock.now_ms(), actor=call.actor, request_id=call.idempotency_key, name=name
    )
    require_accepted(await call.replica.propose(command, call.client))
    return Response(TokenRevoked(name=name))


async def show_identity(call: Request) -> Response:
    """Show who asks."""
    who = call.identity
    return Response(IdentityView(name=who.name, role=who.role, agents=who.agents, labels=dict(who.labels)))


ROUTES: tuple[Route, ...] = (
    Route(operations.tokens.CREATE_TOKEN, create_token, small=True),
    Route(operations.tokens.LIST_TOKENS, list_tokens, cost=Cost.LARGE),
    Route(operations.tokens.ROTATE_TOKEN, rotate_token, small=True),
    Route(operations.tokens.REVOKE_TOKEN, revoke_token),
    Route(operations.tokens.SHOW_IDENTITY, show_identity),
)
