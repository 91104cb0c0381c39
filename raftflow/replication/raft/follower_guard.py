"""The follower's side of the guard: which entries, commit indexes and snapshots of a leader reach the library.

An entry is *verified* when it is known to equal the current leader's entry at that index: because it came in an
append of this term that matched, because its term is the leader's own, or because it is committed (leader
completeness). The rules T2, T4, T5 and T7 are applied here; guard.py lists all of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from raftflow.replication.raft.rules import NO_RULES, Rule, SafetyViolationError
from raftflow.replication.raft.snapshot_port import INSTALLED

if TYPE_CHECKING:
    from collections.abc import Callable

    from raftflow.replication.raft.library import Raft
    from raftflow.replication.raft.library_types import Entry, Message

APPLY_ENTRIES_MAX: Final = 64
"""How many entries a follower applies in one tick, so that a long backlog does not stop its loop."""


class FollowerGuard:
    """Checks what a leader sends, for one replica.

    Args:
        acknowledge: `acknowledge(peer, index, reset)` tells the leader which entries are here.
        show_life: tells the leader that it is heard, and nothing else.
        disabled_rules: for tests: rules that are not applied.
    """

    def __init__(
        self,
        acknowledge: Callable[[str, int, bool], None],
        show_life: Callable[[str], None],
        disabled_rules: frozenset[Rule] = NO_RULES,
    ) -> None:
        self._acknowledge = acknowledge
        self._show_life = show_life
        self._off = disabled_rules
        self._raft: Raft | None = None
        self._verified_term = -1
        self._verified = 0
        self._committed = 0
        self.installing = False
        """True while the library loads a snapshot that came from the leader."""

    @property
    def raft(self) -> Raft:
        """The replica that is guarded."""
        if self._raft is None:
            raise RuntimeError("the guard is used before it is attached to a replica")
        return self._raft

    def attach(self, raft: Raft) -> None:
        """Guard this replica."""
        self._raft = raft

    # Entries and commit indexes.

    def receive_append(self, peer: str, message: Message) -> None:
        """Check an append or heartbeat of a leader whose term is not older. Raises `SafetyViolationError`."""
        raft = self.raft
        term = message["term"]
        if term == raft.term and raft.is_leader:
            raise SafetyViolationError(f"{peer} leads term {term}, and so does this replica")
        if term != self._verified_term:
            self._begin_term(term)
        if "prevLogIdx" not in message:
            self._heartbeat(peer, message, self._verified)
            self._show_life(peer)
        elif message["prevLogIdx"] is not None:
            self._receive_entries(peer, message)

    def _begin_term(self, term: int) -> None:
        self._verified_term, self._verified, self._committed = term, self.raft.settled_index, 0

    def _passed_commit(self, commit: int, verified: int) -> int:
        """Remember what is committed and verified. Return how much of it the library hears of now."""
        self._committed = max(self._committed, min(commit, verified))
        return min(self._committed, self.raft.applied_index + APPLY_ENTRIES_MAX)

    def advance_commit(self) -> bool:
        """Let the library apply more of a follower's backlog. Return whether more remains after that."""
        raft = self.raft
        leader = raft.leader
        if raft.term != self._verified_term or leader is None or raft.is_leader:
            return False
        if self._committed <= raft.commit_index:
            return False
        deadline = raft.election_deadline
        self._heartbeat(leader, {"term": raft.term, "commit_index": self._committed}, self._committed)
        raft.election_deadline = deadline  # the leader has sent nothing
        return self._committed > raft.commit_index

    def _heartbeat(self, peer: str, message: Message, verified: int) -> None:
        """Give the library the leader's sign of life without a log position (T4)."""
        commit = message["commit_index"]
        if Rule.COMMIT_VERIFIED not in self._off:
            commit = self._passed_commit(commit, verified)
        self.raft.receive(peer, {"type": "append_entries", "term": message["term"], "commit_index": commit})

    def _receive_entries(self, peer: str, message: Message) -> None:
        raft = self.raft
        previous = message["prevLogIdx"]
        if Rule.NO_TRUNCATION in self._off:
            raft.receive(peer, message)
            self._verified = 0
            return
        if not raft.holds(previous, message["prevLogTerm"]):
            if raft.first_index <= previous <= raft.settled_index:
                raise SafetyViolationError(f"{peer} has another entry at index {previous}, which is committed here")
            raft.receive(peer, message)  # the library answers with a hint
            return
        entries = message["entries"]
        known = 0
        while known < len(entries) and raft.holds(entries[known][1], entries[known][2]):
            known += 1
        if known < len(entries):
            self._append(peer, message, previous + known, entries[known:])
        else:
            self._confirm(peer, message, previous + known)

    def _append(self, peer: str, message: Message, previous: int, entries: list[Entry]) -> None:
        """T2: append what is new after `previous`; what conflicts is cut off, unless it is committed."""
        raft = self.raft
        if previous < raft.last_index and previous < raft.settled_index:
            raise SafetyViolationError(
                f"{peer} asks to cut the log from index {previous + 1} on, but {raft.settled_index} is committed here"
            )
        passed = dict(message)
        commit = self._passed_commit(message["commit_index"], entries[-1][1])
        passed.update(prevLogIdx=previous, prevLogTerm=raft.term_at(previous), entries=entries, commit_index=commit)
        raft.receive(peer, passed)
        self._verified = max(self._verified, entries[-1][1])

    def _confirm(self, peer: str, message: Message, verified: int) -> None:
        """T2: everything sent is here already. Acknowledge what is verified and keep what lies beyond."""
        raft = self.raft
        last = raft.last_index
        verified = max(verified, min(self._verified, last))
        while verified < last and raft.term_at(verified + 1) == message["term"]:
            verified += 1
        self._verified = max(self._verified, verified)
        if verified < last:
            self._heartbeat(peer, message, verified)
            self._acknowledge(peer, verified, False)  # noqa: FBT003 - reset
            return
        passed = dict(message)
        commit = self._passed_commit(message["commit_index"], last)
        passed.update(prevLogIdx=last, prevLogTerm=raft.term_at(last), entries=[], commit_index=commit)
        raft.receive(peer, passed)

    # Snapshots from the leader.

    def covers(self, index: int, term: int) -> bool:
        """Return True if the state up to this snapshot's last entry is here already (T7)."""
        if Rule.SNAPSHOT_NEEDED in self._off:
            return False
        return self.raft.settled_index >= index or self.raft.holds(index, term)

    def follows(self, peer: str, term: int) -> bool:
        """Return True if `peer` leads this replica in `term`, so that its snapshot may be taken."""
        return self.raft.term == term and self.raft.leader == peer and not self.raft.is_leader

    def acknowledge_covered(self, peer: str, index: int) -> None:
        """T7: tell the leader that the snapshot's entries are here, without loading anything."""
        raft = self.raft
        if raft.term != self._verified_term:
            self._begin_term(raft.term)
        self._verified = max(self._verified, index, raft.settled_index)
        self._acknowledge(peer, self._verified, True)  # noqa: FBT003 - reset

    def install(self, peer: str, index: int, commit_index: int = 0) -> None:
        """Let the library load the newest snapshot on disk, which ends with entry `index`, and acknowledge it.

        The caller has checked `follows` and `covers`. `commit_index` is the leader's; it is used only with T4 off.
        """
        raft = self.raft
        term = raft.term
        commit = commit_index if Rule.COMMIT_VERIFIED in self._off else 0
        raft.snapshots.failure = None
        self.installing = True
        try:
            raft.receive(
                peer,
                {"type": "append_entries", "term": term, "commit_index": commit, "serialized": INSTALLED},
            )
        finally:
            self.installing = False
        if raft.snapshots.failure is None:
            self._begin_term(term)
            self._verified = max(self._verified, index)
