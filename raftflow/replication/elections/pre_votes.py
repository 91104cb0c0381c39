"""PreVote: a replica asks the other voters whether it could win before it raises its term.

An election costs every replica its leader, so only a replica that would win may start one:

    E1  a replica stands for election only when a majority, itself included, has said that it would vote for it
    E2  a replica says so only if it has heard no leader for its own `silence_s` and for the least election timeout
        of the leader that it heard last, or if that leader asks
    E3  a replica says so only if the asker's log is at least as up to date as its own

So a replica that returns, that is cut off from the leader alone, or that was paused, raises no term. A question and
its answers promise nothing: they change no term and no vote, here or there. All safety stays with the real votes.

Replicas may differ in `silence_s`, by their configuration or since their timeouts adapt (timeouts.py). That is safe,
since each judges for itself, and a leader whose own timeouts are longer says so when links are made. A replica whose
silence is longer only says yes later.

A leader that hears no majority steps down (`RaftTiming.fallback_s`), so its followers soon hear no leader and say
yes. Some elections begin without a question: a handover (`timeout_now`), the `campaign_now` of tests, and that of a
single voter. A peer of a version without these messages cannot be asked. It counts as having said yes, so that
replicas of both versions elect a leader together.

A replica repeats its question after one or two heartbeats, as long as it hears no leader. A refusal carries the term
of its sender. An asker that is behind adopts that term and asks again, since its votes would not count.
"""

from __future__ import annotations

import math
import random
from typing import TYPE_CHECKING

from raftflow.replication.raft.rules import NO_RULES, Rule

if TYPE_CHECKING:
    from collections.abc import Callable

    from raftflow.replication.elections.timeouts import ElectionTimeouts
    from raftflow.replication.raft.guard import GuardedTransport
    from raftflow.replication.raft.library import Raft
    from raftflow.replication.raft.library_types import Message, RaftTiming

_NO_BASIS = (-1, -1, -1.0)


class PreVotes:
    """Asks before an election, and answers those who ask.

    Args:
        raft: the replica.
        guard: sends the messages, knows the links and whether this replica may vote.
        timing: its heartbeat is the period of repeated questions.
        timeouts: the present timeouts. They are told how regularly a leader is heard.
        clock: the library's clock.
        disabled_rules: for tests: E1, E2 and E3 have an effect here.
    """

    def __init__(
        self,
        raft: Raft,
        guard: GuardedTransport,
        timing: RaftTiming,
        *,
        timeouts: ElectionTimeouts,
        clock: Callable[[], float],
        disabled_rules: frozenset[Rule] = NO_RULES,
    ) -> None:
        self._raft = raft
        self._guard = guard
        self._timing = timing
        self._timeouts = timeouts
        self._clock = clock
        self._off = disabled_rules
        self._heard_at = clock()
        self._heard: tuple[str, int] | None = None
        """Leader and term of the last message, unless time was given to hear another one since then."""
        self._last_leader = ""
        self._least_timeouts: dict[str, float] = {}
        """By peer: its configured least election timeout."""
        self._seq = 0
        self._basis = _NO_BASIS
        self._asked_at: dict[int, float] = {}
        """When each question was asked, by its number. Only answers to these count."""
        self._granted: dict[str, float] = {}
        """By peer: when the question was asked to which it said yes."""
        self._unaware: set[str] = set()

    @property
    def is_active(self) -> bool:
        """False if this replica stands without asking, as an older version does."""
        return Rule.PRE_VOTE not in self._off

    @property
    def election_min_ms(self) -> int:
        """The configured least election timeout, for the peers."""
        return math.ceil(self._timing.election_min_s * 1000)

    def silent_s(self) -> float:
        """Return for how long this replica has heard no leader. A start or a first link counts as hearing one."""
        return self._clock() - self._heard_at

    def hear_leader(self, leader: str, term: int) -> None:
        """A message of a leader arrived."""
        now_s = self._clock()
        if self._heard == (leader, term):
            self._timeouts.note_delay(now_s - self._heard_at)
        else:
            self._heard = (leader, term)
            self._last_leader = leader
        self._heard_at = now_s

    def wait_for_leader(self) -> None:
        """Give a leader the time of an election timeout to be heard."""
        self._heard = None
        self._heard_at = self._clock()

    def note_peer(self, peer: str, *, aware: bool, election_min_s: float = 0.0) -> None:
        """Record what a peer says of itself when its link is made.

        Args:
            peer: its name.
            aware: whether its version knows these messages; a peer that was never noted does.
            election_min_s: its configured least election timeout, 0 if it does not say it.
        """
        self._least_timeouts[peer] = election_min_s
        if aware:
            self._unaware.discard(peer)
        else:
            self._unaware.add(peer)

    # This replica asks.

    def before_tick(self) -> None:
        """Ask the others if no leader was heard in time. The library does not stand by itself (`Raft.tick`)."""
        raft = self._raft
        if not raft.holds_elections or raft.is_leader or raft.is_ordered_to_stand or not raft.other_voters:
            return
        now_s = self._clock()
        if raft.election_deadline < now_s:
            self._ask(now_s)

    def _ask(self, now_s: float) -> None:
        raft = self._raft
        linked = sorted(self._guard.connected() & raft.other_voters)
        if not linked or not self._guard.votes:
            return  # a new link begins with the time of an election timeout (`PeerTraffic.on_up`)
        if self._basis != self._present_basis():
            self._basis = self._present_basis()
            self._granted.clear()
            self._asked_at.clear()
        self._seq += 1
        self._asked_at[self._seq] = now_s
        for seq in [
            seq for seq, asked_at in self._asked_at.items() if now_s - asked_at > self._timing.election_max_s
        ]:
            del self._asked_at[seq]
        spread = random.uniform(1.0, 2.0)  # noqa: S311 - two askers should not stay in step
        raft.election_deadline = now_s + spread * self._timing.heartbeat_s
        for peer in linked:
            if peer in self._unaware:
                self._granted[peer] = now_s
            else:
                self._guard.emit(peer, self._question())
        self._count(now_s)

    def _question(self) -> Message:
        raft = self._raft
        return {
            "type": "pre_vote",
            "term": raft.term + 1,
            "last_log_index": raft.last_index,
            "last_log_term": raft.term_at(raft.last_index),
            "seq": self._seq,
        }

    def _present_basis(self) -> tuple[int, int, float]:
        """Return what the answers are about: other answers count when it changes."""
        return self._raft.term, self._raft.last_index, self._heard_at

    def _count(self, now_s: float) -> None:
        """Order the election if a majority has said yes to a question of the last election timeout."""
        raft = self._raft
        since_s = now_s - self._timing.election_max_s
        granted = sum(self._granted.get(peer, float("-inf")) >= since_s for peer in raft.other_voters)
        if 2 * (granted + 1) > len(raft.voters) and raft.is_voter:
            self._granted.clear()
            raft.campaign_now()

    # Messages.

    def receive(self, peer: str, message: Message) -> None:
        """Answer a question, or take an answer."""
        if message["type"] == "pre_vote":
            self._answer(peer, message)
        elif (
            (asked_at := self._asked_at.get(message["seq"])) is not None
            and self._basis == self._present_basis()
            and not self._raft.is_leader
        ):
            if message["type"] == "pre_vote_granted":
                self._granted[peer] = asked_at
                self._count(self._clock())
            else:
                self._take_refusal(peer, message["voter_term"])

    def _answer(self, peer: str, message: Message) -> None:
        answer = {"term": message["term"], "seq": message["seq"]}
        if self._would_vote(peer, message):
            self._guard.emit(peer, {"type": "pre_vote_granted", **answer})
        else:
            self._guard.emit(peer, {"type": "pre_vote_refused", **answer, "voter_term": self._raft.term})

    def _would_vote(self, peer: str, message: Message) -> bool:
        raft = self._raft
        if not self._guard.may_vote or message["term"] <= raft.term:
            return False
        mine = (raft.term_at(raft.last_index), raft.last_index)
        if (message["last_log_term"], message["last_log_index"]) < mine and Rule.PRE_VOTE_LOG not in self._off:
            return False
        if Rule.PRE_VOTE_SILENCE in self._off:
            return True
        if raft.is_leader:
            return False
        return raft.leader == peer or self.silent_s() >= self._required_silence_s()

    def _required_silence_s(self) -> float:
        """Return the silence after which this replica would vote for another leader than the one heard last.

        After a start that one is not known: it may be any peer, unless this replica has never heard of a term.
        """
        told, of_leader_s = self._least_timeouts, 0.0
        if self._last_leader:
            of_leader_s = told.get(self._last_leader, 0.0)
        elif self._raft.term > 0:
            of_leader_s = max(told.values(), default=0.0)
        return max(self._timeouts.silence_s, of_leader_s)

    def _take_refusal(self, peer: str, voter_term: int) -> None:
        raft = self._raft
        self._granted.pop(peer, None)
        if voter_term > raft.term:
            self._guard.adopt_term(peer, voter_term)
            raft.election_deadline = min(raft.election_deadline, self._clock())
