"""Audit records, in the file and as the API shows them."""

from __future__ import annotations

import msgspec


class AuditTransition(msgspec.Struct, frozen=True, array_like=True):
    """A task that moved."""

    workflow_id: str
    task_id: str
    before: str
    """Name of the state in lower case, internal ones (`delayed`, `queued`) included."""
    event: str
    after: str
    attempt: int = 0
    fence: int = 0
    agent: str = ""


class AuditRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One applied command. `chain` covers every field and the record before, so equal chains mean equal histories."""

    index: int
    position: int
    """Of the command in its log entry."""
    term: int
    at_ms: int
    actor: str
    command: str
    """The command's tag."""
    subject: str
    """Id of the workflow or agent that it is about; empty for batches."""
    request_id: str
    outcome: str
    """`ok`, `repeated` (a remembered reply), or the rejection's code."""
    detail: str = ""
    """For a person: a rejection's message, stale reports."""
    transitions: tuple[AuditTransition, ...] = ()
    chain: bytes = b""
    """32 bytes; hex in JSON listings."""


class AuditLine(msgspec.Struct, kw_only=True):
    """An audit record as the API lists it."""

    index: int
    position: int
    term: int
    at: str
    actor: str
    command: str
    subject: str
    request_id: str
    outcome: str
    detail: str
    transitions: list[AuditTransition]
    chain: str


class AuditPage(msgspec.Struct, kw_only=True):
    """Audit records of one replica in log order."""

    records: list[AuditLine]
    next: int | None = None
    """Index to go on from, None at the end."""
    replica: str = ""


class AuditCheck(msgspec.Struct, kw_only=True):
    """What `audit verify` finds on one replica."""

    ok: bool
    replica: str
    records: int
    first_index: int
    last_index: int
    chain: str
    """Hex chain hash after `last_index`."""
    gaps: list[list[int]]
    """[from, to] of indexes that a snapshot brought in place of entries."""
    problems: list[str]
    anchor_index: int = 0
    """Records up to this index were dropped, as the file has a limit; the chain is verified from the hash there."""
    before_gaps: list[tuple[int, str]] = []
    """Index of the last record before each gap, and the hex chain hash there; of the newest gaps only."""


class RefusalView(msgspec.Struct, kw_only=True):
    """Requests that one replica refused because of who sent them. Equal ones are counted."""

    actor: str | None
    """As in the audit, such as `client:alice`; None if there was no valid token."""
    address: str
    """Of the client, also if another replica passed its request on."""
    operation: str
    status: int
    """401 without a valid token, 403 if its role or names do not allow it."""
    count: int
    first_at: str
    last_at: str
    request_id: str
    """Of the last one."""


class RefusalPage(msgspec.Struct, kw_only=True):
    """What one replica has refused since it was started, the last first."""

    replica: str
    since: str
    total: int
    """All refusals, those that are not listed any more among them."""
    forgotten: int
    """Refusals that are not listed any more, because the list is bounded."""
    refusals: list[RefusalView]
