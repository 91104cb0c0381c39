# ruff: noqa: SLF001 - the promises are about what is inside
"""No election while a leader is well: what must hold of terms and of the questions before an election.

A leader is *well* when a majority of its voters, itself included, has heard it without a gap for a while. Then no
other replica may raise the term: one that returns, that is cut off from a part of the cluster, whose link flaps, or
that had no time to run. A handover is ordered by the leader, so it is excepted. Older versions do not ask, so
elections are not judged while one of them runs.

A yes to such a question comes only from a replica that has heard no leader for the least election timeout of that
leader's configuration: so long the leader may lead on without a majority, and promise leases to agents. The present
timeouts of a replica, which follow the pace of its machine, stay between those configured and four times as much. The
time after which a leader steps down stays as configured, unless half the margin of leases is more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec

from raftflow.replication.raft.library_types import RaftState

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from raftflow.simulation.checkers.member_checks import MemberModel
    from raftflow.simulation.world.host import SimHost

GAP_S: Final = 0.25
"""A replica hears its leader if it heard it so lately: less than the least election timeout, five heartbeats."""
WELL_S: Final = 0.7
"""So long it must have heard it without a gap. A yes of before is void: it is older than an election timeout."""
LEAST_S: Final = 0.3
MOST_S: Final = 0.6
"""The usual least and longest election timeout."""
EPSILON_S: Final = 1e-6
STRETCH_MAX: Final = 4.0
"""How many times as long as configured election timeouts may be."""
MARGIN: Final = 0.1
"""A leader gives an agent this share of the lease more than the agent takes."""
HANDOVER_S: Final = 5.0
"""A replica that was told to stand may get that message so late."""


class _Hearing(msgspec.Struct):
    """The leader that a replica hears."""

    leader: str
    term: int
    since_s: float
    last_s: float


class ElectionChecks:
    """Follows who hears which leader, and judges who stands for election.

    Args:
        violation: told what must never happen.
        now_s: the simulated time.
        members: the model of the members.
        logs: the logs of the replicas that serve.
    """

    def __init__(
        self,
        violation: Callable[[str, str], None],
        now_s: Callable[[], float],
        members: MemberModel,
        logs: Mapping[str, Any],
    ) -> None:
        self._violation = violation
        self._now_s = now_s
        self._members = members
        self._logs = logs
        self._hosts: dict[str, SimHost] = {}
        self._hearing: dict[str, _Hearing] = {}
        self._stood: dict[str, int] = {}
        """By replica: the last term in which it stood."""
        self._questions: dict[tuple[str, int], tuple[int, int]] = {}
        """By asker and number: term and index of the end of its log."""
        self._ordered_at: dict[str, float] = {}

    def started(self, host: SimHost, log: Any) -> None:
        """A replica serves: follow what it hears and what it answers."""
        name, roles, guard = host.name, log._roles, log.parts.guard
        self._hosts[name] = host
        self._hearing.pop(name, None)
        self._stood[name] = log._raft.term
        note_leader, emit = roles.note_leader, guard.emit

        def heard(leader: str, message: dict[str, Any]) -> None:
            self._hears(name, leader, message["term"])
            note_leader(leader, message)

        def answered(peer: str, message: dict[str, Any]) -> None:
            if message["type"] == "pre_vote":
                self._questions[name, message["seq"]] = (message["last_log_term"], message["last_log_index"])
            elif message["type"] == "pre_vote_granted":
                self._judge_yes(name, log, peer, message["seq"])
            emit(peer, message)

        roles.note_leader, guard.emit = heard, answered
        self._watch_timeouts(host, log)

    def _watch_timeouts(self, host: SimHost, log: Any) -> None:
        """Judge the timeouts of a replica whenever they follow the pace of its machine."""
        change = log.parts.timeouts.on_change

        def changed() -> None:
            change()
            assert host.replica is not None  # noqa: S101 - it serves
            lease_s = host.replica.config.timing.lease_ms / 1000
            least_s, most_s = LEAST_S * host.patience, MOST_S * host.patience
            min_s, max_s, fallback_s = log._raft.timeouts
            bounds = (
                (min_s, least_s, STRETCH_MAX * least_s),
                (max_s, most_s, STRETCH_MAX * most_s),
                (fallback_s, 0.0, max(least_s, lease_s * MARGIN / 2)),
                (log.parts.timeouts.silence_s, least_s, STRETCH_MAX * least_s),
            )
            if not all(least - EPSILON_S <= value <= most + EPSILON_S for value, least, most in bounds):
                self._violation("timeouts out of bounds", f"{host.name} has {[value for value, _, _ in bounds]}")

        log.parts.timeouts.on_change = changed

    def told_to_stand(self, name: str) -> None:
        """A leader hands over to this replica."""
        self._ordered_at[name] = self._now_s()

    def _hears(self, name: str, leader: str, term: int) -> None:
        now_s, known = self._now_s(), self._hearing.get(name)
        if known is None or (known.leader, known.term) != (leader, term) or now_s - known.last_s > GAP_S:
            self._hearing[name] = _Hearing(leader, term, now_s, now_s)
        else:
            known.last_s = now_s

    def _judge_yes(self, name: str, log: Any, asker: str, seq: int) -> None:
        """A yes says that the asker could win, and that the leader heard last was silent for long enough."""
        raft, asked = log._raft, self._questions.get((asker, seq))
        known = self._hearing.get(name)
        if known is not None and known.leader != asker and self._asks(known.leader):
            silent_s, leader = self._now_s() - known.last_s, self._hosts.get(known.leader)
            if leader is not None and silent_s < LEAST_S * leader.patience - EPSILON_S:
                self._violation(
                    "yes too early", f"{name} says yes to {asker}, and heard {known.leader} {silent_s:.3f} s ago"
                )
        mine = (raft.term_at(raft.last_index), raft.last_index)
        if asked is not None and asked < mine:
            self._violation(
                "yes to an old log", f"{name}, whose log ends with {mine}, says yes to {asker} at {asked}"
            )

    def judge(self, name: str, log: Any) -> None:
        """Judge a replica after each step: may it be a candidate in its present term?"""
        raft = log._raft
        if raft.state is not RaftState.CANDIDATE or raft.term <= self._stood.get(name, 0):
            return
        self._stood[name] = raft.term
        now_s = self._now_s()
        if now_s - self._ordered_at.get(name, float("-inf")) < HANDOVER_S:
            return
        for leader, other in self._logs.items():
            led = other._raft
            if leader == name or not led.is_leader or led.term >= raft.term:
                continue
            voters = self._members.in_force(leader, other)[1].voter_names
            followers = {voter for voter in voters if self._follows(voter, leader, led.term, now_s)}
            if 2 * len(followers | {leader}) > len(voters) and all(self._asks(voter) for voter in voters | {name}):
                self._violation(
                    "needless election",
                    f"{name} is a candidate in term {raft.term}, though {leader} leads term {led.term} and is heard "
                    f"by {', '.join(sorted(followers))}",
                )

    def _follows(self, name: str, leader: str, term: int, now_s: float) -> bool:
        known = self._hearing.get(name)
        return (
            name in self._logs
            and known is not None
            and (known.leader, known.term) == (leader, term)
            and now_s - known.last_s <= GAP_S
            and now_s - known.since_s >= WELL_S
        )

    def _asks(self, name: str) -> bool:
        host = self._hosts.get(name)
        return host is None or host.pre_votes
