"""The guard: the transport between PySyncObj and the network, which makes it keep Raft's promises.

Every message passes here in both directions. The rules repair the errors of the library (DESIGN.md has the history
behind each; tests/replication/test_histories_guard.py replays them with the rule on and off):

    T1  acknowledgements carry their term; those of another term are dropped
    T2  entries that the log already holds are never truncated; truncating a committed one stops the replica
    T3  the hint where to resume is at most one past what is certainly committed
    T4  a message without a log position never moves the commit index beyond what is verified
    T5  a snapshot that could not be loaded is never acknowledged
    T6  commands are never forwarded between replicas
    T7  a snapshot that the log already covers is never loaded
    M4  votes and acknowledgements count from members only; a removed replica is told so, and is no longer heard

T2, T4, T5 and T7 concern what a follower takes from its leader; they are in follower_guard.py.

This module has no clock and no I/O: `emit(peer, message)` takes what is to be sent.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from pysyncobj.transport import Transport

from raftflow.replication.errors import REMOVED_ADVICE, RemovedError
from raftflow.replication.raft.bounds import RemovalClaims, claims_needed
from raftflow.replication.raft.follower_guard import FollowerGuard
from raftflow.replication.raft.library_types import LibraryFailure
from raftflow.replication.raft.rules import NO_RULES, Rule

if TYPE_CHECKING:
    from collections.abc import Callable

    from pysyncobj.node import Node

    from raftflow.replication.raft.library import Raft
    from raftflow.replication.raft.library_types import Entry, Message


_log = logging.getLogger(__name__)

PRE_VOTE_KINDS: Final = frozenset({"pre_vote", "pre_vote_granted", "pre_vote_refused"})
"""The messages of pre_votes.py."""


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
        self.follower = FollowerGuard(self._acknowledge, self.show_life, disabled_rules)
        """Judges what comes from the leader that this replica follows."""
        self.votes = True
        """False while this replica is under repair (repair.py): it neither votes nor stands for election."""
        self._removal = RemovalClaims()
        self.configured: frozenset[str] = frozenset()
        """The other replicas of the configuration, for one whose log has no list of members yet."""
        self.waits = False
        """True right after the start: a peer that knows of a later start may not be linked yet (starts.py)."""
        self.on_pre_vote: Callable[[str, Message], None] = lambda _peer, _message: None
        """Takes questions before an election and their answers (pre_votes.py)."""
        self.voted: dict[str, int] = {}
        """The highest term in which each peer was seen to vote."""
        self.resume_wanted = False
        """A peer asked for entries: the leader should send them without waiting for the next heartbeat."""

    @property
    def raft(self) -> Raft:
        """The replica that this transport serves."""
        if self._raft is None:
            raise RuntimeError("the guard is used before it is attached to a replica")
        return self._raft

    def attach(self, raft: Raft) -> None:
        """Serve `raft`, which was made with this transport."""
        self._raft = raft
        self.follower.attach(raft)

    @property
    def may_vote(self) -> bool:
        """True if this replica may vote now."""
        return self.votes and (not self.waits or self.raft.other_voters <= self._up)

    def emit(self, peer: str, message: Message) -> None:
        """Send a message that is not the library's."""
        if peer in self._up:
            self._emit(peer, message)

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
        """Forget which peers get a snapshot: this replica no longer leads."""
        self._streaming.clear()

    # From the library to the network.

    def send(self, node: Node, message: Message) -> bool:
        """Pass on one message of the library. Return whether a link to the peer works."""
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
        """T6: tell the library at once that the command was refused. Clients find the leader through the API."""
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
            # The library counts the peer as disconnected and sends nothing until `resume`.
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
        if self.follower.installing:
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

    def _acknowledge(self, peer: str, index: int, reset: bool) -> None:  # noqa: FBT001 - a callback
        answer = {"type": "next_node_idx", "next_node_idx": index + 1, "reset": reset, "success": True}
        self._emit_next_index(peer, answer)

    def show_life(self, peer: str) -> None:
        """Tell the leader `peer` that this replica hears it, and nothing else."""
        answer = {"type": "next_node_idx", "next_node_idx": 1, "reset": False, "success": False}
        self._emit_next_index(peer, answer)

    def ask_for_new_term(self, leader: str, term: int) -> None:
        """Make `leader` step down to `term`, so that the next leader begins a later one.

        The request looks like one of a candidate with an empty log, so no replica votes for it.
        """
        self._emit(leader, {"type": "request_vote", "term": term, "last_log_index": 0, "last_log_term": 0})

    def _answer_old_leader(self, peer: str) -> None:
        """Answer a leader of an older term, which the library leaves without an answer.

        The library relies on this replica to stand for election, which shows the leader the newer term. The others
        would refuse it, since they hear that leader (E2), and a replica under repair or one that is not a voter (M5)
        never stands. It would hear no leader until the others reach its term by chance.
        """
        self.ask_for_new_term(peer, self.raft.term)

    def adopt_term(self, peer: str, term: int) -> None:
        """Take on a later term that `peer` shows, as a follower that has not voted in it."""
        self.raft.receive(peer, {"type": "request_vote", "term": term, "last_log_index": 0, "last_log_term": 0})

    # From the network to the library.

    def receive(self, peer: str, message: Message) -> None:
        """Check one message and give the library what is safe. Raises `SafetyViolationError`."""
        kind = message["type"]
        if kind == "removed":
            self.hear_removal(peer)
            return
        if self._tell_removed(peer):
            return
        if kind == "append_entries":
            if message["term"] < self.raft.term:
                self._answer_old_leader(peer)
            else:
                self.follower.receive_append(peer, message)
        elif kind == "next_node_idx":
            self._receive_next_index(peer, message)
        elif kind == "request_vote":
            if self.may_vote:
                self.raft.receive(peer, message)
        elif kind == "response_vote":
            self.voted[peer] = max(message["term"], self.voted.get(peer, 0))
            if peer in self.raft.other_voters or Rule.MEMBERS_COUNT in self._off:
                self.raft.receive(peer, message)
        elif kind == "timeout_now":
            if self.votes and message["term"] == self.raft.term and self.raft.leader == peer:
                self.raft.receive(peer, message)
        elif kind in PRE_VOTE_KINDS:
            self.on_pre_vote(peer, message)
        elif kind in {"apply_command", "apply_command_response"} and Rule.NO_FORWARDING in self._off:
            self.raft.receive(peer, message)

    def hear_removal(self, peer: str) -> None:
        """Note a peer that says this replica was removed. Raises `RemovedError` when enough of them do."""
        others = self.raft.other_voters or self.configured
        new = self._removal.add(peer)
        tellers = self._removal.believed(others)
        if tellers:
            raise RemovedError(
                f"{', '.join(tellers)} report that this replica was removed from the cluster. {REMOVED_ADVICE}"
            )
        if new:
            _log.warning(
                "%s reports that this replica was removed from the cluster. One report is not enough: %d of %s "
                "must report it. If `raftflow member list` does not show this replica, stop it.",
                peer,
                claims_needed(others),
                ", ".join(sorted(others)),
            )

    def check_membership(self) -> None:
        """Check a membership that is final. Raises `RemovedError` if this replica was removed."""
        if self.raft.name in self.raft.members.base.removed and Rule.MEMBERS_COUNT not in self._off:
            raise RemovedError(f"this replica was removed from the cluster. {REMOVED_ADVICE}")
        for peer in sorted(self._up):
            self._tell_removed(peer)

    def _tell_removed(self, peer: str) -> bool:
        """M4: tell a peer that its removal is committed. Return True if it is. Its messages could only disturb."""
        if peer not in self.raft.members.base.removed or Rule.MEMBERS_COUNT in self._off:
            return False
        if self.raft.term > 0:
            self._emit(peer, {"type": "removed", "term": self.raft.term})
        return True

    def is_outdated(self, message: Message) -> bool:
        """T1: return True for an acknowledgement of another term, which does not count."""
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
            # The library moves back to the acknowledged entry and would send again what is already on its way.
            raft.set_next_index(peer, before)
