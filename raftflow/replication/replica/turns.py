"""What belongs to each turn of a replica, before and after the library's tick (raft/driver.py)."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio

    from raftflow.replication.config import LogConfig
    from raftflow.replication.elections.handover import Handover
    from raftflow.replication.elections.pre_votes import PreVotes
    from raftflow.replication.elections.timeouts import ElectionTimeouts
    from raftflow.replication.members.births import Births
    from raftflow.replication.members.introducer import Introducer
    from raftflow.replication.raft.driver import Driver
    from raftflow.replication.raft.guard import GuardedTransport
    from raftflow.replication.raft.library import Raft
    from raftflow.replication.raft.member_changes import MemberChanges
    from raftflow.replication.raft.reads import ReadRounds
    from raftflow.replication.raft.roles import RoleTracker
    from raftflow.replication.replica.peer_memory import PeerMemory
    from raftflow.replication.snapshot.compaction import SnapshotWriter


class TurnSteps:
    """The steps around a tick. The driver is built with them, so `attach` adds the parts when all are built."""

    def attach(
        self,
        config: LogConfig,
        loop: asyncio.AbstractEventLoop,
        *,
        raft: Raft,
        guard: GuardedTransport,
        births: Births,
        roles: RoleTracker,
        reads: ReadRounds,
        driver: Driver,
        writer: SnapshotWriter,
        handover: Handover,
        member_changes: MemberChanges,
        peer_memory: PeerMemory,
        pre_votes: PreVotes,
        timeouts: ElectionTimeouts,
        introducer: Introducer | None,
    ) -> None:
        """Use these parts."""
        self._config = config
        self._loop = loop
        self._raft = raft
        self._guard = guard
        self._follower = guard.follower
        self._births = births
        self._roles = roles
        self._reads = reads
        self._driver = driver
        self._writer = writer
        self._handover = handover
        self._member_changes = member_changes
        self._peer_memory = peer_memory
        self._pre_votes = pre_votes
        self._timeouts = timeouts
        self._introducer = introducer
        self._repeat_reads_at = float("-inf")

    def before_tick(self) -> None:
        """Keep a replica that must not vote from standing for election, and pass on what may be applied or sent."""
        if self._peer_memory.repair is not None:
            self._continue_repair()
        if not self._births.born:
            self._wait_for_birth()
        self._pre_votes.before_tick()
        guard = self._guard
        if self._follower.advance_commit():
            self._driver.request_turn()
        guard.resume()
        if guard.resume_wanted:
            guard.resume_wanted = False
            self._driver.send_wanted = True

    def after_tick(self) -> None:
        """Announce roles, repeat reads, note what followers have, start a snapshot, wake operations that wait."""
        raft = self._raft
        self._roles.update()
        if self._timeouts.stretch > 1.0:
            self._timeouts.refresh()
        if raft.is_leader and raft.next_deadline > self._repeat_reads_at:
            self._repeat_reads_at = raft.next_deadline
            self._reads.repeat()
            self._timeouts.note_quorum(raft.without_quorum_s())
            if self._introducer is not None:
                self._peer_memory.note_followers(self._introducer)
        if self._writer.is_due(raft):
            raft.compact()  # at the next tick, which is a heartbeat away at most
        if self._handover.active or self._member_changes.active:
            self._roles.wake()

    def _continue_repair(self) -> None:
        """End the repair if this replica has everything that it ever acknowledged. Until then it does not stand."""
        raft, repair = self._raft, self._peer_memory.repair
        if repair is None or self._peer_memory.has_ended():
            return
        raft.election_deadline = self._loop.time() + self._config.election_max_s
        leader = self._roles.leader(raft)
        others = self._guard.connected() & raft.other_voters
        quorum = 2 * len(others) > len(raft.voters)
        if (
            raft.term == repair.term
            and not repair.unsure
            and leader is not None
            and quorum
            and self._roles.has_caught_up(raft)
        ):
            self._guard.ask_for_new_term(leader, raft.term + 1)

    def _wait_for_birth(self) -> None:
        now_s = self._loop.time()
        self._raft.election_deadline = now_s + self._config.election_max_s
        self._births.remind_operator(now_s)
