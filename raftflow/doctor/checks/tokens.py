"""Checks of tokens: which of them end soon, or have ended."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from raftflow.doctor.facts import ClusterFacts
from raftflow.doctor.findings import CheckResult, Severity, judged
from raftflow.doctor.units import duration, moment
from raftflow.domain.contract.cluster import EndingToken

WARN_DAYS: Final = 7.0
"""A token that is valid for less is a warning,"""
WARN_SHARE: Final = 0.25
"""if no more than this share of its lifetime is left."""
_DAY_MS: Final = 24 * 3600 * 1000


def check_tokens(gathered: ClusterFacts) -> Iterator[CheckResult]:
    """Check until when tokens are valid. All replicas know the same ones."""
    seen: set[str] = set()
    for _, host in gathered.hosts():
        for token in host.ending_tokens:
            if token.name not in seen:
                seen.add(token.name)
                yield _validity(token, host.time_ms)


def _validity(token: EndingToken, now_ms: int) -> CheckResult:
    left_ms = token.expires_ms - now_ms
    ends_soon = left_ms < WARN_DAYS * _DAY_MS and left_ms <= WARN_SHARE * token.lifetime_ms
    until = moment(token.expires_ms)
    told = (
        f"is valid for {duration(left_ms / 1000)} more, until {until}" if left_ms > 0 else f"has expired, on {until}"
    )
    return judged(
        code="token",
        severity=Severity.WARNING if ends_soon else Severity.OK,
        subject=token.name,
        measured=f"the token {told}",
        meaning="Its holder is let in no more when it has expired.",
        advice=f"run: raftflow token rotate {token.name} --overlap 1h, and tell its holder the secret; or revoke it",
        value=round(left_ms / _DAY_MS, 2),
        unit="days",
    )
