"""Agents as the API shows them."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from raftflow.domain.contract.exchange import AgentLoad

AgentWord = Literal["up", "suspect", "unfit", "returned", "quarantine", "draining", "lost", "left"]
"""State of an agent, as users see it."""


class AgentView(msgspec.Struct, kw_only=True):
    """What `agent list` prints."""

    id: str
    name: str
    state: AgentWord
    """As the replicas know it; and as the leader alone knows it, in place of `up`: `suspect` while it has been silent
    for a good part of its lease, `unfit` while it says that it can run nothing (`trouble`), and `returned` from its
    return after a loss to its first success."""
    incarnation: int
    resources: dict[str, float]
    allocated: dict[str, float]
    labels: dict[str, str] = {}
    running: int = 0
    queued: int = 0
    pid: int | None = None
    version: str = ""
    clock_skew_s: float | None = None
    """How far the clock of its machine was ahead of the leader's when it registered; None if this leader did not
    see that. The time of the registration on its way is in it."""
    last_seen_s: float | None = None
    """Seconds since its last poll, as the leader knows; None elsewhere."""
    load: AgentLoad | None = None
    drain_deadline: str | None = None
    """When what still runs on a draining agent is moved; None for never, and when that was ordered."""
    quarantine_until: str | None = None
    """When it gets work again by itself; `resume` ends it at once."""
    losses: int = 0
    """How often it was lost in short succession; an hour without a loss forgets it."""
    faults_per_mille: int = 0
    """How many of its last attempts, some sixteen, failed there or vanished with it."""
    drained: bool = False
    """An operator drained it and has not resumed it since. It stays drained when it is lost, leaves or returns."""
    trouble: str = ""
    """Why it is unfit, as it told the leader; empty if it is fit."""

    @property
    def up(self) -> bool:
        """True if the replicas know it as up, whatever the leader thinks of it."""
        return self.state in {"up", "suspect", "unfit", "returned"}


class DrainRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """`POST /v1/agents/{id}/drain`; the body may be left out."""

    deadline_s: Annotated[
        Annotated[float, msgspec.Meta(ge=0.001, le=366 * 24 * 3600)] | None,
        msgspec.Meta(description="what still runs after this time moves to other agents; never by default"),
    ] = None


class ForgottenAgent(msgspec.Struct, kw_only=True):
    """Answer of `POST /v1/agents/{id}/forget`."""

    name: str


class AgentList(msgspec.Struct, kw_only=True):
    """Every agent that is known."""

    agents: list[AgentView]
