"""What must hold of the replicas' logs, terms, votes and disks, while a run goes on."""
# ruff: noqa: SLF001 - the promises are about what is inside

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from raftflow.simulation.checkers.election_checks import ElectionChecks

if TYPE_CHECKING:
    from collections.abc import Callable

    from raftflow.simulation.checkers.member_checks import MemberModel
    from raftflow.simulation.world.host import SimHost

LATE_LEASE_S: Final = 0.25
"""So long after a new leader has begun an old one may take in a poll. It has not noticed a short pause, and messages
are under way."""


class ReplicaChecks:
    """Follows what each replica believes and tells, by looking into its log.

    Args:
        violation: told what must never happen.
        now_s: the simulated time.
        members: the model of the members.
    """

    def __init__(
        self, violation: Callable[[str, str], None], now_s: Callable[[], float], members: MemberModel
    ) -> None:
        self._violation = violation
        self._now_s = now_s
        self._members = members
        self.leaders: dict[int, str] = {}
        """Term to leader."""
        self._began_s: dict[int, float] = {}
        """By term: when its leader gave a lease to all agents."""
        self._commit: dict[str, int] = {}
        self._votes: dict[str, tuple[int, str]] = {}
        """For each replica, the last term in which it voted, and the candidate."""
        self._older_copies: dict[str, bool] = {}
        """Replicas whose disks were put back, and whether their repair has begun."""
        self._reloaded: set[str] = set()
        """Replicas that have just loaded a snapshot."""
        self._logs: dict[str, Any] = {}
        """The logs of the replicas that serve."""
        self._elections = ElectionChecks(violation, now_s, members, self._logs)

    def started(self, host: SimHost) -> None:
        """A replica serves: its role and commit index are checked at every step from now on."""
        log: Any = host.replica.log if host.replica is not None else None
        if host.wiped:
            return  # it has forgotten everything, and must not take part: `reborn`
        roles, raft = log._roles, log._raft
        update = roles.update
        self._logs[host.name] = log
        self._commit[host.name] = 0
        believed: dict[tuple[int, str], int] = {}

        def watched() -> None:
            commit = raft.commit_index
            if commit < self._commit[host.name]:
                self._violation("commit went back", f"{host.name}: from {self._commit[host.name]} to {commit}")
            if raft.is_leader:
                term = raft.term
                self.leads(host.name, term)
                self._members.leads(host.name, log)
                for peer in raft.peers:
                    match = raft.match_index(peer)
                    if match > believed.get((term, peer), 0):
                        believed[term, peer] = match
                        self._check_belief(host.name, log, peer, match)
                if commit > self._commit[host.name]:
                    self._check_majority(host.name, log, commit)
            self._commit[host.name] = commit
            self._elections.judge(host.name, log)
            if host.name in self._reloaded:
                self._reloaded.discard(host.name)
                self._check_beliefs_in(host.name)
            update()

        roles.update = watched
        self._check_memory(host.name, log)
        self._members.watch(host, log)
        self._listen(host.name, log)
        self._elections.started(host, log)
        self._check_beliefs_in(host.name)
        self._watch_leases(host)

    def _watch_leases(self, host: SimHost) -> None:
        """A leader removes an agent only when it has not heard from it for a lease, by a clock that cannot be set."""
        assert host.replica is not None  # noqa: S101 - it serves
        leader: Any = host.replica.leader
        lease_s = host.replica.config.timing.lease_ms / 1000
        contact, begin = leader.liveness.leases.contact, leader.liveness.removals.begin
        start = leader.liveness.start
        heard_s: dict[str, float] = {}

        def heard(name: str, now_s: float) -> None:
            heard_s[name] = self._now_s()
            contact(name, now_s)

        def give_up(name: str, incarnation: int, *, together: bool = False) -> None:
            silent_s = self._now_s() - heard_s.get(name, 0.0)
            if silent_s < lease_s:
                self._violation("given up early", f"{host.name} gives {name} up, heard {silent_s:.3f} s ago")
            begin(name, incarnation, together=together)

        def began() -> None:
            self._began_s.setdefault(host.replica.log.stamp().term, self._now_s())  # type: ignore[union-attr]
            start()

        leader.liveness.leases.contact, leader.liveness.removals.begin = heard, give_up
        leader.liveness.start = began

    def lease_renewed(self, replica: str, term: int, sent_s: float) -> None:
        """A leader that was replaced must notice it before agents rely on leases that its successor does not know."""
        for later, began_s in self._began_s.items():
            if later > term and sent_s > began_s + LATE_LEASE_S:
                self._violation(
                    "late lease",
                    f"{replica} of term {term} answered a poll that was sent {sent_s - began_s:.3f} s after term "
                    f"{later} had begun",
                )

    def _check_beliefs_in(self, peer: str) -> None:
        """What the leaders believe of a replica must still hold after a start, and after a snapshot was loaded."""
        for name, other in self._logs.items():
            if name != peer and other._raft.is_leader:
                self._check_belief(name, other, peer, other._raft.match_index(peer))

    def _check_memory(self, name: str, log: Any) -> None:
        """After a restart, the disk must hold the term and vote that a replica has told others."""
        if name not in self._votes or name in self._older_copies:
            return
        term, vote = self._votes[name]
        journal = log.parts.journal
        known, voted = journal.getCurrentTerm(), journal.getVotedForNodeId()
        if known < term or (known == term and voted != vote):
            self._violation(
                "vote forgotten", f"{name} has voted for {vote} in term {term} and does not know it any more"
            )

    def _listen(self, name: str, log: Any) -> None:
        """Check the votes of a replica: one for each term."""
        traffic = log.parts.traffic
        transmit = traffic.transmit

        def heard(peer: str, message: dict[str, Any]) -> None:
            asks_for_term = message["type"] == "request_vote" and message["last_log_index"] == 0  # and for no vote
            if message["type"] in {"response_vote", "request_vote"} and not asks_for_term:
                term, vote = message["term"], peer if message["type"] == "response_vote" else name
                if self._votes.get(name, (0, ""))[0] == term and self._votes[name][1] != vote:
                    self._violation("voted twice", f"{name} for {self._votes[name][1]} and for {vote} in term {term}")
                self._votes[name] = (term, vote)
                if vote == peer:
                    self._members.voted(name, log, peer, term)
            elif message["type"] == "timeout_now":
                self._elections.told_to_stand(peer)
            transmit(peer, message)

        traffic.transmit = heard

    def _check_belief(self, leader: str, log: Any, peer: str, match: int) -> None:
        """What a leader believes to be on a peer's disk must be there while the peer is in the leader's term."""
        other = self._logs.get(peer)
        if match == 0 or other is None or other._raft.term != log._raft.term:
            return
        if other.repairing or self._has_older_copy(peer, other):
            return  # it was true when it was said, and it elects nobody before the next term (RECOVERY.md)
        if not _holds(other, log, match):
            self._violation(
                "false acknowledgement",
                f"{leader} believes that {peer} has its entry {match} on disk",
            )

    def disk_replaced(self, name: str) -> None:
        """An older copy of a replica's disk is put back: until it is repaired it lacks what it had promised."""
        self._older_copies[name] = False

    def _has_older_copy(self, name: str, log: Any) -> bool:
        """Return True until the repair of a replica whose disk was put back has begun and ended."""
        if name not in self._older_copies:
            return False
        if log.repairing:
            self._older_copies[name] = True
        elif self._older_copies[name]:
            del self._older_copies[name]
            return False
        return True

    def _check_majority(self, leader: str, log: Any, commit: int) -> None:
        """What a leader commits must be on the disks of a majority. Replicas that are down count as having it."""
        voters = self._members.in_force(leader, log)[1].voter_names
        logs = {name: self._logs[name] for name in sorted(voters & self._logs.keys())}
        missing = [
            name
            for name, other in logs.items()
            if not other.repairing and not self._has_older_copy(name, other) and not _holds(other, log, commit)
        ]
        if 2 * len(missing) >= len(voters):
            self._violation("commit without majority", f"{leader} commits {commit}, which {', '.join(missing)} lack")

    def ended(self, host: SimHost) -> None:
        """A life ended."""
        self._logs.pop(host.name, None)

    def leads(self, name: str, term: int) -> None:
        """A replica leads a term. No other replica may lead it."""
        leader = self.leaders.setdefault(term, name)
        if leader != name:
            self._violation("two leaders", f"{name} and {leader} lead term {term}")

    def reborn(self, host: SimHost) -> None:
        """Check that a replica with a wiped disk does not take part."""
        if not host.wiped or host.replica is None or not host.serving:
            return
        parts: Any = host.replica.log.parts  # type: ignore[attr-defined] # the promise is about what is inside
        if parts.births.born and not (host.join and not parts.data.has_data()):
            self._violation("reborn", f"{host.name} takes part on an empty disk in place of the one that it had")

    def restored(self, host: SimHost) -> None:
        """A replica that serves restored a snapshot, which it needed."""
        if not host.serving or host.replica is None:
            return
        self._reloaded.add(host.name)
        log: Any = host.replica.log
        info = log.parts.restorer.loading  # its last entry may not be of the state machine
        if log._raft.holds(info.index, info.term):
            self._violation("needless snapshot", f"{host.name} has entry {info.index} and loads a snapshot of it")


def _holds(log: Any, leader: Any, index: int) -> bool:
    """Return True if a replica has the leader's entry at `index` on its disk."""
    raft, other = log._raft, leader._raft
    if index <= log.parts.writer.snapshot_index:  # a durable snapshot covers it
        return True
    if index > min(log.parts.journal.durable_index, other.last_index):
        return False
    if index < max(raft.first_index, other.first_index):
        return True
    return bool(raft.term_at(index) == other.term_at(index))
