"""The settings of one replica's log. Times are seconds, sizes bytes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import msgspec

from raftflow.replication.messages.envelope import ENTRY_BYTES_MAX
from raftflow.replication.storage.journal import SEGMENT_BYTES

REPLICAS_MAX: Final = 9
"""More members cost more than they protect from."""


class LogConfig(msgspec.Struct, frozen=True, kw_only=True):
    """The settings of `PySyncObjLog`. Raises `ValueError` for values that cannot work."""

    name: str
    members: tuple[str, ...]
    """All members of the cluster, this replica included, in any order."""
    cluster_id: str
    data_dir: Path
    addresses: Mapping[str, tuple[str, str]] = {}
    """Peer address and API url by name, for the list of members."""
    join: bool = False
    """True for a replica that joins a cluster: `members` are the peers that it may hear; it is not a member yet."""
    bootstrap: bool = False
    """The operator orders a birth with a majority of the members, for this start; see `members/births.py`."""

    election_min_s: float = 0.3
    election_max_s: float = 0.6
    silence_s: float | None = None
    """A replica that has heard no leader for so long would vote for another one; by default `election_min_s`."""
    heartbeat_s: float = 0.049
    fallback_share: float = 0.95
    """A leader that hears no majority for this share of `election_min_s` steps down."""
    fallback_max_s: float = 0.0
    """So long a leader may wait for a majority when its timeouts adapt to a slow machine, if that is more.

    What it promises meanwhile must be covered by the margin of leases: see "Elections" in DESIGN.md.
    """
    disk_stall_s: float = 1.0
    """A replica whose disk has not answered for so long stops counting, so that another one can lead."""

    entry_bytes_max: int = ENTRY_BYTES_MAX
    queue_entries_max: int = 4096
    """Entries that may be submitted and not yet applied."""
    queue_bytes_max: int = 64 * 1024 * 1024
    append_bytes_max: int = 1024 * 1024
    """How much one message to a follower carries; a larger entry goes alone."""
    window_bytes: int = 4 * 1024 * 1024
    """A follower whose link holds more than this unsent gets no further entries for now."""

    segment_bytes: int = SEGMENT_BYTES
    """Size at which the journal starts another file."""
    snapshot_entries: int = 20_000
    """Applied entries after which the log is compacted; see `rank` for how replicas are staggered."""
    snapshot_bytes: int = 64 * 1024 * 1024
    snapshot_chunks_in_flight: int = 8
    snapshot_stall_s: float = 10.0
    """A snapshot transfer without an answer for so long is given up and started again."""
    snapshot_retry_s: float = 30.0
    """Pause after a snapshot that could not be written."""

    def __post_init__(self) -> None:
        """Check values that would otherwise fail late."""
        if self.name not in self.members:
            raise ValueError(f"members {list(self.members)} do not contain this replica, {self.name}")
        if len(set(self.members)) != len(self.members):
            raise ValueError(f"members {list(self.members)} contain a name twice")
        if self.bootstrap and self.join:
            raise ValueError("a replica that joins (join = true) cannot be told to bootstrap a cluster")
        if len(self.members) > REPLICAS_MAX:
            raise ValueError(f"{len(self.members)} members; at most {REPLICAS_MAX}")
        if not 3 * self.heartbeat_s < self.election_min_s < self.election_max_s:
            raise ValueError(
                "the election timeouts must be more than three heartbeats, and the minimum below the maximum"
            )
        if self.silence_s is not None and not 3 * self.heartbeat_s < self.silence_s <= self.election_min_s:
            raise ValueError("silence_s must be more than three heartbeats and at most the least election timeout")
        if not 0 < self.entry_bytes_max <= ENTRY_BYTES_MAX:
            raise ValueError(f"entry_bytes_max must be between 1 and {ENTRY_BYTES_MAX}")
        if min(self.snapshot_entries, self.snapshot_bytes, self.queue_entries_max, self.queue_bytes_max) < 1:
            raise ValueError("limits must be positive")

    @property
    def peers(self) -> tuple[str, ...]:
        """The other members, sorted."""
        return tuple(sorted(member for member in self.members if member != self.name))

    @property
    def stagger(self) -> float:
        """Factor on the snapshot thresholds, different on every replica, so that they do not all compact at once."""
        return 1.0 + sorted(self.members).index(self.name) / (2 * len(self.members))
