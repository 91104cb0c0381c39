"""Tokens: made, rotated and revoked. Secrets never come here, only their digests."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from raftflow.domain import limits
from raftflow.domain.rejections import Rejection, RejectionCode
from raftflow.domain.replies import Done
from raftflow.domain.tasks.checks import label_problems
from raftflow.domain.values.ids import name_problem
from raftflow.domain.values.roles import ROLES, agent_names_problem
from raftflow.machine.tables.identities.tokens import AccessToken

if TYPE_CHECKING:
    from raftflow.domain.commands import CreateToken, RevokeToken, RotateToken
    from raftflow.machine.rules.context import ApplyContext

RESERVED = "api"
"""The name of those who come with the token of the configuration, or to a cluster without one."""


def create_token(step: ApplyContext, command: CreateToken) -> Done | Rejection:
    """Add a token."""
    table = step.state.tokens
    problem = _problem(command) or _secret_problem(command.digest, command.lifetime_ms)
    if problem is not None:
        return Rejection(RejectionCode.INVALID, problem)
    if table.find(command.name) is not None:
        return Rejection(
            RejectionCode.CONFLICT,
            f"there is a token {command.name!r} already: rotate it to get another secret, or revoke it first",
        )
    if table.with_digest(command.digest) is not None:
        return Rejection(RejectionCode.CONFLICT, "another token has this secret")
    if len(table) >= limits.TOKENS_MAX:
        return Rejection(
            RejectionCode.LIMIT,
            f"there are {len(table)} tokens, which is the most: revoke one that nobody uses",
            limit=limits.TOKENS_MAX,
        )
    labels = {name: command.labels[name] for name in sorted(command.labels)}
    row = AccessToken(
        command.name, command.role, command.digest, step.clock_ms, command.lifetime_ms, command.agents, labels
    )
    table.put(row)
    step.notes.append(_note(row))
    return Done()


def rotate_token(step: ApplyContext, command: RotateToken) -> Done | Rejection:
    """Give a token another secret. The old one stays valid for a time, but no longer than it was."""
    table = step.state.tokens
    row = table.find(command.name)
    if row is None:
        return _not_found(command.name)
    problem = _secret_problem(command.digest, command.overlap_ms)
    if problem is not None:
        return Rejection(RejectionCode.INVALID, problem)
    if table.with_digest(command.digest) is not None:
        return Rejection(RejectionCode.CONFLICT, "a token has this secret, or had it before")
    until_ms = step.clock_ms + command.overlap_ms
    if row.expires_ms is not None:
        until_ms = min(until_ms, row.expires_ms)
    rotated = msgspec.structs.replace(
        row, digest=command.digest, made_ms=step.clock_ms, old_digest=row.digest, old_until_ms=until_ms
    )
    table.put(rotated)
    step.notes.append(f"{_note(rotated)}; the old secret is valid until {until_ms}")
    return Done()


def revoke_token(step: ApplyContext, command: RevokeToken) -> Done | Rejection:
    """Remove a token."""
    return Done() if step.state.tokens.remove(command.name) is not None else _not_found(command.name)


def _problem(command: CreateToken) -> str | None:
    """Say what is wrong with a new token, apart from its secret."""
    wrong = name_problem(command.name)
    if wrong is not None:
        return f"the name of a token {wrong}"
    if command.name == RESERVED:
        return f"the name {RESERVED!r} stands for the token of the configuration: choose another one"
    if command.role not in ROLES:
        return f"the role {command.role[:40]!r} is unknown: {', '.join(ROLES)}"
    if (command.agents or command.labels) and command.role != "agent":
        return "only a token with the role agent is for certain agents or labels"
    if command.agents and (wrong := agent_names_problem(command.agents)) is not None:
        return f"agents: {command.agents[:80]!r} {wrong}"
    return next(iter(label_problems(command.labels)), None)


def _secret_problem(digest: bytes, time_ms: int) -> str | None:
    if len(digest) != limits.TOKEN_DIGEST_BYTES:
        return f"the digest of a token has {limits.TOKEN_DIGEST_BYTES} bytes"
    if not 0 <= time_ms <= limits.TOKEN_LIFETIME_MS_MAX:
        return f"a token is valid for at most {limits.TOKEN_LIFETIME_MS_MAX // 86_400_000} days"
    return None


def _note(row: AccessToken) -> str:
    until = f"until {row.expires_ms}" if row.expires_ms is not None else "for ever"
    bound = f", for agents {row.agents}" if row.agents else ""
    return f"{row.name}: role {row.role}, valid {until}{bound}"


def _not_found(name: str) -> Rejection:
    return Rejection(RejectionCode.NOT_FOUND, f"there is no token {name[:80]!r}")
