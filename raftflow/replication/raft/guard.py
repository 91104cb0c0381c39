"""The guard: the transport that stands between PySyncObj and the network and makes it keep Raft's promises.

Every message passes here in both directions. The rules repair what the library gets wrong (DESIGN.md tells the
history behind each; tests/replication/test_histories_guard.py replays them with the rule on and off):

    T1  acknowledgements carry their term; those of another term are dropped
    T2  entries that the log already holds are never truncated; truncating a committed one stops the replica
    T3  the hint where to resume is at most one past what is certainly committed
    T4  a message without a log position never moves the commit index beyond what is verified
    T5  a snapshot that could not be loaded is never acknowledged
    T6  commands are never forwarded between replicas
    T7  a snapshot that the log already covers is never loaded
    M4  votes and acknowledgements count from members only; a removed replica is told so, and not heard any more

An entry is *verified* when it is known to equal the current leader's entry at that index: because it came in an
append of this term that matched, because its term is the leader's own, or because it is committed (leader
completeness).

This module has no clock and no I/O: `emit(peer, message)` takes what is to be sent.
"""

from __future__ import annotations

import enum
import logging
from typing import TYPE_CHECKING, Final

from pysyncobj.transport import Transport

from raftflow.replication.errors import REMOVED_ADVICE, RemovedError
from raftflow.replication.raft.bounds import Removal, needed
from raftflow.replication.raft.library import INSTALLED, LibraryFailure

if TYPE_CHECKING:
    from collections.abc import Callable

    from pysyncobj.node import Node

    from raftflow.replication.raft.library import Entry, Message, Raft


class Rule(enum.StrEnum):
    """A rule of the guard (T), the sync gate (G) or of changes of members (M). Tests switch them off one by one."""

    TERM_STAMP = "T1"
    NO_TRUNCATION = "T2"
    RESUME_HINT = "T3"
    COMMIT_VERIFIED = "T4"
    LOAD_CHECKED = "T5"
    NO_FORWARDING = "T6"
    SNAPSHOT_NEEDED = "T7"
    SYNC_ACKS = "G1"
    SYNC_VOTES = "G2"
    SYNC_LEADER = "G3"
    ONE_CHANGE = "M1"
    LOGGED_MEMBERS = "M2"
    SNAPSHOT_MEMBERS = "M3"
    MEMBERS_COUNT = "M4"
    OUTSIDERS_PASSIVE = "M5"
    LEARN_FIRST = "M6"


APPLY_ENTRIES_MAX: Final = 64
"""How many entries a follower applies in one tick, so that a long backlog does not stop its loop."""

_log = logging.getLogger(__name__)

NO_RULES: Final[frozenset[Rule]] = frozenset()


class SafetyViolationError(Exception):
    """A peer asked for something that no correct replica asks for. Going on could lose acknowledged entries."""


class GuardedTransport(Transport):  # type: ignore[misc]
    """The library's transport, with the rules applied.

    Args:
        emit: takes each message to be sent, with the peer's name; ordering and durability are its business.
        need_snapshot: called when the log no longer has what a peer needs. Until `end_snapshot(peer)` the peer gets
            bare heartbeats only.
        disabled_rules: for tests: rules that are not applied.
        congested: says whether a peer has so much on its way that it gets no more entries for now.
        take_prefix: cuts a list of entries to what one message carries.
    """

    def __init__(
        self,
        emit: Callable[[str, Message], None],
        need_snapshot: Callable[[str], None],
        disabled_rules: frozenset[Rule] = NO_RULES,
        *,
        congested: Callable[[str], bool] = lambda _peer: False,
        take_prefix: Callable[[list[Entry]], list[Entry]] = lambda entries: entries,
    ) -> None:
        super().__init__(None, None, None)
        self._congested = congested
        self._take_prefix = take_prefix
        self._paused: set[str] = set()
        self._emit = emit
        self._need_snapshot = need_snapshot
        self._off = disabled_rules
        self._raft: Raft | None = None
        self._up: set[str] = set()
        self._streaming: set[str] = set()
        self._verified_term = -1
        self._verified = 0
        self._committed = 0
        self._installing = False
        self.votes = True
        """False while this replica is being repaired (repair.py): it neither votes nor stands for election."""
        self._removal = Removal()
        self.configured: frozenset[str] = frozenset()
        """The other replicas of the configuration, for one whose log has no list of members yet."""
        self.waits = False
        """True right after the start: who would know that the disk was put back may not be linked yet (starts.py)."""
        self.voted: dict[str, int] = {}
        """The highest term in which each peer was seen to vote."""
        self.resume_wanted = False
        """A peer said from where it wants entries: the leader should send without waiting for the next heartbeat."""

    @property
    def raft(self) -> Raft:
        """The replica that this transport serves."""
        if self._raft is None:
            raise RuntimeError("the guard is used before it is attached to a replica")
        return self._raft

    def attach(self, raft: Raft) -> None:
        """Serve `raft`, which was made with this transport."""
        self._raft = raft

    # Links.

    def peer_up(self, peer: str) -> None:
        """A link to `peer` works."""
        self._up.add(peer)
        self.raft.connect(peer)
        self.raft.forget_match(peer)
        self._tell_removed(peer)

    def peer_down(self, peer: str) -> None:
        """The link to `peer` broke, with whatever was on it."""
        self._up.discard(peer)
        self._streaming.discard(peer)
        self._paused.discard(peer)
        self.raft.disconnect(peer)

    def is_up(self, peer: str) -> bool:
        """Return True if a link to `peer` works."""
        return peer in self._up

    def connected(self) -> frozenset[str]:
        """Return the peers whose links work."""
        return frozenset(self._up)

    def end_snapshot(self, peer: str) -> None:
        """Let `peer` get entries again, after its snapshot arrived or its transfer was given up."""
        self._streaming.discard(peer)

    def end_all_snapshots(self) -> None:
        """Forget who was getting a snapshot: this replica no longer leads."""
        self._streaming.clear()

    # From the library to the network.

    def send(self, node: Node, message: Message) -> bool:
        """Pass on one message of the library's. Returns whether a link to the peer works."""
        peer = str(node.id)
        kind = message["type"]
        if kind == "apply_command" and Rule.NO_FORWARDING not in self._off:
            self._refuse_forwarding(peer, message)
            return False
        if peer not in self._up:
            return False
        if kind == "append_entries":
            self._send_append(peer, message)
        elif kind == "next_node_idx":
            self._send_next_index(peer, message)
        else:
            self._emit(peer, message)
        return True

    def _refuse_forwarding(self, peer: str, message: Message) -> None:
        """T6: answer the library at once that the command was not taken; clients find the leader by our API."""
        if "request_id" in message:
            answer = {
                "type": "apply_command_response",
                "request_id": message["request_id"],
                "error": int(LibraryFailure.NOT_LEADER),
            }
            self.raft.receive(peer, answer)

    def _send_append(self, peer: str, message: Message) -> None:
        if "serialized" in message and peer not in self._streaming:
            self._streaming.add(peer)
            self._need_snapshot(peer)
        if peer in self._streaming or "prevLogIdx" not in message:
            self._emit(
                peer,
                {"type": "append_entries", "term": message["term"], "commit_index": message["commit_index"]},
            )
        elif message["prevLogIdx"] is None:
            # The library looked beyond its own log; the next heartbeat starts from its end.
            self.raft.set_next_index(peer, self.raft.last_index + 1)
        elif message["entries"]:
            self._send_entries(peer, message)
        else:
            self._emit(peer, message)

    def _send_entries(self, peer: str, message: Message) -> None:
        """Send as many entries as one message carries, or none while the link is full."""
        entries = message["entries"]
        if self._congested(peer):
            # Taken for disconnected, the peer is left alone by the library until `resume`.
            self.raft.set_next_index(peer, entries[0][1])
            self.raft.disconnect(peer)
            self._paused.add(peer)
            return
        prefix = self._take_prefix(entries)
        if len(prefix) < len(entries):
            message = {**message, "entries": prefix}
            self.raft.set_next_index(peer, prefix[-1][1] + 1)
        self._emit(peer, message)

    def resume(self) -> None:
        """Let the library send again to peers whose links have room."""
        for peer in sorted(self._paused):
            if not self._congested(peer):
                self._paused.discard(peer)
                self.raft.connect(peer)
                self.resume_wanted = True

    def _send_next_index(self, peer: str, message: Message) -> None:
        answer = dict(message)
        if self._installing:
            if self.raft.snapshots.failure is not None and Rule.LOAD_CHECKED not in self._off:
                return  # T5
            # The leader was told nothing while the snapshot travelled: it resumes exactly here.
            answer["reset"] = True
        elif answer["reset"] and not answer["success"] and Rule.RESUME_HINT not in self._off:
            answer["next_node_idx"] = min(answer["next_node_idx"], self.raft.settled_index + 1)  # T3
        self._emit_next_index(peer, answer)

    def _emit_next_index(self, peer: str, answer: Message) -> None:
        answer["term"] = self.raft.term  # T1
        self._emit(peer, answer)

    def _acknowledge(self, peer: str, index: int, *, reset: bool = False) -> None:
        answer = {"type": "next_node_idx", "next_node_idx": index + 1, "reset": reset, "success": True}
        self._emit_next_index(peer, answer)

    def show_life(self, peer: str) -> None:
        """Tell the leader `peer` that this replica hears it, and nothing else."""
        answer = {"type": "next_node_idx", "next_node_idx": 1, "reset": False, "success": False}
        self._emit_next_index(peer, answer)

    def ask_for_new_term(self, leader: str, term: int) -> None:
        """Make `leader` step down in favour of `term`, so that the next one begins a later one.

        It looks like a candidate whose log is empty, so nobody votes for it, and it would not count a vote.
        """
        self._emit(leader, {"type": "request_vote", "term": term, "last_log_index": 0, "last_log_term": 0})

    def _answer_old_leader(self, peer: str) -> None:
        """Answer a leader of an older term, which the library leaves without an answer.

        The library relies on it that this replica stands for election and is heard by that. One under repair, or one
        that is no voter (M5), never does, and one that does not know this leader as a voter does not ask it. They
        would hear nobody until the others come to their term by chance.
        """
        if not self.votes or not self.raft.is_voter or peer not in self.raft.other_voters:
            self.ask_for_new_term(peer, self.raft.term)

    # From the network to the library.

    def receive(self, peer: str, message: Message) -> None:
        """Judge one message and give the library what is safe of it. Raises `SafetyViolationError`."""
        kind = message["type"]
        if kind == "removed":
            self.hear_removal(peer)
            return
        if self._tell_removed(peer):
            return
        if kind == "append_entries":
            self._receive_append(peer, message)
        elif kind == "next_node_idx":
            self._receive_next_index(peer, message)
        elif kind == "request_vote":
            if self.votes and (not self.waits or self.raft.other_voters <= self._up):
                self.raft.receive(peer, message)
        elif kind == "response_vote":
            self.voted[peer] = max(message["term"], self.voted.get(peer, 0))
            if peer in self.raft.other_voters or Rule.MEMBERS_COUNT in self._off:
                self.raft.receive(peer, message)
        elif kind == "timeout_now":
            if self.votes and message["term"] == self.raft.term and self.raft.leader == peer:
                self.raft.receive(peer, message)
        elif kind in {"apply_command", "apply_command_response"} and Rule.NO_FORWARDING in self._off:
            self.raft.receive(peer, message)

    def hear_removal(self, peer: str) -> None:
        """A peer says that this replica was removed. Raises `RemovedError` when enough of them do (`Removal`)."""
        others = self.raft.other_voters or self.configured
        new = self._removal.tell(peer)
        tellers = self._removal.tellers(others)
        if tellers:
            raise RemovedError(
                f"this replica was removed from the cluster, say {', '.join(tellers)}. {REMOVED_ADVICE}"
            )
        if new:
            _log.warning(
                "%s says that this replica was removed from the cluster. One peer alone is not believed: %d of %s "
                "have to say so. If `raftflow member list` does not show this replica, stop it.",
                peer,
                needed(others),
                ", ".join(sorted(others)),
            )

    def check_membership(self) -> None:
        """Look at a membership that can no longer be cut off. Raises `RemovedError` if this replica is not in it."""
        if self.raft.name in self.raft.members.base.removed and Rule.MEMBERS_COUNT not in self._off:
            raise RemovedError(f"this replica was removed from the cluster. {REMOVED_ADVICE}")
        for peer in sorted(self._up):
            self._tell_removed(peer)

    def _tell_removed(self, peer: str) -> bool:
        """M4: tell a peer whose removal is committed that it is no member. It could only disturb."""
        if peer not in self.raft.members.base.removed or Rule.MEMBERS_COUNT in self._off:
            return False
        if self.raft.term > 0:
            self._emit(peer, {"type": "removed", "term": self.raft.term})
        return True

    def _receive_append(self, peer: str, message: Message) -> None:
        raft = self.raft
        term = message["term"]
        if term < raft.term:
            self._answer_old_leader(peer)
            return
        if term == raft.term and raft.is_leader:
            raise SafetyViolationError(f"{peer} leads term {term}, and so does this replica")
        if term != self._verified_term:
            self._begin_term(term)
        if "prevLogIdx" not in message:
            self._heartbeat(peer, message, self._verified)
            self.show_life(peer)
        elif message["prevLogIdx"] is not None:
            self._receive_entries(peer, message)

    def _begin_term(self, term: int) -> None:
        self._verified_term, self._verified, self._committed = term, self.raft.settled_index, 0

    def _passed_commit(self, commit: int, verified: int) -> int:
        """Remember what is committed and verified; return how much of it the library hears of now."""
        self._committed = max(self._committed, min(commit, verified))
        return min(self._committed, self.raft.applied_index + APPLY_ENTRIES_MAX)

    def advance_commit(self) -> bool:
        """Let the library apply some more of a follower's backlog. Returns whether more remains after that."""
        raft = self.raft
        leader = raft.leader
        if raft.term != self._verified_term or leader is None or raft.is_leader:
            return False
        if self._committed <= raft.commit_index:
            return False
        deadline = raft.election_deadline
        self._heartbeat(leader, {"term": raft.term, "commit_index": self._committed}, self._committed)
        raft.election_deadline = deadline  # this was no sign of life
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
        """T2: everything sent is here already; acknowledge what is verified and keep what lies beyond."""
        raft = self.raft
        last = raft.last_index
        verified = max(verified, min(self._verified, last))
        while verified < last and raft.term_at(verified + 1) == message["term"]:
            verified += 1
        self._verified = max(self._verified, verified)
        if verified < last:
            self._heartbeat(peer, message, verified)
            self._acknowledge(peer, verified)
            return
        passed = dict(message)
        commit = self._passed_commit(message["commit_index"], last)
        passed.update(prevLogIdx=last, prevLogTerm=raft.term_at(last), entries=[], commit_index=commit)
        raft.receive(peer, passed)

    def is_outdated(self, message: Message) -> bool:
        """T1: return True for an acknowledgement of another term, which counts for nothing."""
        return bool(message["term"] != self.raft.term) and Rule.TERM_STAMP not in self._off

    def _receive_next_index(self, peer: str, message: Message) -> None:
        raft = self.raft
        if self.is_outdated(message):
            return
        if not raft.is_leader or (peer not in raft.peers and Rule.MEMBERS_COUNT not in self._off):
            return
        before = raft.next_index(peer)
        passed = dict(message)
        if passed["reset"]:
            passed["next_node_idx"] = min(passed["next_node_idx"], raft.last_index + 1)
        raft.receive(peer, passed)
        if passed["reset"]:
            self.resume_wanted = True
        elif passed["success"] and raft.next_index(peer) < before and Rule.NO_TRUNCATION not in self._off:
            # The library moves back to the acknowledged entry, and would send again what is on its way.
            raft.set_next_index(peer, before)

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
        self._acknowledge(peer, self._verified, reset=True)

    def install(self, peer: str, index: int, commit_index: int = 0) -> None:
        """Let the library load the newest snapshot on disk, which ends with entry `index`, and acknowledge it.

        The caller has checked `follows` and `covers`. `commit_index` is the leader's; it is used only with T4 off.
        """
        raft = self.raft
        term = raft.term
        commit = commit_index if Rule.COMMIT_VERIFIED in self._off else 0
        raft.snapshots.failure = None
        self._installing = True
        try:
            raft.receive(
                peer,
                {"type": "append_entries", "term": term, "commit_index": commit, "serialized": INSTALLED},
            )
        finally:
            self._installing = False
        if raft.snapshots.failure is None:
            self._begin_term(term)
            self._verified = max(self._verified, index)
