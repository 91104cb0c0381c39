"""The parts of one replica, and how they are connected.

    submit ─► Raft (raft/library.py) ─► GuardedTransport (raft/guard.py, T1-T7)
                 │        ▲                        │                  ▲
                 ▼        │ durable                ▼                  │
              Journal ────┴──────────────────► SyncGate (raft/sync_gate.py)
                                                   │                  │
                                                   ▼                  │
                              PeerTraffic (traffic.py): messages/wire.py, net/links.py

The order in which the listeners hear of an applied entry is fixed by the calls below, all of them inside one tick:

    1. StateMachine.apply        the coordinator's `HostedMachine` (coordinator/host.py says what it does, in order)
    2. SnapshotWriter            counts the entry's bytes (`ReplicaParts._apply_entry`)
    3. the submitter's callback  resolves the future of `submit`; its awaiting code runs in a later pass of the loop
    after all entries of the tick (`TurnSteps.after_tick`):
    4. RoleTracker               announces a new leader, whose state machine is complete by then
    5. ReadRounds                confirms reads; `read_index` returns in a later pass of the loop
    6. SnapshotWriter            decides whether the next tick starts a snapshot
    7. MemberChanges, Handover   are woken and look at the applied index
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Final

from raftflow.replication.elections.handover import Handover
from raftflow.replication.elections.pre_votes import PreVotes
from raftflow.replication.elections.timeouts import ElectionTimeouts
from raftflow.replication.members.births import Births
from raftflow.replication.messages import wire
from raftflow.replication.raft.driver import Driver
from raftflow.replication.raft.guard import GuardedTransport
from raftflow.replication.raft.library import Raft
from raftflow.replication.raft.library_types import LibraryFailure, RaftTiming
from raftflow.replication.raft.member_changes import MemberChanges
from raftflow.replication.raft.pending_entries import PendingEntries
from raftflow.replication.raft.reads import ReadRounds
from raftflow.replication.raft.rules import NO_RULES, Rule
from raftflow.replication.raft.snapshot_port import SnapshotPort
from raftflow.replication.raft.sync_gate import SyncGate
from raftflow.replication.replica.peer_memory import PeerMemory
from raftflow.replication.replica.traffic import PeerTraffic
from raftflow.replication.replica.turns import TurnSteps
from raftflow.replication.snapshot.compaction import SnapshotWriter
from raftflow.replication.snapshot.incoming import IncomingSnapshot
from raftflow.replication.snapshot.restore import StateRestorer
from raftflow.replication.snapshot.sender import SnapshotSender

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Awaitable, Callable

    from raftflow.replication.config import LogConfig
    from raftflow.replication.files import FileSystem
    from raftflow.replication.log import StateMachine
    from raftflow.replication.members.births import IntroducedPeers
    from raftflow.replication.members.membership import Membership, MembershipVersion
    from raftflow.replication.net.links import Links
    from raftflow.replication.raft.library_types import Entry, Message
    from raftflow.replication.raft.roles import RoleTracker
    from raftflow.replication.replica.data import ReplicaData

_SIGNS_OF_LIFE: Final = 5
"""How many times a follower that checks and reads a snapshot tells the leader so before the leader gives it up."""


class ReplicaParts:
    """Builds the parts of one replica from its open data, and passes messages and calls between them."""

    def __init__(
        self,
        config: LogConfig,
        machine: StateMachine,
        links: Links,
        fs: FileSystem,
        *,
        data: ReplicaData,
        roles: RoleTracker,
        loop: asyncio.AbstractEventLoop,
        on_failure: Callable[[Exception], None],
        before_compaction: Callable[[], Awaitable[None]] | None = None,
        disabled_rules: frozenset[Rule] = NO_RULES,
        on_members: Callable[[MembershipVersion], None] | None = None,
        introduced_peers: IntroducedPeers | None = None,
    ) -> None:
        self.config = config
        self.loop = loop
        self.data = data
        self.journal = data.journal
        self.roles = roles
        self.introducer = None if introduced_peers is None else introduced_peers.introducer
        self._machine = machine
        self._links = links
        self._off = disabled_rules
        self._on_members = on_members
        self._build_raft()
        self._build_members(introduced_peers)
        self._build_turns(fs, on_failure)
        self._build_snapshots(fs, before_compaction)
        self._build_traffic()
        self._attach_steps()

    # Building.

    def _build_raft(self) -> None:
        config, data = self.config, self.data
        self.restorer = StateRestorer(self._machine, data.store)
        self.snapshot_port = SnapshotPort(self._begin_snapshot, self.restorer.load)
        self.guard = GuardedTransport(
            self.emit,
            self._send_snapshot,
            self._off,
            congested=lambda peer: self._links.buffered(peer) > config.window_bytes,
            take_prefix=lambda entries: list(wire.take_prefix(entries, config.append_bytes_max)),
        )
        timing = RaftTiming(
            election_min_s=config.election_min_s,
            election_max_s=config.election_max_s,
            silence_s=config.election_min_s if config.silence_s is None else config.silence_s,
            heartbeat_s=config.heartbeat_s,
            fallback_s=config.election_min_s * config.fallback_share,
            fallback_max_s=config.fallback_max_s,
        )
        self.raft = Raft(
            config.name,
            config.members,
            timing=timing,
            transport=self.guard,
            journal=self.journal,
            snapshots=self.snapshot_port,
            apply=self._apply_entry,
            queue_entries_max=config.queue_entries_max,
            membership=data.first_members,
            members_when_applied=Rule.LOGGED_MEMBERS in self._off,
            outsiders_stand=Rule.OUTSIDERS_PASSIVE in self._off,
            holds_elections=Rule.PRE_VOTE not in self._off,
        )
        self.raft.on_membership = self.membership_changed
        self.guard.attach(self.raft)
        self.guard.configured = frozenset(config.peers)
        self.timeouts = ElectionTimeouts(timing, self.loop.time, self._off)
        self.timeouts.on_change = self._set_timeouts
        self.pre_votes = PreVotes(
            self.raft, self.guard, timing, timeouts=self.timeouts, clock=self.loop.time, disabled_rules=self._off
        )
        self.guard.on_pre_vote = self.pre_votes.receive
        self.roles.attach(self.raft, self.lose_leadership)

    def _build_members(self, introduced_peers: IntroducedPeers | None) -> None:
        config, data = self.config, self.data
        self.births = Births(
            config.name,
            tuple(data.first_members.voter_names),
            disk=data.disk_id,
            file=data.birth_file,
            record=data.birth_record,
            introduced_peers=introduced_peers,
            send=lambda peer, body: self.transmit(peer, {"type": "birth", "body": body}),
            has_data=data.has_data,
            late=self._late_voters,
            on_born=self._on_born,
            joins=config.join,
        )
        self.guard.votes = data.repair is None and self.births.born
        self.member_changes = MemberChanges(self.raft, self.guard, self.roles, self._append_members, self._off)

    def _build_turns(self, fs: FileSystem, on_failure: Callable[[Exception], None]) -> None:
        config, data = self.config, self.data
        self.gate = SyncGate(self.journal, self.transmit, self.guard.receive, self._off)
        self.reads = ReadRounds(self.raft.other_voters, self._send_probe)
        self.pending_entries = PendingEntries(config.queue_entries_max, config.queue_bytes_max)
        steps = self._steps = TurnSteps()
        self.driver = Driver(
            self.raft,
            self.journal,
            heartbeat_s=config.heartbeat_s,
            before=steps.before_tick,
            after=steps.after_tick,
            on_durable=self.gate.advance,
            on_late=self.timeouts.note_timer,
            on_failure=on_failure,
        )
        self.peer_memory = PeerMemory(
            fs,
            config.data_dir,
            raft=self.raft,
            guard=self.guard,
            journal=self.journal,
            driver=self.driver,
            pre_votes=self.pre_votes,
            repair=data.repair,
            peers=config.peers,
            on_change=self._update_votes,
        )
        if self.introducer is not None:
            self.introducer.log = self.peer_memory
        self.handover = Handover(self.raft, self.guard, self.roles, self.send_now)

    def _build_snapshots(self, fs: FileSystem, before_compaction: Callable[[], Awaitable[None]] | None) -> None:
        config, store = self.config, self.data.store
        self.writer = SnapshotWriter(config, self._machine, store, self.snapshot_port, before_compaction)
        self.restorer.attach(self.raft, self.writer)
        self.sender = SnapshotSender(config, store, self.emit, self._end_transfer)
        self.incoming_snapshot = IncomingSnapshot(
            fs,
            store,
            self.guard,
            self.emit,
            restorer=self.restorer,
            writer=self.writer,
            driver=self.driver,
            alive_s=config.snapshot_stall_s / _SIGNS_OF_LIFE,
            is_compared=lambda peer: self.introducer is None or self.introducer.is_compared(peer),
            reset_link=self._links.reset,
            postpone_election=self.postpone_election,
        )

    def _build_traffic(self) -> None:
        self.traffic = PeerTraffic(
            self.config,
            self._links,
            births=self.births,
            raft=self.raft,
            guard=self.guard,
            gate=self.gate,
            driver=self.driver,
            roles=self.roles,
            reads=self.reads,
            sender=self.sender,
            incoming_snapshot=self.incoming_snapshot,
            peer_memory=self.peer_memory,
            pre_votes=self.pre_votes,
            lonely=self.postpone_election,
        )

    def _attach_steps(self) -> None:
        self._steps.attach(
            self.config,
            self.loop,
            raft=self.raft,
            guard=self.guard,
            births=self.births,
            roles=self.roles,
            reads=self.reads,
            driver=self.driver,
            writer=self.writer,
            handover=self.handover,
            member_changes=self.member_changes,
            peer_memory=self.peer_memory,
            pre_votes=self.pre_votes,
            timeouts=self.timeouts,
            introducer=self.introducer,
        )

    # Messages.

    def emit(self, peer: str, message: Message) -> None:
        """Send a message once the disk holds what it shows."""
        self.gate.emit(peer, message)

    def transmit(self, peer: str, message: Message) -> None:
        """Send a message now."""
        self.traffic.transmit(peer, message)

    def _send_probe(self, seq: int) -> None:
        self.traffic.send_probe(seq)

    def send_now(self) -> None:
        """Send the followers what they lack without waiting for the next heartbeat."""
        self.driver.send_wanted = True
        self.driver.request_turn()

    # Entries.

    def position(self) -> tuple[int, int]:
        """Return index and term of the entry that is being applied."""
        index = self.raft.applied_index + 1
        return index, self.raft.term_at(index)

    def _apply_entry(self, payload: bytes) -> object:
        index, term = self.position()
        reply = self._machine.apply(index, term, payload)
        self.writer.note_applied(len(payload))
        return reply

    # Leadership.

    def lose_leadership(self) -> None:
        """End what only a leader can finish. Entries in the log may still be committed by the next leader."""
        for callback in self.raft.take_waiting():
            callback(None, LibraryFailure.LEADER_CHANGED)
        self.timeouts.end_leadership()
        self.gate.clear_incoming()
        self.sender.cancel_all()
        self.guard.end_all_snapshots()
        self.reads.stop("leader_changed")

    def postpone_election(self) -> None:
        """Give a leader the time of one election timeout to be heard."""
        timeouts = self.timeouts
        wait_s = random.uniform(timeouts.election_min_s, timeouts.election_max_s)  # noqa: S311 - spreads elections
        self.raft.election_deadline = self.loop.time() + wait_s
        self.pre_votes.wait_for_leader()

    def _set_timeouts(self) -> None:
        timeouts = self.timeouts
        self.raft.set_timeouts(
            election_min_s=timeouts.election_min_s,
            election_max_s=timeouts.election_max_s,
            fallback_s=timeouts.fallback_s,
        )

    # Members.

    def membership_changed(self) -> None:
        """Tell everybody concerned that the log has another membership, or that one is final now."""
        self.guard.check_membership()
        self.reads.set_peers(self.raft.other_voters)
        self.roles.wake()
        if self._on_members is not None:
            self._on_members(self.raft.members.version)

    def _append_members(self, changed: Membership, callback: Callable[[object, int], None]) -> None:
        def append() -> None:
            self.raft.append_membership(changed, callback)
            # A single voter commits at its next tick whatever is written: here the disk comes first as well.
            self.driver.settle()

        self.driver.guarded(append)
        self.send_now()

    def _late_voters(self) -> tuple[str, ...]:
        """Return the voters, by what is committed, that the first list does not have."""
        first = self.data.first_members.voter_names
        return tuple(sorted(self.raft.members.base.voter_names - first)) if first else ()

    def _on_born(self) -> None:
        self._update_votes()
        self.postpone_election()
        self.driver.request_turn()

    def _update_votes(self) -> None:
        self.guard.votes = self.peer_memory.repair is None and self.births.born

    def on_emptied(self, peer: str, reason: str) -> None:
        """A peer says that this replica's data directory was emptied."""
        error = self.births.judge_emptied(peer, reason)
        if error is not None:
            self.driver.fail(error)

    # Snapshots.

    def _begin_snapshot(self, last: Entry, previous: Entry) -> None:
        tracker = self.raft.members
        members = tracker.current if Rule.SNAPSHOT_MEMBERS in self._off else tracker.at(last[1])
        self.writer.begin(last, previous, self.driver, members)

    def _send_snapshot(self, peer: str) -> None:
        self.sender.start(peer, self.raft.term, self.raft.first_index)

    def _end_transfer(self, peer: str) -> None:
        self.guard.end_snapshot(peer)
        self.send_now()
