"""Tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING

from raftflow.domain.limits import TOKEN_DIGEST_BYTES
from raftflow.domain.values.roles import ROLES
from raftflow.machine.schema.declaration import Limit, Reason, SnapshotError, Table, saved_rows
from raftflow.machine.tables.identities.tokens import AccessToken

if TYPE_CHECKING:
    from collections.abc import Iterator

    from raftflow.machine.tables.state import State


def _add(state: State, row: AccessToken) -> None:
    if state.tokens.find(row.name) is not None:
        raise SnapshotError(f"the token {row.name} is there twice")
    state.tokens.put(row)


def _problems(state: State, clock_ms: int) -> Iterator[str]:
    for row in state.tokens.rows():
        if row.role not in ROLES:
            yield f"token {row.name}: the role {row.role!r} is unknown"
        if row.made_ms > clock_ms:
            yield f"token {row.name}: it was made at {row.made_ms}, which is in the future"
        for digest in (row.digest, row.old_digest):
            if digest and state.tokens.with_digest(digest) is not row:
                yield f"token {row.name}: another token has its digest"
        if len(row.digest) != TOKEN_DIGEST_BYTES:
            yield f"token {row.name}: its digest has {len(row.digest)} bytes"


TOKENS = Table(
    name="tokens",
    about="tokens by name, in the order in which they were made",
    saved=saved_rows(field=27, kind=b"O", row=AccessToken, rows=lambda state: state.tokens.rows(), add=_add),
    derive=Reason("nothing of it follows from other tables"),
    problems=_problems,
    limit=Limit(name="TOKENS_MAX", rows=lambda state: len(state.tokens)),
    retire=Reason("a token belongs to no workflow"),
    parts=Reason("there are few, and they are small"),
)
