"""Rate limits, as the API shows them."""

from __future__ import annotations

from typing import Annotated

import msgspec

from raftflow.domain import limits
from raftflow.domain.values.rates import RATE_PATTERN


class RateLimitRequest(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """`POST /v1/limits/{name}`."""

    rate: Annotated[
        str,
        msgspec.Meta(
            max_length=40,
            extra_json_schema={
                "description": "units that come in a second, minute, hour or day, such as 100/min",
                "pattern": RATE_PATTERN,
            },
        ),
    ]
    burst: (
        Annotated[
            int,
            msgspec.Meta(
                ge=1,
                le=limits.RATE_AMOUNT_MAX,
                extra_json_schema={"description": "units that can be taken at once after a quiet time"},
            ),
        ]
        | None
    ) = None
    """Without it as many as come in the unit of time."""


class RateLimitView(msgspec.Struct, kw_only=True):
    """A rate limit, and what its bucket has now."""

    name: str
    rate: str
    burst: int
    available: int
    """Whole units that can be taken now."""
    full_in_s: float
    """After this time the bucket is full, if nobody takes from it."""


class RateLimitList(msgspec.Struct, kw_only=True):
    """All rate limits, in order of the names."""

    limits: list[RateLimitView]


class RateLimitRemoved(msgspec.Struct, kw_only=True):
    """The rate limit is not there any more."""

    name: str
