"""What cannot be right in a message, whoever sends it: found before anything of it is stored or counted.

A peer that holds the secret may be wrong all the same: a program with a bug, a disk with another cluster's data. What
it says must not stop the others for good.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Collection

    from raftflow.replication.raft.library import Raft
    from raftflow.replication.raft.library_types import Message

TERMS_AHEAD_MAX: Final = 100_000_000
"""A term further ahead is not believed of one peer alone. A replica that is cut off stands for election about twice a
second, so it may be away for a year and a half and still be heard when it returns."""
TELLERS_MIN: Final = 2
"""One peer alone is never believed that this replica was removed, or has another history."""


class MessageBounds:
    """Judges terms and positions against what this replica and its other peers know."""

    def __init__(self, raft: Raft) -> None:
        self._raft = raft
        self._terms: dict[str, int] = {}

    def term_problem(self, peer: str, term: int) -> str:
        """Say what is wrong with a term that `peer` shows; empty if it may be right."""
        if term <= self._raft.term + TERMS_AHEAD_MAX:
            return ""
        self._terms[peer] = term
        others = sorted((shown for name, shown in self._terms.items() if name != peer), reverse=True)
        if others and term <= others[0] + TERMS_AHEAD_MAX:
            return ""
        return (
            f"it shows term {term}, and this replica is in term {self._raft.term}: one peer alone is not believed in "
            f"more than {TERMS_AHEAD_MAX} terms"
        )

    def problem(self, peer: str, message: Message) -> str:
        """Say what is wrong with a message; empty if it may be right."""
        raft, term = self._raft, message.get("term", 0)
        if term > raft.term + TERMS_AHEAD_MAX:
            return self.term_problem(peer, term)
        if message["type"] == "next_node_idx" and term == raft.term and message["success"]:
            index = message["next_node_idx"] - 1
            if raft.is_leader and index > raft.last_index:
                return f"it acknowledges entry {index}, and the log of this leader ends with {raft.last_index}"
        return ""


class RemovalClaims:
    """Remembers who says that this replica was removed."""

    def __init__(self) -> None:
        self._tellers: set[str] = set()

    def add(self, peer: str) -> bool:
        """Note that `peer` says so. Returns False if it said so before."""
        new = peer not in self._tellers
        self._tellers.add(peer)
        return new

    def believed(self, others: Collection[str]) -> list[str]:
        """Return those of `others`, the other voters by this replica's log, who say so; nobody if too few do."""
        tellers = sorted(self._tellers & set(others))
        return tellers if len(tellers) >= claims_needed(others) else []


def claims_needed(others: Collection[str]) -> int:
    """Return how many of the other voters have to say that this replica was removed.

    A removal is committed by a majority of the members that remain. These are the other voters in the own list, but
    for changes that this replica does not know.
    """
    return max(TELLERS_MIN, len(others) // 2 + 1)
