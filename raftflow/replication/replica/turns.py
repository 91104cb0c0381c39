"""What belongs to each turn of a replica, before and after the library's tick (raft/driver.py)."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from raftflow.replication.replica.parts import ReplicaParts


class TurnSteps:
    """The steps around a tick, for one replica."""

    def __init__(self, parts: ReplicaParts) -> None:
        self._parts = parts
        self._repeat_reads_at = float("-inf")

    def before_tick(self) -> None:
        """Keep a replica that must not vote from standing for election, and pass on what may be applied or sent."""
        parts = self._parts
        if parts.peer_memory.repair is not None:
            self._continue_repair()
        if not parts.births.born:
            self._wait_for_birth()
        guard = parts.guard
        if guard.follower.advance_commit():
            parts.driver.request_turn()
        guard.resume()
        if guard.resume_wanted:
            guard.resume_wanted = False
            parts.driver.send_wanted = True

    def after_tick(self) -> None:
        """Announce roles, repeat reads, note what followers have, start a snapshot, wake operations that wait."""
        parts = self._parts
        raft = parts.raft
        parts.roles.update()
        if raft.is_leader and raft.next_deadline > self._repeat_reads_at:
            self._repeat_reads_at = raft.next_deadline
            parts.reads.repeat()
            if parts.introducer is not None:
                parts.peer_memory.note_followers(parts.introducer)
        if parts.writer.is_due(raft):
            raft.compact()  # at the next tick, which is a heartbeat away at most
        if parts.handover.active or parts.member_changes.active:
            parts.roles.wake()

    def _continue_repair(self) -> None:
        """End the repair if this replica has everything that it ever acknowledged. Until then it does not stand."""
        parts = self._parts
        raft, repair = parts.raft, parts.peer_memory.repair
        if repair is None or parts.peer_memory.has_ended():
            return
        raft.election_deadline = parts.loop.time() + parts.config.election_max_s
        leader = parts.roles.leader(raft)
        others = parts.guard.connected() & raft.other_voters
        quorum = 2 * len(others) > len(raft.voters)
        if (
            raft.term == repair.term
            and not repair.unsure
            and leader is not None
            and quorum
            and parts.roles.has_caught_up(raft)
        ):
            parts.guard.ask_for_new_term(leader, raft.term + 1)

    def _wait_for_birth(self) -> None:
        parts = self._parts
        now_s = parts.loop.time()
        parts.raft.election_deadline = now_s + parts.config.election_max_s
        parts.births.remind_operator(now_s)
