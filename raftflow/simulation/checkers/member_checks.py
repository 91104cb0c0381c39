# ruff: noqa: SLF001 - what is promised about members is about what is inside of the replicas' logs
"""What must hold of the members: a model that follows the lists in the logs independently.

two changes         a leader logged a list while the one before was not committed, or one that differs by two voters
wrong members       a replica holds a committed list that the log does not say; what was acknowledged is not in it
without majority    a leader was elected, or committed, without a majority of the voters by its own log
outsider            a replica leads that is not a voter by its own log, or whose removal was committed before
removed             a removed replica votes, goes on, or one was told so that is not
too new             members or commands in the log that a replica of an older version cannot read
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from raftflow.replication.members.membership import MemberInfo, Membership

if TYPE_CHECKING:
    from collections.abc import Callable

    from raftflow.simulation.world.host import SimHost

Report = tuple[str, str]


class MemberModel:
    """Who belongs to the cluster, by every list that was ever logged.

    Args:
        violation: told what must never happen.
    """

    def __init__(self, violation: Callable[[str, str], None]) -> None:
        self._violation = violation
        self._first: dict[str, Membership] = {}
        """The list with which each replica began."""
        self._logged: dict[int, dict[int, Membership]] = {}
        """Index to term to list."""
        self._committed: dict[int, Membership] = {0: Membership()}
        """Lists that can no longer be cut off, by index."""
        self._removed_in: dict[str, int] = {}
        """Removed replicas, and a term in which their removal was known to be committed."""
        self._asked: set[str] = set()
        """Removals that were asked for."""
        self._added: set[str] = set()
        self._votes: dict[tuple[int, str], set[str]] = {}
        """Term and candidate to who voted for it."""
        self._judged: set[tuple[int, str]] = set()
        """Leaders whose election was looked at."""

    # The lists.

    def founded(self, names: tuple[str, ...]) -> None:
        """These replicas found the cluster."""
        self._committed[0] = Membership(
            tuple(MemberInfo(name, f"{name}:1", f"sim://{name}") for name in sorted(names))
        )
        self._first = dict.fromkeys(names, self._committed[0])

    @property
    def latest(self) -> Membership:
        """The newest list that is known to be committed."""
        return self._committed[max(self._committed)]

    def possible(self) -> set[frozenset[str]]:
        """Return the voters of every list that is or may come into force."""
        latest = max(self._committed)
        lists = [*self._lists_after(latest), self._committed[latest]]
        return {listed.voter_names for listed in lists}

    def _lists_after(self, index: int) -> list[Membership]:
        return [listed for at, terms in self._logged.items() if at > index for listed in terms.values()]

    def in_force(self, name: str, log: Any) -> tuple[int, Membership]:
        """Return the latest list in a replica's log, and its index, whatever the replica itself believes."""
        raft = log._raft
        for index in sorted(self._logged, reverse=True):
            for term, listed in self._logged[index].items():
                if raft.holds(index, term):
                    return index, listed
            if index < raft.first_index and index in self._committed:
                return index, self._committed[index]
        return 0, self._first.get(name, Membership())

    # What the replicas do.

    def watch(self, host: SimHost, log: Any) -> None:
        """A replica serves: its changes and its list are watched from now on."""
        name, raft = host.name, log._raft
        append, changed = raft.append_membership, raft.on_membership

        def watched_append(listed: Membership, callback: Any) -> None:
            self._check_change(name, log, listed)
            self._logged.setdefault(raft.last_index + 1, {})[raft.term] = listed
            append(listed, callback)

        def watched_change() -> None:
            self._follow(name, raft)
            changed()

        raft.append_membership, raft.on_membership = watched_append, watched_change
        self._follow(name, raft)

    def _check_change(self, name: str, log: Any, listed: Membership) -> None:
        raft = log._raft
        index, before = self.in_force(name, log)
        voters = ", ".join(sorted(listed.voter_names))
        if len(before.voter_names ^ listed.voter_names) > 1:
            self._violation("two changes", f"{name} goes from {sorted(before.voter_names)} to {voters} at once")
        if index > raft.commit_index or not raft.holds(raft.commit_index, raft.term):
            self._violation(
                "two changes", f"{name} logs {voters} in term {raft.term} before the list of entry {index} is settled"
            )

    def _follow(self, name: str, raft: Any) -> None:
        """Compare the list that a replica can no longer lose with the one that the log says."""
        index, base = raft.members.base_index, raft.members.base
        if index == 0:
            return
        known = max(at for at in self._committed if at <= index)
        if known == 0 and not base.voters and name not in self._first:
            return  # it joins, and has not applied any list yet
        if self._committed[known].voters and _names(base) == _names(self._committed[known]):
            return
        at = max(
            (at for at, terms in self._logged.items() if known < at <= index and base in terms.values()), default=0
        )
        if not at:
            self._violation(
                "wrong members",
                f"{name} holds the list {_names(base)} of entry {index}; the log says "
                f"{_names(self._committed[known])}",
            )
            return
        before = self._committed[known]
        self._committed[index if base in self._logged.get(index, {}).values() else at] = base
        for gone in sorted(set(base.removed) - set(before.removed)):
            self._removed_in[gone] = raft.term
        if set(before.removed) - set(base.removed):
            self._violation("wrong members", f"{_names(base)} of entry {index} forgets who was removed before")

    def voted(self, name: str, log: Any, candidate: str, term: int) -> None:
        """A vote leaves a replica."""
        self._votes.setdefault((term, candidate), set()).add(name)
        if name in log._raft.members.base.removed:
            self._violation("removed", f"{name} votes for {candidate} in term {term}, and knows that it is removed")

    def leads(self, name: str, log: Any) -> None:
        """A replica leads: its election is judged once."""
        term = log._raft.term
        if (term, name) in self._judged:
            return
        self._judged.add((term, name))
        voters = self.in_force(name, log)[1].voter_names
        for_it = (self._votes.get((term, name), set()) | {name}) & voters
        if name not in voters:
            self._violation("outsider", f"{name} leads term {term} and is not a voter by its own log")
        elif 2 * len(for_it) <= len(voters):
            self._violation(
                "without majority", f"{name} leads term {term} with votes of {sorted(for_it)} of {sorted(voters)}"
            )
        if term > self._removed_in.get(name, term):
            self._violation("outsider", f"{name} leads term {term}, though its removal was committed before")

    # What operators see.

    def removal_asked(self, name: str) -> None:
        """Somebody asked for a removal."""
        self._asked.add(name)

    def acknowledge(self, kind: str, name: str) -> None:
        """A change was acknowledged: it must be committed, and stay."""
        latest = self.latest
        if kind == "add":
            self._added.add(name)
        there = name in latest.removed if kind == "remove" else name in {*latest.voter_names, *latest.removed}
        if not there:
            self._violation("wrong members", f"{kind} {name} was acknowledged, but the log says {_names(latest)}")

    def told(self, name: str) -> None:
        """A replica stopped because it was told that it is not a member."""
        if name not in self._removed_in:
            self._violation("removed", f"{name} was told that it is removed, but nobody committed that")

    def check_end(self, shown: Membership) -> None:
        """Compare the list at rest with what was asked and acknowledged."""
        latest = self.latest
        if shown != latest:
            self._violation("wrong members", f"the leader shows {_names(shown)}, the log says {_names(latest)}")
        lost = self._added - latest.voter_names - self._asked
        if lost:
            self._violation("wrong members", f"{sorted(lost)} were added, and are not members any more")
        unasked = set(latest.removed) - self._asked
        if unasked:
            self._violation("wrong members", f"{sorted(unasked)} are removed, and nobody asked for that")


def _names(listed: Membership) -> tuple[list[str], list[str], list[str]]:
    return sorted(listed.voter_names), sorted(listed.learner_names), list(listed.removed)


__all__ = ["MemberModel"]
