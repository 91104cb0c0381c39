"""Values in messages that no correct replica sends. They are found before anything of a message is stored or counted.

A peer that holds the secret can still be wrong: a program with a bug, a disk with another cluster's data. Its
messages must not stop the others for ever.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Collection

    from raftflow.replication.raft.library import Raft
    from raftflow.replication.raft.library_types import Message

TERMS_AHEAD_MAX: Final = 100_000_000
"""A term further ahead needs a second peer that shows one like it. A replica that is cut off stands about twice a
second, so it may be away for a year and a half and is still heard when it returns."""
TELLERS_MIN: Final = 2
"""How many peers must report at least that this replica was removed or has another history."""


class MessageBounds:
    """Compares terms and positions with what this replica and its other peers know."""

    def __init__(self, raft: Raft) -> None:
        self._raft = raft
        self._terms: dict[str, int] = {}

    def term_problem(self, peer: str, term: int) -> str:
        """Describe what is wrong with a term that `peer` shows. Empty if it is plausible."""
        if term <= self._raft.term + TERMS_AHEAD_MAX:
            return ""
        self._terms[peer] = term
        others = sorted((shown for name, shown in self._terms.items() if name != peer), reverse=True)
        if others and term <= others[0] + TERMS_AHEAD_MAX:
            return ""
        return (
            f"it shows term {term}, and this replica is in term {self._raft.term}: more than {TERMS_AHEAD_MAX} terms "
            f"ahead need a second peer"
        )

    def problem(self, peer: str, message: Message) -> str:
        """Describe what is wrong with a message. Empty if it is plausible."""
        raft, term = self._raft, max(message.get("term", 0), message.get("voter_term", 0))
        if term > raft.term + TERMS_AHEAD_MAX:
            return self.term_problem(peer, term)
        if message["type"] == "next_node_idx" and term == raft.term and message["success"]:
            index = message["next_node_idx"] - 1
            if raft.is_leader and index > raft.last_index:
                return f"it acknowledges entry {index}, and the log of this leader ends with {raft.last_index}"
        return ""


class RemovalClaims:
    """The peers that report that this replica was removed."""

    def __init__(self) -> None:
        self._tellers: set[str] = set()

    def add(self, peer: str) -> bool:
        """Add the report of `peer`. Return False if it reported before."""
        new = peer not in self._tellers
        self._tellers.add(peer)
        return new

    def believed(self, others: Collection[str]) -> list[str]:
        """Return those of `others`, the other voters by this replica's log, that report it. Empty if too few do."""
        tellers = sorted(self._tellers & set(others))
        return tellers if len(tellers) >= claims_needed(others) else []


def claims_needed(others: Collection[str]) -> int:
    """Return how many of the other voters must report that this replica was removed.

    A removal is committed by a majority of the remaining members. These are the other voters in this replica's list,
    except for changes that it does not know.
    """
    return max(TELLERS_MIN, len(others) // 2 + 1)
