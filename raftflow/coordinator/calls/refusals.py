"""What an attempt is told when the log refuses what it asks."""

from __future__ import annotations

from typing import Literal

from raftflow.domain.contract.views import RefusedCall
from raftflow.domain.rejections import Rejection, RejectionCode

_KINDS: dict[RejectionCode, Literal["stale", "mismatch", "limit", "invalid"]] = {
    RejectionCode.STALE_INCARNATION: "stale",
    RejectionCode.STALE_FENCE: "stale",
    RejectionCode.REQUEST_MISMATCH: "mismatch",
    RejectionCode.LIMIT: "limit",
}


def refusal_of(reply: Rejection) -> RefusedCall:
    """Return the answer to a call that was refused."""
    return RefusedCall(type=_KINDS.get(reply.code, "invalid"), detail=reply.message)
