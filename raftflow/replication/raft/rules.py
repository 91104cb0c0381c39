"""The rules that repair what the library gets wrong or lacks, by name. DESIGN.md has the history behind each."""

from __future__ import annotations

import enum
from typing import Final


class Rule(enum.StrEnum):
    """A rule of the guard (T), the sync gate (G), changes of members (M) or elections (E).

    Tests switch them off one by one.
    """

    TERM_STAMP = "T1"
    NO_TRUNCATION = "T2"
    RESUME_HINT = "T3"
    COMMIT_VERIFIED = "T4"
    LOAD_CHECKED = "T5"
    NO_FORWARDING = "T6"
    SNAPSHOT_NEEDED = "T7"
    SYNC_ACKS = "G1"
    SYNC_VOTES = "G2"
    SYNC_LEADER = "G3"
    ONE_CHANGE = "M1"
    LOGGED_MEMBERS = "M2"
    SNAPSHOT_MEMBERS = "M3"
    MEMBERS_COUNT = "M4"
    OUTSIDERS_PASSIVE = "M5"
    LEARN_FIRST = "M6"
    PRE_VOTE = "E1"
    PRE_VOTE_SILENCE = "E2"
    PRE_VOTE_LOG = "E3"
    ADAPT_TIMEOUTS = "E4"


NO_RULES: Final[frozenset[Rule]] = frozenset()
"""No rule is disabled."""


class SafetyViolationError(Exception):
    """A peer asked for something that no correct replica asks for. To continue could lose acknowledged entries."""
