"""What belongs to each turn of a replica, before and after the library's tick (raft/driver.py)."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from raftflow.replication.replica.parts import ReplicaParts


class TurnSteps:
    """The steps around a tick. They run many times for each commit, so they hold the parts directly."""

    def attach(self, parts: ReplicaParts) -> None:
        """Use these parts; call it when all of them are built."""
        self._config = parts.config
        self._loop = parts.loop
        self._raft = parts.raft
        self._guard = parts.guard
        self._follower = parts.guard.follower
        self._births = parts.births
        self._roles = parts.roles
        self._reads = parts.reads
        self._driver = parts.driver
        self._writer = parts.writer
        self._handover = parts.handover
        self._member_changes = parts.member_changes
        self._peer_memory = parts.peer_memory
        self._introducer = parts.introducer
        self._repeat_reads_at = float("-inf")

    def before_tick(self) -> None:
        """Keep a replica that must not vote from standing for election, and pass on what may be applied or sent."""
        if self._peer_memory.repair is not None:
            self._continue_repair()
        if not self._births.born:
            self._wait_for_birth()
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
        if raft.is_leader and raft.next_deadline > self._repeat_reads_at:
            self._repeat_reads_at = raft.next_deadline
            self._reads.repeat()
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
