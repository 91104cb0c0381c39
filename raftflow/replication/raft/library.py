# ruff: noqa: SLF001 - this module is where the library's private names are used, for exactly one version of it
"""PySyncObj behind one small class: all code that uses the library's private names is in this module.

The library is neither patched nor copied. Its own seams are used (a transport object, a clock, `doTick`, one
`@replicated` method), two names of its module (`createJournal`, `monotonicTime`) and the serializer that it keeps per
instance. Since private names are read, the version is pinned and checked when this module is imported.

The library's log holds entries `(command, index, term)`; the first entry of a fresh log is a no-op with index 1.
"""

from __future__ import annotations

import asyncio
import zlib
from typing import TYPE_CHECKING, Final

import pysyncobj.syncobj as library
from pysyncobj import SyncObj, SyncObjConf, replicated
from pysyncobj.node import Node
from pysyncobj.version import VERSION

from raftflow.replication.members.membership import Membership, MembershipTracker, check_command, command_of
from raftflow.replication.raft.library_types import LibraryFailure, RaftState

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from pysyncobj.transport import Transport

    from raftflow.replication.raft.library_types import Entry, JournalLog, Message, RaftTiming
    from raftflow.replication.raft.snapshot_port import SnapshotPort

SUPPORTED_VERSION: Final = "0.3.17"

if VERSION != SUPPORTED_VERSION:  # pragma: no cover - depends on what is installed
    raise ImportError(
        f"raftflow works with pysyncobj {SUPPORTED_VERSION} only, but {VERSION} is installed: its guard relies on "
        f"the private names of that version. Run: pip install pysyncobj=={SUPPORTED_VERSION}"
    )


class MemberNode(Node):  # type: ignore[misc]
    """A node whose hash does not depend on PYTHONHASHSEED: the library iterates over sets of nodes."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self._hash = zlib.crc32(name.encode())

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Node) and bool(self.id == other.id)


class _IdlePoller:
    """The library polls sockets of its own at the end of a tick; it has none."""

    def poll(self, _timeout: float) -> None:
        """Return at once."""


class _LibraryNode(SyncObj):  # type: ignore[misc]
    """The library's object with the one replicated method."""

    def __init__(
        self,
        me: MemberNode,
        others: Sequence[MemberNode],
        conf: SyncObjConf,
        transport: Transport,
        apply: Callable[[bytes], object],
    ) -> None:
        self._apply_entry = apply
        super().__init__(me, others, conf, transport=transport, nodeClass=MemberNode)
        self._poller = _IdlePoller()

    @replicated  # type: ignore[untyped-decorator]
    def entry(self, payload: bytes) -> object:
        """Apply one payload. The library calls this and nothing else."""
        return self._apply_entry(payload)


def loop_clock() -> float:
    """Return the running event loop's time, which the library uses for every deadline."""
    return asyncio.get_running_loop().time()


def use_clock(clock: Callable[[], float]) -> None:
    """Point the library's clock, which is one per process, at `clock`."""
    library.monotonicTime = clock


class Raft:
    """One replica of the library's Raft, with names for what this package reads and does.

    `apply(payload)` and the callbacks run inside `tick`. An exception from `apply` leaves `tick`; do not call `tick`
    afterwards, since the library would apply the same entry again.
    """

    def __init__(
        self,
        name: str,
        members: Iterable[str],
        *,
        timing: RaftTiming,
        transport: Transport,
        journal: JournalLog,
        snapshots: SnapshotPort,
        apply: Callable[[bytes], object],
        queue_entries_max: int = 100_000,
        batch_bytes: int = 2**30,
        on_state: Callable[[], None] | None = None,
        membership: Membership | None = None,
        members_when_applied: bool = False,
        outsiders_stand: bool = False,
        holds_elections: bool = False,
    ) -> None:
        """Make the replica; `membership` is the list of the first start, by default all `members` as voters.

        `members_when_applied` and `outsiders_stand` are for tests: M2 and M5 off. With `holds_elections` no election
        begins before it is ordered (`campaign_now`, or the leader's `timeout_now`): pre_votes.py.
        """
        self.name = name
        base = Membership.of(members) if membership is None else membership
        self._nodes: dict[str, MemberNode] = {}
        self._outsiders_stand = outsiders_stand
        self.holds_elections = holds_elections
        self._timing = timing
        self.on_membership: Callable[[], None] | None = None
        """Called when the membership in force, or the one that can no longer be cut off, has changed."""
        conf = SyncObjConf(
            autoTick=False,
            commandsQueueSize=queue_entries_max,
            raftMinTimeout=timing.election_min_s,
            raftMaxTimeout=timing.election_max_s,
            appendEntriesPeriod=timing.heartbeat_s,
            connectionTimeout=timing.election_max_s * 4,
            leaderFallbackTimeout=timing.fallback_s,
            appendEntriesUseBatch=True,
            appendEntriesBatchSizeBytes=batch_bytes,
            logCompactionMinEntries=10**15,
            logCompactionMinTime=10**15,
            commandsWaitLeader=False,
            useFork=False,
            pollerType="select",
            onStateChanged=None if on_state is None else lambda _old, _new: on_state(),
        )
        made_by_library = library.createJournal
        library.createJournal = lambda _name: journal
        try:
            others = [self._node(peer) for peer in sorted(base.voter_names - {name})]
            self._engine = _LibraryNode(MemberNode(name), others, conf, transport, apply)
        finally:
            library.createJournal = made_by_library
        self._engine._SyncObj__serializer = snapshots
        self.snapshots = snapshots
        self._log = journal
        self.members = MembershipTracker(journal, base, lambda: self.applied_index, when_applied=members_when_applied)
        self.voters: frozenset[str] = frozenset()
        self.other_voters: frozenset[str] = frozenset()
        """The voters without this replica: they count for majorities and are asked for votes."""
        self.peers: tuple[str, ...] = ()
        """All replicas to which a leader sends entries: the other voters and the learners, sorted."""
        self.members.refresh()
        self._apply_membership()

    def _node(self, peer: str) -> MemberNode:
        node = self._nodes.get(peer)
        if node is None:
            node = self._nodes[peer] = MemberNode(peer)
        return node

    # Members.

    @property
    def is_voter(self) -> bool:
        """True if this replica is in its own logged set."""
        return self.name in self.voters

    def update_members(self) -> None:
        """Set the library's sets from the log (M2). Call it after everything that may change the log."""
        if self.members.refresh():
            self._apply_membership()
            if self.on_membership is not None:
                self.on_membership()

    def _apply_membership(self) -> None:
        """Give the library new sets of nodes; it may be iterating over the old ones."""
        engine, current = self._engine, self.members.current
        self.voters = current.voter_names
        self.other_voters = self.voters - {self.name}
        learners = current.learner_names - {self.name}
        self.peers = tuple(sorted(self.other_voters | learners))
        known = {node.id for node in engine._SyncObj__otherNodes | engine._SyncObj__readonlyNodes}
        now = library.monotonicTime()
        for peer in self.peers:
            node = self._node(peer)
            if peer not in known or node not in engine._SyncObj__raftMatchIndex:
                engine._SyncObj__raftNextIndex[node] = self.last_index + 1
                engine._SyncObj__raftMatchIndex[node] = 0
                engine._SyncObj__lastResponseTime[node] = now
            engine._SyncObj__lastResponseTime.setdefault(node, now)
        engine._SyncObj__otherNodes = {self._node(peer) for peer in sorted(self.other_voters)}
        engine._SyncObj__readonlyNodes = {self._node(peer) for peer in sorted(learners)}

    def append_membership(self, membership: Membership, callback: Callable[[object, int], None]) -> None:
        """Append a membership to the log of this leader, which puts it in force. The caller has checked M1.

        It does not use the library's queue: nothing may happen between the check and the append. Raises
        `MembershipError`, and changes nothing, if the entry could not be read again.
        """
        command = command_of(membership)
        check_command(command)
        index, term = self.last_index + 1, self.term
        self._log.add(command, index, term)
        self._engine._SyncObj__commandsWaitingCommit[index].append((term, callback))
        self.update_members()

    # What the replica knows.

    @property
    def term(self) -> int:
        """The current term."""
        return int(self._engine.raftCurrentTerm)

    @property
    def state(self) -> RaftState:
        """Follower, candidate or leader."""
        return RaftState(self._engine._SyncObj__raftState)

    @property
    def is_leader(self) -> bool:
        """True while this replica leads its term."""
        return bool(self._engine._SyncObj__raftState == RaftState.LEADER)

    @property
    def leader(self) -> str | None:
        """The leader that this replica follows, or itself."""
        node = self._engine._SyncObj__raftLeader
        return None if node is None else str(node.id)

    @property
    def commit_index(self) -> int:
        """Highest index known to be committed."""
        return int(self._engine.raftCommitIndex)

    @property
    def applied_index(self) -> int:
        """Highest index applied."""
        return int(self._engine.raftLastApplied)

    @property
    def settled_index(self) -> int:
        """Highest index that is certainly committed: after a snapshot the library's commit index lags behind."""
        return max(self.commit_index, self.applied_index)

    @property
    def first_index(self) -> int:
        """Index of the oldest entry in the log."""
        return int(self._log[0][1])

    @property
    def last_index(self) -> int:
        """Index of the newest entry in the log."""
        return int(self._log[-1][1])

    @property
    def noop_index(self) -> int:
        """Index of the no-op with which this replica began its present leadership; 0 if it never led."""
        return int(self._engine._SyncObj__noopIDx or 0)

    def term_at(self, index: int) -> int:
        """Return the term of the entry at `index`, which must be in the log."""
        return int(self._log[index - self.first_index][2])

    def holds(self, index: int, term: int) -> bool:
        """Return True if the log has an entry with this index and term."""
        return self.first_index <= index <= self.last_index and self.term_at(index) == term

    def entries(self, first: int, count: int) -> list[Entry]:
        """Return up to `count` entries from index `first` on; empty if the log no longer has it."""
        start = first - self.first_index
        return [] if start < 0 else list(self._log[start : start + count])

    # What a leader knows of its peers.

    def next_index(self, peer: str) -> int:
        """Return the index of the next entry for `peer`."""
        return int(self._engine._SyncObj__raftNextIndex[self._node(peer)])

    def set_next_index(self, peer: str, index: int) -> None:
        """Set from which index on `peer` gets entries. A wrong value costs a round trip, never safety."""
        self._engine._SyncObj__raftNextIndex[self._node(peer)] = index

    def match_index(self, peer: str) -> int:
        """Return the highest index that `peer` acknowledged in this term."""
        return int(self._engine._SyncObj__raftMatchIndex.get(self._node(peer), 0))

    def forget_match(self, peer: str) -> None:
        """Forget what `peer` acknowledged: its disk may be another one now. It acknowledges its entries again."""
        matches = self._engine._SyncObj__raftMatchIndex
        if self.is_leader and self._node(peer) in matches:
            matches[self._node(peer)] = 0

    # What changes the replica.

    def step_down(self) -> None:
        """Stop leading, and do not stand for election: this replica may not vote."""
        self._engine._SyncObj__setState(RaftState.FOLLOWER)
        self._engine._SyncObj__raftLeader = None

    def tick(self) -> None:
        """Elect, commit, apply, send, append and compact as due. Raises what `apply` raises."""
        if not self.is_voter and not self._outsiders_stand and not self.is_leader:
            self.election_deadline = library.monotonicTime() + self._timing.election_max_s  # M5
        if self.holds_elections and not self.is_leader and not self.is_ordered_to_stand and self.other_voters:
            deadline, self.election_deadline = self.election_deadline, float("inf")  # time passes inside the tick too
            self._engine.doTick(0)
            self.election_deadline = min(self.election_deadline, deadline)
        else:
            self._engine.doTick(0)
        self.update_members()

    def receive(self, peer: str, message: Message) -> None:
        """Give the library a message that the guard has passed."""
        self._engine._SyncObj__onMessageReceived(self._node(peer), message)
        self.update_members()

    def connect(self, peer: str) -> None:
        """Let the library send to `peer`."""
        self._engine._SyncObj__onNodeConnected(self._node(peer))

    def disconnect(self, peer: str) -> None:
        """Keep the library from sending to `peer`."""
        self._engine._SyncObj__onNodeDisconnected(self._node(peer))

    def submit(self, command: bytes, callback: Callable[[object, int], None]) -> None:
        """Queue a sealed command; a tick appends it if this replica leads then. The callback must not raise."""
        self._engine._applyCommand(command, callback)

    @property
    def has_queued(self) -> bool:
        """True if commands wait for a tick that appends them."""
        return bool(self._engine._SyncObj__commandsQueue._FastQueue__queue)

    def take_waiting(self) -> list[Callable[[object, int], None]]:
        """Remove and return the callbacks of entries that are in the log but not applied."""
        waiting = self._engine._SyncObj__commandsWaitingCommit
        callbacks = [callback for index in sorted(waiting) for _term, callback in waiting[index]]
        waiting.clear()
        return callbacks

    def send_appends(self) -> None:
        """Send what the peers lack now, rather than at the next heartbeat. Only for a leader."""
        self._engine._SyncObj__sendAppendEntries()

    def campaign_now(self) -> None:
        """Let the next tick start an election."""
        self.election_deadline = float("-inf")

    @property
    def is_ordered_to_stand(self) -> bool:
        """True if the next tick starts an election whatever the time is: `campaign_now`, or the leader ordered it."""
        return bool(self._engine._SyncObj__raftElectionDeadline <= 0)

    @property
    def election_deadline(self) -> float:
        """When a follower or candidate stands for election, on the library's clock."""
        return float(self._engine._SyncObj__raftElectionDeadline)

    @election_deadline.setter
    def election_deadline(self, when: float) -> None:
        self._engine._SyncObj__raftElectionDeadline = when

    @property
    def next_deadline(self) -> float:
        """When the next tick is due, on the library's clock."""
        if self.is_leader:
            return float(self._engine._SyncObj__newAppendEntriesTime)
        return self.election_deadline

    def set_timeouts(self, *, election_min_s: float, election_max_s: float, fallback_s: float) -> None:
        """Replace the election timeouts, from the next message of a leader on, and the time to step down."""
        conf = self._engine._SyncObj__conf
        conf.raftMinTimeout = election_min_s
        conf.raftMaxTimeout = election_max_s
        conf.leaderFallbackTimeout = fallback_s

    @property
    def timeouts(self) -> tuple[float, float, float]:
        """Least and longest election timeout, and the time to step down, as the library has them."""
        conf = self._engine._SyncObj__conf
        return conf.raftMinTimeout, conf.raftMaxTimeout, conf.leaderFallbackTimeout

    def without_quorum_s(self) -> float:
        """Return for how long this leader has heard no majority: what is compared with the time to step down."""
        times = self._engine._SyncObj__lastResponseTime
        heard = sorted((times[self._node(peer)] for peer in self.other_voters), reverse=True)
        needed = len(self.voters) // 2  # without this replica
        return library.monotonicTime() - heard[needed - 1] if needed else 0.0

    def transfer_to(self, peer: str) -> bool:
        """Ask `peer` to stand for election at once. False if it lacks entries or this replica does not lead."""
        answers: list[int] = []
        self._engine.transferLeadership(self._node(peer), lambda _result, error: answers.append(error))
        return answers == [LibraryFailure.SUCCESS]

    def compact(self) -> None:
        """Let the next tick start a snapshot of the applied state."""
        self._engine.forceLogCompaction()

    def load_snapshot(self) -> None:
        """Load the newest snapshot at start; see `SnapshotPort.failure` for how it went."""
        self._engine._SyncObj__loadDumpFile(clearJournal=False)
        self.update_members()
