"""Replicas, members, and the machines of replicas as the API shows them."""

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


class DiskFacts(msgspec.Struct, kw_only=True):
    """The file system of the data directory."""

    path: str
    free_bytes: int = 0
    """Free for the process of the replica."""
    size_bytes: int = 0
    free_files: int = 0
    """Files that can still be made (inodes)."""
    files_max: int = 0
    """0 where the file system has no such limit."""
    read_only: bool = False


class SyncTimes(msgspec.Struct, kw_only=True):
    """How long syncs of the log and the audit took lately."""

    window_s: float
    count: int
    mean_ms: float = 0.0
    p99_ms: float = 0.0
    """99 of 100 took at most this long: the upper bound of a class of the histogram. 5000 stands for more, too."""


class LoopLag(msgspec.Struct, kw_only=True):
    """How late timers of the event loop were lately."""

    window_s: float
    max_ms: float


class PressureStall(msgspec.Struct, kw_only=True):
    """Pressure stall information of Linux: the share of the last minute, in percent. None if the kernel lacks it."""

    cpu_some: float | None = None
    """Some thread waited for a CPU."""
    io_full: float | None = None
    """Every thread waited for a disk."""
    memory_full: float | None = None
    """Every thread waited for memory."""


class TermCount(msgspec.Struct, kw_only=True):
    """By how much the term grew: at most one leader each."""

    window_s: float
    terms: int


class FileMode(msgspec.Struct, kw_only=True):
    """A file or directory of the replica and who may use it."""

    setting: str
    """The setting that names it; `replica.data_dir` also for the files in it, `configuration` for the file itself."""
    path: str
    mode: str
    """Octal, such as `0600`; empty if it cannot be read."""
    exposed: Literal["", "readable", "writable"] = ""
    """What others than its owner may do, and should not."""
    error: str = ""


class CertificateFacts(msgspec.Struct, kw_only=True):
    """A certificate, or the first one of an authority's file."""

    setting: str
    path: str
    subject: str = ""
    names: list[str] = []
    """Host names and addresses for which it is valid."""
    not_before_ms: int = 0
    """Since the epoch."""
    not_after_ms: int = 0
    error: str = ""


class SavedSnapshotFacts(msgspec.Struct, kw_only=True):
    """Snapshots that the replica saves by itself (`snapshot.every`)."""

    every_s: float
    keep: int
    directory: str
    count: int = 0
    newest_ms: int | None = None
    """When the newest was saved, since the epoch."""
    error: str = ""


class DrainedAgent(msgspec.Struct, kw_only=True):
    """An agent that an operator drained."""

    name: str
    for_s: float
    """At least so long: a replica counts from its own start."""


class EndingToken(msgspec.Struct, kw_only=True):
    """A token with a lifetime."""

    name: str
    expires_ms: int
    """Since the epoch."""
    lifetime_ms: int


class HostView(msgspec.Struct, kw_only=True):
    """`GET /v1/host`: the machine and the process of the replica that is asked."""

    name: str
    version: str
    time_ms: int
    """The machine's clock, since the epoch, when the answer was made."""
    running_ms: int
    """A clock that nobody can set: only differences mean something."""
    cluster_time_ms: int
    """The time that the replica would stamp on a command."""
    lease_ms: int
    """These three are of its configuration."""
    election_min_ms: int
    heartbeat_ms: int
    cpu_count: int
    load_1m: float
    resident_bytes: int
    open_fds: int
    max_fds: int
    loop: LoopLag
    syncs: SyncTimes
    terms: TermCount
    pressure: PressureStall = msgspec.field(default_factory=PressureStall)
    disk: DiskFacts | None = None
    """None if it did not answer in time; `unread` says so."""
    files: list[FileMode] = []
    certificates: list[CertificateFacts] = []
    snapshots: SavedSnapshotFacts | None = None
    """None unless the replica saves snapshots."""
    repairing: bool = False
    """It copies the log again after damage, and does not vote yet."""
    damaged_files: list[str] = []
    """Names of files that were set aside because they were damaged; the first twenty."""
    drained_agents: list[DrainedAgent] = []
    ending_tokens: list[EndingToken] = []
    """Those that end first, or have ended; at most twenty."""
    unread: str = ""
    """Why facts of disk and files are missing, empty if they are not."""


class SnapshotView(msgspec.Struct, kw_only=True):
    """A snapshot on the disk of one replica, open to be read for a while."""

    id: str
    replica: str
    """The replica that has it, and its URL: only that one gives it out."""
    url: str
    cluster: str
    index: int
    """It contains everything up to this entry of the log."""
    term: int
    chain: str
    """Hex audit chain after that entry: the anchor from which the audit goes on."""
    feature_level: int
    taken_at_ms: int
    members: list[str]
    """Names of the voters."""
    size: int
    """Bytes of the file."""
    digest: str
    """Hex BLAKE2b-256 of its content, as the file itself has it at its end."""
