"""What crosses the border to PySyncObj: entries, messages, its numbers for states and failures, its periods."""

from __future__ import annotations

import enum
from typing import Any, Protocol

import msgspec
from pysyncobj import FAIL_REASON

Entry = tuple[bytes, int, int]
"""Command bytes, index, term."""
Message = dict[str, Any]


class RaftState(enum.IntEnum):
    """The library's numbers for a replica's state."""

    FOLLOWER = 0
    CANDIDATE = 1
    LEADER = 2


class LibraryFailure(enum.IntEnum):
    """The library's reasons for which a command was not applied."""

    SUCCESS = FAIL_REASON.SUCCESS
    QUEUE_FULL = FAIL_REASON.QUEUE_FULL
    MISSING_LEADER = FAIL_REASON.MISSING_LEADER
    DISCARDED = FAIL_REASON.DISCARDED
    NOT_LEADER = FAIL_REASON.NOT_LEADER
    LEADER_CHANGED = FAIL_REASON.LEADER_CHANGED
    REQUEST_DENIED = FAIL_REASON.REQUEST_DENIED


class JournalLog(Protocol):
    """What the library asks of a journal."""

    def __len__(self) -> int: ...
    def __getitem__(self, item: Any) -> Any: ...
    def add(self, command: bytes, idx: int, term: int) -> None:
        """Append an entry."""
        ...


class RaftTiming(msgspec.Struct, frozen=True, kw_only=True):
    """The library's periods, in seconds."""

    election_min_s: float
    election_max_s: float
    silence_s: float
    """A replica that has heard no leader for so long would vote for another one (pre_votes.py)."""
    heartbeat_s: float
    fallback_s: float
    """A leader that hears no majority for so long steps down."""
    fallback_max_s: float = 0.0
    """So long it may wait when its timeouts adapt to a slow machine (timeouts.py), if that is more."""
