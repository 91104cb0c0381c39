"""The interface between raftflow and its replicated log; it has two implementations.

`PySyncObjLog` (engine.py) replicates over the network and to disk; `MemoryLog` (memory.py) is one replica that
commits at once, for tests. Everything above this package sees only the names in this module, so that another
engine could stand behind them.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, NamedTuple, Protocol, runtime_checkable

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from raftflow.replication.errors import LogFailedError
    from raftflow.replication.files import OpenFile
    from raftflow.replication.members.membership import MemberInfo, Membership
    from raftflow.replication.storage.snapshot_file import SnapshotInfo


class StateMachine(Protocol):
    """The state machine of a log. All calls except `prepare` come from the event loop's thread, one at a time."""

    def apply(self, index: int, term: int, entry: bytes) -> object:
        """Apply one committed entry and return its reply.

        Must be total: an exception here is a bug that stops the replica. `index` grows by at least one from call
        to call (the log's own no-op entries are not shown). The reply is handed to the submitter unchanged.
        """
        ...

    def snapshot(self) -> Iterator[bytes]:
        """Freeze the state as of now and return its encoding, piece by piece.

        The iterator may be consumed over many turns of the loop while `apply` goes on: it yields the state as it
        was when `snapshot` was called. Each `next` must take well under 10 ms. One snapshot is open at a time;
        dropping (closing) the iterator ends it.
        """
        ...

    def prepare(self, pieces: Iterable[bytes]) -> Callable[[], None]:
        """Read a snapshot. The returned function replaces the whole state by it, at once.

        Raises `ValueError` if it cannot be read. Unlike the other calls this one may run in another thread while
        `apply` continues, so that a large snapshot does not silence a replica. It reads nothing that `apply` changes.
        """
        ...


class Role(enum.StrEnum):
    """The role of a replica in its current term."""

    LEADER = "leader"
    FOLLOWER = "follower"
    CANDIDATE = "candidate"


class PeerStatus(msgspec.Struct, frozen=True, kw_only=True):
    """Another member as this replica sees it."""

    name: str
    connected: bool
    match_index: int | None = None
    """Highest entry known to be on the peer's disk; only the leader knows it."""
    lag: int | None = None
    """Entries that the peer's disk is behind the leader's log; only the leader knows it."""


class LogStatus(msgspec.Struct, frozen=True, kw_only=True):
    """A replica's view of the log."""

    name: str
    role: Role
    leader: str | None
    """Name of the leader of `term` if this replica knows it."""
    term: int
    last_index: int
    durable_index: int
    commit_index: int
    applied_index: int
    snapshot_index: int
    ready: bool
    """True when this replica serves: a leader with a committed entry of its own term and a quorum, or a follower
    that hears a leader and has applied what that leader had committed when contact began."""
    election_min_s: float = 0.0
    """The least election timeout at present: it becomes longer on a busy machine. 0 for a log without elections."""
    peers: tuple[PeerStatus, ...] = ()
    members: Membership | None = None
    """The members of the cluster by this replica's log; None for a log whose members cannot change."""


class Stamp(NamedTuple):
    """The part of `LogStatus` that every answer of a replica carries."""

    applied_index: int
    term: int
    leader: str | None
    members: Membership | None = None
    """As in `LogStatus`; the same object until the list changes."""


class Applied(msgspec.Struct, frozen=True):
    """The entry is committed, durable on a majority, and applied here. `reply` is what `apply` returned."""

    index: int
    term: int
    reply: object


class Rejected(msgspec.Struct, frozen=True):
    """The entry is in no log and never will be. Safe to submit again elsewhere."""

    reason: str
    """`not_leader`, `no_leader`, `queue_full`, `too_large`, `closed`, `discarded`."""


class Unknown(msgspec.Struct, frozen=True):
    """Leadership or contact was lost while the entry was in flight: it may be committed or not."""

    reason: str
    """`leader_changed`, `timeout`, `closed`."""


Outcome = Applied | Rejected | Unknown


class ReplicatedLog(Protocol):
    """A totally ordered, durable sequence of entries, applied to one `StateMachine` on every replica."""

    async def start(self) -> None:
        """Open files, restore the newest snapshot, start talking to peers. Raises `LogFailedError`."""
        ...

    async def close(self) -> None:
        """Stop. Submissions in flight end as `Unknown("closed")`. Safe to call twice."""
        ...

    async def submit(self, entry: bytes, timeout_s: float) -> Outcome:
        """Append one entry and wait until it is applied here. The outcome is returned, never raised."""
        ...

    async def read_index(self, timeout_s: float) -> int:
        """Confirm leadership with a majority and wait until everything committed before the call is applied.

        Returns the applied index at which a read of the state machine is linearizable. Raises `NoQuorumError`.
        """
        ...

    async def transfer_leadership(self, target: str | None, timeout_s: float) -> bool:
        """Hand leadership to `target`, or to the most caught-up follower. True if it took over.

        With a target it is False, and this replica no longer leads, if another one was faster.
        """
        ...

    def status(self) -> LogStatus:
        """Return the present view. Cheap: no I/O."""
        ...

    def stamp(self) -> Stamp:
        """Return a part of `status` that is cheap enough for every request."""
        ...

    @property
    def founding_levels(self) -> Mapping[str, int]:
        """Return the feature level at which the cluster begins, by founder; empty where that is not known."""
        ...

    def on_role_change(self, callback: Callable[[Role, int], None]) -> None:
        """Call `callback(role, term)` on each change.

        `LEADER` is announced only once an entry of the new term is committed and everything before it applied, so
        that the state machine of a new leader is complete. `FOLLOWER` is announced as soon as leadership is lost.
        """
        ...

    def on_leader_change(self, callback: Callable[[], None]) -> None:
        """Call `callback()` when this replica hears the leader of another term, or is announced as the leader."""
        ...

    def request_snapshot(self) -> None:
        """Start writing a snapshot and compact the log behind it when it is durable. No-op while one runs."""
        ...

    async def wait_failed(self) -> LogFailedError:
        """Return when the log has stopped for ever, with the reason."""
        ...


@runtime_checkable
class ChangeableLog(Protocol):
    """A replicated log whose members can be changed; see `PySyncObjLog`."""

    def status(self) -> LogStatus:
        """See `ReplicatedLog`."""
        ...

    async def add_member(self, member: MemberInfo, timeout_s: float) -> Membership:
        """Send entries to a new replica until it has caught up, then make it a voter."""
        ...

    async def remove_member(self, name: str, timeout_s: float) -> Membership:
        """Take a voter or learner out of the cluster for ever."""
        ...


class SnapshotNotTakenError(Exception):
    """There is no snapshot to give out. The message says why."""


class OpenSnapshot(NamedTuple):
    """A snapshot on this replica's disk. It stays readable until it is closed, also when it is pruned."""

    info: SnapshotInfo
    file: OpenFile


@runtime_checkable
class SnapshotSource(Protocol):
    """A replicated log with snapshots on a disk; see `PySyncObjLog`."""

    async def open_snapshot(self, timeout_s: float) -> OpenSnapshot:
        """Write a snapshot of everything that is applied here by now, and open its file."""
        ...
