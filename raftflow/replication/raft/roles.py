"""The role of a replica, the leader that it follows, and who hears of both.

The library's state is watched after every message and every tick. A leadership is announced late, when an entry of
its term is applied. Its loss is announced at once. In between the replica keeps its old role.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from raftflow.replication.log import Role
from raftflow.replication.raft.library_types import RaftState

if TYPE_CHECKING:
    from collections.abc import Callable

    from raftflow.replication.raft.library import Raft
    from raftflow.replication.raft.library_types import Message

_log = logging.getLogger("raftflow.replication.roles")

_ROLES = {RaftState.FOLLOWER: Role.FOLLOWER, RaftState.CANDIDATE: Role.CANDIDATE, RaftState.LEADER: Role.LEADER}


class RoleTracker:
    """The announced role, the leader heard, and the callers that wait for a change.

    Args:
        name: this replica.
        silence_s: a leader that has not been heard for so long is no longer named.
        election_min_s: a replica that stands without being asked has heard no leader for so long.
    """

    def __init__(self, name: str, silence_s: float, *, election_min_s: float) -> None:
        self._name = name
        self._election_min_s = election_min_s
        self._silence_s = silence_s
        self._on_lost: Callable[[], None] = lambda: None
        self._raft: Raft | None = None
        self._led_term: int | None = None
        self._heard_at = float("-inf")
        self._heard: tuple[str, int] | None = None
        self._catch_up_to: int | None = None
        self._stood_s: float | None = None
        """How long no leader had been heard when this replica stood for election; None while it follows."""
        self._has_led = False
        self._changed = asyncio.Event()
        self.callbacks: list[Callable[[Role, int], None]] = []
        self.leader_callbacks: list[Callable[[], None]] = []
        """Told when this replica hears the leader of another term, or is announced as the leader."""
        self.role = Role.FOLLOWER
        self.term = 0

    def attach(self, raft: Raft, on_lost: Callable[[], None]) -> None:
        """Watch this replica. `on_lost` is called first when a leadership ends, whether it was announced or not."""
        self._raft, self._on_lost = raft, on_lost

    def update(self) -> None:
        """Announce what changed. Callbacks may raise."""
        raft = self._raft
        if raft is None:
            return
        role, term = _ROLES[raft.state], raft.term
        if role is Role.FOLLOWER:
            self._stood_s = None
        elif self._stood_s is None:
            self._stood_s = asyncio.get_running_loop().time() - self._heard_at
        if self._led_term is not None and (role is not Role.LEADER or term != self._led_term):
            self._led_term = None
            self._on_lost()
        if role is Role.LEADER:
            self._led_term = term
            if self.leads(raft) or not _own_entry_applied(raft):
                return
        elif role is self.role:
            return
        self.announce(role, term)

    def announce(self, role: Role, term: int) -> None:
        """Set the role and call every callback."""
        self.role, self.term = role, term
        self.wake()
        for callback in self.callbacks:
            callback(role, term)
        if role is Role.LEADER:
            self._tell_election(term)
            self._tell_leader()

    def _tell_election(self, term: int) -> None:
        """Log that this replica leads: a warning if a leader was lost before, nothing special at a start or handover.

        A replica that was asked to stand has just heard the leader. One that stands by itself has heard none for an
        election timeout.
        """
        had_leader = self._heard is not None or self._has_led
        is_lost = had_leader and (self._stood_s or 0.0) >= self._election_min_s
        self._has_led = True
        if is_lost:
            before = "it led before" if self._heard is None else f"{self._heard[0]} led in term {self._heard[1]}"
            _log.warning("%s was elected in term %d, as the leader was lost (%s)", self._name, term, before)
        else:
            _log.info("%s leads in term %d", self._name, term)

    def _tell_leader(self) -> None:
        for callback in self.leader_callbacks:
            callback()

    def leads(self, raft: Raft) -> bool:
        """Return True if this replica leads its present term and has been announced."""
        return raft.is_leader and self.role is Role.LEADER and self.term == raft.term

    def visible_role(self, raft: Raft) -> Role:
        """Return the role for a status: a leader that is not announced yet is still what it was."""
        return self.role if raft.is_leader else _ROLES[raft.state]

    def note_leader(self, leader: str, message: Message) -> None:
        """Note a sign of life of the leader that this replica follows."""
        self._heard_at = asyncio.get_running_loop().time()
        if self._heard != (leader, message["term"]):
            self._heard = (leader, message["term"])
            self._catch_up_to = message["commit_index"]
            self._tell_leader()

    def leader(self, raft: Raft) -> str | None:
        """Return the leader, unless it is silent for so long that an election must be on."""
        leader = raft.leader
        if leader is None or leader == self._name:
            return leader
        silent_s = asyncio.get_running_loop().time() - self._heard_at
        return leader if silent_s < self._silence_s else None

    def has_caught_up(self, raft: Raft) -> bool:
        """Return True for a follower that hears its leader and has applied what was committed when contact began."""
        return (
            self.leader(raft) is not None
            and self._catch_up_to is not None
            and raft.applied_index >= self._catch_up_to
        )

    def wake(self) -> None:
        """Wake the callers that wait for a change."""
        self._changed.set()

    async def next_change(self) -> None:
        """Wait until something changes."""
        if self._changed.is_set():
            self._changed = asyncio.Event()
        await self._changed.wait()


def _own_entry_applied(raft: Raft) -> bool:
    """Return True if an entry of the leader's own term is committed and everything up to it applied."""
    return raft.applied_index >= raft.noop_index and raft.holds(raft.commit_index, raft.term)
