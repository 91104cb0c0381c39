"""Approvals and signals, as the API shows them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from raftflow.domain import limits

ApprovalState = Literal["open", "decided", "timeout", "withdrawn"]


class SignalSent(msgspec.Struct, kw_only=True):
    """What became of a signal."""

    state: Literal["delivered", "kept", "repeated"]
    """`delivered` to a task that waits for it, `kept` for one that will, or `repeated`: it was counted before."""
    task: str | None = None
    """The task that took it."""


class ApprovalView(msgspec.Struct, kw_only=True):
    """Something that a task asks people to decide."""

    id: str
    workflow: str
    task: str
    title: str
    details: Any
    """Any JSON."""
    choices: list[str]
    state: ApprovalState
    """`withdrawn`: its task ended without it."""
    asked_at: str
    expires_at: str | None
    on_timeout: str | None
    """The choice that counts if nobody decides in time."""
    choice: str | None
    comment: str
    payload: Any
    """What the person who decided gave with it, any JSON."""
    by: str | None
    ended_at: str | None


class ApprovalPage(msgspec.Struct, kw_only=True):
    """A page of approvals, oldest first."""

    approvals: list[ApprovalView]
    next: str | None


class DecisionRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """`POST /v1/approvals/{id}`."""

    choice: Annotated[
        str,
        msgspec.Meta(
            min_length=1,
            max_length=limits.CHOICE_CHARS_MAX,
            extra_json_schema={"description": "one of the choices of the approval"},
        ),
    ]
    comment: Annotated[str, msgspec.Meta(max_length=limits.COMMENT_CHARS_MAX)] = ""
    payload: Any = None
    """Any JSON: what the task gets with the choice."""
