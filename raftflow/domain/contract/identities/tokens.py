"""Tokens, as the API shows them."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from raftflow.domain import limits
from raftflow.domain.contract.common import Name
from raftflow.domain.values.roles import AGENT_NAMES_PATTERN, Role

_LIFETIME_S_MAX = limits.TOKEN_LIFETIME_MS_MAX // 1000
Seconds = Annotated[float, msgspec.Meta(ge=1, le=_LIFETIME_S_MAX)]


class TokenRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """`POST /v1/tokens`."""

    name: Name
    role: Annotated[Role, msgspec.Meta(description="what its holder may do")]
    expires_s: Annotated[Seconds | None, msgspec.Meta(description="how long it is valid; for ever by default")] = None
    agents: Annotated[
        Annotated[
            str,
            msgspec.Meta(
                max_length=limits.NAME_CHARS_MAX,
                extra_json_schema={"pattern": AGENT_NAMES_PATTERN},
            ),
        ]
        | None,
        msgspec.Meta(
            description="with role agent: which agents its holder may be, a name or how names begin, such as gpu-*; "
            "all by default"
        ),
    ] = None
    labels: Annotated[
        dict[Name, Annotated[str, msgspec.Meta(max_length=limits.LABEL_CHARS_MAX)]],
        msgspec.Meta(
            max_length=limits.LABELS_MAX,
            description="with role agent: its holder may claim these labels of an agent, no others; any by default",
        ),
    ] = {}


class RotateRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """`POST /v1/tokens/{name}/rotate`."""

    overlap_s: Annotated[
        Annotated[float, msgspec.Meta(ge=0, le=_LIFETIME_S_MAX)],
        msgspec.Meta(description="how long the old secret stays valid beside the new one; one hour by default"),
    ] = 3600.0


class TokenMade(msgspec.Struct, kw_only=True):
    """A new secret. It is shown this once: the cluster keeps only its digest."""

    name: str
    role: str
    token: str
    expires_at: str | None


class TokenView(msgspec.Struct, kw_only=True):
    """A token, without its secret."""

    name: str
    role: str
    state: Literal["valid", "expired"]
    made_at: str
    """When it was made, or rotated last."""
    expires_at: str | None
    old_secret_until: str | None
    """Until then the secret before the last rotation is valid too; None if it is not any more."""
    agents: str
    """Which agents its holder may be; empty for all."""
    labels: dict[str, str]


class TokenList(msgspec.Struct, kw_only=True):
    """All tokens, in order of the names."""

    tokens: list[TokenView]


class TokenRevoked(msgspec.Struct, kw_only=True):
    """The token is not valid any more, at any replica that hears of it."""

    name: str


class IdentityView(msgspec.Struct, kw_only=True):
    """Who asks, as the replica sees it."""

    name: str
    """`api` for the token of the configuration, and for everybody in a cluster without one."""
    role: str
    """`all` for the token of the configuration."""
    agents: str
    labels: dict[str, str]
