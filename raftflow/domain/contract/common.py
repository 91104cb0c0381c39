"""What all of the HTTP contract has in common: kinds of fields, headers, problem documents."""

from __future__ import annotations

from typing import Annotated

import msgspec

from raftflow.domain import limits
from raftflow.domain.values.ids import NAME_PATTERN

Name = Annotated[
    str,
    # The pattern is for the description. `domain.values.ids` explains better what is wrong with a name.
    msgspec.Meta(min_length=1, max_length=limits.NAME_CHARS_MAX, extra_json_schema={"pattern": NAME_PATTERN}),
]
Number = Annotated[int, msgspec.Meta(ge=0, le=limits.NUMBER_MAX)]
"""Of attempts, incarnations, polls: as large as the log can hold."""
UsageNumber = Annotated[int, msgspec.Meta(ge=0, le=limits.USAGE_NUMBER_MAX)]
Fences = Annotated[list[Number], msgspec.Meta(max_length=limits.FENCES_PER_POLL_MAX)]
ErrorText = Annotated[str, msgspec.Meta(max_length=limits.ERROR_CHARS_MAX)]
_PORT = "0*(?:[1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])"
_HOST = r"(?:[A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])"
ADDRESS_PATTERN = f"^{_HOST}:{_PORT}$"
"""`host:port`, with an IPv6 host in brackets."""
URL_PATTERN = f"^https?://{_HOST}(?::{_PORT})?/?$"
"""Of a replica."""
HEADER_INDEX = "X-Raftflow-Index"
HEADER_TERM = "X-Raftflow-Term"
HEADER_LEADER = "X-Raftflow-Leader"
HEADER_LEADER_URL = "X-Raftflow-Leader-Url"
"""Where the leader is, with an answer that another replica passed on: the next request can go there."""
HEADER_PEERS = "X-Raftflow-Peers"
"""URLs of the voting members, with commas between: agents and clients follow them (`tasks/peer_urls.py`)."""
HEADER_REQUEST_ID = "X-Request-Id"
HEADER_IDEMPOTENCY_KEY = "Idempotency-Key"
HEADER_CLOCK = "X-Raftflow-Clock"
"""The clock of an agent's machine, in milliseconds since the epoch, with a registration."""
HEADER_FORWARDED = "X-Raftflow-Forwarded"
"""The address that a request came from, set by a replica that passes it on; it is never passed on again."""
HEADER_FORWARDED_PROOF = "X-Raftflow-Forwarded-Proof"
"""Shows that a replica of the cluster has set the other one; without it that address is not believed."""
HEADER_FORWARDED_IDENTITY = "X-Raftflow-Forwarded-Identity"
"""Whose certificate the client has shown to the replica that passes a request on; the proof covers it."""
PROBLEM_TYPE_PREFIX = "https://raftflow.invalid/problems/"
"""Stable names, not addresses: nothing is fetched from there."""


class Problem(msgspec.Struct, kw_only=True, omit_defaults=True):
    """An RFC 9457 problem document. `type` is `PROBLEM_TYPE_PREFIX` and a stable word."""

    type: str
    title: str
    status: int
    detail: str = ""
    """What was wrong and what to do."""
    errors: list[FieldProblem] = []
    """For a broken document: each fault with its path."""
    limit: int | None = None
    current_attempt: int | None = None
    """For a stale report: the attempt that counts now."""


class FieldProblem(msgspec.Struct, frozen=True):
    """One fault of a request body."""

    path: str
    message: str


class PriorityRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """`POST /v1/workflows/{id}/priority`."""

    priority: Annotated[int, msgspec.Meta(ge=0, le=limits.PRIORITY_MAX, description="higher goes first")]
