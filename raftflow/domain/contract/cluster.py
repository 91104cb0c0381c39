"""Replicas and members as the API shows them."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from raftflow.domain import limits
from raftflow.domain.contract.common import ADDRESS_PATTERN, URL_PATTERN, Name


class PeerView(msgspec.Struct, kw_only=True):
    """Another member, as this replica sees it."""

    name: str
    connected: bool
    match_index: int | None = None
    lag: int | None = None


class MemberView(msgspec.Struct, kw_only=True):
    """A replica of the cluster."""

    name: str
    peer: str
    """Where other replicas reach it, `host:port`."""
    url: str
    """Where clients and agents reach it."""
    voting: bool = True
    """False while it is being caught up: it holds data but does not count for majorities."""
    leader: bool = False
    connected: bool = False
    match_index: int | None = None
    """Highest entry known to be on its disk; only the leader knows it."""
    lag: int | None = None


class MemberList(msgspec.Struct, kw_only=True):
    """`GET /v1/members`: who belongs to the cluster, as the replica that answers knows it."""

    replica: str
    """Who answers."""
    leader: str | None
    term: int
    members: list[MemberView]
    removed: list[str] = []
    """Names that were members once and can never be again."""


class AddMemberRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """`POST /v1/members`: a replica that runs on an empty disk with `join = true` becomes a member."""

    name: Name
    peer: Annotated[
        str,
        msgspec.Meta(
            max_length=limits.ADDRESS_CHARS_MAX,
            extra_json_schema={"pattern": ADDRESS_PATTERN},
            description="where other replicas reach it",
        ),
    ]
    url: Annotated[
        str,
        msgspec.Meta(
            max_length=limits.URL_CHARS_MAX,
            extra_json_schema={"pattern": URL_PATTERN},
            description="where clients and agents reach it",
        ),
    ]


class TransferRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """`POST /v1/members/transfer`: hand leadership over."""

    to: Annotated[Name | None, msgspec.Meta(description="a voting member; by default the most caught-up one")] = None


class LeaderNotice(msgspec.Struct, kw_only=True):
    """`GET /v1/leader`: who leads, as far as this replica knows."""

    leader: str | None
    """None while this replica knows of no leader: it has not heard one for about an election timeout."""
    url: str | None
    """Where clients and agents reach the leader."""
    term: int
    """The term in which it leads; of two answers that name a leader the one of the higher term is right."""


class HealthView(msgspec.Struct, kw_only=True):
    """`GET /healthz` and `GET /readyz`."""

    ok: bool
    name: str
    role: str


class ReplicaStatus(msgspec.Struct, kw_only=True):
    """`GET /v1/status`: this replica."""

    name: str
    cluster: str
    role: Literal["leader", "follower", "candidate"]
    leader: str | None
    leader_url: str | None
    term: int
    last_index: int
    durable_index: int
    commit_index: int
    applied_index: int
    snapshot_index: int
    ready: bool
    digest: str
    """Hex audit chain after `digest_index`: equal indexes must show equal digests."""
    digest_index: int
    pid: int
    version: str
    feature_level: int = 1
    """The cluster's level, as of the state machine; see `domain.features`."""
    feature_level_max: int = 1
    """The highest level that this replica understands."""
    uptime_s: float
    peers: list[PeerView]
