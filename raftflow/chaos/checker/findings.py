"""What the checks find: violations, and what they could not decide."""

from __future__ import annotations

import collections
from typing import Final, NamedTuple

VIOLATIONS_PER_KIND_MAX: Final = 50
"""Violations of one kind that are listed; all of them are counted."""

UNDECIDED_MAX: Final = 50

KINDS: Final[dict[str, str]] = {
    "lost": "an acknowledged submission is gone",
    "duplicate": "one request made two workflows, or two requests made one",
    "phantom": "something exists or happened that no operation can have caused",
    "unfinished": "a workflow or a task had not ended when the run was over",
    "wrong-end": "a workflow or a task ended in another state than it must",
    "wrong-result": "a task has another result than it must, or two results",
    "two-ends": "two attempts of one task were accepted as its success",
    "accepted-end": "an attempt was accepted as a success that had not come to its end",
    "not-linearizable": "reads and writes have no order that explains all answers",
    "went-back": "a later read shows an older state",
    "cancel": "something went on after an acknowledged cancel",
    "effect": "the fence of an accepted effect is not that of the accepted attempt, or went down",
    "fence": "a fence stands for two attempts, or does not grow",
    "overlap": "two attempts of one task ran at the same time without being allowed to",
    "order": "a task started before a task that it needs had ended",
    "step": "a durable step ran again after its result was known, or has two results",
    "child": "a child ran again after its parent knew its result, or had not ended then",
    "recovery": "no write was acknowledged within the bound after a fault",
    "replicas": "audit, digests or ledger of the replicas are wrong at the end",
}
"""Every kind of violation."""


class Finding(NamedTuple):
    """One violation."""

    kind: str
    text: str
    at: float
    """Seconds since the start of the run."""


class Findings:
    """Collects violations, bounded in number."""

    def __init__(self) -> None:
        self.listed: list[Finding] = []
        self.counts: collections.Counter[str] = collections.Counter()
        self.undecided: list[str] = []
        self.undecided_count = 0

    def add(self, kind: str, text: str, at: float) -> None:
        """Note a violation."""
        if kind not in KINDS:
            raise ValueError(f"unknown kind of violation: {kind}")
        self.counts[kind] += 1
        if self.counts[kind] <= VIOLATIONS_PER_KIND_MAX:
            self.listed.append(Finding(kind, text, round(at, 6)))

    def leave_undecided(self, text: str) -> None:
        """Note that something could not be judged. It does not pass."""
        self.undecided_count += 1
        if len(self.undecided) < UNDECIDED_MAX:
            self.undecided.append(text)
